//! Tables, bars and numbers for people.

use std::fmt;
use std::io::Write;

use serde_json::Value;

/// Rows of cells under headings.
pub(super) struct Table {
    headings: Vec<&'static str>,
    /// So many cells stand at the left of their columns, before those at the right.
    left: usize,
    /// Whether the last column stands at the left, too.
    last: bool,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Columns of words, and then of numbers.
    pub(super) fn new(left: &[&'static str], right: &[&'static str]) -> Self {
        Self { headings: [left, right].concat(), left: left.len(), last: false, rows: Vec::new() }
    }

    /// And one more column of words behind them.
    pub(super) fn and_last(mut self, heading: &'static str) -> Self {
        self.headings.push(heading);
        self.last = true;
        self
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        // What a server is called or says must not move the cursor.
        let plain = |cell: String| cell.replace(char::is_control, " ");
        self.rows.push(cells.into_iter().map(plain).collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let headings: Vec<String> = self.headings.iter().map(|&heading| heading.to_owned()).collect();
        let all = || std::iter::once(&headings).chain(&self.rows);
        let width = |at: usize| all().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..headings.len()).map(width).collect();
        for row in all() {
            let mut line = String::new();
            for (at, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let is_last = self.last && at + 1 == self.headings.len();
                line +=
                    &if at < self.left || is_last { format!("{cell:width$}  ") } else { format!("{cell:>width$}  ") };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A line that is written over again and again, or where nobody looks, now and then.
pub(super) struct Bar {
    is_live: bool,
    shown: String,
    looks: usize,
}

/// Without a terminal, one look in so many is written.
const SELDOM: usize = 20;

impl Bar {
    pub(super) fn new(is_live: bool) -> Self {
        Self { is_live, shown: String::new(), looks: 0 }
    }

    pub(super) fn show(&mut self, line: &str) {
        let is_due = self.is_live || self.looks.is_multiple_of(SELDOM);
        self.looks += 1;
        if !is_due || line == self.shown {
            return;
        }
        line.clone_into(&mut self.shown);
        let mut out = std::io::stdout();
        let _ = if self.is_live { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }

    /// Takes the line away.
    pub(super) fn end(&mut self) {
        if self.is_live && !self.shown.is_empty() {
            print_now("\r\x1b[K");
        }
    }
}

/// Writes at once.
pub(super) fn print_now(text: &str) {
    let mut out = std::io::stdout();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// A share of a whole, as a bar of so many characters.
pub(super) fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [char; 8] = [' ', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    let eighths = (share.clamp(0.0, 1.0) * (width * 8) as f64).round() as usize;
    let mut bar = "█".repeat(eighths / 8);
    if !eighths.is_multiple_of(8) {
        bar.push(EIGHTHS[eighths % 8]);
    }
    let length = bar.chars().count();
    format!("▕{bar}{}▏", " ".repeat(width.saturating_sub(length)))
}

/// A whole number with a space for every thousand.
pub(super) fn count(value: &Value) -> String {
    let digits = value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
    let length = digits.len();
    let spaced = digits.chars().enumerate().flat_map(|(at, digit)| {
        let space = at > 0 && (length - at).is_multiple_of(3);
        space.then_some(' ').into_iter().chain([digit])
    });
    spaced.collect()
}

/// How often in a second.
pub(super) fn rate(value: &Value) -> String {
    match value.as_f64() {
        None => "-".to_owned(),
        Some(rate) if rate >= 100.0 => count(&(rate.round() as u64).into()),
        Some(rate) => format!("{rate:.1}"),
    }
}

/// A part of a whole, in percent.
pub(super) fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.0} %", part as f64 / whole as f64 * 100.0) }
}

/// A time in its two largest units.
pub(super) fn time(seconds: f64) -> String {
    const UNITS: [(u64, &str); 4] = [(86400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let seconds = seconds as u64;
    let Some(at) = UNITS.iter().position(|&(size, _)| seconds >= size) else { return "0 s".to_owned() };
    let (size, unit) = UNITS[at];
    match UNITS.get(at + 1).map(|&(smaller, name)| (seconds % size / smaller, name)) {
        Some((rest, name)) if rest > 0 => format!("{} {unit} {rest} {name}", seconds / size),
        _ => format!("{} {unit}", seconds / size),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_stand_in_columns_and_hold_nothing_that_moves_the_cursor() {
        let mut table = Table::new(&["NAME"], &["COUNT"]).and_last("WHY");
        table.row(["a".to_owned(), "1 000".to_owned(), "fine".to_owned()]);
        table.row(["ünder".to_owned(), "2".to_owned(), "bad\x1b[2J\nworse".to_owned()]);
        assert_eq!(table.to_string(), "NAME   COUNT  WHY\na      1 000  fine\nünder      2  bad [2J worse\n");
    }

    #[test]
    fn numbers_are_written_for_people() {
        let counts = [json!(0), json!(999), json!(1000), json!(1234567), json!(null)].map(|value| count(&value));
        assert_eq!(counts, ["0", "999", "1 000", "1 234 567", "-"]);
        assert_eq!([0.04, 12.34, 99999.6].map(|value| rate(&json!(value))), ["0.0", "12.3", "100 000"]);
        assert_eq!((share(1, 3), share(0, 0)), ("33 %".to_owned(), "-".to_owned()));
        let times = [0.2, 59.0, 60.0, 3700.0, 200_000.0].map(time);
        assert_eq!(times, ["0 s", "59 s", "1 min", "1 h 1 min", "2 d 7 h"]);
        assert_eq!([0.0, 0.5, 1.0].map(|part| bar(part, 4)), ["▕    ▏", "▕██  ▏", "▕████▏"]);
    }
}

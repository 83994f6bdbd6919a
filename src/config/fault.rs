//! What is wrong with a configuration, said so that an operator can mend it: file, line, column, what was found and what
//! was expected.

use std::fmt;

use super::lint::Lint;

/// Everything that is wrong with one file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// One thing that is wrong, or (as a warning) that is hardly meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is.
    pub place: Place,
    /// The path of the value, such as `routes[1].match.path`; empty when the fault is with the file as a whole.
    pub path: String,
    /// What was found and what would do, in one sentence.
    pub what: String,
    /// The line of the file that the place is on, where there is one.
    pub source: Option<String>,
    /// The name of a warning; a fault has none.
    pub lint: Option<Lint>,
}

impl Fault {
    /// What was found and what was expected, where the sentence says both.
    pub(crate) fn parts(&self) -> Option<(&str, &str)> {
        let (found, expected) = self.what.strip_prefix("found ")?.split_once(", expected ")?;
        Some((found, expected))
    }
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as the operator named it.
    pub file: String,
    /// The line, from 1; 0 is the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 is the file as a whole.
    pub column: usize,
}

impl Place {
    /// The file as a whole.
    pub(super) fn whole(file: &str) -> Self {
        let (line, column) = (0, 0);
        let file = file.to_owned();
        Self { file, line, column }
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for fault in &self.0 {
            writeln!(f, "{fault}")?;
        }
        match self.0.len() {
            1 => write!(f, "1 fault"),
            faults => write!(f, "{faults} faults"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.what)?;
        if let Some(lint) = self.lint {
            write!(f, " [{lint}]")?;
        }
        match &self.source {
            Some(source) => excerpt(f, source, &self.place),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { file, line: 0, .. } => f.write_str(file),
            Self { file, line, column } => write!(f, "{file}:{line}:{column}"),
        }
    }
}

/// The line and a caret below the column; of a long line, the stretch around the column.
fn excerpt(f: &mut fmt::Formatter<'_>, source: &str, place: &Place) -> fmt::Result {
    const WIDTH: usize = 110;
    let column = place.column.saturating_sub(1);
    let from = match source.chars().count() {
        0..=WIDTH => 0,
        _ => column.saturating_sub(WIDTH * 3 / 4),
    };
    let shown: String = source.chars().skip(from).take(WIDTH).collect();
    let before: String = shown.chars().take(column - from).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    write!(f, "\n{:>6} | {}\n{:>6} | {before}^", place.line, shown.trim_end(), "")
}

/// The candidate that `word` is most likely a slip of, if one is near enough.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near_enough = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= near_enough)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters to add, drop, change or swap with their neighbour to get from `a` to `b`, whatever the case. Of a
/// long word the beginning tells enough.
fn distance(a: &str, b: &str) -> usize {
    let [a, b] = [a, b].map(|word| word.to_lowercase().chars().take(64).collect::<String>());
    strsim::osa_distance(&a, &b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_the_word_that_was_meant() {
        let words = ["address", "protocol", "upstream", "tls", "name"];
        assert_eq!(nearest("adress", words), Some("address"));
        assert_eq!(nearest("protcool", words), Some("protocol"));
        assert_eq!(nearest("Name", words), Some("name"));
        assert_eq!(nearest("colour", words), None);
        assert_eq!(nearest("", words), None);
    }

    #[test]
    fn a_long_line_is_shown_around_the_fault() {
        let fault = Fault {
            place: Place { file: "a.yaml".to_owned(), line: 7, column: 301 },
            path: "x".to_owned(),
            what: "is wrong".to_owned(),
            lint: None,
            source: Some(format!("{}here{}", "a".repeat(300), "b".repeat(300))),
        };
        let text = fault.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "a.yaml:7:301: x: is wrong");
        assert_eq!(lines[1].find("here"), lines[2].find('^'));
        assert!(lines[1].len() < 130);
    }
}

//! What came out: a Markdown table to paste, JSON to keep, a chart to look at.

mod chart;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::Compare;
use crate::count::Count;
use crate::peers::{Kind, Peer};
use crate::scenarios::{Sample, Scenario};

/// One run.
pub(crate) struct Report {
    peers: Vec<(String, Kind, String)>,
    threads: usize,
    rounds: u32,
    seconds: f64,
    build: String,
    machine: String,
    pub rows: Vec<Row>,
    pub counts: Vec<Count>,
    pub took: Duration,
}

/// A scenario, and what was measured of each gateway, in the order of gateways.
pub(crate) struct Row {
    pub scenario: &'static Scenario,
    pub samples: Vec<Vec<Sample>>,
}

/// The middle of what was measured, and its ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (&min, &max) = (values.first()?, values.last()?);
        let upper = values[values.len() / 2];
        let median = if values.len() % 2 == 1 { upper } else { f64::midpoint(values[values.len() / 2 - 1], upper) };
        Some(Self { median, min, max })
    }
}

impl Row {
    fn spread(&self, peer: usize) -> Option<Spread> {
        Spread::of(self.samples[peer].iter().filter_map(|sample| sample.figure))
    }

    /// The first gateway's median over that of the best of others, and which one that is.
    fn ratio(&self, peers: &[(&str, Kind)]) -> Option<(f64, usize)> {
        let (_, first) = *peers.first()?;
        let first_is_better = |&place: &usize| peers[place].1 != first;
        let others = (1..peers.len()).filter(first_is_better);
        let medians = others.filter_map(|place| Some((self.spread(place)?.median, place)));
        let (best, place) = medians.min_by(|a, b| a.0.total_cmp(&b.0))?;
        Some((self.spread(0)?.median / best, place))
    }
}

impl Report {
    pub(crate) fn new(peers: &[Peer], asked: &Compare, build: &str, machine: String) -> Self {
        Self {
            peers: peers.iter().map(|peer| (peer.name.clone(), peer.kind, peer.version())).collect(),
            threads: asked.threads,
            rounds: asked.rounds,
            seconds: asked.seconds,
            build: build.to_owned(),
            machine,
            rows: Vec::new(),
            counts: Vec::new(),
            took: Duration::ZERO,
        }
    }

    /// Where a gateway did not do a single unit.
    pub(crate) fn nothing_done(&self) -> Vec<String> {
        let rows = self.rows.iter().flat_map(|row| {
            let idle = self.peers.iter().enumerate().filter(|(place, _)| row.spread(*place).is_none());
            idle.map(|(_, (name, ..))| format!("{} by {name}", row.scenario.name))
        });
        rows.collect()
    }

    fn names(&self) -> Vec<(&str, Kind)> {
        self.peers.iter().map(|(name, kind, _)| (name.as_str(), *kind)).collect()
    }

    fn heading(&self) -> String {
        let peers = self.peers.iter().map(|(name, _, version)| format!("{name} {version}")).collect::<Vec<_>>();
        let how = match self.counts.as_slice() {
            [] => format!("{} rounds of {} s in turns", self.rounds, self.seconds),
            _ => "counted once".to_owned(),
        };
        format!(
            "{}. {} worker thread{} each, {how}, {:.0} s in all; build: {}. {}.",
            peers.join(", "),
            self.threads,
            if self.threads == 1 { "" } else { "s" },
            self.took.as_secs_f64(),
            self.build,
            self.machine
        )
    }
}

/// One line for the terminal: medians, and how the first gateway compares.
pub(crate) fn verdict(row: &Row, peers: &[Peer]) -> String {
    let names: Vec<(&str, Kind)> = peers.iter().map(|peer| (peer.name.as_str(), peer.kind)).collect();
    let medians = (0..peers.len()).map(|place| {
        let median = row.spread(place).map_or("none".to_owned(), |spread| short(spread.median));
        format!("{} {median}", names[place].0)
    });
    let ratio = row.ratio(&names).map_or(String::new(), |(ratio, best)| format!(": {ratio:.2} x {}", names[best].0));
    format!("median {}{ratio}", medians.collect::<Vec<_>>().join(", "))
}

/// The tables, ready to paste.
pub(crate) fn markdown(report: &Report) -> String {
    let names = report.names();
    let mut text = format!("{}\n", report.heading());
    let head = |text: &mut String, columns: &[&str]| {
        let rule = columns.iter().enumerate().map(|(index, _)| if index == 0 { "|---" } else { "|---:" });
        writeln!(text, "\n| {} |\n{}|", columns.join(" | "), rule.collect::<String>()).unwrap_or(());
    };
    if !report.rows.is_empty() {
        let columns = ["work"].into_iter().chain(names.iter().map(|(name, _)| *name));
        head(&mut text, &columns.chain(["beside the best", "errors"]).collect::<Vec<_>>());
    }
    for row in &report.rows {
        let cells = (0..names.len()).map(|place| row.spread(place).map_or("none".to_owned(), spread_text));
        let cells = cells.collect::<Vec<_>>().join(" | ");
        let beside = row.ratio(&names).map_or(String::new(), |(ratio, best)| format!("{ratio:.2} × {}", names[best].0));
        let (title, unit) = (row.scenario.title, row.scenario.unit.label());
        writeln!(text, "| {title}, {unit} | {cells} | {beside} | {} |", errors(row, &names)).unwrap_or(());
    }
    latencies(report, &names, &mut text, head);
    memories(report, &names, &mut text, head);
    counts(report, &names, &mut text, head);
    text
}

/// User instructions and system calls, one behind the other.
fn counts(report: &Report, names: &[(&str, Kind)], text: &mut String, head: impl Fn(&mut String, &[&str])) {
    if report.counts.is_empty() {
        return;
    }
    let columns = ["user instructions / system calls"].into_iter().chain(names.iter().map(|(name, _)| *name));
    head(text, &columns.chain(["errors"]).collect::<Vec<_>>());
    for counts in report.counts.chunk_by(|one, next| one.scenario.name == next.scenario.name) {
        let scenario = counts[0].scenario;
        let number = |count: Option<f64>| count.map_or("none".to_owned(), short);
        let cell = |count: &Count| format!("{} / {}", number(count.instructions), number(count.calls));
        let cells = counts.iter().map(cell).collect::<Vec<_>>().join(" | ");
        let failed = counts.iter().filter(|count| count.failed > 0);
        let failed = failed.map(|count| format!("{}: {}", count.peer, count.failed)).collect::<Vec<_>>().join("; ");
        let failed = if failed.is_empty() { "0" } else { &failed };
        let (title, unit) = (scenario.title, scenario.counted_unit());
        writeln!(text, "| {title}, per {unit} | {cells} | {failed} |").unwrap_or(());
    }
}

fn latencies(report: &Report, names: &[(&str, Kind)], text: &mut String, head: impl Fn(&mut String, &[&str])) {
    let mut begun = false;
    for row in report.rows.iter().filter(|row| row.scenario.tells_latency()) {
        for (place, (name, _)) in names.iter().enumerate() {
            let time = |which: usize| {
                let times = row.samples[place].iter().filter_map(|sample| Some(sample.latency?[which] * 1e3));
                Spread::of(times).map_or("none".to_owned(), |spread| short(spread.median))
            };
            if !std::mem::replace(&mut begun, true) {
                head(text, &["time from the schedule or the cut, ms", "gateway", "median", "99 %", "longest"]);
            }
            let title = row.scenario.title;
            writeln!(text, "| {title} | {name} | {} | {} | {} |", time(0), time(1), time(2)).unwrap_or(());
        }
    }
}

fn memories(report: &Report, names: &[(&str, Kind)], text: &mut String, head: impl Fn(&mut String, &[&str])) {
    let mut begun = false;
    for row in &report.rows {
        for (place, (name, _)) in names.iter().enumerate() {
            let size = |which: usize| {
                let sizes = row.samples[place].iter().filter_map(|sample| Some(sample.memory?[which] / 1024.0));
                Spread::of(sizes).map(|spread| short(spread.median))
            };
            let (Some(before), Some(during), Some(after)) = (size(0), size(1), size(2)) else { continue };
            if !std::mem::replace(&mut begun, true) {
                head(text, &["memory, MiB", "gateway", "held", "before", "with all", "after"]);
            }
            let held = row.samples[place].iter().map(|sample| sample.done).max().unwrap_or(0);
            let title = row.scenario.title;
            writeln!(text, "| {title} | {name} | {held} | {before} | {during} | {after} |").unwrap_or(());
        }
    }
}

fn errors(row: &Row, names: &[(&str, Kind)]) -> String {
    let told = names.iter().enumerate().filter_map(|(place, (name, _))| {
        let mut sum: BTreeMap<String, u64> = BTreeMap::new();
        for (word, count) in row.samples[place].iter().flat_map(|sample| &sample.failures) {
            *sum.entry(word.clone()).or_default() += count;
        }
        (!sum.is_empty()).then(|| format!("{name}: {}", failures(&sum)))
    });
    let told = told.collect::<Vec<_>>().join("; ");
    if told.is_empty() { "0".to_owned() } else { told }
}

/// Failures by word and number.
pub(crate) fn failures(failures: &BTreeMap<String, u64>) -> String {
    failures.iter().map(|(word, count)| format!("{count} x {word}")).collect::<Vec<_>>().join(", ")
}

/// Writes the table, the JSON and the chart into a folder; which files those are.
pub(crate) fn write(report: &Report, folder: &Path) -> io::Result<Vec<PathBuf>> {
    let name = if report.counts.is_empty() { "bench" } else { "count" };
    let mut files =
        vec![(format!("{name}.md"), markdown(report)), (format!("{name}.json"), format!("{:#}\n", to_json(report)))];
    if !report.rows.is_empty() {
        files.push((format!("{name}.svg"), chart::svg(report)));
    }
    let mut written = Vec::new();
    for (name, text) in files {
        let file = folder.join(name);
        fs::write(&file, text)?;
        written.push(file);
    }
    Ok(written)
}

fn to_json(report: &Report) -> Value {
    let names = report.names();
    let peers = report.peers.iter().map(|(name, _, version)| (name.clone(), json!(version)));
    let rows = report.rows.iter().map(|row| {
        let peers = names.iter().enumerate().map(|(place, (name, _))| {
            let spread = row.spread(place);
            let value = json!({
                "median": spread.map(|spread| spread.median),
                "min": spread.map(|spread| spread.min),
                "max": spread.map(|spread| spread.max),
                "samples": row.samples[place].iter().map(Sample::to_json).collect::<Vec<_>>(),
            });
            ((*name).to_owned(), value)
        });
        json!({
            "scenario": row.scenario.name,
            "title": row.scenario.title,
            "unit": row.scenario.unit.label(),
            "beside_the_best": row.ratio(&names).map(|(ratio, best)| json!({ "peer": names[best].0, "ratio": ratio })),
            "peers": peers.collect::<serde_json::Map<_, _>>(),
        })
    });
    let counts = report.counts.iter().map(|count| {
        json!({
            "scenario": count.scenario.name,
            "peer": count.peer,
            "instructions": count.instructions,
            "system_calls": count.calls,
            "failed": count.failed,
        })
    });
    json!({
        "at_unix_seconds": SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        "machine": report.machine,
        "build": report.build,
        "versions": peers.collect::<serde_json::Map<_, _>>(),
        "threads": report.threads,
        "rounds": report.rounds,
        "seconds": report.seconds,
        "rows": rows.collect::<Vec<_>>(),
        "counts": counts.collect::<Vec<_>>(),
    })
}

/// The median, and the ends.
pub(crate) fn spread_text(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min < max { format!("{} [{}..{}]", short(median), short(min), short(max)) } else { short(median) }
}

/// Three digits that matter.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => {
            let digits = format!("{value:.0}");
            let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
            String::from_utf8_lossy(&groups.join(&b',')).into_owned()
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_whatever_the_order() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(spread(&[4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn figures_have_three_digits_that_matter() {
        let told = [0.456, 4.56, 45.67, 456.7, 72_256.4, 1_373_016.0].map(short);
        assert_eq!(told, ["0.46", "4.56", "45.7", "457", "72,256", "1,373,016"]);
    }
}

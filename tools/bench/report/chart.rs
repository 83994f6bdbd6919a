//! The chart: for each work, how much more or less each gateway takes than the best of the others takes.

use std::fmt::Write;

use super::{Report, short};
use crate::peers::Kind;

const ROW: usize = 18;
const LEFT: usize = 400;
const BARS: usize = 420;
const RIGHT: usize = 130;
/// A bar that long or longer is cut, and says so by its number.
const MOST: f64 = 3.0;

/// Bars relative to the best gateway that is not Sockgate, which is 1; shorter is better.
pub(super) fn svg(report: &Report) -> String {
    let peers = &report.peers;
    let group = ROW * peers.len() + 14;
    let (width, height) = (LEFT + BARS + RIGHT, 60 + group * report.rows.len() + 54);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    let mut put = |line: String| writeln!(svg, "{line}").unwrap_or(());
    put(format!(
        "<text x=\"16\" y=\"24\" font-size=\"15\" font-weight=\"bold\">What a gateway takes for each unit of work, \
         {} thread{} (shorter is better)</text>",
        report.threads,
        if report.threads == 1 { "" } else { "s" }
    ));
    put("<text x=\"16\" y=\"42\" fill=\"#555\">1 is the best of the others; whiskers show the least and the most of \
         all rounds; what is beyond 3 is cut</text>"
        .to_owned());
    for (index, row) in report.rows.iter().enumerate() {
        let top = 60 + index * group;
        let middle = top + ROW * peers.len() / 2 + 4;
        put(format!(
            "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}, {}</text>",
            LEFT - 10,
            escaped(row.scenario.title),
            escaped(&row.scenario.unit.label())
        ));
        let others = (0..peers.len()).filter(|&place| peers[place].1 != Kind::Sockgate);
        let best = others.filter_map(|place| row.spread(place)).map(|spread| spread.median).min_by(f64::total_cmp);
        let best = best.or_else(|| row.spread(0).map(|spread| spread.median)).unwrap_or(1.0);
        for (place, (name, kind, _)) in peers.iter().enumerate() {
            let y = top + place * ROW;
            let Some(spread) = row.spread(place) else {
                put(format!(
                    "<text x=\"{LEFT}\" y=\"{}\" fill=\"#a00\">{}: nothing done</text>",
                    y + 12,
                    escaped(name)
                ));
                continue;
            };
            let x = |value: f64| (value / best).clamp(0.0, MOST) / MOST * BARS as f64;
            let length = x(spread.median);
            put(format!(
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\"/>",
                ROW - 4,
                color(*kind, place)
            ));
            let (from, to, line) = (LEFT as f64 + x(spread.min), LEFT as f64 + x(spread.max), y + ROW / 2 - 2);
            put(format!("<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{line}\" y2=\"{line}\" stroke=\"#222\"/>"));
            put(format!(
                "<text x=\"{:.1}\" y=\"{}\">{} {}</text>",
                LEFT as f64 + length.max(x(spread.max)) + 6.0,
                y + 11,
                escaped(name),
                short(spread.median)
            ));
        }
    }
    let one = LEFT as f64 + BARS as f64 / MOST;
    put(format!(
        "<line x1=\"{one}\" x2=\"{one}\" y1=\"52\" y2=\"{}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>",
        height - 54
    ));
    // Versions and rounds, then build and machine.
    let heading = escaped(&report.heading());
    let (first, second) = heading.split_once("; build: ").unwrap_or((&heading, ""));
    for (line, above) in [(first.to_owned(), 30), (format!("build: {second}"), 16)] {
        let y = height - above;
        put(format!("<text x=\"16\" y=\"{y}\" fill=\"#555\" font-size=\"10\">{line}</text>"));
    }
    svg + "</svg>\n"
}

fn color(kind: Kind, place: usize) -> &'static str {
    match kind {
        Kind::Sockgate if place == 0 => "#2f6fde",
        Kind::Sockgate => "#8fb4f0",
        Kind::HaProxy => "#c98a2b",
        Kind::Nginx => "#4f9d5d",
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

//! What became of all that clients did, and what explains the failures.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::chaos::{Deed, Event};

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Kept,
    Fresh,
    SlowReader,
    WebSocket,
    Polling,
    Upgraded,
    Raw,
    Hostile,
    Http2,
    Forger,
}

pub(crate) const KINDS: [(Kind, &str); 10] = [
    (Kind::Kept, "HTTP, kept connections"),
    (Kind::Fresh, "HTTP, new connections"),
    (Kind::SlowReader, "HTTP, slow readers"),
    (Kind::WebSocket, "WebSocket messages"),
    (Kind::Polling, "Socket.IO events, polling"),
    (Kind::Upgraded, "Socket.IO events, WebSocket"),
    (Kind::Raw, "raw TCP exchanges"),
    (Kind::Hostile, "hostile clients"),
    (Kind::Http2, "HTTP/2"),
    (Kind::Forger, "made-up sessions, refused"),
];

/// Something that was begun and not done.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub kind: Kind,
    /// When it was last known to be well.
    pub since: Instant,
    pub at: Instant,
    /// The server that it was with, where that is known.
    pub server: Option<String>,
    /// A session, a socket or a connection was lost with it.
    pub live: bool,
    pub what: String,
}

#[derive(Default)]
pub(crate) struct Tally {
    done: [AtomicU64; KINDS.len()],
    failures: Mutex<Vec<Failure>>,
}

/// More failures than this are only counted as unexplained.
const MOST: usize = 200_000;
/// What was begun a moment after a kill could still meet the dying server.
const MOMENT: Duration = Duration::from_millis(500);
/// What was lost may be noticed this late.
const NOTICED: Duration = Duration::from_secs(6);

impl Tally {
    pub(crate) fn done(&self, kind: Kind) {
        self.done[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, failure: Failure) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < MOST {
            failures.push(failure);
        }
    }

    /// What was done, what failed, and what of that was lost with it.
    pub(crate) fn sums(&self) -> (u64, usize, usize) {
        let done = self.done.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        (done, failures.len(), failures.iter().filter(|failure| failure.live).count())
    }

    /// Prints the tables; whether every failure is explained.
    pub(crate) fn print(&self, events: &[Event], took: Duration) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let mut explained: BTreeMap<(Kind, &str), usize> = BTreeMap::new();
        let mut unexplained: BTreeMap<(Kind, &str), usize> = BTreeMap::new();
        let mut first = Vec::new();
        for failure in failures.iter() {
            match explain(failure, events) {
                Some(why) => *explained.entry((failure.kind, why)).or_default() += 1,
                None => {
                    *unexplained.entry((failure.kind, &failure.what)).or_default() += 1;
                    first.push(failure);
                }
            }
        }
        let of = |map: &BTreeMap<(Kind, &str), usize>, kind: Kind| {
            map.iter().filter(|((of, _), _)| *of == kind).map(|(_, count)| count).sum::<usize>()
        };

        println!("\n{:<30}{:>12}{:>10}{:>12}{:>14}", "", "done", "failed", "explained", "unexplained");
        for (kind, name) in KINDS {
            let done = self.done[kind as usize].load(Ordering::Relaxed);
            let (well, ill) = (of(&explained, kind), of(&unexplained, kind));
            println!("{name:<30}{done:>12}{:>10}{well:>12}{ill:>14}", well + ill);
        }
        let (done, failed) = (self.done.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>(), failures.len());
        println!("{:<30}{done:>12}{failed:>10}   in {:.0} s", "all", took.as_secs_f64());

        println!("\n{:<46}{:>8}", "what was done to it", "times");
        for deed in [Deed::Reload, Deed::BadReload, Deed::Kill, Deed::Drain, Deed::Stall, Deed::Hang] {
            println!("{:<46}{:>8}", deed.word(), events.iter().filter(|event| event.deed == deed).count());
        }
        let live = failures.iter().filter(|failure| failure.live);
        let (lost, allowed) = live.fold((0, 0), |(lost, allowed), failure| {
            (lost + 1, allowed + usize::from(explain(failure, events).is_some()))
        });
        println!("\nsessions, sockets and connections lost: {lost}, of which allowed: {allowed}");
        for ((kind, why), count) in &explained {
            println!("{count:>8}  {}: {why}", name(*kind));
        }
        for ((kind, what), count) in &unexplained {
            println!("{count:>8}  {}: {what}  <- nothing explains this", name(*kind));
        }
        for failure in first.iter().take(10) {
            let near: Vec<_> = events
                .iter()
                .filter(|event| failure.at + NOTICED > event.from && failure.since < event.until + NOTICED)
                .map(|event| {
                    let after = failure.at.saturating_duration_since(event.from);
                    format!("{:?} of {} {after:.1?} before", event.deed, event.server)
                })
                .collect();
            println!(
                "          {}: {} on {:?}, begun {:.1?} before; near: {near:?}",
                name(failure.kind),
                failure.what,
                failure.server,
                failure.at - failure.since
            );
        }
        unexplained.is_empty() && failures.len() < MOST
    }
}

fn name(kind: Kind) -> &'static str {
    KINDS[kind as usize].1
}

/// Why something had to fail; `None` if it need not have.
fn explain(failure: &Failure, events: &[Event]) -> Option<&'static str> {
    events.iter().find_map(|event| {
        let theirs = failure.server.as_deref().is_none_or(|server| server == event.server);
        match event.deed {
            // It was on its way when the server died: whoever comes later is led elsewhere.
            Deed::Kill if theirs && !failure.live => {
                (failure.since <= event.from + MOMENT && failure.at >= event.from).then_some("its server was killed")
            }
            Deed::Kill if theirs && failure.server.is_some() => {
                let over = event.until + NOTICED;
                (failure.since <= event.from + MOMENT && (event.from..over).contains(&failure.at))
                    .then_some("lost with its killed server")
            }
            // Until checks and those who ask have noticed, work comes to it, and its sessions wait for it in vain.
            Deed::Hang if theirs => {
                let over = event.until + NOTICED;
                (failure.since <= event.until && (event.from..over).contains(&failure.at)).then_some("its server hung")
            }
            Deed::Drain if theirs && failure.live && failure.what.contains("told to leave") => {
                (failure.since <= event.until && failure.at >= event.from).then_some("told to leave by a drain")
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event of this kind on server `b`, from second 100 to 105.
    fn event(deed: Deed, start: Instant) -> Event {
        let at = |second| start + Duration::from_secs(second);
        Event { deed, server: "b", from: at(100), until: at(105) }
    }

    #[test]
    fn a_failure_is_explained_only_by_what_had_to_cause_it() {
        let start = Instant::now();
        let why = |deed, server: Option<&str>, live, since: f64, at: f64, what: &str| {
            let second = |second| start + Duration::from_secs_f64(second);
            let failure = Failure {
                kind: Kind::WebSocket,
                since: second(since),
                at: second(at),
                server: server.map(str::to_owned),
                live,
                what: what.to_owned(),
            };
            explain(&failure, &[event(deed, start)]).is_some()
        };
        // A request under way when the server died, wherever it was; none that began later.
        assert!(why(Deed::Kill, None, false, 99.0, 100.1, "status 502"));
        assert!(why(Deed::Kill, Some("b"), false, 99.0, 100.1, "cut"));
        assert!(!why(Deed::Kill, Some("a"), false, 99.0, 100.1, "cut"));
        assert!(!why(Deed::Kill, None, false, 101.0, 101.1, "status 502"));
        assert!(!why(Deed::Kill, None, false, 99.0, 99.5, "status 502"));
        // What lived there; nothing that lived elsewhere, or began after it was back.
        assert!(why(Deed::Kill, Some("b"), true, 99.0, 104.0, "cut"));
        assert!(!why(Deed::Kill, Some("a"), true, 99.0, 104.0, "cut"));
        assert!(!why(Deed::Kill, Some("b"), true, 106.0, 107.0, "cut"));
        // The same while its server hung, whenever it began.
        assert!(why(Deed::Hang, Some("b"), true, 101.0, 104.0, "cut"));
        assert!(!why(Deed::Hang, Some("a"), true, 99.0, 104.0, "cut"));
        assert!(!why(Deed::Hang, Some("b"), false, 106.0, 107.0, "status 502"));
        // A drain tells to leave, and cuts nobody.
        assert!(why(Deed::Drain, Some("b"), true, 99.0, 101.0, "told to leave (1012)"));
        assert!(!why(Deed::Drain, Some("c"), true, 99.0, 101.0, "told to leave (1012)"));
        assert!(!why(Deed::Drain, Some("b"), true, 99.0, 101.0, "cut"));
        for deed in [Deed::Reload, Deed::BadReload, Deed::Stall] {
            for live in [true, false] {
                assert!(!why(deed, Some("b"), live, 99.0, 101.0, "cut"), "{deed:?} explains nothing");
            }
        }
    }
}

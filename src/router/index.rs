//! The routes that a request could take, found by its host and path, so that a thousand cost little more than ten.
//!
//! It is only a short cut: what it finds is matched all the same, and the first match in the order of the
//! configuration wins.

use std::collections::HashMap;

use super::matcher::{HostRule, Matcher, PathRule};

/// Routes by host, then by path.
#[derive(Debug, Default)]
pub(super) struct Index {
    exact: HashMap<Box<str>, Paths>,
    /// By what has to follow the first labels, with its dot.
    under: HashMap<Box<str>, Paths>,
    /// Dots in the longest key of `under`: no more of a host is looked up, however long a client makes it.
    most_dots: usize,
    any: Paths,
}

/// The places of the routes for one host, in order.
#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Box<str>, Vec<u32>>,
    /// By prefixes without the final slash.
    prefix: HashMap<Box<str>, Vec<u32>>,
    /// Slashes in the longest key of `prefix`.
    most_slashes: usize,
    any: Vec<u32>,
}

impl Index {
    /// Adds the route at this place, which is behind every other that was added.
    pub(super) fn add(&mut self, place: u32, matcher: &Matcher) {
        if matcher.hosts.is_empty() {
            self.any.add(place, matcher);
        }
        for host in &matcher.hosts {
            let paths = match host {
                HostRule::Exact(name) => self.exact.entry(name.as_str().into()).or_default(),
                HostRule::Under(suffix) if suffix.starts_with('.') => {
                    self.most_dots = self.most_dots.max(suffix.matches('.').count());
                    self.under.entry(suffix.as_str().into()).or_default()
                }
                HostRule::Under(_) => &mut self.any,
            };
            paths.add(place, matcher);
        }
    }

    /// The first place that `matches`, of those where a request for this host and path could match.
    pub(super) fn first(&self, host: Option<&str>, path: &str, mut matches: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut best = None;
        if let Some(host) = host {
            if let Some(paths) = self.exact.get(host) {
                paths.improve(&mut best, path, &mut matches);
            }
            for (dot, _) in host.rmatch_indices('.').take(self.most_dots) {
                if let Some(paths) = self.under.get(&host[dot..]) {
                    paths.improve(&mut best, path, &mut matches);
                }
            }
        }
        self.any.improve(&mut best, path, &mut matches);
        best
    }
}

impl Paths {
    fn add(&mut self, place: u32, matcher: &Matcher) {
        if matcher.paths.is_empty() || matcher.searches_paths() {
            self.any.push(place);
            return;
        }
        for rule in &matcher.paths {
            match rule {
                PathRule::Exact(path) => self.exact.entry(path.as_str().into()).or_default().push(place),
                PathRule::Prefix(prefix) => {
                    self.most_slashes = self.most_slashes.max(prefix.matches('/').count());
                    self.prefix.entry(prefix.as_str().into()).or_default().push(place);
                }
            }
        }
    }

    /// Looks for a match at a place before the best one so far.
    fn improve(&self, best: &mut Option<u32>, path: &str, matches: &mut impl FnMut(u32) -> bool) {
        let mut look = |places: Option<&Vec<u32>>| {
            let before = |&&place: &&u32| best.is_none_or(|best| place < best);
            let mut better = places.into_iter().flatten().take_while(before);
            if let Some(&place) = better.find(|&&place| matches(place)) {
                *best = Some(place);
            }
        };
        look(Some(&self.any));
        if !self.exact.is_empty() {
            look(self.exact.get(path));
        }
        if !self.prefix.is_empty() {
            // `/a/b` begins with the prefixes that end before each of its slashes, and with itself.
            let ends = path.match_indices('/').map(|(slash, _)| slash).chain([path.len()]);
            for end in ends.take(self.most_slashes + 1) {
                look(self.prefix.get(&path[..end]));
            }
        }
    }
}

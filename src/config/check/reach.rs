//! Finds the route that takes all that a later one would, among thousands, without a look at each of them.

use std::collections::HashMap;

use crate::router::config::Match;
use crate::router::{HostRule, PathRule};

/// Routes by what they match, in the order of the file.
///
/// A route that takes all of another has no host, or one that covers the other's first host; the same holds for paths.
/// So whatever could take all of a route is found under few keys, and only there it is looked whether it does.
#[derive(Default)]
pub(super) struct Reach<'a> {
    places: HashMap<Key<'a>, Vec<usize>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key<'a> {
    host: Part<'a>,
    path: Part<'a>,
    also: Also<'a>,
}

/// A host or a path that a route matches.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part<'a> {
    /// The route does not look at it.
    Any,
    /// Too many, or no usual ones: these routes are looked at one by one.
    Many,
    Exact(&'a str),
    /// What a host ends with from a dot on, or a path begins with up to a slash.
    Under(&'a str),
}

/// One more condition of a route that has any.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Also<'a> {
    Nothing,
    Header(&'a str, &'a str),
    Query(&'a str, &'a str),
    Method(&'a str),
    Listener(&'a str),
}

/// Hosts or paths of one route that each get a key.
const FEW: usize = 8;

impl<'a> Reach<'a> {
    /// Adds the route at this place, which is behind every other that was added.
    pub(super) fn add(&mut self, place: usize, matches: &'a Match) {
        let (hosts, paths) = (parts(matches.hosts().map(host_part)), path_parts(matches));
        for &host in &hosts {
            for &path in &paths {
                // The condition that tells it from most of those that were added before.
                let keys = own(matches).map(|also| Key { host, path, also });
                let fewest = keys.min_by_key(|key| self.places.get(key).map_or(0, Vec::len));
                let key = fewest.unwrap_or(Key { host, path, also: Also::Nothing });
                self.places.entry(key).or_default().push(place);
            }
        }
    }

    /// The first place that `takes_all`, of those where a route could take all that this one would.
    pub(super) fn first(&self, then: &'a Match, mut takes_all: impl FnMut(usize) -> bool) -> Option<usize> {
        let (hosts, paths) = (covering_hosts(then), covering_paths(then));
        let mut best = None;
        for &host in &hosts {
            for &path in &paths {
                for also in met(then) {
                    let places = self.places.get(&Key { host, path, also }).into_iter().flatten();
                    let mut better = places.take_while(|&&place| best.is_none_or(|best| place < best));
                    if let Some(&place) = better.find(|&&place| takes_all(place)) {
                        best = Some(place);
                    }
                }
            }
        }
        best
    }
}

fn parts<'a>(given: impl Iterator<Item = Part<'a>>) -> Vec<Part<'a>> {
    let mut parts: Vec<_> = given.take(FEW + 1).collect();
    if parts.is_empty() {
        return vec![Part::Any];
    }
    if parts.len() > FEW || parts.contains(&Part::Many) {
        return vec![Part::Many];
    }
    parts.sort_unstable();
    parts.dedup();
    parts
}

fn path_parts(matches: &Match) -> Vec<Part<'_>> {
    if matches.path_regex.is_empty() { parts(matches.paths().map(path_part)) } else { vec![Part::Many] }
}

fn host_part(rule: HostRule<&str>) -> Part<'_> {
    match rule {
        HostRule::Under(suffix) if suffix.starts_with('.') => Part::Under(suffix),
        HostRule::Under(_) => Part::Many,
        HostRule::Exact(host) => Part::Exact(host),
    }
}

fn path_part(rule: PathRule<&str>) -> Part<'_> {
    match rule {
        PathRule::Exact(path) => Part::Exact(path),
        PathRule::Prefix(path) => Part::Under(path),
    }
}

/// The hosts of routes that take the first host of this one.
fn covering_hosts(then: &Match) -> Vec<Part<'_>> {
    let Some(rule) = then.hosts().next() else { return vec![Part::Any] };
    let (HostRule::Exact(name) | HostRule::Under(name)) = rule;
    let wider = name.match_indices('.').map(|(dot, _)| Part::Under(&name[dot..]));
    [Part::Any, Part::Many, host_part(rule)].into_iter().chain(wider).collect()
}

/// The paths of routes that take the first path of this one.
fn covering_paths(then: &Match) -> Vec<Part<'_>> {
    let Some(rule) = then.paths().next() else { return vec![Part::Any, Part::Many] };
    let (PathRule::Exact(path) | PathRule::Prefix(path)) = rule;
    let ends = path.match_indices('/').map(|(slash, _)| slash).chain([path.len()]);
    let wider = ends.map(|end| Part::Under(&path[..end]));
    [Part::Any, Part::Many, path_part(rule)].into_iter().chain(wider).collect()
}

/// The conditions of a route, apart from host and path, each of which has to be met for it to take anything.
fn own(matches: &Match) -> impl Iterator<Item = Also<'_>> {
    let headers = matches.headers.iter().map(|(name, value)| Also::Header(name, value));
    let query = matches.query.iter().map(|(name, value)| Also::Query(name, value));
    let method = single(&matches.method.0).map(Also::Method);
    let listener = single(&matches.listener.0).map(Also::Listener);
    headers.chain(query).chain(method).chain(listener)
}

/// The conditions that a route has met for sure where all that it takes meets those of `then`.
fn met(then: &Match) -> impl Iterator<Item = Also<'_>> {
    let header = |(name, value)| [Also::Header(name, value), Also::Header(name, "*")];
    let query = |(name, value)| [Also::Query(name, value), Also::Query(name, "*")];
    let headers = then.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).flat_map(header);
    let query = then.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).flat_map(query);
    let method = then.method.0.first().map(|method| Also::Method(method));
    let listener = then.listener.0.first().map(|listener| Also::Listener(listener));
    [Also::Nothing].into_iter().chain(headers).chain(query).chain(method).chain(listener)
}

fn single(list: &[String]) -> Option<&str> {
    if let [only] = list { Some(only) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::routes::takes_all;
    use super::*;
    use crate::router::config::{OneOrMany, Upgrade};

    /// The first of those before each route that takes all of it, and how many were looked at on the way.
    fn found(routes: &[Match]) -> (Vec<Option<usize>>, usize) {
        let (mut reach, mut looked, mut all) = (Reach::default(), 0, Vec::new());
        for (place, then) in routes.iter().enumerate() {
            all.push(reach.first(then, |first| {
                looked += 1;
                takes_all(&routes[first], then)
            }));
            reach.add(place, then);
        }
        (all, looked)
    }

    fn list(texts: &[&str]) -> OneOrMany {
        OneOrMany(texts.iter().map(|&text| text.to_owned()).collect())
    }

    #[test]
    fn thousands_of_routes_are_checked_with_few_looks_at_each_other() {
        const ROUTES: usize = 5000;
        let route = |make: &dyn Fn(usize, &mut Match)| -> Vec<Match> {
            let one = |at| {
                let mut matches = Match::default();
                make(at, &mut matches);
                matches
            };
            (0..ROUTES).map(one).collect()
        };
        type Make = &'static dyn Fn(usize, &mut Match);
        let kinds: [(&str, Make); 6] = [
            ("hosts", &|at, matches| matches.host = list(&[&format!("h{at}.example.com")])),
            ("paths", &|at, matches| matches.path = list(&[&format!("/p/{at}/"), &format!("/q/{at}")])),
            ("hosts with one path", &|at, matches| {
                matches.host = list(&[&format!("*.h{at}.example.com")]);
                matches.path_exact = list(&["/socket.io/"]);
            }),
            ("paths on few hosts", &|at, matches| {
                matches.host = list(&[&format!("h{}.example.com", at % 10)]);
                matches.path = list(&[&format!("/p{at}")]);
            }),
            ("a header", &|at, matches| {
                matches.headers =
                    [("x-api".to_owned(), "1".to_owned()), ("x-tenant".to_owned(), at.to_string())].into();
            }),
            ("listeners", &|at, matches| matches.listener = list(&[&format!("l{at}")])),
        ];
        for (kind, make) in kinds {
            let (all, looked) = found(&route(make));
            assert!(all.iter().all(Option::is_none), "{kind}");
            assert!(looked <= 2 * ROUTES, "{kind}: {looked} looks");
        }
    }

    fn any_match() -> impl Strategy<Value = Match> {
        let some =
            |texts: &'static [&'static str]| proptest::sample::subsequence(texts, 0..=2).prop_map(|texts| list(&texts));
        let pairs = |names: &'static [&'static str]| {
            let pair = (proptest::sample::select(names), proptest::sample::select(&["*", "1", "2"][..]));
            proptest::collection::btree_map(pair.0.prop_map(str::to_owned), pair.1.prop_map(str::to_owned), 0..2)
        };
        let hosts = some(&["a.b", "*.b", "*.a.b", "c", "*.c.a.b", "*", "*b"]);
        let paths = some(&["/", "/x", "/x/", "/x/y", "/xy"]);
        let exact = some(&["/", "/x", "/x/", "/x/y/z"]);
        let rest = (some(&["GET", "POST"]), some(&["l", "m"]), any::<bool>());
        let more = (some(&["^/x", "y$"]), some(&["10.0.0.0/8", "10.1.0.0/16", "10.1.0.1"]), pairs(&["c"]));
        (hosts, paths, exact, pairs(&["h", "i"]), pairs(&["q"]), rest, more).prop_map(
            |(host, path, path_exact, headers, query, (method, listener, websocket), (path_regex, client, cookies))| {
                let upgrade = websocket.then_some(Upgrade::Websocket);
                let plain =
                    Match { host, path, path_exact, method, headers, query, upgrade, listener, ..Match::default() };
                Match { path_regex, client, cookies, ..plain }
            },
        )
    }

    proptest! {
        #[test]
        fn it_finds_the_same_as_a_look_at_every_route(routes in proptest::collection::vec(any_match(), 0..40)) {
            let one_by_one = |then: usize| (0..then).find(|&first| takes_all(&routes[first], &routes[then]));
            let expected: Vec<_> = (0..routes.len()).map(one_by_one).collect();
            prop_assert_eq!(found(&routes).0, expected);
        }
    }
}

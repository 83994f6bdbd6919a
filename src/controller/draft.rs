//! What objects of a cluster make of a configuration, before it is one: routes that are put in order, upstreams, certificates,
//! and what there is to say about objects. Every kind of object that makes routes makes them here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;

use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use kube::ResourceExt;
pub(crate) use serde_json::Map;
use serde_json::{Value, json};

use crate::config::Parts;
use crate::request::path::Path as Asked;
use crate::secrets::{SCHEME, Secrets};

/// An object that says something: the older comes first, and of those that are as old the one that the alphabet has first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Object {
    pub(crate) created: Option<Timestamp>,
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) api_version: String,
    pub(crate) uid: String,
}

impl Object {
    pub(crate) fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self {
            created: object.creation_timestamp().map(|time| time.0),
            namespace: object.namespace().unwrap_or_default(),
            name: object.name_any(),
            kind: K::kind(&()).into_owned(),
            api_version: K::api_version(&()).into_owned(),
            uid: object.uid().unwrap_or_default(),
        }
    }

    /// Who says what nobody else does.
    pub(crate) fn controller() -> Self {
        Self {
            created: None,
            namespace: String::new(),
            name: "controller".to_owned(),
            kind: "the".to_owned(),
            api_version: String::new(),
            uid: String::new(),
        }
    }
}

/// As logs and faults name it.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A namespace, and a name in it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Named {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Named {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn of<K: Resource<DynamicType = ()>>(object: &K) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }

    /// Reads `namespace/name`.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let good = |part: &str| !part.is_empty() && !part.contains(|c: char| c == '/' || c.is_whitespace());
        match text.split_once('/') {
            Some((namespace, name)) if good(namespace) && good(name) => Ok(Self::new(namespace, name)),
            _ => Err("expected NAMESPACE/NAME".to_owned()),
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Something to say about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Note {
    pub(crate) object: Object,
    /// One word, for machines.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) what: String,
}

/// The hosts of a route, the most particular first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Host {
    /// One.
    Exact(String),
    /// Those below it, by the part behind `*.`; the one with more labels comes first.
    Below(Reverse<usize>, String),
    /// Every one.
    Any,
}

impl Host {
    /// Reads `a.example`, `*.example`, or nothing for any.
    pub(crate) fn read(text: &str) -> Self {
        match text.strip_prefix("*.") {
            _ if text.is_empty() => Self::Any,
            Some(rest) => Self::Below(Reverse(rest.matches('.').count()), rest.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    /// Whether every host of the other is one of its own.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let is_below = |host: &str, rest: &str| host.strip_suffix(rest).is_some_and(|front| front.ends_with('.'));
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Below(_, rest), Self::Exact(host)) => is_below(host, rest),
            (Self::Below(_, rest), Self::Below(_, other)) => rest == other || is_below(other, rest),
            _ => false,
        }
    }

    /// The hosts that are of both.
    pub(crate) fn meet(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            return Some(other.clone());
        }
        other.covers(self).then(|| self.clone())
    }

    /// As a route's `match.host` has it; `None` for any.
    pub(crate) fn pattern(&self) -> Option<String> {
        match self {
            Self::Exact(host) => Some(host.clone()),
            Self::Below(_, rest) => Some(format!("*.{rest}")),
            Self::Any => None,
        }
    }
}

/// The path of a route, the most particular first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Path {
    /// This path only.
    Exact(String),
    /// What begins with this: longer ones first. Whole segments, or a regular expression.
    Begins(Reverse<usize>, Begins),
}

/// What a path begins with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Begins {
    /// Whole segments, without a slash at the end; empty for every path.
    Segments(String),
    /// What a regular expression finds.
    Regex(String),
}

impl Path {
    pub(crate) fn exact(path: &str) -> Self {
        Self::Exact(path.to_owned())
    }

    pub(crate) fn prefix(path: &str) -> Self {
        let path = path.trim_end_matches('/');
        Self::Begins(Reverse(path.len()), Begins::Segments(path.to_owned()))
    }

    pub(crate) fn regex(text: &str) -> Self {
        Self::Begins(Reverse(text.len()), Begins::Regex(text.to_owned()))
    }

    /// As people are told of it.
    pub(crate) fn shown(&self) -> &str {
        match self {
            Self::Begins(_, Begins::Segments(path)) if path.is_empty() => "/",
            Self::Exact(text) | Self::Begins(_, Begins::Segments(text) | Begins::Regex(text)) => text,
        }
    }

    /// The keys of `match` that say it.
    fn keys(&self) -> Option<(&'static str, String)> {
        match self {
            Self::Exact(path) => Some(("path_exact", path.clone())),
            Self::Begins(_, Begins::Segments(path)) if path.is_empty() => None,
            Self::Begins(_, Begins::Segments(path)) => Some(("path", path.clone())),
            Self::Begins(_, Begins::Regex(text)) => Some(("path_regex", text.clone())),
        }
    }
}

/// A path as requests have it that are compared with it: canonical, where that is one.
pub(crate) fn canonical(path: &str) -> String {
    match Asked::read(path) {
        Ok(path) if path.loose.is_empty() => path.canonical.into_owned(),
        _ => path.to_owned(),
    }
}

/// The keys of a route that sends clients elsewhere.
pub(crate) fn redirect_keys(redirect: Value) -> Map<String, Value> {
    Map::from_iter([("redirect".to_owned(), redirect)])
}

/// The keys of a route that is answered here.
pub(crate) fn respond_keys(status: u16) -> Map<String, Value> {
    Map::from_iter([("respond".to_owned(), json!({ "status": status }))])
}

/// Where a route stands among the others: what comes first decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) host: Host,
    /// Whether it is what is left of the host when nobody takes a request.
    pub(crate) is_last: bool,
    pub(crate) path: Path,
    /// How many further conditions it has, those of each kind by themselves: more come first.
    pub(crate) conditions: Reverse<[usize; 3]>,
    /// Who says it: the older object comes first.
    pub(crate) origin: Object,
    /// Its place among those of the object.
    pub(crate) place: usize,
}

/// A route: where it stands, and what else its entry holds beside host and path.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) rank: Rank,
    /// Further keys of `match`.
    pub(crate) matches: Map<String, Value>,
    /// The other keys of the entry.
    pub(crate) keys: Map<String, Value>,
}

/// A certificate from a Secret, for these names.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) secret: Named,
    /// Names that it is shown for, where nobody older shows another; none for whoever asks for a name that nobody has.
    pub(crate) names: Vec<String>,
    /// The chain and the key, both in PEM.
    pub(crate) pair: [Vec<u8>; 2],
}

/// What objects make of a configuration.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    pub(crate) routes: Vec<Route>,
    /// What stands below a name in `upstreams`, and who says it.
    pub(crate) upstreams: BTreeMap<String, (Object, Map<String, Value>)>,
    /// Where connections to listeners of the file go: who says it, the listener's name, and its `upstream`.
    pub(crate) carried: Vec<(Object, String, Value)>,
    /// Connections that go on with TLS as it is: the same with an entry of `passthrough`.
    pub(crate) passed: Vec<(Object, String, Value)>,
    /// In the order in which they are asked for.
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) notes: BTreeSet<Note>,
    /// Names that somebody has a certificate for.
    pub(crate) shown: HashSet<String>,
    /// The objects that are ours, whether they could be used or not.
    pub(crate) objects: BTreeSet<Object>,
}

/// A draft as parts of a configuration, with the objects in the places of their origins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drawn {
    pub(crate) parts: Parts,
    pub(crate) origins: Vec<Object>,
}

impl Draft {
    /// Says something about an object.
    pub(crate) fn note(&mut self, object: &Object, reason: &'static str, what: impl Into<String>) {
        self.notes.insert(Note { object: object.clone(), reason, what: what.into() });
    }

    /// Shows a certificate, perhaps for more names than before.
    pub(crate) fn show(&mut self, certificate: Certificate) {
        let of_one = |known: &&mut Certificate| known.secret == certificate.secret;
        match self.certificates.iter_mut().find(of_one) {
            // What is shown for any name is not shown for fewer.
            Some(known) if known.names.is_empty() || certificate.names.is_empty() => known.names.clear(),
            Some(known) => known.names.extend(certificate.names),
            None => self.certificates.push(certificate),
        }
    }

    /// Puts the routes in order, and all of it into parts of a configuration.
    pub(crate) fn draw(self) -> Drawn {
        let Self { mut routes, upstreams, carried, passed, certificates, .. } = self;
        routes.sort_by(|one, other| one.rank.cmp(&other.rank));
        let said = routes.iter().map(|route| &route.rank.origin).chain(upstreams.values().map(|(origin, _)| origin));
        let said = said.chain(carried.iter().chain(&passed).map(|(origin, ..)| origin));
        let origins: BTreeSet<Object> = said.cloned().collect();
        let origins: Vec<Object> = origins.into_iter().collect();
        let place = |object: &Object| origins.binary_search(object).unwrap_or_default();
        let routes = routes.into_iter().map(|route| (place(&route.rank.origin), route.entry())).collect();
        let upstreams =
            upstreams.into_iter().map(|(name, (origin, keys))| (place(&origin), name, Value::Object(keys))).collect();
        let mut names: Vec<String> = origins.iter().map(ToString::to_string).collect();
        let of = |all: Vec<(Object, String, Value)>| -> Vec<(usize, String, Value)> {
            all.into_iter().map(|(origin, listener, said)| (place(&origin), listener, said)).collect()
        };
        let mut parts = Parts { routes, upstreams, carried: of(carried), passthrough: of(passed), ..Parts::default() };
        let mut files = BTreeMap::new();
        for Certificate { secret, names: shown_for, pair: [cert, key] } in certificates {
            let file = |name: &str| format!("{SCHEME}{secret}/{name}");
            let entry = json!({ "cert": file("tls.crt"), "key": file("tls.key"), "names": shown_for });
            parts.certificates.push((names.len(), entry));
            names.push(format!("certificate {} of the Secret {secret}", parts.certificates.len()));
            files.extend([(file("tls.crt"), cert), (file("tls.key"), key)]);
        }
        parts.origins = names;
        parts.secrets = files.into_iter().collect::<Secrets>();
        Drawn { parts, origins }
    }
}

impl Route {
    /// The entry of `routes`.
    fn entry(self) -> Value {
        let Self { rank, mut matches, mut keys } = self;
        if let Some(host) = rank.host.pattern() {
            matches.insert("host".to_owned(), host.into());
        }
        if let Some((key, path)) = rank.path.keys() {
            matches.insert(key.to_owned(), path.into());
        }
        if !matches.is_empty() {
            keys.insert("match".to_owned(), Value::Object(matches));
        }
        Value::Object(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_meet_where_one_covers_the_other() {
        let meet = |one: &str, other: &str| Host::read(one).meet(&Host::read(other));
        for (one, other, expected) in [
            ("", "a.example", Some("a.example")),
            ("*.example", "a.b.example", Some("a.b.example")),
            ("*.example", "example", None),
            ("*.example", "xexample", None),
            ("*.example", "*.b.example", Some("*.b.example")),
            ("*.b.example", "*.c.example", None),
            ("a.example", "a.example", Some("a.example")),
            ("a.example", "b.example", None),
            ("", "", Some("")),
        ] {
            assert_eq!(meet(one, other), expected.map(Host::read), "{one} {other}");
            assert_eq!(meet(other, one), expected.map(Host::read), "{other} {one}");
        }
    }

    #[test]
    fn the_most_particular_comes_first() {
        let hosts = ["a.b.example", "b.example", "*.b.example", "*.example", ""].map(Host::read);
        assert!(hosts.is_sorted(), "{hosts:?}");
        let paths = [
            Path::exact("/a"),
            Path::exact("/b"),
            Path::prefix("/a/b/c/"),
            Path::regex("^/x.*"),
            Path::prefix("/a/b"),
            Path::prefix("/"),
        ];
        assert!(paths.is_sorted(), "{paths:?}");
    }
}

//! HTTPRoutes: each match of a rule is a route, on each listener that it comes to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::attach::{Attached, lenient_parents};
use super::backends::{Fault, NOWHERE, add_share, weighted};
use super::conditions::Condition;
use super::filters::{self, Filters};
use super::objects::{HttpBackend, HttpMatch, HttpRule, NamedMatch, Persistence, Says};
use super::report;
use super::{Drawing, sorted};
use crate::controller::annotations::{self, Read, Settings};
use crate::controller::draft::{Host, Object, Path, Rank, Route, canonical, respond_keys};

/// A route on some listeners of the file, which may be others' before it comes to be drawn.
pub(super) struct Candidate {
    pub(super) listeners: BTreeSet<String>,
    /// Whether requests of one scheme only are meant.
    pub(super) scheme: Option<&'static str>,
    pub(super) route: Route,
}

/// What came of a rule.
struct Rule {
    matches: Vec<Matched>,
    way: Way,
}

/// Where a rule leads.
enum Way {
    /// To these keys of a route; the redirect or the rewrite of paths depends on the listener and the match.
    To { keys: Map<String, Value>, filters: Box<Filters> },
    /// Nowhere.
    Nowhere,
}

/// One match of a rule.
struct Matched {
    path: Path,
    /// The path that others begin with.
    prefix: Option<String>,
    /// Further keys of `match`.
    keys: Map<String, Value>,
    /// How many conditions of each kind there are.
    conditions: [usize; 3],
}

impl Drawing<'_> {
    pub(super) fn http_routes(&mut self) {
        let mut candidates = Vec::new();
        for (object, route) in sorted(self.world.gateway.http_routes.iter().map(|route| &**route)) {
            // What can't be read may name whom it likes: its references may still be read.
            let spec = route.spec();
            let parents =
                spec.as_ref().map_or_else(|_| lenient_parents(route.raw_spec()), |spec| spec.parent_refs.clone());
            let hostnames = spec.as_ref().map(|spec| spec.hostnames.clone()).unwrap_or_default();
            let (attached, mut parents) = self.attach(&object, "HTTPRoute", &parents, &hostnames);
            if !attached.is_empty() {
                let Read { settings, notes, closed } = annotations::read_own(route.annotations());
                for (reason, what) in notes {
                    self.draft.note(&object, reason, what);
                }
                let rules = match spec {
                    Ok(_) if !closed.is_empty() => Err(closed.join("; ")),
                    Ok(spec) => Ok(spec.rules.unwrap_or_else(|| vec![HttpRule::default()])),
                    Err(why) => Err(why),
                };
                match rules {
                    Ok(rules) => {
                        let told = self.rules(&object, &rules, &settings, &attached, &mut candidates);
                        parents.iter_mut().for_each(|parent| told.tell(parent));
                    }
                    Err(why) => {
                        for parent in parents.iter_mut().filter(|parent| parent.accepted.holds) {
                            parent.accepted = Condition::fails("Accepted", "UnsupportedValue", why.clone());
                        }
                    }
                }
            }
            self.report.routes.push(report::Of::new(&object, route, report::Route { parents }));
        }
        candidates.extend(self.closing());
        self.draw(candidates);
    }

    fn rules(
        &mut self,
        object: &Object,
        rules: &[HttpRule],
        settings: &Settings,
        attached: &[Attached],
        candidates: &mut Vec<Candidate>,
    ) -> Told {
        let mut told = Told { rules: rules.len(), ..Told::default() };
        let mut place = 0;
        for rule in rules {
            let before = told.unsupported.len();
            let Rule { matches, way } = self.rule(object, rule, settings, &mut told);
            let has_redirect = matches!(&way, Way::To { filters, .. } if filters.redirect.is_some());
            let groups = self.groups(attached, has_redirect);
            for matched in &matches {
                for ((host, scheme, port), listeners) in &groups {
                    let keys = match &way {
                        Way::Nowhere => Ok(respond_keys(NOWHERE)),
                        Way::To { keys, filters } => lead(keys, filters, *port, matched.prefix.as_deref()),
                    };
                    let keys = keys.unwrap_or_else(|why| {
                        told.unsupported(why);
                        respond_keys(NOWHERE)
                    });
                    candidates.push(candidate(
                        object,
                        place,
                        matched,
                        keys,
                        (host.clone(), *scheme, listeners.clone()),
                    ));
                }
                place += 1;
            }
            told.lost += usize::from(told.unsupported.len() > before);
        }
        told
    }

    /// The listeners of the file that a route comes to, by what its routes there have in common.
    fn groups(
        &self,
        attached: &[Attached],
        by_port: bool,
    ) -> BTreeMap<(Host, Option<&'static str>, u16), BTreeSet<String>> {
        let mut groups: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for Attached { listener, hosts } in attached {
            let listener = &self.listeners[*listener];
            let Some((speaks, own)) = &listener.served else { continue };
            let scheme = speaks.scheme().filter(|_| own.is_both());
            for host in hosts {
                let port = if by_port { listener.port } else { 0 };
                groups.entry((host.clone(), scheme, port)).or_default().insert(own.name.clone());
            }
        }
        groups
    }

    fn rule(&mut self, object: &Object, rule: &HttpRule, settings: &Settings, told: &mut Told) -> Rule {
        let all = [HttpMatch::default()];
        let said = if rule.matches.is_empty() { &all[..] } else { &rule.matches };
        let mut matches = Vec::new();
        for said in said {
            match read_match(said) {
                Ok(matched) => matches.push(matched),
                Err(why) => told.unsupported(why),
            }
        }
        let way = match self.way(object, rule, settings, told) {
            Ok(way) => way,
            Err(why) => {
                told.unsupported(why);
                Way::Nowhere
            }
        };
        Rule { matches, way }
    }

    fn way(&mut self, object: &Object, rule: &HttpRule, settings: &Settings, told: &mut Told) -> Result<Way, String> {
        let filters = Filters::read(&rule.filters)?;
        let mut keys = settings.route.clone();
        for (key, value) in
            [("request_headers", &filters.request_headers), ("response_headers", &filters.response_headers)]
        {
            if let Some(value) = value {
                keys.insert(key.to_owned(), value.clone());
            }
        }
        if let Some(cors) = &filters.cors {
            let access = keys.entry("access").or_insert_with(|| json!({}));
            access["cors"] = cors.clone();
        }
        if filters.redirect.is_some() {
            // Nobody else is asked.
            keys.remove("request_headers");
            return Ok(Way::To { keys, filters: Box::new(filters) });
        }
        if let Some(said) = &rule.timeouts
            && let Some(timeouts) = filters::timeouts(said)?
        {
            keys.insert("timeouts".to_owned(), timeouts);
        }
        if rule.retry.is_some() {
            self.draft.note(
                object,
                "RetryRefused",
                "`retry` has no effect: a failed connect is tried elsewhere anyway",
            );
        }
        let cookie = rule.session_persistence.as_ref().map(persistence).transpose()?;
        if let Some(mirror) = &filters.mirror {
            match self.backend(object, &mirror.backend_ref, Map::new()) {
                Ok(upstream) => {
                    let mirror = json!({ "upstream": upstream, "percent": filters::percent(mirror) });
                    keys.insert("mirror".to_owned(), mirror);
                }
                Err(fault) => told.unresolved(fault),
            }
        }
        let (mut shares, mut lost) = (Vec::new(), 0);
        for backend in &rule.backend_refs {
            let weight = backend.weight.unwrap_or(1);
            match self.share(object, backend, settings, cookie.as_ref())? {
                Ok(upstream) => add_share(&mut shares, upstream, weight),
                Err(fault) => {
                    lost = u32::saturating_add(lost, weight);
                    told.unresolved(fault);
                }
            }
        }
        if shares.iter().all(|(_, weight)| *weight == 0) {
            return Ok(Way::Nowhere);
        }
        keys.insert("upstream".to_owned(), weighted(&shares, lost));
        let is_split = shares.len() > 1 || lost > 0;
        let has_sessions = settings.upstream.get("kind").is_some_and(|kind| kind != "http");
        if is_split {
            // Sessions stay where they are anyway; clients do where they have a cookie.
            match &cookie {
                Some(cookie) => {
                    let name = cookie["name"].as_str().unwrap_or("sockgate");
                    keys.insert("split".to_owned(), json!({ "cookie": format!("{name}_side") }));
                }
                None if has_sessions => {}
                None => drop(keys.insert("split".to_owned(), json!({ "by": "request" }))),
            }
        }
        Ok(Way::To { keys, filters: Box::new(filters) })
    }

    /// The upstream of a backend; the outer fault is of the rule, the inner one of the backend alone.
    fn share(
        &mut self,
        object: &Object,
        backend: &HttpBackend,
        settings: &Settings,
        cookie: Option<&Value>,
    ) -> Result<Result<String, Fault>, String> {
        let filters = Filters::read(&backend.filters)?;
        let Filters { request_headers, response_headers, mirror, redirect, rewrite, cors } = filters;
        if mirror.is_some() || redirect.is_some() || rewrite.is_some() || cors.is_some() {
            return Err("of a backend's filters, all but those of headers are refused".to_owned());
        }
        let mut keys = settings.upstream.clone();
        for (key, value) in [("request_headers", request_headers), ("response_headers", response_headers)] {
            if let Some(value) = value {
                keys.insert(key.to_owned(), value);
            }
        }
        if let Some(cookie) = cookie {
            keys.insert("affinity".to_owned(), json!({ "cookie": cookie }));
        }
        Ok(self.backend(object, &backend.to, keys))
    }

    /// Puts routes into the draft; of those that ask for the same, the first has it.
    fn draw(&mut self, mut candidates: Vec<Candidate>) {
        candidates.sort_by(|one, other| one.route.rank.cmp(&other.route.rank));
        let mut claims = HashSet::new();
        for Candidate { mut listeners, scheme, mut route } in candidates {
            let asked = Value::Object(route.matches.clone()).to_string();
            let Rank { host, path, .. } = &route.rank;
            listeners.retain(|listener| {
                claims.insert((listener.clone(), scheme, host.clone(), path.clone(), asked.clone()))
            });
            if listeners.is_empty() {
                if !route.rank.is_last {
                    let shown = format!("{}{}", host.pattern().unwrap_or_default(), path.shown());
                    let what = format!("what it asks for at {shown} belongs to a route that comes first");
                    self.draft.note(&route.rank.origin, "MatchTaken", what);
                }
                continue;
            }
            if let Some(scheme) = scheme {
                let of_scheme = of_scheme(scheme);
                let when = match route.matches.get("when").and_then(Value::as_str) {
                    Some(when) => format!("{of_scheme} && {when}"),
                    None => of_scheme,
                };
                route.matches.insert("when".to_owned(), when.into());
            }
            route.matches.insert("listener".to_owned(), json!(listeners));
            self.draft.routes.push(route);
        }
    }
}

/// What is to be said of a route, beside whether it is let in.
#[derive(Default)]
struct Told {
    rules: usize,
    unresolved: Option<Fault>,
    unsupported: Vec<String>,
    lost: usize,
}

impl Told {
    fn unresolved(&mut self, fault: Fault) {
        self.unresolved.get_or_insert(fault);
    }

    fn unsupported(&mut self, why: String) {
        self.unsupported.push(why);
    }

    fn tell(&self, parent: &mut report::Parent) {
        if let Some((reason, why)) = &self.unresolved {
            parent.resolved = Condition::fails("ResolvedRefs", reason, why.clone());
        }
        if self.unsupported.is_empty() || !parent.accepted.holds {
            return;
        }
        let all: BTreeSet<&str> = self.unsupported.iter().map(String::as_str).collect();
        let why = Vec::from_iter(all).join("; ");
        if self.lost >= self.rules {
            parent.accepted = Condition::fails("Accepted", "UnsupportedValue", why);
        } else {
            let what = format!("{why}; requests that this is said for are answered {NOWHERE}");
            parent.partially =
                Some(Condition { kind: "PartiallyInvalid", holds: true, reason: "UnsupportedValue", message: what });
        }
    }
}

/// A condition in CEL: requests of a scheme.
fn of_scheme(scheme: &str) -> String {
    format!("request.scheme == \"{scheme}\"")
}

fn candidate(
    object: &Object,
    place: usize,
    matched: &Matched,
    mut keys: Map<String, Value>,
    (host, scheme, listeners): (Host, Option<&'static str>, BTreeSet<String>),
) -> Candidate {
    keys.insert("name".to_owned(), format!("{}/{}", object.namespace, object.name).into());
    let rank = Rank {
        host,
        is_last: false,
        path: matched.path.clone(),
        conditions: Reverse(matched.conditions),
        origin: object.clone(),
        place,
    };
    Candidate { listeners, scheme, route: Route { rank, matches: matched.keys.clone(), keys } }
}

/// The keys of a route, with what depends on the port and the path.
fn lead(
    keys: &Map<String, Value>,
    filters: &Filters,
    port: u16,
    prefix: Option<&str>,
) -> Result<Map<String, Value>, String> {
    let mut keys = keys.clone();
    if let Some(said) = &filters.redirect {
        keys.extend(filters::redirect(said, port, prefix)?);
    }
    if let Some(said) = &filters.rewrite {
        keys.extend(filters::rewrite(said, prefix)?);
    }
    Ok(keys)
}

/// `affinity.cookie`.
fn persistence(said: &Persistence) -> Result<Value, String> {
    if said.kind.as_deref().is_some_and(|kind| kind != "Cookie") || said.header.is_some() {
        return Err("sessions are known by cookies: `sessionPersistence` by header is refused".to_owned());
    }
    let cookie = said.cookie.as_ref().or(said.cookie_config.as_ref());
    let name = said.cookie.as_ref().and_then(|cookie| cookie.name.clone()).or_else(|| said.session_name.clone());
    let mut read = json!({ "name": name.unwrap_or_else(|| "sockgate".to_owned()) });
    let is_kept = cookie.and_then(|cookie| cookie.lifetime_type.as_deref()) == Some("Permanent");
    if let Some(age) = said.absolute_timeout.as_ref().filter(|_| is_kept) {
        read["max_age"] = age.as_str().into();
    }
    Ok(read)
}

fn read_match(said: &HttpMatch) -> Result<Matched, String> {
    let how = said.path.as_ref().and_then(|path| path.how.as_deref()).unwrap_or("PathPrefix");
    let text = said.path.as_ref().and_then(|path| path.value.as_deref()).unwrap_or("/");
    let mut prefix = None;
    let path = match how {
        "Exact" => Path::exact(&canonical(text)),
        "PathPrefix" => {
            let text = canonical(text);
            let path = Path::prefix(&text);
            prefix = Some(text);
            path
        }
        "RegularExpression" => Path::regex(&format!("^(?:{text})$")),
        how => return Err(format!("a path match of the type {how} is refused")),
    };
    let mut keys = Map::new();
    if let Some(method) = &said.method {
        keys.insert("method".to_owned(), method.as_str().into());
    }
    let mut headers = Map::new();
    for one in &said.headers {
        let pattern = pattern(one, "header")?;
        // Of several for one field, the first counts.
        headers.entry(one.name.to_ascii_lowercase()).or_insert(pattern.into());
    }
    let (header_count, mut query_count) = (headers.len(), 0);
    if !headers.is_empty() {
        keys.insert("headers_regex".to_owned(), headers.into());
    }
    let (mut query, mut when, mut known) = (Map::new(), Vec::new(), HashSet::new());
    for one in said.query_params.iter().filter(|one| known.insert(one.name.as_str())) {
        query_count += 1;
        let is_exact = one.how.as_deref().is_none_or(|how| how == "Exact");
        if is_exact && one.value != "*" {
            query.insert(one.name.clone(), one.value.as_str().into());
        } else {
            let quoted = |text: &str| Value::from(text).to_string();
            when.push(format!("request.query[{}].matches({})", quoted(&one.name), quoted(&pattern(one, "query")?)));
        }
    }
    if !query.is_empty() {
        keys.insert("query".to_owned(), query.into());
    }
    if !when.is_empty() {
        keys.insert("when".to_owned(), when.join(" && ").into());
    }
    let conditions = [usize::from(said.method.is_some()), header_count, query_count];
    Ok(Matched { path, prefix, keys, conditions })
}

/// A regular expression for the whole of a value.
fn pattern(said: &NamedMatch, what: &str) -> Result<String, String> {
    match said.how.as_deref() {
        None | Some("Exact") => Ok(format!("^{}$", regex::escape(&said.value))),
        Some("RegularExpression") => Ok(format!("^(?:{})$", said.value)),
        Some(how) => Err(format!("a {what} match of the type {how} is refused")),
    }
}

//! What Ingresses make of a configuration: objects in, a draft of it and a word about each object out. Nothing is asked of
//! anybody here.

mod class;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use k8s_openapi::api::networking::v1::{HTTPIngressPath, Ingress, IngressBackend};
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::Terms;
use super::annotations::{self, Read, Settings};
use super::backend::Backends;
use super::certificates::{is_for, pair};
use super::draft::{
    Certificate, Draft, Host, Named, Object, Path, Rank, Route, canonical, redirect_keys, respond_keys,
};
use super::world::World;

/// What is answered where nobody can serve.
const NOBODY: u16 = 503;

/// Adds to a draft what Ingresses make of a configuration.
pub(crate) fn draft(world: &World, terms: &Terms, draft: Draft) -> Draft {
    let ours = class::ours(world, terms);
    let mut drawing = Drawing { world, terms, draft, claims: HashSet::new() };
    let mut rest = Vec::new();
    for (object, ingress) in &ours {
        drawing.draft.objects.insert(object.clone());
        let Read { settings, notes, closed } = annotations::read(ingress.annotations());
        for (reason, what) in notes {
            drawing.draft.note(object, reason, what);
        }
        if !closed.is_empty() {
            closed.into_iter().for_each(|what| drawing.draft.note(object, "Rejected", what));
            continue;
        }
        drawing.certificates(object, ingress);
        drawing.rules(object, ingress, &settings);
        rest.push((object, *ingress, settings));
    }
    // Behind all that are said by name.
    for (object, ingress, settings) in &rest {
        drawing.default_backend(object, ingress, settings);
    }
    drawing.last_resort();
    drawing.draft
}

/// A draft as it is made.
struct Drawing<'a> {
    world: &'a World,
    terms: &'a Terms,
    draft: Draft,
    /// Hosts and paths that somebody has.
    claims: HashSet<(Host, Path)>,
}

impl Drawing<'_> {
    /// What the Secrets of an Ingress hold. One that can't be used costs the others nothing.
    fn certificates(&mut self, object: &Object, ingress: &Ingress) {
        let spec = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
        for said in spec {
            let hosts = said.hosts.clone().filter(|hosts| !hosts.is_empty()).unwrap_or_else(|| rule_hosts(ingress));
            // Without a Secret the hosts have the certificates of the file.
            let Some(name) = said.secret_name.as_ref().filter(|name| !name.is_empty()) else { continue };
            let secret = Named::new(&object.namespace, name);
            match pair(self.world, &secret) {
                Ok((pair, inside)) => {
                    let names: Vec<String> = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
                    for host in names.iter().filter(|host| !inside.iter().any(|name| is_for(name, host))) {
                        let what = format!("the certificate in the Secret {secret} is not for {host}");
                        self.draft.note(object, "CertificateMismatch", what);
                    }
                    let mut names: Vec<String> = names;
                    names.retain(|name| self.draft.shown.insert(name.clone()));
                    if !names.is_empty() {
                        self.draft.show(Certificate { secret, names, pair });
                    }
                }
                Err(why) => self.draft.note(object, "SecretUnusable", format!("the Secret {secret} {why}")),
            }
        }
    }

    fn rules(&mut self, object: &Object, ingress: &Ingress, settings: &Settings) {
        let with_tls = tls_hosts(ingress);
        let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
        let mut place = 0;
        for rule in rules {
            let host = rule.host.as_deref().unwrap_or_default().to_ascii_lowercase();
            let host = Host::read(&host);
            let has_tls = with_tls.contains(&host);
            if let Some(root) = settings.app_root.as_ref().filter(|_| settings.redirect.is_none()) {
                let keys = redirect_keys(json!({ "status": 302, "path": root }));
                self.route(object, place, (host.clone(), Path::exact("/")), Map::new(), keys);
                place += 1;
            }
            for said in rule.http.iter().flat_map(|http| &http.paths) {
                let path = self.path(said, settings);
                if !self.claims.insert((host.clone(), path.clone())) {
                    let shown =
                        format!("{}{}", host.pattern().unwrap_or_default(), said.path.as_deref().unwrap_or("/"));
                    self.draft.note(object, "PathTaken", format!("{shown} belongs to an older Ingress"));
                    continue;
                }
                let mut keys = self.leads_to(object, &said.backend, settings);
                if let Some(to) = &settings.rewrite_target
                    && keys.contains_key("upstream")
                {
                    keys.insert("rewrite".to_owned(), rewrite(said.path.as_deref().unwrap_or("/"), to));
                }
                self.lead_to_tls(object, place, (&host, &path), has_tls, settings);
                self.route(object, place, (host.clone(), path), Map::new(), keys);
                place += 1;
            }
        }
    }

    /// The path of a rule.
    fn path(&self, said: &HTTPIngressPath, settings: &Settings) -> Path {
        let text = said.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let canonical = canonical(text);
        let is_regex = settings.use_regex || settings.rewrite_target.is_some();
        match said.path_type.as_str() {
            "Exact" => Path::exact(&canonical),
            "ImplementationSpecific" if is_regex => Path::regex(&format!("(?i)^{text}")),
            _ => Path::prefix(&canonical),
        }
    }

    /// Leads plain HTTP to HTTPS, before the route itself.
    fn lead_to_tls(
        &mut self,
        object: &Object,
        place: usize,
        (host, path): (&Host, &Path),
        has_tls: bool,
        settings: &Settings,
    ) {
        if settings.always_to_tls || has_tls && settings.to_tls != Some(false) {
            let mut matches = Map::new();
            matches.insert("when".to_owned(), "request.scheme == \"http\"".into());
            let keys = redirect_keys(json!({ "scheme": "https" }));
            self.route(object, place, (host.clone(), path.clone()), matches, keys);
        }
    }

    /// The keys of a route to a backend.
    fn leads_to(&mut self, object: &Object, said: &IngressBackend, settings: &Settings) -> Map<String, Value> {
        if let Some(redirect) = &settings.redirect {
            return redirect_keys(redirect.clone());
        }
        let backends = Backends { world: self.world, kubeconfig: self.terms.kubeconfig.as_deref() };
        match backends.upstream(object, said, &settings.upstream) {
            Ok((name, upstream)) => {
                self.draft.upstreams.entry(name.clone()).or_insert_with(|| (object.clone(), upstream));
                let mut keys = settings.route.clone();
                keys.insert("upstream".to_owned(), name.into());
                keys
            }
            Err(why) => {
                self.draft.note(object, "BackendUnusable", why);
                respond_keys(NOBODY)
            }
        }
    }

    /// Adds a route. One host of many labels deep is what an Ingress means by `*.`, not all below it.
    fn route(
        &mut self,
        object: &Object,
        place: usize,
        (host, path): (Host, Path),
        mut matches: Map<String, Value>,
        mut keys: Map<String, Value>,
    ) {
        let conditions = Reverse([matches.len(), 0, 0]);
        if let Host::Below(_, rest) = &host {
            let one_label = format!("request.host.matches(\"^[^.]+[.]{}$\")", rest.replace('.', "[.]"));
            let when = match matches.get("when").and_then(Value::as_str) {
                Some(when) => format!("{when} && {one_label}"),
                None => one_label,
            };
            matches.insert("when".to_owned(), when.into());
        }
        let name = format!("{}/{}", object.namespace, object.name);
        keys.insert("name".to_owned(), name.trim_start_matches('/').into());
        let rank = Rank { host, is_last: false, path, conditions, origin: object.clone(), place };
        self.draft.routes.push(Route { rank, matches, keys });
    }

    /// What an Ingress does with what none of its rules takes.
    fn default_backend(&mut self, object: &Object, ingress: &Ingress, settings: &Settings) {
        let Some(backend) = ingress.spec.as_ref().and_then(|spec| spec.default_backend.as_ref()) else { return };
        let with_tls = tls_hosts(ingress);
        let mut hosts: BTreeSet<Host> = rule_hosts(ingress).iter().map(|host| Host::read(host)).collect();
        if hosts.is_empty() {
            hosts.insert(Host::Any);
        }
        for host in hosts {
            let path = Path::prefix("/");
            if !self.claims.insert((host.clone(), path.clone())) {
                continue;
            }
            let keys = self.leads_to(object, backend, settings);
            self.lead_to_tls(object, usize::MAX, (&host, &path), with_tls.contains(&host), settings);
            self.route(object, usize::MAX, (host, path), Map::new(), keys);
        }
    }

    /// What no Ingress takes: the default backend of the controller. A host that somebody has is never served by another's
    /// rules for many hosts.
    fn last_resort(&mut self) {
        let path = Path::prefix("/");
        let mut hosts: BTreeMap<Host, Object> = BTreeMap::new();
        // Hosts of others are theirs.
        for Route { rank, .. } in self.draft.routes.iter().filter(|route| route.rank.origin.kind == "Ingress") {
            let first = hosts.entry(rank.host.clone()).or_insert_with(|| rank.origin.clone());
            if rank.origin < *first {
                first.clone_from(&rank.origin);
            }
        }
        let keys = match &self.terms.default_backend {
            Some((service, port)) => {
                let backends = Backends { world: self.world, kubeconfig: self.terms.kubeconfig.as_deref() };
                match backends.default(service, port) {
                    Ok((name, upstream)) => {
                        self.draft.upstreams.insert(name.clone(), (Object::controller(), upstream));
                        hosts.entry(Host::Any).or_insert_with(Object::controller);
                        Map::from_iter([("upstream".to_owned(), name.into())])
                    }
                    Err(why) => {
                        self.draft.note(&Object::controller(), "BackendUnusable", why);
                        respond_keys(NOBODY)
                    }
                }
            }
            None => respond_keys(404),
        };
        // Where nothing is less particular, what is not taken is 404 anyway.
        let many = self.terms.default_backend.is_some() || hosts.keys().any(|host| !matches!(host, Host::Exact(_)));
        for (host, object) in hosts.into_iter().filter(|_| many) {
            let is_last = host == Host::Any && self.terms.default_backend.is_none();
            if !is_last && self.claims.insert((host.clone(), path.clone())) {
                self.route(&object, usize::MAX, (host, path.clone()), Map::new(), keys.clone());
                if let Some(route) = self.draft.routes.last_mut() {
                    route.rank.is_last = true;
                }
            }
        }
    }
}

/// As nginx has it: the whole path is another one, with what the groups have found.
fn rewrite(path: &str, to: &str) -> Value {
    let mut target = String::with_capacity(to.len());
    let mut rest = to;
    while let Some((before, after)) = rest.split_once('$') {
        target.push_str(before);
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits == 0 {
            target.push_str("$$");
        } else {
            target.push_str(&format!("${{{}}}", &after[..digits]));
        }
        rest = &after[digits..];
    }
    target.push_str(rest);
    json!({ "regex": format!("(?i)^{path}.*$"), "to": target })
}

fn rule_hosts(ingress: &Ingress) -> Vec<String> {
    let rules = ingress.spec.iter().flat_map(|spec| spec.rules.iter().flatten());
    rules.map(|rule| rule.host.as_deref().unwrap_or_default().to_ascii_lowercase()).collect()
}

/// The hosts that an Ingress says to have TLS, where it says which.
fn tls_hosts(ingress: &Ingress) -> HashSet<Host> {
    let said = ingress.spec.iter().flat_map(|spec| spec.tls.iter().flatten());
    let hosts =
        said.flat_map(|tls| tls.hosts.clone().filter(|hosts| !hosts.is_empty()).unwrap_or_else(|| rule_hosts(ingress)));
    hosts.map(|host| Host::read(&host.to_ascii_lowercase())).collect()
}

#[cfg(test)]
mod tests;

//! The listeners of Gateways: which of the file's serves each, which routes may come to it, and which certificates it shows.

use std::collections::HashMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;

use super::conditions::Condition;
use super::grants::Grants;
use super::objects::{GROUP, GatewaySpec, Listener, ListenerTls, ParentRef, Reference};
use super::ports::{Own, Ports};
use super::report;
use crate::controller::certificates::{is_for, pair};
use crate::controller::draft::{Certificate, Draft, Host, Named, Object};
use crate::controller::world::World;
use crate::listener::config::Protocol;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    Http,
    Https,
    /// TLS that ends at the server.
    Tls,
    Tcp,
}

impl Speaks {
    /// The kind of routes that it is for.
    fn kind(self) -> &'static str {
        match self {
            Self::Http | Self::Https => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// The scheme of its requests, where it has any.
    pub(super) fn scheme(self) -> Option<&'static str> {
        match self {
            Self::Http => Some("http"),
            Self::Https => Some("https"),
            Self::Tls | Self::Tcp => None,
        }
    }
}

/// Whose routes may come.
#[derive(Clone, Debug)]
enum From {
    Same,
    All,
    Nobody,
    Selected(LabelSelector),
}

/// A listener of a Gateway.
#[derive(Clone, Debug)]
pub(super) struct Listening {
    /// The Gateway, and its place among them.
    pub(super) gateway: (Named, usize),
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) host: Host,
    /// What it speaks, and the listener of the file behind it; `None` where it can't be had.
    pub(super) served: Option<(Speaks, Own)>,
    kinds: Vec<&'static str>,
    from: From,
    pub(super) attached: usize,
    accepted: Condition,
    resolved: Condition,
    conflicted: Condition,
}

/// What it reads its own words against.
pub(super) struct Reading<'a> {
    pub(super) world: &'a World,
    pub(super) ports: &'a Ports,
    pub(super) grants: &'a Grants,
}

impl Reading<'_> {
    /// The listeners of a Gateway, the certificates of which go into the draft.
    pub(super) fn listeners(
        &self,
        object: &Object,
        place: usize,
        spec: &GatewaySpec,
        draft: &mut Draft,
    ) -> Vec<Listening> {
        let verifies_clients = spec.tls.as_ref().is_some_and(|tls| tls.frontend.is_some());
        let mut all: Vec<Listening> =
            spec.listeners.iter().map(|said| self.listener(object, place, said, verifies_clients)).collect();
        conflicts(&mut all);
        for (listener, said) in all.iter_mut().zip(&spec.listeners) {
            let is_https = matches!(listener.served, Some((Speaks::Https, _)));
            if said.protocol == "HTTPS"
                && let Err(fault) = self.certificates(object, listener, said.tls.as_ref(), is_https, draft)
            {
                // Without a certificate nobody comes in.
                (listener.resolved, listener.served) = (fault, None);
            }
        }
        all
    }

    fn listener(&self, object: &Object, place: usize, said: &Listener, verifies_clients: bool) -> Listening {
        let host = Host::read(&said.hostname.as_deref().unwrap_or_default().to_ascii_lowercase());
        let mode = said.tls.as_ref().and_then(|tls| tls.mode.as_deref()).unwrap_or("Terminate");
        let of_clients = verifies_clients || said.tls.as_ref().is_some_and(|tls| tls.frontend_validation.is_some());
        let speaks = match (said.protocol.as_str(), mode) {
            ("HTTP", _) => Ok(Speaks::Http),
            ("HTTPS", "Terminate") if of_clients => Err((
                "UnsupportedValue",
                "certificates of clients are verified by `client_certificates` of the listener in the file".to_owned(),
            )),
            ("HTTPS", "Terminate") => Ok(Speaks::Https),
            ("HTTPS", mode) => {
                Err(("UnsupportedValue", format!("HTTPS with the mode {mode} is refused: expected Terminate")))
            }
            ("TLS", "Passthrough") => Ok(Speaks::Tls),
            ("TLS", mode) => {
                Err(("UnsupportedValue", format!("TLS with the mode {mode} is refused: expected Passthrough")))
            }
            ("TCP", _) => Ok(Speaks::Tcp),
            (protocol, _) => Err((
                "UnsupportedProtocol",
                format!("the protocol {protocol} is refused: expected HTTP, HTTPS, TLS or TCP"),
            )),
        };
        let served = speaks.clone().and_then(|speaks| {
            let own = self.ports.find(said.port).map_err(|why| ("PortUnavailable", why))?;
            fits(speaks, own).map_err(|why| ("PortUnavailable", why))?;
            Ok((speaks, own.clone()))
        });
        let accepted = match &served {
            Ok(_) => Condition::holds("Accepted", "Accepted"),
            Err((reason, why)) => Condition::fails("Accepted", reason, why.clone()),
        };
        let (kinds, resolved) = kinds(said, speaks.as_ref().ok().copied());
        let allowed = said.allowed_routes.as_ref().and_then(|allowed| allowed.namespaces.as_ref());
        let from = match allowed.map(|allowed| (allowed.from.as_deref().unwrap_or("Same"), &allowed.selector)) {
            None | Some(("Same", _)) => From::Same,
            Some(("All", _)) => From::All,
            Some(("Selector", Some(selector))) => From::Selected(selector.clone()),
            Some(_) => From::Nobody,
        };
        Listening {
            gateway: (Named::new(&object.namespace, &object.name), place),
            name: said.name.clone(),
            port: said.port,
            host,
            served: served.ok(),
            kinds,
            from,
            attached: 0,
            accepted,
            resolved,
            conflicted: Condition { kind: "Conflicted", holds: false, reason: "NoConflicts", message: String::new() },
        }
    }

    /// Reads the certificates of a listener, and shows them.
    fn certificates(
        &self,
        object: &Object,
        listener: &Listening,
        tls: Option<&ListenerTls>,
        is_shown: bool,
        draft: &mut Draft,
    ) -> Result<(), Condition> {
        let fails = |reason: &'static str, why: String| Condition::fails("ResolvedRefs", reason, why);
        let refs = tls.map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
        if refs.is_empty() {
            return Err(fails("InvalidCertificateRef", "it names no certificate".to_owned()));
        }
        let mut first = None;
        for Reference { group, kind, namespace, name, .. } in refs {
            let read = || {
                let kind = kind.as_deref().unwrap_or("Secret");
                if !matches!(group.as_deref(), None | Some("")) || kind != "Secret" {
                    let why = format!("a certificate of the kind {kind} is refused: expected a Secret");
                    return Err(fails("InvalidCertificateRef", why));
                }
                let secret = Named::new(namespace.as_deref().unwrap_or(&object.namespace), name);
                if !self.grants.let_in(("Gateway", &object.namespace), ("Secret", &secret.namespace, &secret.name)) {
                    let why =
                        format!("no ReferenceGrant lets Gateways of {} use the Secret {secret}", object.namespace);
                    return Err(fails("RefNotPermitted", why));
                }
                match pair(self.world, &secret) {
                    Ok((pair, inside)) => Ok((secret, pair, inside)),
                    Err(why) => Err(fails("InvalidCertificateRef", format!("the Secret {secret} {why}"))),
                }
            };
            let (secret, pair, inside) = match read() {
                Ok(read) => read,
                // One of several that can't be used costs its own names only.
                Err(fault) => {
                    first.get_or_insert(fault);
                    continue;
                }
            };
            if !is_shown {
                continue;
            }
            let names = match listener.host.pattern() {
                // Several certificates for one host are told apart by what is inside.
                Some(host) if refs.len() == 1 => {
                    if !inside.iter().any(|name| is_for(name, &host)) {
                        let what = format!("the certificate in the Secret {secret} is not for {host}");
                        draft.note(object, "CertificateMismatch", what);
                    }
                    if !draft.shown.insert(host.clone()) {
                        continue;
                    }
                    vec![host]
                }
                _ => Vec::new(),
            };
            draft.show(Certificate { secret, names, pair });
        }
        first.map_or(Ok(()), Err)
    }
}

/// Whether a listener of the file can serve what one of a Gateway speaks.
fn fits(speaks: Speaks, own: &Own) -> Result<(), String> {
    let is_http = own.protocol == Protocol::Http;
    let lacks = match speaks {
        Speaks::Http if !is_http || !own.is_plain => "speaks no plain HTTP",
        Speaks::Https if !is_http || !own.has_tls => "speaks no HTTP by TLS",
        Speaks::Tls if !own.has_tls => "has no `tls`",
        Speaks::Tcp if own.protocol != Protocol::Tcp || own.has_tls => "is not of the protocol `tcp`, or has `tls`",
        _ => return Ok(()),
    };
    Err(format!("the listener `{}` of the file {lacks}", own.name))
}

/// The kinds of routes that may come, and whether all that are named can.
fn kinds(said: &Listener, speaks: Option<Speaks>) -> (Vec<&'static str>, Condition) {
    let mut resolved = Condition::holds("ResolvedRefs", "ResolvedRefs");
    let Some(known) = speaks.map(Speaks::kind) else { return (Vec::new(), resolved) };
    let allowed = said.allowed_routes.as_ref().map(|allowed| allowed.kinds.as_slice()).unwrap_or_default();
    if allowed.is_empty() {
        return (vec![known], resolved);
    }
    let is_known =
        |kind: &super::objects::RouteKind| kind.group.as_deref().unwrap_or(GROUP) == GROUP && kind.kind == known;
    if let Some(other) = allowed.iter().find(|kind| !is_known(kind)) {
        let why =
            format!("routes of the kind {} can't come to a listener of the protocol {}", other.kind, said.protocol);
        resolved = Condition::fails("ResolvedRefs", "InvalidRouteKinds", why);
    }
    (allowed.iter().any(is_known).then_some(known).into_iter().collect(), resolved)
}

/// Finds listeners of one Gateway that can't stand beside each other: nobody of them is served.
fn conflicts(all: &mut [Listening]) {
    let said: Vec<_> =
        all.iter().map(|one| (one.port, one.host.clone(), one.served.as_ref().map(|(speaks, _)| *speaks))).collect();
    let stands_beside = |one: Speaks, other: Speaks| match (one, other) {
        (Speaks::Https | Speaks::Tls, Speaks::Https | Speaks::Tls) => true,
        (one, other) => one == other && one != Speaks::Tcp,
    };
    for (place, listener) in all.iter_mut().enumerate() {
        let Some((speaks, own)) = &listener.served else { continue };
        let others = said.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, other)| other);
        let on_port = others.filter(|(port, ..)| *port == listener.port);
        let mut conflict = None;
        for (_, host, other) in on_port {
            match other {
                Some(other) if !stands_beside(*speaks, *other) && !(own.is_both()) => {
                    conflict = Some(("ProtocolConflict", "another listener of the port has another protocol"));
                }
                Some(_) if *host == listener.host && conflict.is_none() => {
                    conflict = Some(("HostnameConflict", "another listener of the port has the same hostname"));
                }
                _ => {}
            }
        }
        if let Some((reason, why)) = conflict {
            let why = format!("{why} ({})", listener.port);
            listener.conflicted = Condition { kind: "Conflicted", holds: true, reason, message: why.clone() };
            listener.accepted = Condition::fails("Accepted", reason, why);
            listener.served = None;
        }
    }
}

impl Listening {
    /// Whether a reference to its Gateway is one to it.
    pub(super) fn is_meant(&self, by: &ParentRef) -> bool {
        by.section_name.as_ref().is_none_or(|name| *name == self.name) && by.port.is_none_or(|port| port == self.port)
    }

    /// Whether routes of this kind may come.
    pub(super) fn takes(&self, kind: &str) -> bool {
        self.kinds.contains(&kind)
    }

    /// Whether routes of this namespace may come.
    pub(super) fn lets_in(&self, namespace: &str, world: &World) -> bool {
        match &self.from {
            From::Same => namespace == self.gateway.0.namespace,
            From::All => true,
            From::Nobody => false,
            From::Selected(selector) => {
                let known = world.gateway.namespaces.as_ref().and_then(|all| all.get(namespace));
                known.is_some_and(|namespace| selects(selector, namespace.labels()))
            }
        }
    }

    /// What is to be said of it.
    pub(super) fn report(&self) -> report::Listener {
        let programmed = match &self.served {
            Some(_) => Condition::holds("Programmed", "Programmed"),
            None => Condition::fails("Programmed", "Invalid", ""),
        };
        report::Listener {
            name: self.name.clone(),
            kinds: self.kinds.clone(),
            attached: self.attached,
            conditions: vec![self.accepted.clone(), programmed, self.resolved.clone(), self.conflicted.clone()],
        }
    }

    /// Whether it can be had as it is said.
    pub(super) fn is_accepted(&self) -> bool {
        self.accepted.holds
    }
}

/// Whether labels are those that a selector asks for.
fn selects(selector: &LabelSelector, labels: &std::collections::BTreeMap<String, String>) -> bool {
    let exact = selector.match_labels.iter().flatten().all(|(name, value)| labels.get(name) == Some(value));
    let by_expression = selector.match_expressions.iter().flatten().all(|asked| {
        let value = labels.get(&asked.key);
        let is_in = || value.is_some_and(|value| asked.values.iter().flatten().any(|one| one == value));
        match asked.operator.as_str() {
            "In" => is_in(),
            "NotIn" => !is_in(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    exact && by_expression
}

/// Listeners by what routes share: the listener of the file, and the scheme.
pub(super) type Neighbours<'a> = HashMap<(&'a str, Option<&'static str>), Vec<&'a Host>>;

/// Whom requests for a host belong to is the listener that says most of it: no other on its port serves them.
pub(super) fn neighbours(all: &[Listening]) -> Neighbours<'_> {
    let mut known = Neighbours::new();
    for listener in all {
        if let Some((speaks, own)) = &listener.served {
            known.entry((own.name.as_str(), speaks.scheme())).or_default().push(&listener.host);
        }
    }
    known
}

/// Whether a host that a route has on a listener belongs to another listener, which says more of it.
pub(super) fn is_anothers(host: &Host, listener: &Listening, neighbours: &Neighbours<'_>) -> bool {
    let Some((speaks, own)) = &listener.served else { return false };
    let others = neighbours.get(&(own.name.as_str(), speaks.scheme())).into_iter().flatten();
    others.into_iter().any(|other| **other != listener.host && listener.host.covers(other) && other.covers(host))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_selector_asks_for_labels() {
        let labels =
            [("team", "chat"), ("stage", "live")].map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        for (selector, expected) in [
            (json!({}), true),
            (json!({ "matchLabels": { "team": "chat" } }), true),
            (json!({ "matchLabels": { "team": "chat", "stage": "test" } }), false),
            (json!({ "matchExpressions": [{ "key": "team", "operator": "In", "values": ["x", "chat"] }] }), true),
            (json!({ "matchExpressions": [{ "key": "team", "operator": "NotIn", "values": ["x", "chat"] }] }), false),
            (json!({ "matchExpressions": [{ "key": "team", "operator": "Exists" }] }), true),
            (json!({ "matchExpressions": [{ "key": "gone", "operator": "DoesNotExist" }] }), true),
            (json!({ "matchExpressions": [{ "key": "team", "operator": "Like" }] }), false),
        ] {
            let read: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
            assert_eq!(selects(&read, &labels), expected, "{selector}");
        }
    }
}

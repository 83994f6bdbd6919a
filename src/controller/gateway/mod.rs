//! What Gateways and their routes make of a configuration: objects in, a draft of it and conditions of each object out. Nothing is
//! asked of anybody here.
//!
//! Source: <https://gateway-api.sigs.k8s.io>, version 1.6 and what came before it.

mod attach;
mod backends;
mod conditions;
mod filters;
mod grants;
mod http;
mod listeners;
pub(crate) mod objects;
pub(crate) mod ports;
mod raw;
mod report;

use std::collections::HashSet;

use kube::core::ApiResource;
use kube::{Resource, ResourceExt};

use self::conditions::Condition;
use self::grants::Grants;
use self::http::Candidate;
use self::listeners::{Listening, Reading, Speaks};
use self::objects::{Gateway, GatewayClass, GatewaySpec, Says};
use self::ports::{Own, Ports};
pub(super) use self::report::Report;
use self::report::{Class, Of};
use super::Terms;
use super::draft::{Draft, Host, Map, Named, Object, Path, Rank, Route, respond_keys};
use super::status::Address;
use super::world::World;

/// By what a GatewayClass names this controller.
pub(crate) const CONTROLLER: &str = "sockgate.io/gateway-controller";

/// What there is of what need not be, by the names that conformance tests have for it.
pub(crate) const FEATURES: [&str; 30] = [
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
];

/// The most addresses that the status of a Gateway may have.
const MOST_ADDRESSES: usize = 16;

/// Adds to a draft what Gateways and their routes make of a configuration, and tells what is to be said of them.
pub(crate) fn draft(world: &World, terms: &Terms, ports: &Ports, draft: Draft) -> (Draft, Report) {
    let grants = Grants::new(world.gateway.grants.iter().map(|grant| &**grant));
    let mut drawing = Drawing { world, terms, grants, draft, report: Report::default(), listeners: Vec::new() };
    let classes = drawing.classes();
    drawing.gateways(&classes, ports);
    drawing.http_routes();
    drawing.raw_routes();
    let Drawing { draft, mut report, listeners, .. } = drawing;
    for listener in &listeners {
        report.gateways[listener.gateway.1].says.listeners.push(listener.report());
    }
    (draft, report)
}

/// A draft as it is made.
struct Drawing<'a> {
    world: &'a World,
    terms: &'a Terms,
    grants: Grants,
    draft: Draft,
    report: Report,
    /// Those of all Gateways.
    listeners: Vec<Listening>,
}

/// The objects of a kind with what orders them, the oldest first.
fn sorted<'a, K: Resource<DynamicType = ()>>(all: impl IntoIterator<Item = &'a K>) -> Vec<(Object, &'a K)> {
    let mut all: Vec<_> = all.into_iter().map(|object| (Object::of(object), object)).collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    all
}

impl<T> Of<T> {
    /// What is to be said of this object.
    fn new<K: Says>(object: &Object, of: &K, says: T) -> Self {
        Self {
            object: object.clone(),
            resource: ApiResource::erase::<K>(&()),
            generation: of.generation(),
            version: of.resource_version(),
            before: of.status().clone(),
            says,
        }
    }
}

impl Drawing<'_> {
    /// The names of the classes that are ours.
    fn classes(&mut self) -> HashSet<String> {
        let Some(classes) = &self.world.gateway.classes else { return [self.terms.gateway_class.clone()].into() };
        let mut ours = HashSet::new();
        for (object, class) in sorted(classes.iter().map(|class| &**class)) {
            // One that can't be read is nobody's.
            let Ok(spec) = GatewayClass::spec(class) else { continue };
            if spec.controller_name != CONTROLLER {
                continue;
            }
            let accepted = match spec.parameters_ref {
                None => Condition::holds("Accepted", "Accepted"),
                Some(_) => Condition::fails(
                    "Accepted",
                    "InvalidParameters",
                    "`parametersRef` is refused: the file says what holds for all",
                ),
            };
            if accepted.holds {
                ours.insert(object.name.clone());
            }
            self.report.classes.push(Of::new(&object, class, Class { accepted }));
        }
        ours
    }

    /// The Gateways of these classes, and their listeners.
    fn gateways(&mut self, classes: &HashSet<String>, ports: &Ports) {
        for (object, gateway) in sorted(self.world.gateway.gateways.iter().map(|gateway| &**gateway)) {
            let spec = Gateway::spec(gateway);
            let class = gateway_class(gateway);
            let is_meant = self.terms.gateways.is_empty() || self.terms.gateways.contains(&Named::of(gateway));
            if !classes.contains(class) || !is_meant {
                continue;
            }
            let place = self.report.gateways.len();
            let reading = Reading { world: self.world, ports, grants: &self.grants };
            let (listeners, says) = match spec {
                Err(why) => (Vec::new(), refused("Invalid", why)),
                Ok(spec) if spec.infrastructure.as_ref().is_some_and(|all| all.parameters_ref.is_some()) => {
                    let why = "`infrastructure.parametersRef` is refused: the file says what holds for all";
                    (Vec::new(), refused("InvalidParameters", why.to_owned()))
                }
                Ok(spec) => {
                    if spec.tls.as_ref().is_some_and(|tls| tls.backend.is_some()) {
                        let what = "`tls.backend` has no effect: servers are shown no certificate";
                        self.draft.note(&object, "TLSBackendRefused", what);
                    }
                    let listeners = reading.listeners(&object, place, &spec, &mut self.draft);
                    let says = accepted(&spec, &listeners, ports, self.terms);
                    (listeners, says)
                }
            };
            self.listeners.extend(listeners);
            self.report.gateways.push(Of::new(&object, gateway, says));
        }
    }

    /// Answers 404 for what nobody takes of a listener's host: what others have for more hosts is not for it.
    fn closing(&self) -> Vec<Candidate> {
        let served = self.listeners.iter().filter_map(|listener| Some((listener, listener.served.as_ref()?)));
        let with_host = served.filter(|(listener, _)| listener.host != Host::Any);
        let close = |(listener, (speaks, own)): (&Listening, &(_, Own))| {
            let speaks: &Speaks = speaks;
            let mut keys = respond_keys(404);
            keys.insert("name".to_owned(), format!("{}/{}", listener.gateway.0, listener.name).into());
            let rank = Rank {
                host: listener.host.clone(),
                is_last: true,
                path: Path::prefix("/"),
                conditions: Default::default(),
                origin: self.report.gateways[listener.gateway.1].object.clone(),
                place: usize::MAX,
            };
            let route = Route { rank, matches: Map::new(), keys };
            let scheme = speaks.scheme()?;
            Some(Candidate { listeners: [own.name.clone()].into(), scheme: own.is_both().then_some(scheme), route })
        };
        with_host.filter_map(close).collect()
    }
}

/// The class that a Gateway names, whether the rest of it can be read or not.
fn gateway_class(gateway: &Gateway) -> &str {
    gateway.raw_spec()["gatewayClassName"].as_str().unwrap_or_default()
}

/// What is to be said of a Gateway that can't be served.
fn refused(reason: &'static str, why: String) -> report::Gateway {
    let programmed = Condition::fails("Programmed", "Invalid", "");
    report::Gateway {
        conditions: vec![Condition::fails("Accepted", reason, why), programmed],
        ..report::Gateway::default()
    }
}

/// What is to be said of a Gateway with these listeners.
fn accepted(spec: &GatewaySpec, listeners: &[Listening], ports: &Ports, terms: &Terms) -> report::Gateway {
    let addresses: Vec<_> = ports.addresses.iter().map(Address::of_gateway).take(MOST_ADDRESSES).collect();
    let is_usual = |kind: &Option<String>| matches!(kind.as_deref(), None | Some("IPAddress" | "Hostname"));
    if let Some(kind) = spec.addresses.iter().filter(|one| !is_usual(&one.kind)).find_map(|one| one.kind.as_ref()) {
        return refused(
            "UnsupportedAddress",
            format!("an address of the type {kind} is refused: expected IPAddress or Hostname"),
        );
    }
    let good = listeners.iter().filter(|listener| listener.is_accepted()).count();
    let accepted = match good {
        0 => Condition::fails("Accepted", "ListenersNotValid", "no listener of it can be served"),
        good if good < listeners.len() => Condition::holds("Accepted", "ListenersNotValid"),
        _ => Condition::holds("Accepted", "Accepted"),
    };
    let asked = spec.addresses.iter().map(|one| one.value.as_str()).filter(|value| !value.is_empty());
    let foreign = asked.into_iter().find(|value| !addresses.iter().any(|(_, known)| known == value));
    let programmed = match foreign {
        _ if !listeners.iter().any(|listener| listener.served.is_some()) => {
            Condition::fails("Programmed", "Invalid", "no listener of it is served")
        }
        Some(foreign) => {
            Condition::fails("Programmed", "AddressNotUsable", format!("{foreign} is no address of the gateway's"))
        }
        None if addresses.is_empty() && terms.publish_service.is_some() => {
            Condition::fails("Programmed", "AddressNotAssigned", "the gateway's Service has no address yet")
        }
        None => Condition::holds("Programmed", "Programmed"),
    };
    report::Gateway { conditions: vec![accepted, programmed], listeners: Vec::new(), addresses }
}

#[cfg(test)]
mod tests;

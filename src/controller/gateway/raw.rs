//! TLSRoutes and TCPRoutes: connections that are carried as they are, by the name that their clients ask for, or by the port.

use std::collections::HashSet;

use kube::ResourceExt;
use serde_json::{Map, Value, json};

use super::attach::{Attached, lenient_parents};
use super::backends::{Fault, add_share, weighted};
use super::conditions::Condition;
use super::listeners::Speaks;
use super::objects::{RawSpec, Says};
use super::report;
use super::{Drawing, sorted};
use crate::controller::annotations::{self, Read, Settings};
use crate::controller::draft::{Host, Object};

/// The upstream of nobody: connections of a share that leads nowhere are closed.
const NOBODY: &str = "nobody";

impl Drawing<'_> {
    pub(super) fn raw_routes(&mut self) {
        // Names that somebody has, and ports.
        let mut claims: HashSet<(String, Host)> = HashSet::new();
        let world = self.world;
        self.routes(sorted(world.gateway.tls_routes.iter().map(|route| &**route)), &mut claims);
        self.routes(sorted(world.gateway.tcp_routes.iter().map(|route| &**route)), &mut claims);
    }

    fn routes<K: Says<Spec = RawSpec>>(&mut self, routes: Vec<(Object, &K)>, claims: &mut HashSet<(String, Host)>) {
        for (object, route) in routes {
            let spec = route.spec();
            let (parent_refs, hostnames) = match &spec {
                Ok(spec) => (spec.parent_refs.clone(), spec.hostnames.clone()),
                Err(_) => (lenient_parents(route.raw_spec()), Vec::new()),
            };
            let (attached, mut parents) = self.attach(&object, &object.kind, &parent_refs, &hostnames);
            if !attached.is_empty() {
                let Read { settings, notes, closed } = annotations::read_own(route.annotations());
                for (reason, what) in notes {
                    self.draft.note(&object, reason, what);
                }
                let carried = match spec {
                    Ok(_) if !closed.is_empty() => Err(closed.join("; ")),
                    Ok(spec) => Ok(self.carry(&object, &spec, &settings, &attached, claims)),
                    Err(why) => Err(why),
                };
                for parent in parents.iter_mut().filter(|parent| parent.accepted.holds) {
                    match &carried {
                        Ok(Some((reason, why))) => {
                            parent.resolved = Condition::fails("ResolvedRefs", reason, why.clone());
                        }
                        Ok(None) => {}
                        Err(why) => parent.accepted = Condition::fails("Accepted", "UnsupportedValue", why.clone()),
                    }
                }
            }
            self.report.routes.push(report::Of::new(&object, route, report::Route { parents }));
        }
    }

    /// Carries what comes to its listeners to its backends; gives the first of them that can't be used.
    fn carry(
        &mut self,
        object: &Object,
        spec: &RawSpec,
        settings: &Settings,
        attached: &[Attached],
        claims: &mut HashSet<(String, Host)>,
    ) -> Option<Fault> {
        let (mut shares, mut lost, mut fault) = (Vec::new(), 0, None);
        for backend in spec.rules.iter().flat_map(|rule| &rule.backend_refs) {
            let mut keys: Map<String, Value> = settings.upstream.clone();
            keys.insert("kind".to_owned(), "tcp".into());
            let weight = backend.weight.unwrap_or(1);
            match self.backend(object, &backend.to, keys) {
                Ok(upstream) => add_share(&mut shares, upstream, weight),
                Err(why) => {
                    lost = u32::saturating_add(lost, weight);
                    fault.get_or_insert(why);
                }
            }
        }
        let has_some = shares.iter().any(|(_, weight)| *weight > 0);
        if lost > 0 && has_some {
            let keys = json!({ "kind": "tcp", "servers": [], "optional": true });
            let keys = keys.as_object().cloned().unwrap_or_default();
            self.draft.upstreams.entry(NOBODY.to_owned()).or_insert_with(|| (Object::controller(), keys));
            shares.push((NOBODY.to_owned(), lost));
        }
        let upstream = weighted(&shares, 0);
        for Attached { listener, hosts } in attached {
            let listener = &self.listeners[*listener];
            let Some((speaks, own)) = listener.served.as_ref().filter(|_| has_some) else { continue };
            // The oldest that asks for it has it.
            let mine = hosts.iter().filter(|host| claims.insert((own.name.clone(), (*host).clone())));
            let hosts: Vec<Host> = mine.cloned().collect();
            if hosts.is_empty() {
                continue;
            }
            if *speaks == Speaks::Tcp {
                self.draft.carried.push((object.clone(), own.name.clone(), upstream.clone()));
                continue;
            }
            let names: Vec<String> = hosts.iter().filter_map(Host::pattern).collect();
            if !names.is_empty() {
                let entry = json!({ "names": names, "upstream": upstream });
                self.draft.passed.push((object.clone(), own.name.clone(), entry));
            }
        }
        fault
    }
}

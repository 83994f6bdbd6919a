//! Which listeners a route comes to: those of the Gateways that it names, where they let it in and share a host with it.

use serde_json::{Value, json};

use super::Drawing;
use super::conditions::Condition;
use super::listeners::{is_anothers, neighbours};
use super::objects::{GROUP, ParentRef};
use super::report::Parent;
use crate::controller::draft::{Host, Named, Object};

/// A listener that a route comes to, and the hosts that they share.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    /// Its place among all.
    pub(super) listener: usize,
    pub(super) hosts: Vec<Host>,
}

impl Drawing<'_> {
    /// Finds the listeners of a route, and what is to be said of each Gateway of ours that it names.
    pub(super) fn attach(
        &mut self,
        object: &Object,
        kind: &str,
        parents: &[ParentRef],
        hostnames: &[String],
    ) -> (Vec<Attached>, Vec<Parent>) {
        let hosts: Vec<Host> = match hostnames {
            [] => vec![Host::Any],
            said => said.iter().map(|host| Host::read(&host.to_ascii_lowercase())).collect(),
        };
        let (mut attached, mut told): (Vec<Attached>, Vec<Parent>) = (Vec::new(), Vec::new());
        for parent in parents {
            let is_gateway = parent.group.as_deref().unwrap_or(GROUP) == GROUP
                && parent.kind.as_deref().unwrap_or("Gateway") == "Gateway";
            let gateway = Named::new(parent.namespace.as_deref().unwrap_or(&object.namespace), &parent.name);
            let known = self
                .report
                .gateways
                .iter()
                .any(|known| known.object.namespace == gateway.namespace && known.object.name == gateway.name);
            // Another's Gateway is another's to speak of.
            if !is_gateway || !known {
                continue;
            }
            let accepted = match self.listeners_of(object, kind, parent, &gateway, &hosts) {
                Ok(found) => {
                    attached.extend(found);
                    Condition::holds("Accepted", "Accepted")
                }
                Err(fault) => fault,
            };
            let resolved = Condition::holds("ResolvedRefs", "ResolvedRefs");
            told.push(Parent { reference: reference(parent), accepted, resolved, partially: None });
        }
        // Named twice, it is still one route.
        attached.sort_by_key(|one| one.listener);
        attached.dedup_by_key(|one| one.listener);
        for Attached { listener, .. } in &attached {
            self.listeners[*listener].attached += 1;
        }
        let neighbours = neighbours(&self.listeners);
        for Attached { listener, hosts } in &mut attached {
            hosts.retain(|host| !is_anothers(host, &self.listeners[*listener], &neighbours));
        }
        (attached, told)
    }

    fn listeners_of(
        &self,
        object: &Object,
        kind: &str,
        parent: &ParentRef,
        gateway: &Named,
        hosts: &[Host],
    ) -> Result<Vec<Attached>, Condition> {
        let fails = |reason: &'static str, why: String| Condition::fails("Accepted", reason, why);
        let mut meant: Vec<usize> = (0..self.listeners.len())
            .filter(|&at| self.listeners[at].gateway.0 == *gateway && self.listeners[at].is_meant(parent))
            .collect();
        if meant.is_empty() {
            return Err(fails("NoMatchingParent", format!("the Gateway {gateway} has no such listener")));
        }
        meant.retain(|&at| self.listeners[at].takes(kind));
        if meant.is_empty() {
            let why = format!("no listener of the Gateway {gateway} that it names takes routes of the kind {kind}");
            return Err(fails("NotAllowedByListeners", why));
        }
        meant.retain(|&at| self.listeners[at].lets_in(&object.namespace, self.world));
        if meant.is_empty() {
            let why =
                format!("no listener of the Gateway {gateway} lets in routes of the namespace {}", object.namespace);
            return Err(fails("NotAllowedByListeners", why));
        }
        let found: Vec<Attached> = meant
            .into_iter()
            .map(|at| {
                let mut shared: Vec<Host> =
                    hosts.iter().filter_map(|host| host.meet(&self.listeners[at].host)).collect();
                shared.sort();
                shared.dedup();
                Attached { listener: at, hosts: shared }
            })
            .filter(|one| !one.hosts.is_empty())
            .collect();
        if found.is_empty() {
            let why = format!("no listener of the Gateway {gateway} has a hostname in common with it");
            return Err(fails("NoMatchingListenerHostname", why));
        }
        Ok(found)
    }
}

/// A reference as the status of a route repeats it: with what is usually left out, since an API server fills that in.
fn reference(parent: &ParentRef) -> Value {
    let mut reference = json!({
        "group": parent.group.as_deref().unwrap_or(GROUP),
        "kind": parent.kind.as_deref().unwrap_or("Gateway"),
        "name": parent.name,
    });
    let rest = [
        ("namespace", parent.namespace.as_ref().map(|namespace| json!(namespace))),
        ("sectionName", parent.section_name.as_ref().map(|name| json!(name))),
        ("port", parent.port.map(|port| json!(port))),
    ];
    for (key, value) in rest {
        if let Some(value) = value {
            reference[key] = value;
        }
    }
    reference
}

/// The Gateways that a route names whose other words can't be read.
pub(super) fn lenient_parents(spec: &Value) -> Vec<ParentRef> {
    let all = spec["parentRefs"].as_array().into_iter().flatten();
    all.filter_map(|one| serde_json::from_value(one.clone()).ok()).collect()
}

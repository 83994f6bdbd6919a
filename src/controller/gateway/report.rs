//! What is to be said of Gateways, their classes and their routes: conditions by which the cluster hears what has come of them.

use std::collections::BTreeSet;

use kube::core::ApiResource;
use serde_json::{Value, json};

use super::CONTROLLER;
use super::conditions::{Condition, written};
use super::objects::GROUP;
use crate::controller::draft::{Note, Object};
use crate::controller::status::Wish;

/// What is to be said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(super) classes: Vec<Of<Class>>,
    pub(super) gateways: Vec<Of<Gateway>>,
    pub(super) routes: Vec<Of<Route>>,
}

/// What is to be said of one object, and what is said of it in the cluster.
#[derive(Clone, Debug)]
pub(super) struct Of<T> {
    pub(super) object: Object,
    pub(super) resource: ApiResource,
    pub(super) generation: i64,
    /// The version of the object that this is of.
    pub(super) version: Option<String>,
    /// Its status as it is.
    pub(super) before: Value,
    pub(super) says: T,
}

#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) accepted: Condition,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Gateway {
    pub(super) conditions: Vec<Condition>,
    pub(super) listeners: Vec<Listener>,
    /// Where clients come to it: the type and the value of each address.
    pub(super) addresses: Vec<(&'static str, String)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) kinds: Vec<&'static str>,
    pub(super) attached: usize,
    pub(super) conditions: Vec<Condition>,
}

/// What becomes of a route, by the Gateways that it names.
#[derive(Clone, Debug, Default)]
pub(super) struct Route {
    pub(super) parents: Vec<Parent>,
}

#[derive(Clone, Debug)]
pub(super) struct Parent {
    /// As the route names it.
    pub(super) reference: Value,
    pub(super) accepted: Condition,
    pub(super) resolved: Condition,
    /// Where some rules can't be served and others are.
    pub(super) partially: Option<Condition>,
}

impl Report {
    /// Takes up whom the configuration had no place for, and notes what is wrong with the others.
    pub(crate) fn take_up(&mut self, notes: &mut BTreeSet<Note>) {
        for route in &mut self.routes {
            let refused = notes.iter().find(|note| note.object == route.object && note.reason == "Rejected");
            if let Some(note) = refused {
                for parent in route.says.parents.iter_mut().filter(|parent| parent.accepted.holds) {
                    parent.accepted = Condition::fails("Accepted", "UnsupportedValue", note.what.clone());
                    parent.partially = None;
                }
                continue;
            }
            for parent in &route.says.parents {
                let all = [Some(&parent.accepted), Some(&parent.resolved), parent.partially.as_ref()];
                note_bad(&route.object, "", all.into_iter().flatten(), notes);
            }
        }
        for gateway in &self.gateways {
            note_bad(&gateway.object, "", &gateway.says.conditions, notes);
            for listener in &gateway.says.listeners {
                note_bad(&gateway.object, &format!("listener {}: ", listener.name), &listener.conditions, notes);
            }
        }
        for class in &self.classes {
            note_bad(&class.object, "", [&class.says.accepted], notes);
        }
    }

    /// Says that nothing of it is served yet.
    pub(crate) fn pend(&mut self) {
        let why = "the file of the gateway has a fault: what was served before is served";
        let gateways = self.gateways.iter_mut().map(|gateway| &mut gateway.says);
        for Gateway { conditions, listeners, .. } in gateways {
            let all = listeners.iter_mut().flat_map(|listener| &mut listener.conditions).chain(conditions);
            for condition in all.filter(|condition| condition.kind == "Programmed" && condition.holds) {
                *condition = Condition::fails("Programmed", "Pending", why);
            }
        }
    }

    /// What is other in the cluster than it should be.
    pub(crate) fn wishes(&self) -> Vec<Wish> {
        let classes = self.classes.iter().map(|class| (class.wish(), class.status()));
        let gateways = self.gateways.iter().map(|gateway| (gateway.wish(), gateway.status()));
        let routes = self.routes.iter().map(|route| (route.wish(), route.status()));
        let all = classes.chain(gateways).chain(routes);
        all.filter_map(|(wish, status)| Some(wish.with(status?))).collect()
    }
}

fn note_bad<'a>(
    object: &Object,
    of: &str,
    conditions: impl IntoIterator<Item = &'a Condition>,
    notes: &mut BTreeSet<Note>,
) {
    for condition in conditions.into_iter().filter(|condition| condition.is_bad() && !condition.message.is_empty()) {
        let what = format!("{of}{}", condition.message);
        notes.insert(Note { object: object.clone(), reason: condition.reason, what });
    }
}

impl<T> Of<T> {
    /// The object, without what is wished of it yet.
    fn wish(&self) -> Wish {
        let Object { namespace, name, .. } = &self.object;
        Wish {
            resource: self.resource.clone(),
            namespace: namespace.clone(),
            name: name.clone(),
            version: self.version.clone(),
            status: Value::Null,
        }
    }
}

impl Of<Class> {
    fn status(&self) -> Option<Value> {
        let conditions =
            written(std::slice::from_ref(&self.says.accepted), self.generation, &self.before["conditions"]);
        let features: Vec<Value> = super::FEATURES.iter().map(|name| json!({ "name": name })).collect();
        let mut status = json!({ "conditions": conditions });
        let has_news = is_other(&status, &self.before);
        status["supportedFeatures"] = features.into();
        // Versions before 1.4 know nothing of features, and would be told of them for ever.
        let knows = !self.before["supportedFeatures"].is_null();
        (has_news || knows && is_other(&status, &self.before)).then_some(status)
    }
}

impl Of<Gateway> {
    fn status(&self) -> Option<Value> {
        let Gateway { conditions, listeners, addresses } = &self.says;
        let before = |name: &str| {
            let known = self.before["listeners"].as_array().into_iter().flatten();
            known.into_iter().find(|known| known["name"] == name).map(|known| &known["conditions"])
        };
        let listeners: Vec<Value> = listeners
            .iter()
            .map(|listener| {
                let kinds: Vec<Value> =
                    listener.kinds.iter().map(|kind| json!({ "group": GROUP, "kind": kind })).collect();
                let before = before(&listener.name).unwrap_or(&Value::Null);
                json!({
                    "name": listener.name,
                    "supportedKinds": kinds,
                    "attachedRoutes": listener.attached,
                    "conditions": written(&listener.conditions, self.generation, before),
                })
            })
            .collect();
        let addresses: Vec<Value> =
            addresses.iter().map(|(kind, value)| json!({ "type": kind, "value": value })).collect();
        let conditions = written(conditions, self.generation, &self.before["conditions"]);
        let status = json!({ "conditions": conditions, "listeners": listeners, "addresses": addresses });
        is_other(&status, &self.before).then_some(status)
    }
}

impl Of<Route> {
    fn status(&self) -> Option<Value> {
        let known = self.before["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
        let theirs = known.iter().filter(|parent| parent["controllerName"] != CONTROLLER).cloned();
        let ours = self.says.parents.iter().map(|parent| {
            let is_it =
                |known: &&Value| known["controllerName"] == CONTROLLER && known["parentRef"] == parent.reference;
            let before = known.iter().find(is_it).map_or(&Value::Null, |known| &known["conditions"]);
            let all = [Some(&parent.accepted), Some(&parent.resolved), parent.partially.as_ref()];
            let all: Vec<Condition> = all.into_iter().flatten().cloned().collect();
            json!({
                "parentRef": parent.reference,
                "controllerName": CONTROLLER,
                "conditions": written(&all, self.generation, before),
            })
        });
        let status = json!({ "parents": theirs.chain(ours).collect::<Vec<_>>() });
        let none = status["parents"] == json!([]) && known.is_empty();
        (!none && is_other(&status, &self.before)).then_some(status)
    }
}

/// Whether a patch with these keys would change anything.
fn is_other(wanted: &Value, has: &Value) -> bool {
    wanted.as_object().is_some_and(|keys| {
        keys.iter().any(|(key, value)| has[key] != *value && !(has[key].is_null() && value == &json!([])))
    })
}

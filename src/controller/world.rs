//! What the API server has told of a cluster: the objects that routes, certificates and addresses are made of.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use kube::Resource;

use super::draft::Named;
use super::gateway::objects::{Gateway, GatewayClass, HTTPRoute, ReferenceGrant, TCPRoute, TLSRoute};
use crate::kubernetes::News;

/// What is known of a cluster, as it is translated.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) ingresses: Vec<Arc<Ingress>>,
    /// `None` where classes are known by name alone.
    pub(crate) classes: Option<Vec<Arc<IngressClass>>>,
    pub(crate) services: BTreeMap<Named, Arc<Service>>,
    pub(crate) secrets: BTreeMap<Named, Arc<Secret>>,
    pub(crate) gateway: GatewayWorld,
}

/// What is known of the Gateway API's objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct GatewayWorld {
    /// `None` where classes are known by name alone.
    pub(crate) classes: Option<Vec<Arc<GatewayClass>>>,
    pub(crate) gateways: Vec<Arc<Gateway>>,
    pub(crate) http_routes: Vec<Arc<HTTPRoute>>,
    pub(crate) tls_routes: Vec<Arc<TLSRoute>>,
    pub(crate) tcp_routes: Vec<Arc<TCPRoute>>,
    pub(crate) grants: Vec<Arc<ReferenceGrant>>,
    /// By their names; `None` where they can't be read.
    pub(crate) namespaces: Option<BTreeMap<String, Arc<Namespace>>>,
}

/// The objects of one kind, as they are followed: in all namespaces at once, or in each of some.
#[derive(Debug)]
pub(crate) struct Objects<K> {
    scopes: Vec<Scope<K>>,
}

/// What one list and its watch have told.
#[derive(Debug)]
struct Scope<K> {
    /// `None` until all have been listed.
    objects: Option<BTreeMap<Named, Arc<K>>>,
    /// What is wrong now.
    fault: Option<String>,
}

impl<K: Resource<DynamicType = ()>> Objects<K> {
    /// Nothing is known yet, and this many lists will tell.
    pub(crate) fn of(scopes: usize) -> Self {
        Self { scopes: (0..scopes).map(|_| Scope { objects: None, fault: None }).collect() }
    }

    /// Takes up what was heard; whether anything is other than before.
    pub(crate) fn take(&mut self, scope: usize, news: Result<News<K>, String>) -> bool {
        let Some(Scope { objects, fault }) = self.scopes.get_mut(scope) else { return false };
        let news = match news {
            Ok(news) => news,
            Err(why) => {
                *fault = Some(why);
                return false;
            }
        };
        *fault = None;
        match news {
            News::All(all) => {
                let version = |object: &K| object.meta().resource_version.clone();
                let all: BTreeMap<Named, Arc<K>> =
                    all.into_iter().map(|object| (Named::of(&object), Arc::new(object))).collect();
                let same = objects.as_ref().is_some_and(|before| {
                    before.len() == all.len()
                        && before
                            .iter()
                            .zip(&all)
                            .all(|((one, old), (other, new))| one == other && version(old) == version(new))
                });
                *objects = Some(all);
                !same
            }
            News::Put(object) => {
                objects.get_or_insert_default().insert(Named::of(&object), Arc::new(object));
                true
            }
            News::Gone(object) => objects.get_or_insert_default().remove(&Named::of(&object)).is_some(),
            News::Confirmed => false,
            // Who takes a kind away takes its objects first: what is known otherwise stays.
            News::Absent => match objects {
                Some(_) => false,
                None => objects.insert(BTreeMap::new()).is_empty(),
            },
        }
    }

    /// Why they are not known in full yet.
    pub(crate) fn missing(&self) -> Option<String> {
        let scope = self.scopes.iter().find(|scope| scope.objects.is_none())?;
        let why = scope.fault.as_deref().unwrap_or("not listed yet");
        Some(format!("{}: {why}", K::plural(&())))
    }

    /// All that are known, without their names.
    pub(crate) fn each(&self) -> Vec<Arc<K>> {
        self.all().map(|(_, object)| Arc::clone(object)).collect()
    }

    /// All that are known.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&Named, &Arc<K>)> {
        self.scopes.iter().filter_map(|scope| scope.objects.as_ref()).flatten()
    }
}

//! What a controller follows: the lists and watches of each kind of object, and what they have told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use log::{info, warn};
use tokio::sync::Notify;

use super::Terms;
use super::draft::Named;
use super::gateway::objects::{Gateway, GatewayClass, HTTPRoute, ReferenceGrant, TCPRoute, TLSRoute};
use super::world::{GatewayWorld, Objects, World};
use crate::kubernetes::{Follow, Kind, Which};

/// What is followed, as far as it is known.
struct Known {
    ingresses: Objects<Ingress>,
    classes: Option<Objects<IngressClass>>,
    services: Objects<Service>,
    secrets: Objects<Secret>,
    published: Objects<Service>,
    gateway_classes: Option<Objects<GatewayClass>>,
    gateways: Objects<Gateway>,
    http_routes: Objects<HTTPRoute>,
    tls_routes: Objects<TLSRoute>,
    tcp_routes: Objects<TCPRoute>,
    grants: Objects<ReferenceGrant>,
    namespaces: Option<Objects<Namespace>>,
}

impl Known {
    fn new(terms: &Terms) -> Self {
        let scopes = terms.namespaces.len().max(1);
        let everywhere = terms.namespaces.is_empty();
        let of_gateways = if terms.gateway_api { scopes } else { 0 };
        Self {
            ingresses: Objects::of(scopes),
            classes: everywhere.then(|| Objects::of(1)),
            services: Objects::of(scopes),
            secrets: Objects::of(scopes),
            published: Objects::of(usize::from(terms.publish_service.is_some())),
            gateway_classes: (everywhere && terms.gateway_api).then(|| Objects::of(1)),
            gateways: Objects::of(of_gateways),
            http_routes: Objects::of(of_gateways),
            tls_routes: Objects::of(of_gateways),
            tcp_routes: Objects::of(of_gateways),
            grants: Objects::of(of_gateways),
            namespaces: (everywhere && terms.gateway_api).then(|| Objects::of(1)),
        }
    }

    /// What has not been listed in full yet, and why.
    fn missing(&self) -> Option<String> {
        let kinds = [self.ingresses.missing(), self.services.missing(), self.secrets.missing()];
        let classes = self.classes.as_ref().and_then(Objects::missing);
        let of_gateways = [
            self.gateway_classes.as_ref().and_then(Objects::missing),
            self.gateways.missing(),
            self.http_routes.missing(),
            self.tls_routes.missing(),
            self.tcp_routes.missing(),
            self.grants.missing(),
            self.namespaces.as_ref().and_then(Objects::missing),
        ];
        kinds.into_iter().chain([classes]).chain(of_gateways).flatten().next()
    }

    fn world(&self) -> World {
        World {
            ingresses: self.ingresses.each(),
            classes: self.classes.as_ref().map(Objects::each),
            services: self.services.all().map(|(name, object)| (name.clone(), Arc::clone(object))).collect(),
            secrets: self.secrets.all().map(|(name, object)| (name.clone(), Arc::clone(object))).collect(),
            gateway: GatewayWorld {
                classes: self.gateway_classes.as_ref().map(Objects::each),
                gateways: self.gateways.each(),
                http_routes: self.http_routes.each(),
                tls_routes: self.tls_routes.each(),
                tcp_routes: self.tcp_routes.each(),
                grants: self.grants.each(),
                namespaces: self
                    .namespaces
                    .as_ref()
                    .map(|all| all.all().map(|(name, object)| (name.name.clone(), Arc::clone(object))).collect()),
            },
        }
    }
}

/// What is followed, and those who wait for news of it.
pub(super) struct Watched {
    known: Mutex<Known>,
    changed: Notify,
}

impl Watched {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the objects of one kind in one scope; never ends.
    async fn follow<K: Kind>(
        self: Arc<Self>,
        mut follow: Follow<K>,
        scope: usize,
        pick: fn(&mut Known) -> Option<&mut Objects<K>>,
    ) {
        let mut fault = None;
        loop {
            let news = follow.next().await;
            let now = news.as_ref().err().cloned();
            if now != fault {
                match &now {
                    Some(why) => warn!("controller: {}: {why}; what is known of them stays", K::plural(&())),
                    None => info!("controller: {} are followed again", K::plural(&())),
                }
                fault = now;
            }
            let is_news = {
                let mut known = self.known();
                let was_missing = known.missing().is_some();
                pick(&mut known).is_some_and(|objects| objects.take(scope, news)) || was_missing
            };
            if is_news {
                self.changed.notify_one();
            }
        }
    }

    /// The same in each namespace that is said, or in all.
    fn follow_in<K>(self: &Arc<Self>, terms: &Terms, which: &Which, pick: fn(&mut Known) -> Option<&mut Objects<K>>)
    where
        K: Kind + Resource<Scope = NamespaceResourceScope>,
    {
        if terms.namespaces.is_empty() {
            tokio::spawn(Arc::clone(self).follow(Follow::everywhere(which.clone()), 0, pick));
        }
        for (scope, namespace) in terms.namespaces.iter().enumerate() {
            let follow = Follow::in_namespace(which.clone(), Some(namespace.clone()));
            tokio::spawn(Arc::clone(self).follow(follow, scope, pick));
        }
    }

    /// The same of a kind that has no namespaces.
    fn follow_all<K>(self: &Arc<Self>, which: &Which, pick: fn(&mut Known) -> Option<&mut Objects<K>>)
    where
        K: Kind + Resource<Scope = ClusterResourceScope>,
    {
        tokio::spawn(Arc::clone(self).follow(Follow::everywhere(which.clone()), 0, pick));
    }

    /// Begins to follow everything.
    pub(super) fn begin(terms: &Terms) -> Arc<Self> {
        let this = Arc::new(Self { known: Mutex::new(Known::new(terms)), changed: Notify::new() });
        this.follow_all_of_it(terms);
        this
    }

    /// Waits until there is something new.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All that is known, and the gateway's own Service.
    ///
    /// # Errors
    /// What has not been listed in full yet, and why. Once all of it has been, it stays known.
    pub(super) fn all(&self) -> Result<(World, Option<Arc<Service>>), String> {
        let known = self.known();
        match known.missing() {
            Some(missing) => Err(missing),
            None => Ok((known.world(), known.published.each().into_iter().next())),
        }
    }

    fn follow_all_of_it(self: &Arc<Self>, terms: &Terms) {
        let which = Which { kubeconfig: terms.kubeconfig.clone(), ..Which::default() };
        let certificates = Which { fields: Some("type=kubernetes.io/tls".to_owned()), ..which.clone() };
        let everywhere = terms.namespaces.is_empty();
        self.follow_in::<Ingress>(terms, &which, |known| Some(&mut known.ingresses));
        self.follow_in::<Service>(terms, &which, |known| Some(&mut known.services));
        self.follow_in::<Secret>(terms, &certificates, |known| Some(&mut known.secrets));
        if everywhere {
            self.follow_all::<IngressClass>(&which, |known| known.classes.as_mut());
        }
        if terms.gateway_api {
            // Its kinds are brought by whoever wants them.
            let of_gateways = Which { may_be_absent: true, ..which.clone() };
            self.follow_in::<Gateway>(terms, &of_gateways, |known| Some(&mut known.gateways));
            self.follow_in::<HTTPRoute>(terms, &of_gateways, |known| Some(&mut known.http_routes));
            self.follow_in::<TLSRoute>(terms, &of_gateways, |known| Some(&mut known.tls_routes));
            self.follow_in::<TCPRoute>(terms, &of_gateways, |known| Some(&mut known.tcp_routes));
            self.follow_in::<ReferenceGrant>(terms, &of_gateways, |known| Some(&mut known.grants));
            if everywhere {
                self.follow_all::<GatewayClass>(&of_gateways, |known| known.gateway_classes.as_mut());
                self.follow_all::<Namespace>(&of_gateways, |known| known.namespaces.as_mut());
            }
        }
        if let Some(Named { namespace, name }) = terms.publish_service.clone() {
            let one = Which { fields: Some(format!("metadata.name={name}")), ..which };
            let follow = Follow::<Service>::in_namespace(one, Some(namespace));
            tokio::spawn(Arc::clone(self).follow(follow, 0, |known| Some(&mut known.published)));
        }
    }
}

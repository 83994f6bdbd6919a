//! Kubernetes' controller in the gateway: follows Ingresses, Gateways and what they name, puts what they say beside the
//! configuration's file, and tells the cluster what has come of it. The way from there on is that of every reload.

mod annotations;
mod backend;
mod certificates;
mod draft;
mod events;
mod gateway;
mod ingress;
mod leader;
mod status;
mod world;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::networking::v1::{Ingress, IngressClass, ServiceBackendPort};
use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::Resource;
use log::{info, warn};
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use self::draft::{Draft, Drawn, Note};
use self::gateway::Report;
use self::gateway::objects::{Gateway, GatewayClass, HTTPRoute, ReferenceGrant, TCPRoute, TLSRoute};
use self::gateway::ports::Ports;
use self::status::Wanted;
use self::world::{GatewayWorld, Objects, World};
use crate::kubernetes::{Follow, Kind, Which};
use crate::reload::{Reloader, Verdict};

pub(crate) use self::draft::Named;

/// By what an IngressClass names this controller.
pub(crate) const CONTROLLER: &str = "sockgate.io/ingress-controller";

/// Changes that come within this time are loaded together.
const TOGETHER: Duration = Duration::from_millis(200);
/// How long the gateway waits for the pods of its first upstreams before it is ready without them.
const FIRST_PODS: Duration = Duration::from_secs(10);

/// What the operator says of the controller.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terms {
    /// The file that says where the API server is. Default: what every pod has for that.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where objects are looked for; everywhere, where none is said.
    pub(crate) namespaces: Vec<String>,
    /// The name of the class of Ingresses that name it by annotation, or where classes can't be read.
    pub(crate) class: String,
    /// Whether Ingresses that name no class are the gateway's, too.
    pub(crate) without_class: bool,
    /// Whether Gateways are served.
    pub(crate) gateway_api: bool,
    /// The name of the class of Gateways, where classes can't be read.
    pub(crate) gateway_class: String,
    /// The Gateways that are served; all of the class, where none is said.
    pub(crate) gateways: Vec<Named>,
    /// Which listener of the file, by name, serves a port of Gateways.
    pub(crate) gateway_ports: Vec<(u16, String)>,
    /// Where requests go that no Ingress takes.
    pub(crate) default_backend: Option<(Named, ServiceBackendPort)>,
    /// The Secret with the certificate for names that no Ingress has one for.
    pub(crate) default_certificate: Option<Named>,
    /// The Service whose addresses are those of the Ingresses.
    pub(crate) publish_service: Option<Named>,
    /// The addresses of the Ingresses, where no Service says them.
    pub(crate) publish_addresses: Vec<String>,
    /// What this gateway is called among those that might write.
    pub(crate) identity: String,
    /// The Lease that says which of them does; by default in the gateway's own namespace.
    pub(crate) lease: (Option<String>, String),
}

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
struct Watched {
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
    fn begin(self: &Arc<Self>, terms: &Terms) {
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

/// Follows the cluster, and loads what it says; never ends.
pub(crate) async fn run(reloader: Arc<Reloader>, terms: Terms) {
    let (Some(mut verdicts), Some(leaving)) = (reloader.verdicts(), reloader.leaving_beside()) else { return };
    let watched = Arc::new(Watched { known: Mutex::new(Known::new(&terms)), changed: Notify::new() });
    watched.begin(&terms);
    let terms = Arc::new(terms);
    let (wanted, to_write) = watch::channel(Wanted::default());
    tokio::spawn(status::write(Arc::clone(&terms), to_write, leaving));
    let mut before: Option<Arc<Drawn>> = None;
    let mut is_loaded = true;
    loop {
        tokio::select! {
            () = watched.changed.notified() => sleep(TOGETHER).await,
            // A reload for another reason may have changed whom there is room for.
            _ = verdicts.changed() => is_loaded = true,
        }
        let known = {
            let known = watched.known();
            match known.missing() {
                Some(missing) => Err(missing),
                None => Ok((known.world(), known.published.each().into_iter().next())),
            }
        };
        let (world, published) = match known {
            Ok(known) => known,
            // Once all of it has been known, it stays so.
            Err(missing) => {
                reloader.set_unready(Some(format!("controller: {missing}")));
                continue;
            }
        };
        // Thousands of objects take their time.
        let making = {
            let ports = Ports::new(&reloader.core().snapshot.load().config, published.as_deref(), &terms);
            let terms = Arc::clone(&terms);
            spawn_blocking(move || {
                let (draft, report) = make(&world, &terms, &ports);
                let told = (draft.notes.clone(), draft.objects.clone());
                (world, draft.draw(), told, report)
            })
        };
        let Ok((world, drawn, (mut notes, objects), mut report)) = making.await else { continue };
        let first = before.is_none();
        if before.as_ref().is_none_or(|before| before.parts != drawn.parts) {
            let parts = drawn.parts.clone();
            // The log tells how it went; a file that has a fault is loaded with this once it is mended.
            is_loaded = reloader.put_beside("objects of the cluster have changed", parts).await.is_ok();
            before = Some(Arc::new(drawn));
        }
        let drawn = before.clone().unwrap_or_default();
        verdicts.mark_unchanged();
        refused(&reloader, &drawn, &mut notes);
        if !is_loaded {
            report.pend();
        }
        report.take_up(&mut notes);
        reloader
            .tell_beside(notes.iter().map(|note| (note.object.to_string(), note.reason, note.what.clone())).collect());
        wanted.send_replace(Wanted::new(&world, &objects, notes, &report, published.as_deref(), &terms));
        if first {
            pods_are_known(&reloader).await;
            reloader.set_unready(None);
            info!("controller: {} objects are served", drawn.origins.len());
        }
    }
}

/// What a cluster makes of a configuration, and what is to be said of Gateways and their routes.
fn make(world: &World, terms: &Terms, ports: &Ports) -> (Draft, Report) {
    let (draft, report) = gateway::draft(world, terms, ports, Draft::default());
    let mut draft = ingress::draft(world, terms, draft);
    match certificates::default_certificate(world, terms) {
        Ok(certificate) => draft.certificates.extend(certificate),
        Err(why) => warn!("controller: the default certificate: {why}"),
    }
    (draft, report)
}

/// Notes whom the configuration had no place for, and what is hardly meant.
fn refused(reloader: &Reloader, drawn: &Drawn, notes: &mut std::collections::BTreeSet<Note>) {
    let Some(verdicts) = reloader.verdicts() else { return };
    let Verdict { parts, found } = verdicts.borrow().clone();
    if parts.origins != drawn.parts.origins {
        return;
    }
    let rejected = found.left_out.iter().map(|(&place, why)| (place, "Rejected", why));
    let doubtful = found.doubts.iter().map(|(place, why)| (*place, "Doubtful", why));
    for (place, reason, why) in rejected.chain(doubtful) {
        if let Some(object) = drawn.origins.get(place) {
            notes.insert(Note { object: object.clone(), reason, what: why.clone() });
        }
    }
}

/// Waits until it is known which pods there are, for a while: who is ready answers 503 for nobody whose pods are well.
async fn pods_are_known(reloader: &Reloader) {
    let known = async {
        loop {
            let snapshot = reloader.core().snapshot.load_full();
            let unheard =
                |upstream: &Arc<crate::upstream::Upstream>| upstream.findings().is_some_and(|found| !found.heard);
            if !snapshot.upstreams.values().any(unheard) {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let began = Instant::now();
    if timeout(FIRST_PODS, known).await.is_err() {
        warn!("controller: not all pods are known after {:?}; it goes on without them", began.elapsed());
    }
}

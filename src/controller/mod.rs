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
mod watched;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::ServiceBackendPort;
use log::{info, warn};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use self::draft::{Draft, Drawn, Note};
use self::gateway::Report;
use self::gateway::ports::Ports;
use self::status::Wanted;
use self::watched::Watched;
use self::world::World;
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

/// Follows the cluster, and loads what it says; never ends.
pub(crate) async fn run(reloader: Arc<Reloader>, terms: Terms) {
    let (Some(mut verdicts), Some(leaving)) = (reloader.verdicts(), reloader.leaving_beside()) else { return };
    let watched = Watched::begin(&terms);
    let terms = Arc::new(terms);
    let (wanted, to_write) = watch::channel(Wanted::default());
    tokio::spawn(status::write(Arc::clone(&terms), to_write, leaving));
    let mut before: Option<Arc<Drawn>> = None;
    let mut is_loaded = true;
    loop {
        tokio::select! {
            () = watched.changed() => sleep(TOGETHER).await,
            // A reload for another reason may have changed whom there is room for.
            _ = verdicts.changed() => is_loaded = true,
        }
        let (world, published) = match watched.all() {
            Ok(all) => all,
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

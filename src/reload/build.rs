//! Builds and binds what a configuration needs and does not find in place; nothing of it is in use yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use log::warn;

use super::certificates::{Certificates, Reminder};
use super::{ReloadError, Running, failed, tokens};
use crate::buffers::Buffers;
use crate::config::{self, Config};
use crate::deadline::Deadlines;
use crate::listener::inherit::Sockets;
use crate::listener::{self, ConnectionLimits, Control, Listener, Settings, Shared};
use crate::metrics::Metrics;
use crate::rate;
use crate::snapshot::{Extensions, Known, Snapshot, Unready};
use crate::trace::Traces;
use crate::upstream::Upstream;

/// What every configuration of one process shares.
pub(super) struct Context {
    pub(super) metrics: Arc<Metrics>,
    pub(super) brought: Extensions,
    pub(super) limits: Arc<ConnectionLimits>,
    /// What clients have under way.
    pub(super) open_requests: Arc<rate::Open>,
    /// Why the gateway is not ready though its servers may be.
    pub(super) unready: Arc<Unready>,
    /// The admin address answers when the gateway is full.
    pub(super) admin_limits: Arc<ConnectionLimits>,
    pub(super) deadlines: Arc<Deadlines>,
    /// What waits for slow peers.
    pub(super) buffers: Arc<Buffers>,
    pub(super) sockets: Arc<Sockets>,
    /// Who records traces.
    pub(super) traces: Traces,
    /// When which warning about certificates was said last.
    pub(super) reminder: Mutex<Reminder>,
}

/// Everything that a configuration needs, built and bound, and nothing of it in use yet.
pub(super) struct Built {
    pub(super) snapshot: Snapshot,
    pub(super) listeners: Vec<Binding>,
    pub(super) admin: Option<Binding>,
}

/// What becomes of one listening address.
pub(super) enum Binding {
    /// It is bound anew.
    New(Listener, Control),
    /// It stays, with other settings.
    Kept(Box<Settings>),
}

/// Connections that the admin address has at once, apart from the limits of the traffic: those that have a place there, and
/// those that have just lost theirs.
const MOST_ADMIN_CONNECTIONS: usize = 256;

impl Context {
    /// Builds and binds what a configuration needs and does not find in `existing`.
    pub(super) fn build(&self, config: Config, existing: &Existing) -> Result<Built, ReloadError> {
        let shared = Shared {
            limits: Arc::clone(&self.limits),
            deadlines: Arc::clone(&self.deadlines),
            buffers: Arc::clone(&self.buffers),
            flash_policy: listener::flash_policy(&config.flash_policy).map_err(failed)?,
            flash_timeout: config.flash_policy.timeout,
            first_bytes: config.timeouts.head,
            forwarding: Arc::new(config.forwarding.clone()),
            sockets: Arc::clone(&self.sockets),
            traces: self.traces.clone(),
            secrets: config.secrets.clone(),
        };
        let admin = config.admin.as_ref().map(|said| admin_listener(said, &config));
        let kept = config.listeners.iter().filter_map(|said| existing.listeners.get(&said.identity()));
        let kept = kept.chain(admin.iter().filter_map(|said| existing.admin.get(&said.identity())));
        let kept: HashSet<String> = kept.map(|settings| settings.config().name()).collect();
        let bind = |said: &listener::Config, shared: Shared, existing: &HashMap<String, Arc<Settings>>| {
            let (name, before) = (said.name(), existing.get(&said.identity()));
            let metrics = match before {
                Some(before) => before.metrics().clone(),
                // One that stays has this name until the swap.
                None if kept.contains(&name) => self.metrics.new_listener(&name),
                None => self.metrics.listener(&name),
            };
            let settings = Settings::build(said, shared, metrics, before.map(|before| &**before)).map_err(failed)?;
            Ok(match before {
                Some(_) => Binding::Kept(Box::new(settings)),
                None => {
                    let (listener, control) = Listener::bind(settings).map_err(failed)?;
                    Binding::New(listener, control)
                }
            })
        };
        let listeners = config.listeners.iter().map(|said| bind(said, shared.clone(), &existing.listeners));
        let listeners = listeners.collect::<Result<Vec<_>, ReloadError>>()?;
        let admin = admin.map(|said| {
            let shared = Shared { limits: Arc::clone(&self.admin_limits), ..shared.clone() };
            bind(&said, shared, &existing.admin)
        });
        let admin = admin.transpose()?;
        let tokens = config.admin.as_ref().and_then(|admin| admin.token_file.as_deref());
        let tokens = tokens.map(tokens::load).transpose().map_err(ReloadError)?.unwrap_or_default();
        let known = |name: &str| existing.upstreams.get(name).cloned();
        let certificates = Certificates::of(&config);
        let mut snapshot =
            Snapshot::build(config, &self.brought, &self.metrics, known, &existing.known).map_err(failed)?;
        snapshot.open = Arc::clone(&self.open_requests);
        snapshot.unready = Arc::clone(&self.unready);
        // A reload says all of them, whoever has heard them before.
        let said = certificates.warnings.iter().map(|warning| warning.to_string()).collect();
        self.reminder.lock().unwrap_or_else(PoisonError::into_inner).due(said, Instant::now());
        certificates.warnings.iter().for_each(|warning| warn!("{warning}"));
        snapshot.certificates_end = certificates.ends;
        snapshot.admin_tokens = tokens;
        Ok(Built { snapshot, listeners, admin })
    }
}

/// What a new configuration finds in place.
#[derive(Default)]
pub(super) struct Existing {
    listeners: HashMap<String, Arc<Settings>>,
    admin: HashMap<String, Arc<Settings>>,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    known: Known,
}

impl Existing {
    pub(super) fn of(running: &Running, snapshot: &Snapshot) -> Self {
        let settings = |control: &Control| (control.settings().config().identity(), control.settings());
        // An upstream that comes back while something of it is still open is the same one.
        let retired = running.retired.upstreams().into_iter();
        let retired = retired.map(|upstream| (Arc::clone(upstream.name()), upstream));
        let in_use = snapshot.upstreams.iter().map(|(name, upstream)| (Arc::clone(name), Arc::clone(upstream)));
        Self {
            listeners: running.listeners.iter().map(settings).collect(),
            admin: running.admin.iter().map(settings).collect(),
            upstreams: retired.chain(in_use).collect(),
            known: snapshot.known.clone(),
        }
    }
}

fn admin_listener(said: &config::Admin, config: &Config) -> listener::Config {
    let is_taken = config.listeners.iter().any(|listener| listener.name.as_deref() == Some("admin"));
    listener::Config {
        // No listener can have the longer name.
        name: Some(if is_taken { "admin address" } else { "admin" }.to_owned()),
        // Handed on as it was accepted: what comes is read there, where those who are slow may lose their places.
        protocol: listener::config::Protocol::Tcp,
        max_connections: MOST_ADMIN_CONNECTIONS,
        tls: said.tls.clone(),
        ..listener::Config::at(said.address.clone())
    }
}

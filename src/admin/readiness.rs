//! `/readyz`: whether the gateway is ready for clients, and which upstreams make it so.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::http::StatusCode;

use super::Admin;
use super::endpoints::Answer;
use crate::config::Config;
use crate::snapshot::Snapshot;
use crate::upstream::{Findings, State, Upstream};

/// Whether the gateway is ready.
pub(super) struct Readiness {
    pub(super) ready: bool,
    /// What is amiss, a line each.
    pub(super) notes: Vec<String>,
}

/// Answers `/readyz`.
pub(super) fn answer(admin: &Admin) -> Answer {
    let Readiness { ready, notes } = of(&admin.ready, &admin.core.snapshot.load());
    let told: String = notes.iter().map(|note| format!("{note}\n")).collect();
    if ready {
        Answer::text(format!("ready\n{told}"))
    } else {
        Answer::text(told).with_status(StatusCode::SERVICE_UNAVAILABLE)
    }
}

/// `stays` is false from when the gateway begins to stop.
pub(super) fn of(stays: &AtomicBool, snapshot: &Snapshot) -> Readiness {
    if !stays.load(Ordering::Acquire) {
        return Readiness { ready: false, notes: vec!["stopping".to_owned()] };
    }
    if let Some(why) = snapshot.unready.why() {
        return Readiness { ready: false, notes: vec![why] };
    }
    let mut down: Vec<_> = snapshot.upstreams.iter().filter(|(_, upstream)| !upstream.ready()).collect();
    down.sort_by_key(|&(name, _)| name);
    let notes = down.iter().map(|(name, upstream)| format!("upstream {name}: {}", why_not(upstream))).collect();
    Readiness { ready: is_ready(snapshot), notes }
}

/// All of those that the operator names have to have a server. Else one of those that are needed is enough, since one pool
/// that is down everywhere must not take every replica out of rotation; but nobody is ready before it is known how each of
/// them fares.
fn is_ready(snapshot: &Snapshot) -> bool {
    let said = snapshot.config.admin.as_ref().map_or(&[][..], |admin| &admin.ready);
    if !said.is_empty() {
        return said.iter().all(|name| snapshot.upstreams.get(name.as_str()).is_some_and(|upstream| upstream.ready()));
    }
    let names = needed(&snapshot.config);
    // A router of a program's own may lead anywhere.
    let is_needed =
        |name: &str| names.contains(name) || snapshot.routes.is_empty() && !snapshot.config.routes.is_empty();
    let needed = snapshot.upstreams.iter().filter(|(name, upstream)| is_needed(name) && !upstream.config().optional);
    let needed: Vec<&Arc<Upstream>> = needed.map(|(_, upstream)| upstream).collect();
    let is_known = |upstream: &Arc<Upstream>| !is_unheard_of(upstream) && (upstream.ready() || !is_awaited(upstream));
    needed.is_empty()
        || needed.iter().all(|upstream| is_known(upstream)) && needed.iter().any(|upstream| upstream.ready())
}

/// The upstreams that routes and listeners lead to.
fn needed(config: &Config) -> HashSet<&str> {
    let of_routes = config.routes.iter().filter_map(|route| route.upstream.as_ref()).flat_map(|said| said.names());
    of_routes.chain(config.listeners.iter().flat_map(|listener| listener.upstreams())).collect()
}

/// Whether its source has to be heard of first; servers of before will do.
fn is_unheard_of(upstream: &Upstream) -> bool {
    upstream.findings().is_some_and(|found| !found.heard && found.servers == 0)
}

/// Whether nobody knows yet how its servers fare, or which there are.
fn is_awaited(upstream: &Upstream) -> bool {
    let unasked = upstream.findings().is_some_and(|found| found.servers == 0 && found.inquiries.looked.is_none());
    unasked || upstream.servers().iter().any(|server| server.status().state == State::Starting)
}

/// Why an upstream is not ready, on one line.
fn why_not(upstream: &Upstream) -> String {
    match upstream.findings().filter(|findings| findings.servers == 0) {
        None => "no server is up".to_owned(),
        Some(Findings { source, inquiries, .. }) => {
            let none = if inquiries.found.is_some() { "there is none" } else { "no answer yet" };
            let fault = inquiries.fault.unwrap_or_else(|| none.to_owned());
            format!("no server is known by {source}: {}", fault.lines().next().unwrap_or_default())
        }
    }
}

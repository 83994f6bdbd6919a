//! Which of several gateways writes to the cluster: the one that holds a Lease, for as long as it renews it.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use tokio::time::Instant;

/// How long a Lease is good that nobody renews.
const LASTS: Duration = Duration::from_secs(15);
/// How often it is looked at, and renewed.
pub(super) const EVERY: Duration = Duration::from_secs(4);

/// Who may hold a Lease.
pub(super) struct Leader {
    name: String,
    identity: String,
    /// Until when it is held, by this clock: whoever could not renew it writes nothing from then on.
    held_until: Option<Instant>,
    /// Who holds it as it was seen last, with the version of that, and since when: clocks of others are not asked.
    seen: Option<(String, Instant)>,
}

impl Leader {
    pub(super) fn new(name: String, identity: String) -> Self {
        Self { name, identity, held_until: None, seen: None }
    }

    /// Whether it is this one now.
    pub(super) fn is_held(&self) -> bool {
        self.held_until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes the Lease where nobody has it, and renews it.
    ///
    /// # Errors
    /// What the API server says.
    pub(super) async fn see_to(&mut self, api: &Api<Lease>) -> kube::Result<()> {
        let now = Instant::now();
        let Some(mut lease) = api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return self.wrote(api.create(&PostParams::default(), &lease).await.map(drop), now);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, now));
        }
        let lasts = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(LASTS, Duration::from_secs);
        let is_over = self.seen.as_ref().is_some_and(|(_, since)| now >= *since + lasts);
        if !holder.is_empty() && holder != self.identity && !is_over {
            self.held_until = None;
            return Ok(());
        }
        // With its version: of two who take it at once, one is refused.
        lease.spec = Some(self.spec(Some(spec)));
        self.wrote(api.replace(&self.name, &PostParams::default(), &lease).await.map(drop), now)
    }

    /// Gives it back, so that another need not wait.
    pub(super) async fn give_up(&mut self, api: &Api<Lease>) -> kube::Result<()> {
        if self.held_until.take().is_none() {
            return Ok(());
        }
        let Some(mut lease) = api.get_opt(&self.name).await? else { return Ok(()) };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        api.replace(&self.name, &PostParams::default(), &lease).await.map(drop)
    }

    fn spec(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_default();
        let is_mine = before.holder_identity.as_deref() == Some(&self.identity);
        let acquired = before.acquire_time.filter(|_| is_mine).unwrap_or_else(|| now.clone());
        let transitions = before.lease_transitions.unwrap_or_default().saturating_add(i32::from(!is_mine));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: Some(acquired),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..before
        }
    }

    /// Somebody else may have been quicker, which is no fault.
    fn wrote(&mut self, wrote: kube::Result<()>, now: Instant) -> kube::Result<()> {
        match wrote {
            Ok(()) => {
                self.held_until = Some(now + LASTS);
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.held_until = None;
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }
}

#[cfg(test)]
mod tests;

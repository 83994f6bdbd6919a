//! Placing new sessions, on upstreams whose servers have any: who may come in, where it was before, and how that went.

mod admission;
mod budget;
pub(crate) mod downgrade;
mod grace;
mod heavy_hitters;
mod lookup;
mod search;
pub(crate) mod shedding;
mod spread;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

pub use heavy_hitters::LargestClient;
pub(crate) use lookup::{Fields, Questions};
pub(crate) use search::{AskedPeers, Searches, Sought, Wanted};
pub use shedding::Rebalancing;
pub use spread::Overloaded;

use admission::Admission;
use heavy_hitters::HeavyHitters;

use crate::address::standing_for;
use crate::session::{Returning, SessionProtocol, SessionTable};
use crate::upstream::balance::{Candidates, Terms, Tier, Work};
use crate::upstream::config::Config;
use crate::upstream::{Lease, PickError, PickKey, Server, ServerId, State, Tried, Upstream};

/// What an upstream knows of its sessions, where its servers have any; a rebuilt one takes it over.
pub(crate) struct Sessions {
    pub(crate) protocol: Arc<dyn SessionProtocol>,
    pub(crate) table: Arc<SessionTable>,
    pub(crate) returning: Option<Arc<Returning>>,
    admission: Option<Arc<Admission>>,
    placed: Arc<Placed>,
    heavy_hitters: Arc<HeavyHitters>,
}

/// Wishes of an address whose clients the balance does not keep together anyway.
const FEW_WISHES: u16 = 4;

#[derive(Default)]
struct Placed {
    balance: AtomicU64,
    returning: AtomicU64,
    spilled: AtomicU64,
}

/// How a new session came to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// As the balance has it.
    Balance,
    /// The client was there before.
    Returning,
    /// The server that it would have come to has its share.
    Spilled,
}

/// How new sessions came to their servers; each is counted once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placements {
    /// As the balance has it.
    pub balance: u64,
    /// Where the client was before.
    pub returning: u64,
    /// Elsewhere, since the server of the hash, or that of before, has its share of sessions.
    pub spilled: u64,
}

/// The line of handshakes before an upstream whose new sessions are paced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AdmissionQueue {
    /// Handshakes that wait for their turn.
    pub waiting: usize,
    /// Handshakes that were refused: the line was full, or too long for the timeout.
    pub refused: u64,
}

impl Sessions {
    /// For servers whose sessions are of this protocol. `before` is the upstream that is rebuilt.
    pub(crate) fn build(
        protocol: Arc<dyn SessionProtocol>,
        config: &Config,
        terms: &Terms,
        before: Option<&Upstream>,
    ) -> Self {
        let said = &config.sessions;
        let known = before.and_then(|before| before.sessions.as_ref());
        let form = |said: &Config, terms: &Terms| (said.sessions.max, said.returning(), wishes(terms));
        let same = before.is_some_and(|before| form(&before.config, &before.terms) == form(config, terms));
        let returning = match known.and_then(|known| known.returning.clone()) {
            Some(known) if same => Some(known),
            _ => {
                let keep = config.returning();
                (!keep.is_zero()).then(|| Returning::new(said.max, keep, wishes(terms)))
            }
        };
        Self {
            protocol,
            table: known.map_or_else(|| SessionTable::new(said.max), |known| known.table.clone()),
            returning,
            admission: Admission::build(&config.new_sessions, known.and_then(|known| known.admission.as_ref())),
            placed: known.map(|known| known.placed.clone()).unwrap_or_default(),
            heavy_hitters: known.map(|known| known.heavy_hitters.clone()).unwrap_or_default(),
        }
    }

    /// Where a client was before, as far as its address tells.
    fn was_on(&self, key: &PickKey) -> Option<ServerId> {
        let returning = self.returning.as_ref()?;
        returning.find(returning.address(key.client)).map(ServerId::from_bits)
    }
}

impl Upstream {
    /// Where a client was before, where that is remembered.
    pub(super) fn was_last_on(&self, key: &PickKey) -> Option<ServerId> {
        self.sessions.as_ref()?.was_on(key)
    }

    /// What the sessions of the servers say of themselves; `None` where they have none.
    pub fn session_protocol(&self) -> Option<&Arc<dyn SessionProtocol>> {
        self.sessions.as_ref().map(|sessions| &sessions.protocol)
    }

    /// The sessions of the servers; `None` where they have none.
    pub fn sessions(&self) -> Option<&Arc<SessionTable>> {
        self.sessions.as_ref().map(|sessions| &sessions.table)
    }

    /// Finds a server for a handshake, as [`Self::pick`] does for other work, but:
    ///
    /// * it waits for its turn where new sessions are paced (only with an empty `tried`, so not for a second attempt);
    /// * a client that comes back is placed where it was, `was_on` (what a cookie says) before what is known of its
    ///   address, unless that server is down, draining, full or has its share;
    /// * servers are compared by their sessions, the coming ones included, instead of what is in flight.
    ///
    /// The lease counts as a coming session until it is [learned](crate::upstream::Opening::learned) or dropped. On upstreams without
    /// sessions this is [`Self::pick`].
    pub async fn pick_new(
        self: &Arc<Self>,
        key: &PickKey,
        was_on: Option<ServerId>,
        tried: &mut Tried,
    ) -> Result<Lease, PickError> {
        let Some(sessions) = &self.sessions else { return self.pick(key, tried).await };
        let first = tried.is_empty();
        let mut waited = Duration::ZERO;
        if let Some(admission) = sessions.admission.as_ref().filter(|_| first) {
            // Who can't be served anyway takes nobody's turn.
            let all_down = self.members.load().servers.iter().all(|server| server.state() == State::Down);
            if all_down && !self.found.is_awaited() {
                return Err(PickError::NoServer);
            }
            let since = Instant::now();
            admission
                .enter(standing_for(key.client))
                .await
                .map_err(|retry_after| PickError::Admission { retry_after })?;
            waited = since.elapsed();
        }
        let remembered = || if first { sessions.was_on(key) } else { None };
        // What a cookie says is this client's own wish, which a crowd behind its address does not spoil.
        let mut back = was_on.map_or(Return::Gone, |id| self.welcome_back(id, tried, false));
        if let Return::Gone = back
            && let Some(id) = remembered()
        {
            back = self.welcome_back(id, tried, true);
        }
        let mut lease = match back {
            Return::Placed(lease) => {
                tried.add(lease.server().id());
                lease
            }
            Return::OverBound => {
                let mut lease = self.place(Work::Session, key, tried).await?;
                lease.spilled();
                lease
            }
            Return::Gone => self.place(Work::Session, key, tried).await?,
        };
        lease.has_waited(lease.waited() + waited);
        Ok(lease)
    }

    /// Notes where a client is, for when it comes back; to be called when one of its sessions is found elsewhere than
    /// thought, and when one of its tunnels ends.
    pub fn saw(&self, key: &PickKey, server: &Server) {
        if let Some(returning) = self.sessions.as_ref().and_then(|sessions| sessions.returning.as_ref()) {
            returning.saw(returning.address(key.client), server.id().to_bits());
        }
    }

    /// How new sessions came to their servers; all 0 for kinds that have none.
    pub fn placements(&self) -> Placements {
        self.sessions.as_ref().map_or_else(Placements::default, |Sessions { placed, .. }| Placements {
            balance: placed.balance.load(Relaxed),
            returning: placed.returning.load(Relaxed),
            spilled: placed.spilled.load(Relaxed),
        })
    }

    /// The client address that opened the most of the latest sessions; `None` before the first.
    pub fn largest_client(&self) -> Option<LargestClient> {
        self.sessions.as_ref()?.heavy_hitters.largest()
    }

    /// The client addresses that opened the most of the latest sessions, the first of them first.
    pub fn largest_clients(&self) -> Vec<LargestClient> {
        self.sessions.as_ref().map(|sessions| sessions.heavy_hitters.all()).unwrap_or_default()
    }

    /// The line of handshakes; `None` where they aren't paced.
    pub fn line(&self) -> Option<AdmissionQueue> {
        let admission = self.sessions.as_ref()?.admission.as_ref()?;
        Some(AdmissionQueue { waiting: admission.waiting(), refused: admission.refused() })
    }

    /// A session was opened on a server; the other end of [`Self::pick_new`].
    pub(crate) fn opened(&self, key: &PickKey, server: &Server, placement: Placement) {
        let Some(sessions) = &self.sessions else { return };
        let count = match placement {
            Placement::Balance => &sessions.placed.balance,
            Placement::Returning => &sessions.placed.returning,
            Placement::Spilled => &sessions.placed.spilled,
        };
        count.fetch_add(1, Relaxed);
        self.saw(key, server);
        if let Some(LargestClient { address, share }) =
            sessions.heavy_hitters.add(key.placement(), sessions.table.len())
        {
            log::warn!(
                "upstream {}: {:.0} % of the latest sessions come from one address, {address}: if that is a proxy, name it \
                 in forwarding.trusted_proxies",
                self.name,
                share * 100.0
            );
        }
    }

    fn welcome_back(self: &Arc<Self>, id: ServerId, tried: &Tried, bounded: bool) -> Return {
        let members = self.members.load();
        let Some(server) = members.find(id) else { return Return::Gone };
        let peers = members.peers(server);
        let open = |servers| Candidates::new(servers, tried, Tier::Healthy, Work::Session, self.terms);
        // Who was with those that stand by goes to the first again, as anybody else who comes new.
        let better = members.levels.iter().take_while(|level| !Arc::ptr_eq(&level.servers, peers));
        if better.into_iter().any(|level| open(&level.servers).open().next().is_some()) {
            return Return::Gone;
        }
        let candidates = open(peers);
        let here = if Arc::ptr_eq(peers, &members.servers) {
            members.position(id)
        } else {
            peers.iter().position(|peer| peer.id() == id)
        };
        let Some(position) = here.filter(|&position| candidates.has_place(position)) else {
            return Return::Gone;
        };
        let bound = if bounded { candidates.bound_of_returning() } else { None };
        if bound.is_some_and(|bound| !candidates.is_within(&bound, position)) {
            return Return::OverBound;
        }
        // Who came first goes first.
        if !self.queue.is_empty() || !server.try_acquire() {
            return Return::Gone;
        }
        server.opens();
        Return::Placed(Lease::new(self.clone(), server.clone(), Some(Placement::Returning)))
    }
}

/// How often clients of one address are placed where one of them was, in the time that they are remembered for.
fn wishes(terms: &Terms) -> u16 {
    u16::try_from(terms.together()).unwrap_or(u16::MAX).max(FEW_WISHES)
}

/// What became of the wish to be where one was.
enum Return {
    Placed(Lease),
    /// The server has its share.
    OverBound,
    /// The server can't take anybody, or nobody knows it.
    Gone,
}

#[cfg(test)]
mod tests;

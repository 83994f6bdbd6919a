//! Finding a server for new work: in the order of the balance, past those that can't take it, and in the queue while none
//! can.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::balance::{Candidates, Tier, Work};
use super::queue::Queue;
use super::sessions::Placement;
use super::{Lease, PickKey, Server, ServerId, Tried, Upstream};

/// Why no server was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PickError {
    /// No server is up, or every one that is was tried.
    NoServer,
    /// Every server is full, and so is the queue.
    QueueFull,
    /// No server had room within the timeout of the queue.
    QueueTimeout,
    /// New sessions come faster than they may.
    Admission {
        /// When it may be worth while to come again; 1 s or more.
        retry_after: Duration,
    },
}

impl fmt::Display for PickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoServer => "no server is up",
            Self::QueueFull => "every server is full, and so is the queue",
            Self::QueueTimeout => "no server had room in time",
            Self::Admission { .. } => "too many new sessions at once",
        })
    }
}

impl std::error::Error for PickError {}

/// What can be done for a request at this moment.
pub(super) enum Turn {
    /// A place was taken on this server, perhaps for a session that is to be opened.
    Serve(Arc<Server>, Option<Placement>),
    /// It may be served later.
    Wait(Reason),
    /// Nobody can serve it.
    Refuse,
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Room on a server.
    Full,
    /// The first verdict on a server, or the first word of who the servers are.
    Starting,
}

/// Longest wait for a first verdict where the connect timeout is off.
const STARTING_WAIT: Duration = Duration::from_secs(5);
/// Requests that may wait for a first verdict even if `queue.size` is smaller: at start nobody is full yet.
const STARTING_SIZE: usize = 1000;

impl Upstream {
    /// Finds a server for new work, in the order of the balance, past servers that are down, draining, ejected, full or
    /// in `tried`; the server found is added to `tried`. Where only ejected or draining servers are left, those serve.
    /// Waits in the queue while every server is full, and for the first verdict while none is known to be up.
    ///
    /// A handshake that may open a session goes by [`Self::pick_new`].
    pub async fn pick(self: &Arc<Self>, key: &PickKey, tried: &mut Tried) -> Result<Lease, PickError> {
        self.place(Work::Request, key, tried).await
    }

    /// The same, where nobody has to wait; `None` where nothing has been done.
    pub(crate) fn pick_now(self: &Arc<Self>, key: &PickKey, tried: &mut Tried) -> Option<Lease> {
        if !self.queue.is_empty() {
            return None;
        }
        let Turn::Serve(server, opening) = self.attempt(Work::Request, key, tried, true) else { return None };
        tried.add(server.id());
        Some(Lease::new(self.clone(), server, opening))
    }

    /// The server that new work of this client would go to at this moment, and whether that is since it was there before.
    pub(crate) fn would_pick(self: &Arc<Self>, key: &PickKey, opens: bool) -> Option<(Arc<Server>, bool)> {
        let work = if opens && self.sessions.is_some() { Work::Session } else { Work::Request };
        let before = if work == Work::Session { self.was_last_on(key) } else { None };
        if let Some(server) = before.and_then(|id| self.server(id)).filter(|server| server.is_healthy()) {
            return Some((server, true));
        }
        let Turn::Serve(server, opening) = self.attempt(work, key, &Tried::default(), false) else { return None };
        drop(Lease::new(Arc::clone(self), Arc::clone(&server), opening));
        Some((server, false))
    }

    pub(super) async fn place(
        self: &Arc<Self>,
        work: Work,
        key: &PickKey,
        tried: &mut Tried,
    ) -> Result<Lease, PickError> {
        let turn = if self.queue.is_empty() {
            self.attempt(work, key, tried, true)
        } else {
            // Who came first goes first, even if there is room by now.
            Turn::Wait(self.outlook(work, tried))
        };
        let lease = match turn {
            Turn::Serve(server, opening) => Lease::new(self.clone(), server, opening),
            // Boxed, since hardly anybody waits: room for it would be kept by every request.
            Turn::Wait(reason) => Box::pin(self.wait(work, key, tried, reason)).await?,
            Turn::Refuse => return Err(PickError::NoServer),
        };
        tried.add(lease.server().id());
        Ok(lease)
    }

    /// A place for new work on a server that the client knows from before. `None` if [`Self::pick`] would walk past it.
    pub fn place_on(self: &Arc<Self>, id: ServerId) -> Option<Lease> {
        let server = self.server(id)?;
        let open = self.queue.is_empty() && server.is_healthy() && server.try_acquire();
        open.then(|| Lease::new(self.clone(), server, None))
    }

    pub(super) fn attempt(&self, work: Work, key: &PickKey, tried: &Tried, patient: bool) -> Turn {
        let members = self.members.load();
        // Ejection is a guess and draining a wish, so they give way where nobody else is left.
        for tier in [Tier::Healthy, Tier::Ejected, Tier::Draining] {
            let mut full = false;
            for level in &members.levels {
                let candidates = Candidates::new(&level.servers, tried, tier, work, self.terms);
                while let Some(index) = level.balance.choose(key, &candidates) {
                    if !candidates.has_place(index) {
                        break;
                    }
                    let server = &level.servers[index];
                    if server.try_acquire() {
                        let opening = (work == Work::Session).then(|| {
                            server.opens();
                            if candidates.spilled() { Placement::Spilled } else { Placement::Balance }
                        });
                        return Turn::Serve(server.clone(), opening);
                    }
                }
                match candidates.worth_waiting_for() {
                    // Those that stand by help out.
                    Some(Reason::Full) => full = true,
                    // Whether those that stand by are needed is about to be known.
                    Some(Reason::Starting) if patient && !full => return Turn::Wait(Reason::Starting),
                    Some(Reason::Starting) | None => {}
                }
            }
            if full {
                return Turn::Wait(Reason::Full);
            }
        }
        if patient && members.servers.is_empty() && self.found.is_awaited() {
            return Turn::Wait(Reason::Starting);
        }
        Turn::Refuse
    }

    /// What a request would wait for.
    fn outlook(&self, work: Work, tried: &Tried) -> Reason {
        let members = self.members.load();
        let candidates = Candidates::new(&members.servers, tried, Tier::Healthy, work, self.terms);
        candidates.worth_waiting_for().unwrap_or(Reason::Full)
    }

    async fn wait(
        self: &Arc<Self>,
        work: Work,
        key: &PickKey,
        tried: &Tried,
        reason: Reason,
    ) -> Result<Lease, PickError> {
        let (size, timeout) = match reason {
            Reason::Full => (self.config.queue.size, self.config.queue.timeout),
            Reason::Starting => (
                self.config.queue.size.max(STARTING_SIZE),
                Some(self.config.timeouts.connect).filter(|limit| !limit.is_zero()).unwrap_or(STARTING_WAIT),
            ),
        };
        let since = tokio::time::Instant::now();
        let mut ticket = Queue::join(self, work, key, tried);
        self.queue.dispatch();
        if let Some(answer) = ticket.answer_now() {
            return answer;
        }
        if ticket.ahead() >= size {
            self.queue.turned_away();
            return Err(PickError::QueueFull);
        }
        let served = |mut lease: Lease| {
            lease.has_waited(since.elapsed());
            lease
        };
        match tokio::time::timeout(timeout, ticket.answer()).await {
            Ok(answer) => answer.map(served),
            // Nobody came up; whoever is left may serve now.
            Err(_) if reason == Reason::Starting => match self.attempt(work, key, tried, false) {
                Turn::Serve(server, opening) => Ok(served(Lease::new(self.clone(), server, opening))),
                Turn::Wait(_) | Turn::Refuse => Err(PickError::NoServer),
            },
            Err(_) => {
                self.queue.turned_away();
                Err(PickError::QueueTimeout)
            }
        }
    }
}

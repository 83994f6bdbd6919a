//! The waiting room of an upstream: first come, first served, and nobody is forgotten.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::balance::Work;
use super::{Lease, PickError, PickKey, Tried, Turn, Upstream};

/// Who waits, in order of arrival. A rebuilt upstream takes it over from the one before.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// The number of entries, to be read without the lock.
    len: AtomicUsize,
    /// Whether it is worth while to look when somebody was turned away.
    told: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    entries: BTreeMap<u64, Waiter>,
    /// When somebody was told last that there is no room.
    told: Option<Instant>,
}

/// How long it matters that somebody has been turned away.
const LATELY: Duration = Duration::from_secs(2);

struct Waiter {
    upstream: Arc<Upstream>,
    work: Work,
    key: PickKey,
    tried: Tried,
    answer: oneshot::Sender<Result<Lease, PickError>>,
}

/// A place in the queue; dropping it leaves the queue, and a lease that was already on its way goes to the next.
pub(super) struct Ticket {
    queue: Arc<Queue>,
    number: u64,
    ahead: usize,
    answer: oneshot::Receiver<Result<Lease, PickError>>,
}

impl Queue {
    /// Takes the last place. Whoever joins has to [`Self::dispatch`] after that: a server may have got room meanwhile.
    pub(super) fn join(upstream: &Arc<Upstream>, work: Work, key: &PickKey, tried: &Tried) -> Ticket {
        let queue = upstream.queue.clone();
        let (sender, answer) = oneshot::channel();
        let mut waiting = queue.lock();
        let number = waiting.next;
        waiting.next += 1;
        let ahead = waiting.entries.len();
        let waiter = Waiter { upstream: upstream.clone(), work, key: *key, tried: tried.clone(), answer: sender };
        waiting.entries.insert(number, waiter);
        queue.len.store(waiting.entries.len(), SeqCst);
        drop(waiting);
        Ticket { queue, number, ahead, answer }
    }

    pub(super) fn len(&self) -> usize {
        self.len.load(SeqCst)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether somebody waits for a place, or has been turned away lately.
    pub(super) fn is_wanted(&self) -> bool {
        !self.is_empty() || self.told.load(SeqCst) && self.told_lately()
    }

    fn told_lately(&self) -> bool {
        let waiting = self.lock();
        let lately = waiting.told.is_some_and(|told| told.elapsed() < LATELY);
        if !lately {
            self.told.store(false, SeqCst);
        }
        lately
    }

    /// Somebody has been turned away.
    pub(super) fn turned_away(&self) {
        let mut waiting = self.lock();
        waiting.told = Some(Instant::now());
        self.told.store(true, SeqCst);
    }

    /// Serves whom it can, in order; to be called whenever a server got room or another state.
    ///
    /// Who joins counts itself before it looks for room, and who gives room back does so before it looks at the count:
    /// one of the two sees the other.
    pub(super) fn dispatch(&self) {
        while !self.is_empty() {
            let Some((waiter, answer)) = self.next_served() else {
                return;
            };
            // Outside of the lock: an answer that nobody wants any more is a lease that is dropped, which dispatches.
            let _ = waiter.answer.send(answer);
        }
    }

    /// Takes out the first who can be answered now.
    fn next_served(&self) -> Option<(Waiter, Result<Lease, PickError>)> {
        let mut waiting = self.lock();
        // Where one who tried nothing finds no room, nobody of the same upstream will.
        let mut hopeless: Option<&Arc<Upstream>> = None;
        let (number, answer) = waiting.entries.iter().find_map(|(&number, waiter)| {
            let upstream = &waiter.upstream;
            if hopeless.is_some_and(|hopeless| Arc::ptr_eq(hopeless, upstream)) {
                return None;
            }
            match upstream.attempt(waiter.work, &waiter.key, &waiter.tried, true) {
                Turn::Serve(server, opening) => Some((number, Ok(Lease::new(upstream.clone(), server, opening)))),
                Turn::Refuse => Some((number, Err(PickError::NoServer))),
                Turn::Wait(_) => {
                    if waiter.tried.is_empty() {
                        hopeless = Some(upstream);
                    }
                    None
                }
            }
        })?;
        let waiter = waiting.entries.remove(&number)?;
        self.len.store(waiting.entries.len(), SeqCst);
        Some((waiter, answer))
    }

    fn leave(&self, number: u64) {
        let mut waiting = self.lock();
        let left = waiting.entries.remove(&number);
        self.len.store(waiting.entries.len(), SeqCst);
        drop(waiting);
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// How many waited already when this one joined.
    pub(super) fn ahead(&self) -> usize {
        self.ahead
    }

    /// The answer, if there is one already.
    pub(super) fn answer_now(&mut self) -> Option<Result<Lease, PickError>> {
        self.answer.try_recv().ok()
    }

    /// Waits for the answer.
    pub(super) async fn answer(&mut self) -> Result<Lease, PickError> {
        // The sender lives in the queue until it has answered.
        (&mut self.answer).await.unwrap_or(Err(PickError::NoServer))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.queue.leave(self.number);
    }
}

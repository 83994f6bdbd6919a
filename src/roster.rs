//! Who is open on a server, and at what pace they are told to leave.
//!
//! A [`Roster`] lists what is open on one server: tunnels, and polls that wait for an answer. A [`Pace`] says how fast
//! they are told. How a tunnel or a poll says goodbye is its own affair; here is only whose turn it is.

use std::fmt;
use std::future::poll_fn;
use std::net::IpAddr;
#[cfg(test)]
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use futures::task::AtomicWaker;
use rand::Rng;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// How fast sessions and tunnels are let go.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// How many in a second.
    pub rate: f64,
    /// The share by which each pause is varied at random, 0 to 1, so that clients do not come back in step.
    pub jitter: f64,
    /// What is left after this time goes at once.
    pub deadline: Duration,
}

/// The turns of a rate, each pause between two of them varied at random.
#[derive(Debug)]
pub struct Turns {
    pause: Duration,
    jitter: f64,
    next: Instant,
}

impl Turns {
    /// The first turn is now. `rate` is in turns a second, above 0; `jitter` as in [`Pace`].
    pub fn new(rate: f64, jitter: f64) -> Self {
        let pause = Duration::from_secs_f64((1.0 / rate.max(0.001)).min(3600.0));
        Self { pause, jitter: jitter.clamp(0.0, 1.0), next: Instant::now() }
    }

    /// Waits for the next turn.
    pub async fn next(&mut self) {
        let share = rand::rng().random_range(-1.0..=1.0) * self.jitter;
        // After a standstill, of the machine or of whoever waits, the pace is kept and not caught up with.
        let latest = Instant::now().checked_sub(self.pause).unwrap_or(self.next);
        self.next = self.next.max(latest) + self.pause.mul_f64(1.0 + share);
        sleep_until(self.next).await;
    }
}

/// What is open on one server and can be told to leave.
#[derive(Debug, Default)]
pub struct Roster(Arc<List>);

#[derive(Debug, Default)]
struct List {
    present: Mutex<Vec<Weak<Leave>>>,
    /// How many of these have been dropped since somebody looked.
    gone: AtomicUsize,
}

/// One that can be told to leave; whoever serves it holds it for as long as it is open.
#[derive(Debug)]
pub struct Leave {
    visitor: Visitor,
    /// A [`Why`], or 0.
    told: AtomicU8,
    waker: AtomicWaker,
    /// The list that it is on.
    list: Option<Arc<List>>,
}

/// Why somebody is told to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Why {
    /// Its server is to be left.
    Drain = 1,
    /// Its server has more than its share.
    Rebalance = 2,
    /// What let its client in is over.
    Expired = 3,
    /// An operator has said so, of this one alone.
    Operator = 4,
}

impl Why {
    /// The word for it in the access log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Rebalance => "rebalance",
            Self::Expired => "expired_token",
            Self::Operator => "operator",
        }
    }
}

/// The way by which something came in; a reload may take it away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The name of the listener.
    pub listener: Arc<str>,
    /// The name of the route; raw connections have none.
    pub route: Option<Arc<str>>,
}

/// Who is open, for people: where it came from, and what it belongs to.
#[derive(Clone, Debug)]
pub struct Visitor {
    /// The way by which it came in.
    pub origin: Origin,
    /// The address of the client.
    pub client: IpAddr,
    /// Its session, which ends with it, so that its client opens another one.
    pub session: OfSession,
}

/// The session of somebody who is open.
#[derive(Clone, Debug)]
pub enum OfSession {
    /// It has none.
    None,
    /// It has this one.
    Known(u64),
    /// It has one, or will have, and this tells which.
    Learned(Weak<dyn NamesSession>),
}

/// Knows which session somebody belongs to, once it has begun.
pub trait NamesSession: fmt::Debug + Send + Sync {
    /// What its table calls it.
    fn session(&self) -> Option<u64>;
}

impl Visitor {
    /// Nobody in particular.
    #[cfg(test)]
    pub(crate) fn nobody(origin: Origin, of_session: bool) -> Self {
        let session = if of_session { OfSession::Known(0) } else { OfSession::None };
        Self { origin, client: Ipv4Addr::UNSPECIFIED.into(), session }
    }

    /// What the table calls its session; `None` where it has none, or it has not begun.
    pub fn session(&self) -> Option<u64> {
        match &self.session {
            OfSession::None => None,
            OfSession::Known(name) => Some(*name),
            OfSession::Learned(learned) => learned.upgrade()?.session(),
        }
    }
}

impl Leave {
    /// The way by which it came in.
    pub fn origin(&self) -> &Origin {
        &self.visitor.origin
    }

    /// Who it is.
    pub fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// Ready once it has been told; else the task is woken when it is.
    pub fn poll_told(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_told() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether it has been told.
    pub fn is_told(&self) -> bool {
        self.why().is_some()
    }

    /// Why it has been told; `None` while it hasn't.
    pub fn why(&self) -> Option<Why> {
        match self.told.load(Ordering::Acquire) {
            0 => None,
            told if told == Why::Rebalance as u8 => Some(Why::Rebalance),
            told if told == Why::Expired as u8 => Some(Why::Expired),
            told if told == Why::Operator as u8 => Some(Why::Operator),
            _ => Some(Why::Drain),
        }
    }

    /// Waits until it is told.
    pub async fn told(&self) {
        poll_fn(|cx| self.poll_told(cx)).await;
    }

    /// Tells it to leave at this time, unless what is given back is dropped before. Needs a tokio runtime around it.
    pub fn expires(self: &Arc<Self>, at: SystemTime) -> Expiry {
        let leave = Arc::downgrade(self);
        let task = tokio::spawn(async move {
            // Not for longer, since the time of day may be set meanwhile.
            while let Some(left) = at.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero()) {
                sleep(left.min(LONGEST_SLEEP)).await;
            }
            if let Some(leave) = leave.upgrade().filter(|leave| !leave.is_told()) {
                leave.tell(Why::Expired);
            }
        });
        Expiry(task.abort_handle())
    }

    fn tell(&self, why: Why) {
        self.told.store(why as u8, Ordering::Release);
        self.waker.wake();
    }
}

/// Somebody is told to leave at some time; see [`Leave::expires`].
#[derive(Debug)]
pub struct Expiry(AbortHandle);

const LONGEST_SLEEP: Duration = Duration::from_secs(60);

impl Drop for Expiry {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(list) = &self.list {
            list.one_left();
        }
    }
}

/// Entries that may be left over: a few are not worth a look.
const LEFT_OVER: usize = 64;

impl List {
    fn present(&self) -> MutexGuard<'_, Vec<Weak<Leave>>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An entry keeps memory for as long as it is on the list, so that the list is swept when half of it is left over:
    /// each entry is then looked at a bounded number of times.
    fn one_left(&self) {
        let gone = self.gone.fetch_add(1, Ordering::Relaxed) + 1;
        // Not waited for: whoever looks through the list may just have dropped the last holder.
        if gone >= LEFT_OVER
            && let Ok(mut present) = self.present.try_lock()
            && gone * 2 >= present.len()
        {
            self.gone.store(0, Ordering::Relaxed);
            present.retain(|entry| entry.strong_count() > 0);
            if present.len() * 4 < present.capacity() {
                let length = present.len();
                present.shrink_to(length * 2);
            }
        }
    }
}

impl Roster {
    /// Puts nobody in particular on the list.
    #[cfg(test)]
    pub(crate) fn add(&self, origin: Origin, of_session: bool) -> Arc<Leave> {
        self.enter(Visitor::nobody(origin, of_session))
    }

    /// Puts one more on the list, until its last holder drops it.
    pub fn enter(&self, visitor: Visitor) -> Arc<Leave> {
        let (told, waker) = (AtomicU8::default(), AtomicWaker::default());
        let leave = Arc::new(Leave { visitor, told, waker, list: Some(Arc::clone(&self.0)) });
        self.0.present().push(Arc::downgrade(&leave));
        leave
    }

    /// Those who are open now and came in by a way like this.
    pub fn those(&self, is_meant: impl Fn(&Origin) -> bool) -> Vec<Weak<Leave>> {
        let present = self.0.present();
        let meant = |entry: &&Weak<Leave>| entry.upgrade().is_some_and(|leave| is_meant(leave.origin()));
        present.iter().filter(meant).cloned().collect()
    }

    /// Shows everybody who is open.
    pub fn each(&self, mut show: impl FnMut(&Visitor)) {
        self.0.present().iter().filter_map(Weak::upgrade).for_each(|leave| show(&leave.visitor));
    }

    /// Tells whoever is of this session to leave, since an operator says so; gives their number.
    pub fn tell_those_of(&self, session: u64) -> usize {
        let mut told = 0;
        let is_meant = |leave: &Leave| leave.visitor.session() == Some(session);
        while self.tell(Why::Operator, is_meant).is_some() {
            told += 1;
        }
        told
    }

    /// A list of these alone.
    pub fn of(present: Vec<Weak<Leave>>) -> Self {
        Self(Arc::new(List { present: Mutex::new(present), gone: AtomicUsize::default() }))
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        let present = self.0.present();
        present.iter().filter(|entry| entry.strong_count() > 0).count()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tells any one to leave; false when there is none.
    pub fn tell_one(&self) -> bool {
        self.tell(Why::Drain, |_| true).is_some()
    }

    /// Tells any session to leave; `None` when there is none. What is given is gone when the session has left.
    pub fn tell_session(&self, why: Why) -> Option<Weak<Leave>> {
        self.tell(why, |leave| !matches!(leave.visitor.session, OfSession::None))
    }

    fn tell(&self, why: Why, may: impl Fn(&Leave) -> bool) -> Option<Weak<Leave>> {
        let leave = draw(&mut self.0.present(), may)?;
        leave.tell(why);
        Some(Arc::downgrade(&leave))
    }

    /// Tells everyone to leave; gives their number.
    pub fn tell_all(&self) -> usize {
        let mut told = 0;
        while self.tell_one() {
            told += 1;
        }
        told
    }

    /// Tells one after the other at the pace, those that come meanwhile too, until `over` says that nobody will come
    /// any more, or the deadline has come and everybody has been told. Nobody is told while `may_go` says no. `told`
    /// counts them on the way.
    pub async fn empty(
        &self,
        pace: Pace,
        mut may_go: impl FnMut() -> bool,
        mut over: impl FnMut() -> bool,
        told: &AtomicUsize,
    ) {
        let deadline = Instant::now() + pace.deadline;
        let mut turns = Turns::new(pace.rate, pace.jitter);
        loop {
            let may_go = may_go();
            if may_go && Instant::now() >= deadline {
                told.fetch_add(self.tell_all(), Ordering::Relaxed);
                return;
            }
            if may_go && self.tell_one() {
                told.fetch_add(1, Ordering::Relaxed);
            } else if self.is_empty() && over() {
                return;
            }
            if may_go {
                let _ = timeout_at(deadline, turns.next()).await;
            } else {
                sleep_until(Instant::now() + LOOK).await;
            }
        }
    }
}

/// Takes a live entry that `may` be taken off the list; dead ones that are met go too.
fn draw(present: &mut Vec<Weak<Leave>>, may: impl Fn(&Leave) -> bool) -> Option<Arc<Leave>> {
    let try_at = |present: &mut Vec<Weak<Leave>>, at: usize| {
        let leave = present[at].upgrade();
        if leave.as_ref().is_some_and(|leave| !may(leave)) {
            return None;
        }
        present.swap_remove(at);
        leave
    };
    // By lot: a poll comes on the list anew and anew, and would always be the last.
    for _ in 0..LOTS {
        if present.is_empty() {
            return None;
        }
        let at = rand::rng().random_range(0..present.len());
        if let Some(leave) = try_at(present, at) {
            return Some(leave);
        }
    }
    // What is moved to the place of one that is removed has been looked at.
    (0..present.len()).rev().find_map(|at| try_at(present, at))
}

/// Lots that are drawn before the list is gone through from its end.
const LOTS: usize = 8;
/// How often it is looked whether they may go by now.
const LOOK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(rate: f64, deadline: u64) -> Pace {
        Pace { rate, jitter: 0.3, deadline: Duration::from_secs(deadline) }
    }

    async fn empty(roster: &Roster, pace: Pace) -> usize {
        let told = AtomicUsize::new(0);
        roster.empty(pace, || true, || true, &told).await;
        told.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_is_told_once_and_at_the_pace() {
        let roster = Roster::default();
        let open: Vec<_> = (0..100).map(|_| roster.add(Origin::default(), true)).collect();
        let started = Instant::now();
        let told = empty(&roster, pace(50.0, 60)).await;
        let took = started.elapsed();
        assert_eq!(told, 100);
        assert!(open.iter().all(|leave| leave.is_told()));
        assert!((Duration::from_millis(1500)..Duration::from_millis(2500)).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_tells_whoever_is_left() {
        let roster = Roster::default();
        let open: Vec<_> = (0..100).map(|_| roster.add(Origin::default(), true)).collect();
        let started = Instant::now();
        assert_eq!(empty(&roster, pace(1.0, 3)).await, 100);
        assert!(started.elapsed() < Duration::from_millis(3100));
        assert!(open.iter().all(|leave| leave.is_told()));
    }

    #[tokio::test(start_paused = true)]
    async fn who_left_by_itself_takes_no_turn_and_no_memory() {
        let roster = Roster::default();
        for _ in 0..10_000 {
            drop(roster.add(Origin::default(), true));
        }
        let stays = roster.add(Origin::default(), true);
        assert_eq!(roster.len(), 1);
        assert!(roster.0.present().capacity() < 64);
        assert!(roster.tell_one() && !roster.tell_one());
        stays.told().await;
    }

    #[test]
    fn a_crowd_that_has_left_leaves_nothing_behind_though_nobody_comes_after_it() {
        let roster = Roster::default();
        drop((0..10_000).map(|_| roster.add(Origin::default(), true)).collect::<Vec<_>>());
        assert!(roster.0.present().capacity() <= 2 * LEFT_OVER);
        let crowd: Vec<_> = (0..1000).map(|_| roster.add(Origin::default(), true)).collect();
        // Looking through the list may drop the last holder, under the lock.
        roster.those(|_| true);
        drop(crowd);
        assert!(roster.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn some_can_be_told_by_the_way_they_came_in() {
        let roster = Roster::default();
        let came = |listener: &str| roster.add(Origin { listener: listener.into(), route: None }, true);
        let (old, new) = (came("old"), came("new"));
        let meant = Roster::of(roster.those(|origin| &*origin.listener == "old"));
        assert_eq!(empty(&meant, pace(50.0, 60)).await, 1);
        assert!(old.is_told() && !new.is_told());
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_come_during_the_drain_have_their_turn_too() {
        let roster = Arc::new(Roster::default());
        let emptying = tokio::spawn({
            let roster = Arc::clone(&roster);
            async move {
                let told = AtomicUsize::new(0);
                roster.empty(pace(10.0, 60), || true, || false, &told).await;
                told.into_inner()
            }
        });
        sleep(Duration::from_secs(5)).await;
        let late = roster.add(Origin::default(), true);
        late.told().await;
        drop(late);
        assert_eq!(emptying.await.unwrap(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_is_told_while_there_is_nowhere_to_go() {
        let roster = Arc::new(Roster::default());
        let open: Vec<_> = (0..10).map(|_| roster.add(Origin::default(), true)).collect();
        let somewhere = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let emptying = tokio::spawn({
            let (roster, somewhere) = (Arc::clone(&roster), Arc::clone(&somewhere));
            async move {
                let told = AtomicUsize::new(0);
                roster.empty(pace(100.0, 5), || somewhere.load(Ordering::Relaxed), || true, &told).await;
                told.into_inner()
            }
        });
        sleep(Duration::from_secs(60)).await;
        assert!(!open.iter().any(|leave| leave.is_told()), "the deadline has passed, and still");
        somewhere.store(true, Ordering::Relaxed);
        assert_eq!(emptying.await.unwrap(), 10);
    }

    #[test]
    fn only_sessions_are_shed_and_everybody_else_stays_on_the_list() {
        let roster = Roster::default();
        let others: Vec<_> = (0..5).map(|_| roster.add(Origin::default(), false)).collect();
        let sessions: Vec<_> = (0..5).map(|_| roster.add(Origin::default(), true)).collect();
        drop(roster.add(Origin::default(), true));
        for left in (0..5).rev() {
            assert!(roster.tell_session(Why::Rebalance).is_some());
            assert_eq!(sessions.iter().filter(|leave| leave.why().is_none()).count(), left);
        }
        assert!(roster.tell_session(Why::Rebalance).is_none());
        assert_eq!((roster.len(), roster.tell_all()), (5, 5));
        assert!(others.iter().all(|leave| leave.why() == Some(Why::Drain)));
        assert!(sessions.iter().all(|leave| leave.why() == Some(Why::Rebalance)));
    }
}

//! Connections of HTTP/2 to servers, which many requests share: as many as it takes for the streams that a server allows.
//!
//! Each thread has its own, so that what runs a connection mostly runs where its streams do.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::task::noop_waker_ref;
use h2::client::SendRequest;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::kept::{Mixed, SHARDS, key, own_shard};
use crate::metrics::OpenGauge;
use crate::upstream::http2::{Http2, Running, STREAMS};
use crate::upstream::{Lease, Server, Upstream, Whereabouts};

/// The connections of an engine.
#[derive(Default)]
pub(super) struct Shared(Arc<[Mutex<Groups>; SHARDS]>);

/// By the group of the upstream, whose terms they were opened on, and the server.
type Groups = HashMap<(u64, u64), Group, BuildHasherDefault<Mixed>>;

/// The connections of a thread to one server.
struct Group {
    at: Whereabouts,
    links: Vec<Arc<Link>>,
    opening: Vec<Opening>,
    /// How many streams the last connection could carry.
    allowed: usize,
}

/// A connection that is being opened.
struct Opening {
    /// Requests that wait for it.
    joined: usize,
    outcome: watch::Receiver<Outcome>,
}

/// What has come of opening one; `None` until something has.
type Outcome = Option<Result<(), Arc<ConnectFault>>>;

/// Why there is no connection.
pub(super) struct ConnectFault {
    pub(super) error: io::Error,
    /// Whether one of those who waited has counted it.
    counted: AtomicBool,
}

impl ConnectFault {
    fn new(error: io::Error) -> Arc<Self> {
        Arc::new(Self { error, counted: AtomicBool::new(false) })
    }

    /// Whether this is the one of those who share it that holds it against the server: it is one fault.
    pub(super) fn counts(&self) -> bool {
        !self.counted.swap(true, Relaxed)
    }
}

/// A connection.
struct Link {
    /// `None` once it takes no more streams.
    requests: Mutex<Option<SendRequest<Bytes>>>,
    /// Streams that are open.
    open: AtomicUsize,
    /// Whether it has carried any.
    used: AtomicBool,
    began: Instant,
    /// When its last stream ended, in milliseconds since then.
    idle_since: AtomicU64,
    keep_alive: Duration,
    /// Whether the server has said anything since the last stream began.
    heard: Arc<AtomicBool>,
    cuts: Mutex<Cuts>,
    leaves: Notify,
}

/// How many more streams a connection may have cut short.
///
/// Servers end connections on which too many streams are reset (CVE-2023-44487), some of them with all that is open there; and
/// on a shared one it is one client that resets, and others that lose their streams. So it takes no more of them before that.
struct Cuts {
    left: f32,
    earned: Instant,
}

/// At once.
const MOST_CUTS: f32 = 200.0;
/// Earned back.
const CUTS_PER_SECOND: f32 = 10.0;

impl Cuts {
    fn new(now: Instant) -> Self {
        Self { left: MOST_CUTS, earned: now }
    }

    /// Takes one; false where that was the last.
    fn spend(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.earned).as_secs_f32();
        self.earned = now;
        self.left = (self.left + seconds * CUTS_PER_SECOND).min(MOST_CUTS) - 1.0;
        self.left >= 1.0
    }
}

/// Room for one stream on a connection.
pub(super) struct Taken {
    pub(super) requests: SendRequest<Bytes>,
    pub(super) place: Place,
    /// Whether the connection has carried streams before.
    pub(super) reused: bool,
}

/// A stream as its connection counts it, until it is dropped.
pub(super) struct Place(Arc<Link>);

/// Connections that are waited for before it is given up: a server may allow few streams, and others are quicker.
const MOST_ROUNDS: usize = 32;

impl Shared {
    /// Room on a connection to the server of this lease, where there is some at once.
    pub(super) fn take(&self, lease: &Lease) -> Option<Taken> {
        let mut groups = lock(&self.0[own_shard()]);
        groups.get_mut(&key(lease))?.take(lease)
    }

    /// Room on a connection that is opened for it, together with others that come meanwhile; or, `alone`, on one that
    /// nobody else is to use, before or after.
    pub(super) async fn open(&self, lease: &Lease, alone: bool) -> Result<Taken, Arc<ConnectFault>> {
        if alone {
            return self.open_alone(lease).await;
        }
        // The task may go on elsewhere meanwhile, where its connection is not.
        let shard = own_shard();
        for _ in 0..MOST_ROUNDS {
            let mut outcome = match self.take_or_join(lease, shard) {
                Ok(taken) => return Ok(taken),
                Err(outcome) => outcome,
            };
            match outcome.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(Err(fault))) => return Err(Arc::clone(fault)),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        Err(ConnectFault::new(io::Error::other("its connections of HTTP/2 take no streams")))
    }

    async fn open_alone(&self, lease: &Lease) -> Result<Taken, Arc<ConnectFault>> {
        let opened = lease.upstream().connect_http2(lease.server()).await.map_err(ConnectFault::new)?;
        let link = Link::new(opened.requests, opened.heard, Duration::ZERO);
        let taken = link.take().map_err(|_| ConnectFault::new(io::ErrorKind::ConnectionReset.into()))?;
        tokio::spawn(drive(link, opened.running, opened.open, None));
        Ok(taken)
    }

    /// Lets all of them go, with their last streams.
    pub(super) fn clear(&self) {
        for groups in self.0.iter() {
            let gone = std::mem::take(&mut *lock(groups));
            gone.values().flat_map(|group| &group.links).for_each(|link| link.leave());
        }
    }

    fn take_or_join(&self, lease: &Lease, shard: usize) -> Result<Taken, watch::Receiver<Outcome>> {
        let mut groups = lock(&self.0[shard]);
        let group = groups.entry(key(lease)).or_insert_with(|| Group::of(lease.server().whereabouts()));
        if let Some(taken) = group.take(lease) {
            return Ok(taken);
        }
        group.opening.retain(|opening| opening.outcome.has_changed().is_ok());
        if let Some(opening) = group.opening.iter_mut().find(|opening| opening.joined < group.allowed) {
            opening.joined += 1;
            return Err(opening.outcome.clone());
        }
        // In a task of its own: whoever began it may leave, and others wait for it.
        let (tell, outcome) = watch::channel(None);
        group.opening.push(Opening { joined: 1, outcome: outcome.clone() });
        let place = Shard { groups: Arc::clone(&self.0), shard, key: key(lease) };
        tokio::spawn(open(Arc::clone(lease.upstream()), Arc::clone(lease.server()), place, tell));
        Err(outcome)
    }
}

/// Where a connection is kept.
struct Shard {
    groups: Arc<[Mutex<Groups>; SHARDS]>,
    shard: usize,
    key: (u64, u64),
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Groups> {
        lock(&self.groups[self.shard])
    }

    fn remove(&self, link: &Arc<Link>) {
        let mut groups = self.lock();
        if let Some(group) = groups.get_mut(&self.key) {
            group.links.retain(|other| !Arc::ptr_eq(other, link));
            if group.links.is_empty() && group.opening.is_empty() {
                groups.remove(&self.key);
            }
        }
    }
}

/// Opens a connection, and drives it to its end.
async fn open(upstream: Arc<Upstream>, server: Arc<Server>, shard: Shard, tell: watch::Sender<Outcome>) {
    let at = server.whereabouts();
    let Http2 { requests, running, heard, open } = match upstream.connect_http2(&server).await {
        Ok(opened) => opened,
        Err(error) => {
            tell.send_replace(Some(Err(ConnectFault::new(error))));
            return;
        }
    };
    let allowed = allowed(&requests);
    let link = Link::new(requests, heard, upstream.config().timeouts.keep_alive);
    drop((upstream, server));
    {
        let mut groups = shard.lock();
        let group = groups.entry(shard.key).or_insert_with(|| Group::of(at.clone()));
        if group.at == at {
            group.allowed = allowed;
            group.links.push(Arc::clone(&link));
        } else {
            // The server has moved meanwhile.
            link.leave();
        }
    }
    tell.send_replace(Some(Ok(())));
    drop(tell);
    drive(link, running, open, Some(shard)).await;
}

/// Drives a connection until it has ended: by itself, or since nobody has used it for long enough.
async fn drive(link: Arc<Link>, running: Running, _open: OpenGauge, shard: Option<Shard>) {
    let mut running = pin!(running);
    let mut idle = pin!(sleep(link.keep_alive));
    loop {
        tokio::select! {
            biased;
            ended = &mut running => {
                if let Err(error) = ended {
                    log::debug!("a connection of HTTP/2 to a server has ended: {error}");
                }
                break;
            }
            () = link.leaves.notified() => {
                if let Some(shard) = &shard {
                    shard.remove(&link);
                }
            }
            () = &mut idle, if link.takes_more() => {
                // Under the lock, since one that is idle may be taken at this moment.
                let groups = shard.as_ref().map(Shard::lock);
                let left = link.idle_for();
                match left {
                    Some(Duration::ZERO) => link.leave(),
                    left => idle.set(sleep(left.unwrap_or(link.keep_alive))),
                }
                drop(groups);
            }
        }
    }
    link.leave();
    if let Some(shard) = &shard {
        shard.remove(&link);
    }
}

impl Group {
    fn of(at: Whereabouts) -> Self {
        Self { at, links: Vec::new(), opening: Vec::new(), allowed: STREAMS }
    }

    fn take(&mut self, lease: &Lease) -> Option<Taken> {
        if !lease.server().is_at(&self.at) {
            // The server has moved, or another one has its name.
            self.links.drain(..).for_each(|link| link.leave());
            *self = Self::of(lease.server().whereabouts());
        }
        // The first that has room, so that those which are not needed become idle.
        let mut gone = false;
        let taken = self.links.iter().find_map(|link| match link.take() {
            Ok(taken) => Some(taken),
            Err(NoRoom::Full) => None,
            Err(NoRoom::Gone) => {
                gone = true;
                None
            }
        });
        if gone {
            self.links.retain(|link| link.takes_more());
        }
        taken
    }
}

/// Why a connection takes no stream.
enum NoRoom {
    Full,
    Gone,
}

impl Link {
    fn new(requests: SendRequest<Bytes>, heard: Arc<AtomicBool>, keep_alive: Duration) -> Arc<Self> {
        let began = Instant::now();
        Arc::new(Self {
            requests: Mutex::new(Some(requests)),
            open: AtomicUsize::new(0),
            used: AtomicBool::new(false),
            began,
            idle_since: AtomicU64::new(0),
            keep_alive,
            heard,
            cuts: Mutex::new(Cuts::new(began)),
            leaves: Notify::new(),
        })
    }

    /// Room for one more stream.
    fn take(self: &Arc<Self>) -> Result<Taken, NoRoom> {
        let mut requests = lock(&self.requests).clone().ok_or(NoRoom::Gone)?;
        if self.open.load(Relaxed) >= allowed(&requests) {
            return Err(NoRoom::Full);
        }
        // It has been told to go, or is broken, if this says anything else.
        if !matches!(requests.poll_ready(&mut Context::from_waker(noop_waker_ref())), Poll::Ready(Ok(()))) {
            self.leave();
            return Err(NoRoom::Gone);
        }
        self.open.fetch_add(1, Relaxed);
        self.heard.store(false, Relaxed);
        Ok(Taken { requests, place: Place(Arc::clone(self)), reused: self.used.swap(true, Relaxed) })
    }

    fn takes_more(&self) -> bool {
        lock(&self.requests).is_some()
    }

    /// Takes no more streams, and ends with its last one.
    fn leave(&self) {
        let had = lock(&self.requests).take();
        if had.is_some() {
            self.leaves.notify_one();
        }
    }

    /// How much longer it may be idle; `None` while it isn't.
    fn idle_for(&self) -> Option<Duration> {
        let since = Duration::from_millis(self.idle_since.load(Relaxed));
        (self.open.load(Relaxed) == 0).then(|| (since + self.keep_alive).saturating_sub(self.began.elapsed()))
    }
}

impl Place {
    /// The server has not answered in time. If it has said nothing else either, nobody else is to wait for it here.
    pub(super) fn doubt(&self) {
        if !self.0.heard.load(Relaxed) {
            self.0.leave();
        }
    }

    /// The stream ends before its answer has: it will be reset.
    pub(super) fn cut(&self) {
        if !lock(&self.0.cuts).spend(Instant::now()) {
            self.0.leave();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Link { open, idle_since, began, keep_alive, .. } = &*self.0;
        let now = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        idle_since.store(now, Relaxed);
        if open.fetch_sub(1, Relaxed) == 1 && keep_alive.is_zero() {
            self.0.leave();
        }
    }
}

/// Streams that may be open at once. A server that allows none for now makes the first one wait.
fn allowed(requests: &SendRequest<Bytes>) -> usize {
    requests.current_max_send_streams().clamp(1, STREAMS)
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_hundredth_stream_that_is_cut_is_the_last_but_for_ten_more_a_second() {
        let began = Instant::now();
        let spend =
            |cuts: &mut Cuts, after| (0..).take_while(|_| cuts.spend(began + Duration::from_secs(after))).count();
        let mut cuts = Cuts::new(began);
        assert_eq!(spend(&mut cuts, 0), 199);
        assert_eq!(spend(&mut cuts, 2), 19);
        assert_eq!(spend(&mut cuts, 3600), 199, "no more is saved up");
    }
}

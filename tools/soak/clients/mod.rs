//! The clients: each does its work over and over until it is told to stop, and says what became of it.

mod forger;
mod frames;
mod hostile;
mod http;
mod http2;
mod raw;
mod session;
mod websocket;
pub(crate) mod wire;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand::distr::uniform::SampleUniform;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Error;
use crate::tally::{Failure, Kind, Tally};
pub(crate) use wire::Door;

/// Where clients come in, and where they tell how it went.
pub(crate) struct World {
    pub plain: Door,
    pub secure: Door,
    /// The same, for those who speak HTTP/2.
    pub http2: Door,
    pub raw: Door,
    pub tally: Arc<Tally>,
    pub stopping: watch::Receiver<bool>,
}

impl World {
    fn stops(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Every other client speaks TLS.
    fn door(&self, number: usize) -> &Door {
        if number.is_multiple_of(2) { &self.plain } else { &self.secure }
    }
}

/// What a client is about at present, and on which server, as far as it knows.
struct Task {
    kind: Kind,
    since: Instant,
    server: Option<String>,
    /// Something lives that would be lost: a session, a socket, a connection.
    live: bool,
}

impl Task {
    fn new(kind: Kind) -> Self {
        Self { kind, since: Instant::now(), server: None, live: false }
    }

    fn begin(&mut self) {
        self.since = Instant::now();
    }

    fn done(&mut self, world: &World) {
        world.tally.done(self.kind);
        self.since = Instant::now();
    }

    fn failed(&self, world: &World, error: &io::Error) {
        world.tally.failed(Failure {
            kind: self.kind,
            since: self.since,
            at: Instant::now(),
            server: self.server.clone(),
            live: self.live,
            what: error.to_string(),
        });
    }
}

/// Something at random out of a range.
fn draw<T: SampleUniform + PartialOrd>(range: Range<T>) -> T {
    rand::rng().random_range(range)
}

fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}

/// After a failure, before the client begins anew.
const BREATH: Duration = Duration::from_millis(200);

/// Starts them all, `scale` times as many as usual.
pub(crate) fn start(world: &Arc<World>, scale: usize) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let mut number = 0;
    for (count, kind) in [
        (6, Kind::Kept),
        (2, Kind::Fresh),
        (3, Kind::SlowReader),
        (40, Kind::WebSocket),
        (20, Kind::Polling),
        (40, Kind::Upgraded),
        (10, Kind::Raw),
        (6, Kind::Hostile),
        (4, Kind::Http2),
        (2, Kind::Forger),
    ] {
        for _ in 0..count * scale {
            let world = Arc::clone(world);
            let own = number;
            number += 1;
            tasks.spawn(async move {
                while !world.stops() {
                    let mut task = Task::new(kind);
                    let ended = match kind {
                        Kind::Kept | Kind::Fresh => http::run(&world, own, &mut task).await,
                        Kind::SlowReader => http::read_slowly(&world, own, &mut task).await,
                        Kind::WebSocket => websocket::run(&world, own, &mut task).await,
                        Kind::Polling | Kind::Upgraded => session::run(&world, own, &mut task).await,
                        Kind::Raw => raw::run(&world, own, &mut task).await,
                        Kind::Hostile => hostile::run(&world, own, &mut task).await,
                        Kind::Http2 => http2::run(&world, own, &mut task).await,
                        Kind::Forger => forger::run(&world, own, &mut task).await,
                    };
                    if let Err(error) = ended {
                        task.failed(&world, &error);
                        sleep(BREATH).await;
                    }
                }
            });
        }
    }
    tasks
}

/// Waits for all of them to say goodbye.
pub(crate) async fn finish(mut tasks: JoinSet<()>) -> Result<(), Error> {
    let finished = async {
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok::<_, Error>(())
    };
    timeout(wire::PATIENCE * 2, finished).await.map_err(|_| "clients did not come to an end")?
}

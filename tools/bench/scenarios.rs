//! What is measured: each scenario brings one kind of work to a gateway and says what a unit of it cost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::http::{Http, Requests};
use crate::load::latency::Latency;
use crate::load::socket_io::{Events, Lives, Returns};
use crate::load::tcp::Bulk;
use crate::load::websocket::{Echo, WebSocket};
use crate::load::{Failure, Outcome, Pace, Target, Tls, Until, Work, drive, open};
use crate::peers::{Extras, Running, World};
use crate::{Error, measure, tools};

/// How long a gateway may take until what was held is closed.
const CLOSING: Duration = Duration::from_secs(20);

/// One row of the table.
pub(crate) struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    pub title: &'static str,
    /// What the figure is in.
    pub unit: Unit,
    kind: Kind,
}

/// What a figure is in; less is better in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Microseconds of processor time for one of these.
    Micros(&'static str),
    /// Seconds of processor time for 10^9 bytes.
    SecondsPerGigabyte,
    /// KiB of memory for one of these.
    Kib(&'static str),
}

impl Unit {
    pub(crate) fn label(self) -> String {
        match self {
            Self::Micros(what) => format!("CPU µs/{what}"),
            Self::SecondsPerGigabyte => "CPU s/GB".to_owned(),
            Self::Kib(what) => format!("KiB/{what}"),
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Requests {
        path: &'static str,
        tls: Over,
        fresh: bool,
        connections: usize,
    },
    /// As the first, with what gateways do besides where they are in use.
    InUse {
        path: &'static str,
    },
    Uploads {
        size: usize,
    },
    Wrk {
        path: &'static str,
    },
    H2load {
        path: &'static str,
    },
    Echo {
        tls: Over,
        size: usize,
    },
    Bulk,
    Lives,
    Returns {
        tls: Over,
    },
    Events {
        rate: f64,
    },
    OpenLoop {
        rate: f64,
    },
    Sockets {
        tls: Over,
    },
    Polls,
}

/// What a connection goes over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Over {
    Tcp,
    /// TLS, a full handshake each time.
    Tls,
    /// TLS, taken up again by ticket where there is one.
    Tickets,
}

use Over::{Tcp, Tickets, Tls as FullTls};

const SMALL: &str = "/bytes/100";
const MIDDLE: &str = "/bytes/10240";
const LARGE: &str = "/bytes/65536";
const BULK: &str = "/bytes/4194304";

pub(crate) const ALL: [Scenario; 26] = [
    Scenario {
        name: "http",
        title: "HTTP/1.1 keep-alive, 100 B",
        unit: Unit::Micros("request"),
        kind: Kind::Requests { path: SMALL, tls: Tcp, fresh: false, connections: 32 },
    },
    Scenario {
        name: "in-use",
        title: "HTTP/1.1 keep-alive, 100 B, as users run it",
        unit: Unit::Micros("request"),
        kind: Kind::InUse { path: SMALL },
    },
    Scenario {
        name: "connect",
        title: "New connection per request, 100 B",
        unit: Unit::Micros("request"),
        kind: Kind::Requests { path: SMALL, tls: Tcp, fresh: true, connections: 16 },
    },
    Scenario {
        name: "large",
        title: "HTTP/1.1 keep-alive, 64 KiB",
        unit: Unit::SecondsPerGigabyte,
        kind: Kind::Requests { path: LARGE, tls: Tcp, fresh: false, connections: 16 },
    },
    Scenario {
        name: "bulk",
        title: "HTTP/1.1 keep-alive, 4 MiB",
        unit: Unit::SecondsPerGigabyte,
        kind: Kind::Requests { path: BULK, tls: Tcp, fresh: false, connections: 8 },
    },
    Scenario {
        name: "upload",
        title: "HTTP/1.1 keep-alive, uploads of 1 MiB",
        unit: Unit::SecondsPerGigabyte,
        kind: Kind::Uploads { size: 1 << 20 },
    },
    Scenario {
        name: "tls",
        title: "TLS keep-alive, 100 B",
        unit: Unit::Micros("request"),
        kind: Kind::Requests { path: SMALL, tls: FullTls, fresh: false, connections: 32 },
    },
    Scenario {
        name: "large-tls",
        title: "TLS keep-alive, 64 KiB",
        unit: Unit::SecondsPerGigabyte,
        kind: Kind::Requests { path: LARGE, tls: FullTls, fresh: false, connections: 16 },
    },
    Scenario {
        name: "handshake",
        title: "TLS full handshake (ECDSA), one request",
        unit: Unit::Micros("handshake"),
        kind: Kind::Requests { path: SMALL, tls: FullTls, fresh: true, connections: 16 },
    },
    Scenario {
        name: "resume",
        title: "TLS resumed by ticket, one request",
        unit: Unit::Micros("handshake"),
        kind: Kind::Requests { path: SMALL, tls: Tickets, fresh: true, connections: 16 },
    },
    Scenario {
        name: "http2",
        title: "HTTP/2 over TLS, 100 B (h2load)",
        unit: Unit::Micros("request"),
        kind: Kind::H2load { path: SMALL },
    },
    Scenario {
        name: "http2-10k",
        title: "HTTP/2 over TLS, 10 KiB (h2load)",
        unit: Unit::Micros("request"),
        kind: Kind::H2load { path: MIDDLE },
    },
    Scenario {
        name: "websocket",
        title: "WebSocket echo, 64 B",
        unit: Unit::Micros("round trip"),
        kind: Kind::Echo { tls: Tcp, size: 64 },
    },
    Scenario {
        name: "websocket-1k",
        title: "WebSocket echo, 1 KiB",
        unit: Unit::Micros("round trip"),
        kind: Kind::Echo { tls: Tcp, size: 1 << 10 },
    },
    Scenario {
        name: "websocket-16k",
        title: "WebSocket echo, 16 KiB",
        unit: Unit::Micros("round trip"),
        kind: Kind::Echo { tls: Tcp, size: 16 << 10 },
    },
    Scenario {
        name: "websocket-256k",
        title: "WebSocket echo, 256 KiB",
        unit: Unit::Micros("round trip"),
        kind: Kind::Echo { tls: Tcp, size: 256 << 10 },
    },
    Scenario {
        name: "websocket-tls",
        title: "WebSocket echo over TLS, 64 B",
        unit: Unit::Micros("round trip"),
        kind: Kind::Echo { tls: FullTls, size: 64 },
    },
    Scenario { name: "tcp", title: "Raw TCP, bulk", unit: Unit::SecondsPerGigabyte, kind: Kind::Bulk },
    Scenario {
        name: "socketio",
        title: "Socket.IO session: polling, upgrade, 10 acks",
        unit: Unit::Micros("session"),
        kind: Kind::Lives,
    },
    Scenario {
        name: "herd",
        title: "Reconnect herd: Socket.IO over TLS, tickets",
        unit: Unit::Micros("return"),
        kind: Kind::Returns { tls: Tickets },
    },
    Scenario {
        name: "events",
        title: "Socket.IO acks, open loop, 4,000/s",
        unit: Unit::Micros("ack"),
        kind: Kind::Events { rate: 4000.0 },
    },
    Scenario {
        name: "open",
        title: "HTTP/1.1 keep-alive, open loop, 4,000/s",
        unit: Unit::Micros("request"),
        kind: Kind::OpenLoop { rate: 4000.0 },
    },
    Scenario {
        name: "wrk",
        title: "HTTP/1.1 keep-alive, 100 B (wrk)",
        unit: Unit::Micros("request"),
        kind: Kind::Wrk { path: SMALL },
    },
    Scenario { name: "idle", title: "Idle WebSocket", unit: Unit::Kib("socket"), kind: Kind::Sockets { tls: Tcp } },
    Scenario {
        name: "idle-tls",
        title: "Idle WebSocket over TLS",
        unit: Unit::Kib("socket"),
        kind: Kind::Sockets { tls: FullTls },
    },
    Scenario { name: "polls", title: "Held long poll", unit: Unit::Kib("poll"), kind: Kind::Polls },
];

/// How much work a scenario brings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    /// How long work is brought where time is measured.
    pub time: Duration,
    /// Sockets that are held where memory is measured.
    pub sockets: usize,
    /// Instead of a time: so many units, for tools that count.
    pub count: Option<u64>,
}

/// One measurement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// In the unit of the scenario; none where nothing was done.
    pub figure: Option<f64>,
    pub done: u64,
    pub failures: BTreeMap<String, u64>,
    /// How long units took: median, 99 % and the longest, in seconds.
    pub latency: Option<[f64; 3]>,
    /// KiB before, with all sockets, and after they were closed.
    pub memory: Option<[f64; 3]>,
}

impl Sample {
    pub(crate) fn failed(&self) -> u64 {
        self.failures.values().sum()
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({
            "figure": self.figure,
            "done": self.done,
            "failures": self.failures,
            "latency_seconds": self.latency.map(|[p50, p99, max]| json!({ "p50": p50, "p99": p99, "max": max })),
            "memory_kib": self.memory.map(|[before, during, after]| {
                json!({ "before": before, "during": during, "after": after })
            }),
        })
    }

    fn of(unit: Unit, used: Duration, outcome: &Outcome, warm_up: &Outcome) -> Self {
        let mut failures = warm_up.failures.clone();
        for (word, count) in &outcome.failures {
            *failures.entry(word.clone()).or_default() += count;
        }
        let figure = match unit {
            _ if outcome.done == 0 => None,
            Unit::SecondsPerGigabyte => Some(used.as_secs_f64() / outcome.bytes as f64 * 1e9),
            Unit::Micros(_) | Unit::Kib(_) => Some(used.as_secs_f64() / outcome.done as f64 * 1e6),
        };
        Self { figure, done: outcome.done, failures, latency: quantiles(&outcome.latency), memory: None }
    }
}

fn quantiles(latency: &Latency) -> Option<[f64; 3]> {
    let times = [latency.quantile(0.5), latency.quantile(0.99), latency.longest()];
    (latency.count() > 0).then(|| times.map(|time| time.as_secs_f64()))
}

impl Scenario {
    /// Whether it says what memory sockets hold.
    pub(crate) fn is_of_memory(&self) -> bool {
        matches!(self.unit, Unit::Kib(_))
    }

    /// Whether a given number of units can be brought, for tools that count.
    pub(crate) fn is_countable(&self) -> bool {
        !self.is_of_memory() && !matches!(self.kind, Kind::Wrk { .. })
    }

    /// Whether how long units took is worth telling: it is where they come by a schedule or all at once.
    pub(crate) fn tells_latency(&self) -> bool {
        matches!(self.kind, Kind::Events { .. } | Kind::OpenLoop { .. } | Kind::Returns { .. })
    }

    /// How many units make a count that start and end no longer change much.
    pub(crate) fn units_to_count(&self) -> u64 {
        match self.kind {
            Kind::Requests { fresh: true, .. } => 500,
            Kind::Lives => 100,
            // With them the handshakes of its connections, which are the tool's own.
            Kind::H2load { .. } => 16_000,
            Kind::Returns { .. } | Kind::Bulk | Kind::Uploads { .. } => 64,
            _ => 2000,
        }
    }

    /// What is counted.
    pub(crate) fn counted_unit(&self) -> &'static str {
        match (self.unit, self.kind) {
            (Unit::Micros(what) | Unit::Kib(what), _) => what,
            (_, Kind::Bulk) => "MiB",
            (_, Kind::Uploads { .. }) => "upload",
            _ => "answer",
        }
    }

    /// What gateways are told to do besides.
    pub(crate) fn extras(&self) -> Extras {
        if matches!(self.kind, Kind::InUse { .. }) { Extras::AsInUse } else { Extras::None }
    }

    /// Brings the work to a gateway and says what it cost. `bracket` is called right before and right after what
    /// counts.
    pub(crate) async fn run(
        &self,
        gateway: &Running,
        world: &World,
        amount: Amount,
        bracket: &mut impl Bracket,
    ) -> Result<Sample, Error> {
        let doors = gateway.doors;
        let target = |over: Over| -> Result<Target, Error> {
            let (address, tls) = match over {
                Tcp => (doors.http, None),
                FullTls => (doors.https, Some(Tls::new(false)?)),
                Tickets => (doors.https, Some(Tls::new(true)?)),
            };
            Ok(Target { address, host: "localhost".into(), tls })
        };
        let bench = Bench { gateway, amount, bracket, unit: self.unit };
        match self.kind {
            Kind::Requests { path, tls, fresh, connections } => {
                let target = target(tls)?;
                let workers = (0..connections).map(|source| Requests::get(&target, source, path, fresh));
                bench.work(workers.collect(), Pace::Closed).await
            }
            Kind::InUse { path } => {
                let target = target(Tcp)?;
                let workers = (0..32).map(|source| Requests::get(&target, source, path, false));
                bench.work(workers.collect(), Pace::Closed).await
            }
            Kind::Uploads { size } => {
                let target = target(Tcp)?;
                let workers = (0..8).map(|source| Requests::post(&target, source, SMALL, size));
                bench.work(workers.collect(), Pace::Closed).await
            }
            Kind::Wrk { path } => bench.tool(|until| tools::wrk(doors.http, path, until)).await,
            Kind::H2load { path } => bench.tool(|until| tools::h2load(doors.https, path, until)).await,
            Kind::Echo { tls, size } => {
                let target = target(tls)?;
                let workers = (0..64).map(|source| Echo::new(&target, source, "/echo", size));
                bench.work(workers.collect(), Pace::Closed).await
            }
            Kind::Bulk => {
                let target = Target { address: doors.tcp, ..target(Tcp)? };
                // Counted by the MiB.
                let size = if amount.count.is_some() { 1 << 20 } else { 16 << 20 };
                bench.work((0..4).map(|source| Bulk::new(&target, source, size)).collect(), Pace::Closed).await
            }
            Kind::Lives => {
                let target = target(Tcp)?;
                let life = |source| Lives { target: target.clone(), source, events: 10 };
                bench.work((0..16).map(life).collect(), Pace::Closed).await
            }
            Kind::Returns { tls } => {
                let target = target(tls)?;
                let herd = amount.count.map_or(300, |count| count.min(16) as usize);
                bench.herd((0..herd).map(|source| Returns::new(&target, source)).collect()).await
            }
            Kind::Events { rate } => {
                let target = target(Tcp)?;
                let workers = (0..200).map(|source| Events::new(&target, source)).collect();
                bench.work(workers, Pace::PerSecond(rate)).await
            }
            Kind::OpenLoop { rate } => {
                let target = target(Tcp)?;
                let workers = (0..64).map(|source| Requests::get(&target, source, SMALL, false)).collect();
                bench.work(workers, Pace::PerSecond(rate)).await
            }
            Kind::Sockets { tls } => {
                let target = target(tls)?;
                let sockets = if tls == Tcp { amount.sockets } else { amount.sockets / 3 };
                let socket = |source| IdleSocket { target: target.clone(), source, socket: None };
                bench.hold(sockets, socket, async |count| Ok(count)).await
            }
            Kind::Polls => {
                let target = target(Tcp)?;
                let poll = |source| HeldPoll { target: target.clone(), source, poll: None };
                bench.hold(amount.sockets / 3, poll, async |count| polls_held(world, count).await).await
            }
        }
    }
}

/// Notes what a gateway has used when work begins and when it ends.
pub(crate) trait Bracket {
    async fn begin(&mut self, gateway: &Running) -> Result<(), Error>;
    /// Processor time since `begin`; zero where something else is looked at.
    async fn end(&mut self, gateway: &Running) -> Result<Duration, Error>;
}

/// Processor time.
#[derive(Default)]
pub(crate) struct ProcessorTime(Duration);

impl Bracket for ProcessorTime {
    async fn begin(&mut self, gateway: &Running) -> Result<(), Error> {
        self.0 = measure::processor_time(&gateway.processes())?;
        Ok(())
    }

    async fn end(&mut self, gateway: &Running) -> Result<Duration, Error> {
        Ok(measure::processor_time(&gateway.processes())?.saturating_sub(self.0))
    }
}

struct Bench<'a, B> {
    gateway: &'a Running,
    amount: Amount,
    bracket: &'a mut B,
    unit: Unit,
}

impl<B: Bracket> Bench<'_, B> {
    /// Opens what is needed, warms up, and measures.
    async fn work<W: Work>(self, workers: Vec<W>, pace: Pace) -> Result<Sample, Error> {
        let (workers, mut warm_up) = open(workers).await;
        let (until, ahead) = match self.amount.count {
            Some(count) => (Until::Count(count), Until::Count(workers.len() as u64 * 2)),
            None => (Until::Time(self.amount.time), Until::Time(self.amount.time / 5)),
        };
        let (workers, warmed) = drive(workers, pace, ahead).await;
        warm_up.add(&warmed);
        self.bracket.begin(self.gateway).await?;
        let (workers, outcome) = drive(workers, pace, until).await;
        let used = self.bracket.end(self.gateway).await?;
        drop(workers);
        Ok(Sample::of(self.unit, used, &outcome, &warm_up))
    }

    /// Has all sessions cut and come back at once, once and again.
    async fn herd<W: Work>(self, workers: Vec<W>) -> Result<Sample, Error> {
        let size = workers.len() as u64;
        let (mut workers, warm_up) = open(workers).await;
        let mut sum = Outcome::default();
        self.bracket.begin(self.gateway).await?;
        while match self.amount.count {
            Some(count) => sum.done + sum.failed() < count,
            None => sum.took < self.amount.time,
        } {
            let (back, outcome) = once_each(workers).await;
            workers = back;
            sum.took += outcome.took;
            sum.add(&Outcome { took: Duration::ZERO, ..outcome });
            if sum.failed() > size {
                break;
            }
        }
        let used = self.bracket.end(self.gateway).await?;
        Ok(Sample::of(self.unit, used, &sum, &warm_up))
    }

    /// A tool of others as the generator; its connections are part of what counts.
    async fn tool<F: Future<Output = Result<Outcome, Error>>>(self, run: impl Fn(Until) -> F) -> Result<Sample, Error> {
        const LEAST: Duration = Duration::from_secs(1);
        let (until, ahead) = match self.amount.count {
            Some(count) => (Until::Count(count), Until::Count(count / 16)),
            None => (Until::Time(self.amount.time.max(LEAST)), Until::Time(LEAST)),
        };
        let warm_up = run(ahead).await?;
        self.bracket.begin(self.gateway).await?;
        let outcome = run(until).await?;
        let used = self.bracket.end(self.gateway).await?;
        Ok(Sample::of(self.unit, used, &outcome, &warm_up))
    }

    /// Opens many, and looks at the memory before, with all of them, and once they are closed.
    /// `arrived` waits until that many are where they go, and says how many are.
    async fn hold<W: Work>(
        self,
        count: usize,
        worker: impl Fn(usize) -> W,
        arrived: impl AsyncFn(usize) -> Result<usize, Error>,
    ) -> Result<Sample, Error> {
        // What the first ones warm up is not theirs.
        let (warm, mut outcome) = open((0..16).map(&worker).collect()).await;
        arrived(warm.len()).await?;
        let processes = self.gateway.processes();
        let before = measure::settled_memory(&processes).await?;
        let descriptors = measure::descriptors(&processes);
        let (held, opened) = open((0..count).map(&worker).collect()).await;
        let missing = held.len() + warm.len() - arrived(held.len() + warm.len()).await?;
        if missing > 0 {
            outcome.failures.insert("did not arrive".to_owned(), missing as u64);
        }
        let during = measure::settled_memory(&processes).await?;
        let held_count = held.len().saturating_sub(missing);
        drop((warm, held));
        let closed = Instant::now();
        while measure::descriptors(&processes) > descriptors && closed.elapsed() < CLOSING {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let left = measure::descriptors(&processes).saturating_sub(descriptors);
        if left > 0 {
            outcome.failures.insert("descriptor left open".to_owned(), left as u64);
        }
        let after = measure::settled_memory(&processes).await?;
        outcome.add(&opened);
        Ok(Sample {
            figure: (held_count > 0).then(|| (during - before) / held_count as f64),
            done: held_count as u64,
            failures: outcome.failures,
            latency: None,
            memory: Some([before, during, after]),
        })
    }
}

/// Each worker works once, all at the same time.
async fn once_each<W: Work>(workers: Vec<W>) -> (Vec<W>, Outcome) {
    let mut tasks = tokio::task::JoinSet::new();
    let count = workers.len();
    for worker in workers {
        tasks.spawn(drive(vec![worker], Pace::Closed, Until::Count(1)));
    }
    let (mut back, mut sum) = (Vec::with_capacity(count), Outcome::default());
    while let Some(joined) = tasks.join_next().await {
        match joined {
            Ok((workers, outcome)) => {
                back.extend(workers);
                sum.add(&outcome);
            }
            Err(_) => sum.fail(&"the worker panicked".into()),
        }
    }
    (back, sum)
}

/// A WebSocket that has echoed once and is silent then.
struct IdleSocket {
    target: Target,
    source: usize,
    socket: Option<WebSocket>,
}

impl Work for IdleSocket {
    async fn ready(&mut self) -> Result<(), Failure> {
        let mut socket = WebSocket::open(&self.target, self.source, "/echo").await?;
        socket.send_binary(b"sixteen bytes ok").await?;
        socket.receive().await?;
        self.socket = Some(socket);
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        self.ready().await?;
        Ok(0)
    }
}

/// Waits until the servers hold that many polls, or gives up; how many they hold.
async fn polls_held(world: &World, count: usize) -> Result<usize, Error> {
    let server = Target { address: world.backend.http[0], host: "localhost".into(), tls: None };
    let mut connection = Http::new(server.connect(0).await?);
    let began = Instant::now();
    loop {
        let mut body = Vec::new();
        connection.send(b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
        connection.answer(Some(&mut body)).await?;
        let held: usize = String::from_utf8(body)?.parse()?;
        // Those of the gateway before are gone soon.
        if held == count || began.elapsed() > CLOSING {
            return Ok(held.min(count));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A request that is not answered.
struct HeldPoll {
    target: Target,
    source: usize,
    poll: Option<Http>,
}

impl Work for HeldPoll {
    async fn ready(&mut self) -> Result<(), Failure> {
        let mut poll = Http::new(self.target.connect(self.source).await?);
        poll.send(b"GET /hold HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n").await?;
        self.poll = Some(poll);
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        self.ready().await?;
        Ok(0)
    }
}

//! What a session's way through another gateway costs: a poll and a WebSocket message by the gateway that has the session alone, and
//! with one more before it, which is its peer or another proxy.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::Addresses;
use crate::count::{Callgrind, Counter};
use crate::load::http::{Http, Requests};
use crate::load::socket_io::sid;
use crate::load::websocket::Echo;
use crate::load::{Failure, Outcome, Pace, Target, Until, Work, drive, open};
use crate::peers::{Extras, Kind, Peer, Running, World};
use crate::report::{Spread, failures, short, spread_text};
use crate::scenarios::{Bracket, ProcessorTime};
use crate::{Compare, Error};

/// Clients at once, each with a session and a connection of its own.
const CLIENTS: usize = 32;
/// Units a second where it is told how long they take.
const RATE: f64 = 500.0;
/// Units that are counted.
const UNITS: u64 = 2000;
/// What all gateways know.
const SECRET: &str = "a secret of thirty-two bytes or so\n";
/// Where nobody is: what goes there has not been passed on, and fails.
const NOBODY: &str = "127.0.0.1:9";

/// What is brought.
const BROUGHT: [&str; 2] = ["poll", "WebSocket message, 64 B"];

/// What was measured of one way, for one kind of work.
#[derive(Default)]
struct Measured {
    /// Of the gateway that has the session, and of the one before it: microseconds, or instructions, for each unit.
    home: Vec<f64>,
    before: Vec<f64>,
    /// Milliseconds from the schedule: the median, and 99 %.
    median: Vec<f64>,
    late: Vec<f64>,
    failures: BTreeMap<String, u64>,
}

impl Measured {
    fn note(&mut self, outcome: &Outcome) {
        for (word, count) in &outcome.failures {
            *self.failures.entry(word.clone()).or_default() += count;
        }
    }

    /// Of both gateways together.
    fn together(&self) -> Option<Spread> {
        Spread::of(self.home.iter().zip(&self.before).map(|(home, before)| home + before))
    }
}

/// Measures each way in its turn, and tells of all.
pub(crate) async fn run(peers: &[Peer], world: &World, asked: &Compare) -> Result<String, Error> {
    let ours = peers.iter().find(|peer| peer.kind == Kind::Sockgate).ok_or("a hop to a peer needs Sockgate")?;
    let others: Vec<&Peer> = peers.iter().filter(|peer| peer.kind != Kind::Sockgate).collect();
    let mut names = vec!["its own gateway".to_owned(), "a peer before it".to_owned()];
    names.extend(others.iter().map(|other| format!("{} before it", other.name)));
    let mut measured: Vec<[Measured; 2]> = names.iter().map(|_| Default::default()).collect();
    let nobody: SocketAddr = NOBODY.parse()?;
    for round in 0..if asked.count { 1 } else { asked.rounds as usize } {
        let mut line = format!("  round {}:", round + 1);
        for turn in 0..names.len() {
            let way = (round + turn) % names.len();
            for (brought, into) in measured[way].iter_mut().enumerate() {
                let servers = world.backend.http[..1].to_vec();
                let home = Gateway::start(ours, world, "home", servers, Extras::Among(nobody), asked.count).await?;
                let at = home.running.doors.http;
                let before = match way.checked_sub(1) {
                    None => None,
                    Some(0) => {
                        Some(Gateway::start(ours, world, "peer", vec![nobody], Extras::Among(at), asked.count).await?)
                    }
                    Some(other) => {
                        let other = others[other - 1];
                        Some(Gateway::start(other, world, &other.name, vec![at], Extras::None, asked.count).await?)
                    }
                };
                Way { home, before }.measure(brought, into, asked).await?;
                let both = into.home.last().zip(into.before.last());
                let figure = both.map_or("nothing done".to_owned(), |(home, before)| short(home + before));
                write!(line, "  {}, {}: {figure}", names[way], BROUGHT[brought])?;
            }
        }
        eprintln!("{line}");
    }
    table(&names, &measured, asked)
}

/// A gateway that runs, and what tells how much it has used.
struct Gateway {
    running: Running,
    time: ProcessorTime,
    callgrind: Option<Callgrind>,
}

impl Gateway {
    /// In a folder of its own, since two of a kind have files of the same names.
    async fn start(
        peer: &Peer,
        world: &World,
        name: &str,
        http: Vec<SocketAddr>,
        extras: Extras,
        counts: bool,
    ) -> Result<Self, Error> {
        let folder = world.folder.join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("secret"), SECRET)?;
        let world = World::new(folder, Addresses { http, tcp: world.backend.tcp }, world.threads, world.files)?;
        let callgrind = counts.then(|| Callgrind::new(&world));
        let wrapper = callgrind.as_ref().map(Callgrind::wrapper).unwrap_or_default();
        let running = peer.start(&world, extras, &wrapper).await?;
        Ok(Self { running, time: ProcessorTime::default(), callgrind })
    }

    async fn begin(&mut self) -> Result<(), Error> {
        match &mut self.callgrind {
            Some(callgrind) => callgrind.begin(&self.running).await,
            None => self.time.begin(&self.running).await,
        }
    }

    /// Microseconds since then, or instructions.
    async fn end(&mut self) -> Result<f64, Error> {
        match &mut self.callgrind {
            Some(callgrind) => {
                callgrind.end(&self.running).await?;
                Ok(callgrind.counted())
            }
            None => Ok(self.time.end(&self.running).await?.as_secs_f64() * 1e6),
        }
    }
}

/// The gateways that a session's requests go through.
struct Way {
    /// The one that has it.
    home: Gateway,
    before: Option<Gateway>,
}

impl Way {
    async fn measure(&mut self, brought: usize, into: &mut Measured, asked: &Compare) -> Result<(), Error> {
        let target =
            |gateway: &Gateway| Target { address: gateway.running.doors.http, host: "localhost".into(), tls: None };
        let home = target(&self.home);
        let way = target(self.before.as_ref().unwrap_or(&self.home));
        let ends = |source| (home.clone(), way.clone(), source);
        match brought {
            0 => {
                let poll = |target: &Target, source, sid: &str| {
                    Requests::get(target, source, &format!("/bytes/100?EIO=4&transport=polling&sid={sid}"), false)
                };
                self.bring((0..CLIENTS).map(|source| InSession::new(ends(source), poll)).collect(), into, asked).await
            }
            _ => {
                let echo = |target: &Target, source, sid: &str| {
                    Echo::new(target, source, &format!("/echo?EIO=4&transport=websocket&sid={sid}"), 64)
                };
                self.bring((0..CLIENTS).map(|source| InSession::new(ends(source), echo)).collect(), into, asked).await
            }
        }
    }

    async fn bring<W: Work>(&mut self, workers: Vec<W>, into: &mut Measured, asked: &Compare) -> Result<(), Error> {
        let time = Until::Time(Duration::from_secs_f64(asked.seconds));
        let (ahead, until) = if asked.count {
            (Until::Count(workers.len() as u64 * 2), Until::Count(UNITS))
        } else {
            (Until::Time(Duration::from_secs_f64(asked.seconds / 5.0)), time)
        };
        let (workers, opened) = open(workers).await;
        let (workers, warmed) = drive(workers, Pace::Closed, ahead).await;
        self.home.begin().await?;
        if let Some(before) = &mut self.before {
            before.begin().await?;
        }
        let (workers, outcome) = drive(workers, Pace::Closed, until).await;
        let of_before = match &mut self.before {
            Some(before) => before.end().await?,
            None => 0.0,
        };
        let of_home = self.home.end().await?;
        [&opened, &warmed, &outcome].into_iter().for_each(|outcome| into.note(outcome));
        if outcome.done > 0 {
            into.home.push(of_home / outcome.done as f64);
            into.before.push(of_before / outcome.done as f64);
        }
        if !asked.count {
            let (workers, paced) = drive(workers, Pace::PerSecond(RATE), time).await;
            into.note(&paced);
            into.median.push(paced.latency.quantile(0.5).as_secs_f64() * 1e3);
            into.late.push(paced.latency.quantile(0.99).as_secs_f64() * 1e3);
            drop(workers);
        }
        Ok(())
    }
}

/// Work within a session that is opened at its own gateway first.
struct InSession<W, M> {
    home: Target,
    way: Target,
    source: usize,
    make: M,
    work: Option<W>,
}

impl<W, M> InSession<W, M> {
    fn new((home, way, source): (Target, Target, usize), make: M) -> Self {
        Self { home, way, source, make, work: None }
    }
}

impl<W: Work, M: Fn(&Target, usize, &str) -> W + Send + 'static> Work for InSession<W, M> {
    async fn ready(&mut self) -> Result<(), Failure> {
        if self.work.is_none() {
            let mut http = Http::new(self.home.connect(self.source).await?);
            http.send(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
            let mut handshake = Vec::new();
            http.answer(Some(&mut handshake)).await?;
            let sid = sid(&String::from_utf8_lossy(&handshake)).ok_or(Failure::from("no session was given"))?;
            let mut work = (self.make)(&self.way, self.source, &sid);
            work.ready().await?;
            self.work = Some(work);
        }
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        self.ready().await?;
        self.work.as_mut().ok_or(Failure::from("no session"))?.once().await
    }
}

/// The table, ready to paste: each way beside the first.
fn table(names: &[String], measured: &[[Measured; 2]], asked: &Compare) -> Result<String, Error> {
    let unit = if asked.count { "user instructions" } else { "CPU µs" };
    let mut text = format!(
        "| work | way | {unit}, both gateways | beside its own | of the one that has the session | of the one before | ms at \
         {RATE}/s: median | 99 % | errors |\n|---|---|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    let middle = |values: &[f64]| Spread::of(values.iter().copied()).map(|spread| spread.median);
    let told = |value: Option<f64>| value.map_or("none".to_owned(), short);
    for (brought, title) in BROUGHT.iter().enumerate() {
        let own = measured[0][brought].together().map(|spread| spread.median);
        for (name, of_way) in names.iter().zip(measured) {
            let of = &of_way[brought];
            let both = of.together();
            let beside = both.zip(own).map_or("none".to_owned(), |(both, own)| format!("{:.2}", both.median / own));
            let errors = if of.failures.is_empty() { "0".to_owned() } else { failures(&of.failures) };
            writeln!(
                text,
                "| {title} | {name} | {} | {beside} | {} | {} | {} | {} | {errors} |",
                both.map_or("none".to_owned(), spread_text),
                told(middle(&of.home)),
                told(middle(&of.before)),
                told(middle(&of.median)),
                told(middle(&of.late)),
            )?;
        }
    }
    Ok(text)
}

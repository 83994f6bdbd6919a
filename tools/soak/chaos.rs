//! Trouble on purpose, and when it was: what fails because of it is no fault of the gateway's.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::Error;
use crate::gateway::Gateway;
use crate::server::{Server, Servers};

/// What was done, to whom, and when.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub deed: Deed,
    /// The server that it was done to.
    pub server: &'static str,
    pub from: Instant,
    /// When it was over, and its traces were gone.
    pub until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    Reload,
    BadReload,
    Kill,
    Drain,
    Stall,
    Hang,
}

impl Deed {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Reload => "reloads",
            Self::BadReload => "reloads of a bad file",
            Self::Kill => "servers killed and started again",
            Self::Drain => "servers drained and taken back",
            Self::Stall => "servers stalled for a moment (SIGSTOP)",
            Self::Hang => "servers hung",
        }
    }
}

/// The order of troubles, over and over; a number is a server.
const PLAN: [(Deed, usize); 13] = [
    (Deed::Reload, 0),
    (Deed::Kill, 1),
    (Deed::Reload, 0),
    (Deed::Drain, 2),
    (Deed::Reload, 0),
    (Deed::Stall, 0),
    (Deed::BadReload, 0),
    (Deed::Kill, 2),
    (Deed::Reload, 0),
    (Deed::Drain, 0),
    (Deed::Reload, 0),
    (Deed::Stall, 1),
    (Deed::Hang, 2),
];

/// How long a killed server is away, and a stalled one.
const AWAY: Duration = Duration::from_secs(2);
/// How long a hung server is: longer than its sessions wait for it.
const HUNG: Duration = Duration::from_secs(16);
/// Between two troubles.
const PAUSE: Duration = Duration::from_secs(2);

pub(crate) struct Chaos {
    servers: Servers,
    events: Vec<Event>,
    step: usize,
}

impl Chaos {
    pub(crate) fn new(servers: Servers) -> Self {
        Self { servers, events: Vec::new(), step: 0 }
    }

    /// What was done last.
    pub(crate) fn latest(&self) -> &'static str {
        self.events.last().map_or("", |event| event.deed.word())
    }

    /// Does the next thing, and waits until it is over.
    pub(crate) async fn next(&mut self, gateway: &mut Gateway) -> Result<(), Error> {
        let (deed, number) = PLAN[self.step % PLAN.len()];
        self.step += 1;
        let server = &mut self.servers[number];
        let (from, name) = (Instant::now(), server.name);
        match deed {
            Deed::Reload => gateway.reload().await?,
            Deed::BadReload => gateway.reload_badly().await?,
            Deed::Kill => kill(server, gateway).await?,
            Deed::Drain => drain(name, gateway).await?,
            Deed::Stall => stall(server, gateway, AWAY).await?,
            Deed::Hang => stall(server, gateway, HUNG).await?,
        }
        self.events.push(Event { deed, server: name, from, until: Instant::now() });
        sleep(PAUSE).await;
        Ok(())
    }

    /// Ends the servers; tells what was done.
    pub(crate) async fn finish(mut self) -> Vec<Event> {
        for server in &mut self.servers {
            let _ = server.kill().await;
        }
        self.events
    }
}

async fn kill(server: &mut Server, gateway: &Gateway) -> Result<(), Error> {
    server.kill().await?;
    sleep(AWAY).await;
    server.start_again().await?;
    sleep(AWAY).await;
    gateway.all_up().await
}

async fn stall(server: &Server, gateway: &Gateway, time: Duration) -> Result<(), Error> {
    server.signal(Signal::SIGSTOP)?;
    sleep(time).await;
    server.signal(Signal::SIGCONT)?;
    sleep(AWAY).await;
    gateway.all_up().await
}

/// Lets go of what a server has, WebSockets and sessions, and takes it back.
async fn drain(server: &str, gateway: &Gateway) -> Result<(), Error> {
    let query = |upstream: &str| format!("/drain?upstream={upstream}&server={server}");
    for upstream in ["sockets", "app"] {
        let (status, told) = gateway.ask("POST", &format!("{}&rate=50&deadline=6s", query(upstream))).await?;
        if status != 200 {
            return Err(format!("a drain was answered {status}: {told}").into());
        }
    }
    for _ in 0..100 {
        let mut over = true;
        for upstream in ["sockets", "app"] {
            over &= gateway.ask("GET", &query(upstream)).await?.1.contains("\"over\":true")
                || gateway.ask("GET", &query(upstream)).await?.1.contains("\"over\": true");
        }
        if over {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    for upstream in ["sockets", "app"] {
        gateway.ask("DELETE", &query(upstream)).await?;
    }
    Ok(())
}

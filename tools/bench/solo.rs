//! `bench load`: the generator by itself, for whatever has an address.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::Error;
use crate::load::http::Requests;
use crate::load::socket_io::{Events, Lives, Returns};
use crate::load::websocket::Echo;
use crate::load::{Outcome, Pace, Target, Tls, Until, Work, drive, open};

/// What to bring where.
#[derive(Clone, Debug, Args)]
pub(crate) struct Load {
    /// What kind of work.
    #[arg(value_enum)]
    work: Kind,
    /// HOST:PORT.
    to: String,
    /// Over TLS; certificates are not verified.
    #[arg(long)]
    tls: bool,
    /// With TLS: a full handshake for each connection, instead of tickets.
    #[arg(long)]
    full_handshakes: bool,
    /// The path of requests and WebSockets.
    #[arg(long, default_value = "/")]
    path: String,
    /// The `Host` to send, and the name to ask for over TLS; by default that of the address.
    #[arg(long)]
    host: Option<String>,
    /// Connections, sockets or sessions at once.
    #[arg(short, long, default_value_t = 32, value_name = "N")]
    connections: usize,
    /// Open loop: so many units a second in all, with times counted from the schedule. By default, each connection goes
    /// on as soon as it is answered.
    #[arg(short, long, value_name = "PER_SECOND")]
    rate: Option<f64>,
    /// Seconds.
    #[arg(short, long, default_value_t = 10.0, value_name = "S")]
    seconds: f64,
    /// So many units instead of a time.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Bytes of a WebSocket message.
    #[arg(long, default_value_t = 64, value_name = "BYTES")]
    size: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    /// GET over kept connections.
    Http,
    /// GET over a new connection each time.
    Connect,
    /// Messages that a WebSocket sends back.
    Websocket,
    /// WebSockets that are opened and stay silent.
    Idle,
    /// Whole Socket.IO sessions: polling, upgrade, ten events that are acknowledged.
    Socketio,
    /// Socket.IO sessions that stay, and send events that are acknowledged.
    Events,
    /// Socket.IO sessions that are cut and come back, again and again.
    Herd,
}

pub(crate) async fn run(load: &Load) -> Result<(), Error> {
    let address: SocketAddr = load.to.to_socket_addrs()?.next().ok_or("an address without a host")?;
    let tls = if load.tls { Some(Tls::new(!load.full_handshakes)?) } else { None };
    let target = Target { address, host: load.host.as_deref().unwrap_or(&load.to).into(), tls };
    let result = match load.work {
        Kind::Http => bring(load, |source| Requests::get(&target, source, &load.path, false)).await,
        Kind::Connect => bring(load, |source| Requests::get(&target, source, &load.path, true)).await,
        Kind::Websocket => bring(load, |source| Echo::new(&target, source, &load.path, load.size)).await,
        Kind::Idle => {
            let sockets = (0..load.connections).map(|source| Echo::new(&target, source, &load.path, load.size));
            let (sockets, outcome) = open(sockets.collect()).await;
            tell("sockets opened", &outcome);
            tokio::time::sleep(Duration::from_secs_f64(load.seconds)).await;
            drop(sockets);
            Ok(())
        }
        Kind::Socketio => bring(load, |source| Lives { target: target.clone(), source, events: 10 }).await,
        Kind::Events => bring(load, |source| Events::new(&target, source)).await,
        Kind::Herd => bring(load, |source| Returns::new(&target, source)).await,
    };
    if let Some(tls) = &target.tls {
        let [full, resumed] = tls.handshakes();
        println!("TLS handshakes: {full} full, {resumed} resumed");
    }
    result
}

async fn bring<W: Work>(load: &Load, worker: impl Fn(usize) -> W) -> Result<(), Error> {
    let (workers, opened) = open((0..load.connections).map(worker).collect()).await;
    tell("opened", &opened);
    let pace = load.rate.map_or(Pace::Closed, Pace::PerSecond);
    let until = load.count.map_or(Until::Time(Duration::from_secs_f64(load.seconds)), Until::Count);
    let (_, outcome) = drive(workers, pace, until).await;
    tell("done", &outcome);
    if outcome.done == 0 { Err("nothing was done".into()) } else { Ok(()) }
}

fn tell(what: &str, outcome: &Outcome) {
    let Outcome { done, bytes, failures, latency, took } = outcome;
    let rate = *done as f64 / took.as_secs_f64();
    println!("{done} {what} in {:.2} s ({rate:.0}/s), {bytes} bytes", took.as_secs_f64());
    if latency.count() > 0 {
        let quantiles =
            [0.5, 0.9, 0.99, 0.999].map(|share| format!("{} % {:.2?}", share * 100.0, latency.quantile(share)));
        println!("  times: {}, longest {:.2?}", quantiles.join(", "), latency.longest());
    }
    for (word, count) in failures {
        println!("  failed: {count} x {word}");
    }
}

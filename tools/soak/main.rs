//! Runs mixed traffic through a gateway for a chosen time, while its configuration is reloaded and its servers are
//! drained, killed, started again and stalled, and tells what became of every request and every session.
//!
//! `scripts/soak 10m` builds all that this needs and runs it. The exit code is 1 when something failed that nothing
//! explains, or when memory or descriptors grew.

mod chaos;
mod clients;
mod gateway;
mod server;
mod tally;
mod usage;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::chaos::Chaos;
use crate::clients::{Door, World};
use crate::gateway::Gateway;
use crate::tally::Tally;
use crate::usage::{Ledger, Usage};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Mixed traffic, trouble on purpose, and an account of what came of it.
#[derive(Debug, Parser)]
#[command(name = "soak", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How long, from 30s on; such as 10m or 24h.
    #[arg(default_value = "1m", value_parser = humantime::parse_duration)]
    time: Duration,
    /// How many times the usual number of clients.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=50))]
    scale: u16,
    /// The gateway's program; by default the one that was built beside this one.
    #[arg(long, value_name = "PROGRAM")]
    sockgate: Option<std::path::PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve as one of the servers behind the gateway, until standard input ends.
    Server {
        /// What it calls itself.
        name: String,
        /// Where it serves HTTP, WebSocket and Socket.IO.
        http: SocketAddr,
        /// Where it echoes raw bytes.
        raw: SocketAddr,
    },
}

/// Traffic runs for so long before anything is measured: connections are open, and tables have their size.
const WARM_UP: Duration = Duration::from_secs(10);
/// Trouble ends so long before the end, so that its consequences are seen.
const CALM: Duration = Duration::from_secs(12);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let work = async {
        match arguments.command {
            Some(Command::Server { name, http, raw }) => server::run(name, http, raw).await.map(|()| true),
            None => soak(&arguments).await,
        }
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        tokio::select! {
            result = work => result,
            // What was started is ended as it is dropped.
            () = asked_to_leave() => Err("interrupted".into()),
        }
    });
    // Standard input of a server may still be read by a thread that nothing ends.
    runtime.shutdown_background();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn asked_to_leave() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// The whole run; whether all is well.
async fn soak(arguments: &Arguments) -> Result<bool, Error> {
    if arguments.time < Duration::from_secs(30) {
        return Err("a soak of less than 30s shows nothing".into());
    }
    usage::raise_file_limit();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir()?;
    let servers = server::start(["a", "b", "c"]).await?;
    let mut gateway = Gateway::start(arguments.sockgate.as_deref(), folder.path(), &servers).await?;
    let mut ledger = Ledger::new();
    ledger.note("idle", gateway.usage()?);

    let tally = Arc::new(Tally::default());
    let (stop, stopping) = watch::channel(false);
    let door = |name: &str, tls| Ok::<_, Error>(Door { address: gateway.address(name)?, tls });
    let world = Arc::new(World {
        plain: door("web", None)?,
        secure: door("secure", Some(gateway.trust("http/1.1")?))?,
        http2: door("secure", Some(gateway.trust("h2")?))?,
        raw: door("raw", None)?,
        tally: Arc::clone(&tally),
        stopping,
    });
    let traffic = clients::start(&world, usize::from(arguments.scale));
    println!("{} clients, gateway {}, for {:?}", traffic.len(), gateway.pid(), arguments.time);

    let began = Instant::now();
    let mut chaos = Chaos::new(servers);
    let (half, last) = (arguments.time / 2, arguments.time - CALM);
    let mut report = Progress::new(began, arguments.time, &tally);
    while began.elapsed() < arguments.time {
        if ledger.lacks("start") && began.elapsed() >= WARM_UP {
            ledger.note("start", gateway.usage()?);
        }
        if ledger.lacks("middle") && began.elapsed() >= half {
            ledger.note("middle", gateway.usage()?);
        }
        if began.elapsed() >= WARM_UP && began.elapsed() < last {
            chaos.next(&mut gateway).await?;
        }
        report.perhaps(&gateway, chaos.latest()).await?;
        sleep(Duration::from_millis(500)).await;
    }
    ledger.note("end", gateway.usage()?);
    let panics = gateway.metric("sockgate_panics_total").await?;

    println!("stopping the clients ...");
    stop.send_replace(true);
    clients::finish(traffic).await?;
    ledger.note("after", settled(&gateway, &ledger).await?);
    let left = gateway.stop().await?;
    let events = chaos.finish().await;

    let well = [
        tally.print(&events, began.elapsed()),
        ledger.print(),
        said("panics in the gateway", panics, panics == 0.0),
        said("exit code of the gateway", f64::from(left), left == 0),
    ];
    Ok(well.iter().all(|well| *well))
}

fn said(what: &str, value: f64, well: bool) -> bool {
    println!("{what:<28} {value:>12}{}", if well { "" } else { "  <- expected 0" });
    well
}

/// Waits until the gateway has let go of what clients had open.
async fn settled(gateway: &Gateway, ledger: &Ledger) -> Result<Usage, Error> {
    for _ in 0..60 {
        let usage = gateway.usage()?;
        if ledger.is_back(&usage) {
            return Ok(usage);
        }
        sleep(Duration::from_millis(500)).await;
    }
    gateway.usage()
}

/// Tells how it goes: six times a minute, or once in a long run.
struct Progress<'a> {
    began: Instant,
    told: Instant,
    every: Duration,
    tally: &'a Tally,
}

impl<'a> Progress<'a> {
    fn new(began: Instant, time: Duration, tally: &'a Tally) -> Self {
        let every = if time < Duration::from_secs(300) { 10 } else { 60 };
        Self { began, told: began, every: Duration::from_secs(every), tally }
    }

    async fn perhaps(&mut self, gateway: &Gateway, latest: &str) -> Result<(), Error> {
        if self.told.elapsed() >= self.every {
            self.told = Instant::now();
            let Usage { pss, files, .. } = gateway.usage()?;
            let (done, failed, lost) = self.tally.sums();
            let sessions = gateway.metric("sockgate_sessions{").await?;
            println!(
                "{:>6} s  {done:>9} done  {failed:>5} failed, {lost:>5} lost  {sessions:>4} sessions  {:>6.1} MiB  \
                 {files:>5} descriptors  {latest}",
                self.began.elapsed().as_secs(),
                pss as f64 / 1024.0
            );
        }
        Ok(())
    }
}

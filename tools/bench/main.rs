//! Measures what gateways cost, one beside the other: processor time for each request, message, handshake and byte,
//! and memory for each idle socket.
//!
//! `scripts/bench` builds all that this needs and runs it; docs/performance.md explains what it measures and how.
//! The parts can be used alone: `bench backend` is the server behind the gateways, `bench load` brings work to
//! anything that speaks HTTP, WebSocket or Socket.IO.

mod backend;
mod compare;
mod count;
mod hop;
mod load;
mod measure;
mod peers;
mod profile;
mod report;
mod rules;
mod scenarios;
mod solo;
mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures what gateways cost, one beside the other.
///
/// Figures are processor time of the gateway (user and system) for one request, message, handshake or 10^9 bytes, or
/// its memory (PSS) for one held socket. Less is better.
#[derive(Debug, Parser)]
#[command(name = "bench", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compare: Compare,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve as the server behind gateways, until standard input ends.
    Backend {
        /// Where to serve HTTP; twice for two servers.
        #[arg(long, default_value = "127.0.0.1:0")]
        http: Vec<SocketAddr>,
        /// Where to answer numbers with bytes.
        #[arg(long, default_value = "127.0.0.1:0")]
        tcp: SocketAddr,
    },
    /// Bring work to any address, and say how it was answered.
    Load(solo::Load),
}

/// What to compare, and how.
#[derive(Clone, Debug, Args)]
struct Compare {
    /// Only these scenarios, by name; `--list` names them.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// Name the scenarios, and end.
    #[arg(long)]
    list: bool,
    /// How often each gateway is measured.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Worker threads of each gateway.
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
    /// Which gateways: sockgate, haproxy, nginx.
    #[arg(long, value_delimiter = ',', default_value = "sockgate,haproxy,nginx", value_name = "NAMES")]
    peers: Vec<String>,
    /// Another gateway to measure beside them: a Sockgate from before a change, a newer HAProxy or nginx.
    #[arg(long, value_name = "NAME=PROGRAM")]
    also: Vec<String>,
    /// Sockgate's program; by default the one that was built beside this one.
    #[arg(long, value_name = "PROGRAM")]
    sockgate: Option<PathBuf>,
    /// Seconds of work in each measurement.
    #[arg(long, default_value_t = 1.5, value_name = "S")]
    seconds: f64,
    /// Sockets held where memory is measured (a third of them over TLS, and a third as polls).
    #[arg(long, default_value_t = 6000, value_name = "N")]
    sockets: usize,
    /// Count user instructions and system calls instead of time: no noise, but no time either.
    #[arg(long)]
    count: bool,
    /// Count what each kind of rule adds to a request, instead of comparing: Sockgate alone. `--only` takes words of rules.
    #[arg(long)]
    rules: bool,
    /// Measure what another gateway before the one that has a session adds to a poll and a WebSocket message: its peer, and each of
    /// the other gateways; with `--count`, in instructions.
    #[arg(long)]
    hop: bool,
    /// Say where the processor time goes in this scenario (perf), instead of comparing.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Where results go; by default `bench` in the target folder.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let work = run(arguments);
        tokio::select! {
            result = work => result,
            // What was started is ended as it is dropped.
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            () = terminated() => Err("terminated".into()),
        }
    });
    // Standard input of a backend may still be read by a thread that nothing ends.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Error> {
    raise_file_limit();
    match arguments.command {
        Some(Command::Backend { http, tcp }) => Ok(backend::run(&http, tcp).await?),
        Some(Command::Load(load)) => solo::run(&load).await,
        None => compare::run(&arguments.compare).await,
    }
}

async fn terminated() {
    match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(mut signal) => _ = signal.recv().await,
        Err(_) => std::future::pending().await,
    }
}

/// Open files that a process may have, after the soft limit was raised to the hard one.
fn raise_file_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

//! The command line: one file for each command.

mod ask;
mod check;
mod config;
#[cfg(feature = "kubernetes")]
mod controller;
mod doctor;
mod explain;
mod health;
mod import;
mod operate;
mod run;
mod table;
mod top;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use clap_complete::Shell;

use crate::config::{Config, Loaded};
use crate::doctor::Target;
use crate::import::Source;
use ask::At;
use config::Carried;
use operate::{Listing, Pace, Which};
use top::Sort;

/// A programmable load balancer for web apps that live with sockets.
///
/// One program and one YAML file in front of a web app and its Socket.IO, WebSocket and raw TCP servers: TLS, routing,
/// balancing, health checks, and sockets that stay where they belong.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  sockgate check -c sockgate.yaml      say what is wrong with a file, and where
  sockgate check -c new.yaml --against 127.0.0.1:9901
                                       say what it would change in a running gateway
  sockgate check -c sockgate.yaml --print
                                       print it with every default
  sockgate run -c sockgate.yaml        serve; SIGHUP loads the file anew, SIGTERM stops cleanly, SIGUSR2 upgrades the
                                       binary, SIGUSR1 reopens the access log
  sockgate doctor https://app.example.com
                                       look at any deployment of Socket.IO from outside
  sockgate import haproxy haproxy.cfg  make a configuration of HAProxy's; of nginx's, Traefik's and stunnel's, too
  sockgate health 127.0.0.1:9901       ask a running gateway whether it is ready
  sockgate status                      how a running gateway is; `servers`, `sessions` and `top` tell more
  sockgate drain node1 --rate 50       let go of a server's sessions, and wait until that is done
  sockgate weight node1 3              give a server another share of new work, until the file says otherwise
  sockgate explain -c sockgate.yaml 'GET https://app.example.com/socket.io/?EIO=4&transport=websocket' -H 'Upgrade: websocket'
                                       say what would become of a request, and why
  sockgate reload --plan               what loading its file anew would change

The address of a running gateway is that of --admin, of SOCKGATE_ADMIN, or of the configuration file.
The log goes to standard error; RUST_LOG chooses what it tells (error, warn, info, debug).
Exit codes: 0 all is well, 1 it can't be done, 2 the arguments or the file are wrong.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve what a configuration file describes.
    Run {
        /// The YAML file.
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Serve what a Kubernetes cluster's Ingresses and Gateways say, beside what a configuration file says.
    #[cfg(feature = "kubernetes")]
    Controller(Box<controller::How>),
    /// Check a configuration file; print every fault with its line and column.
    Check {
        /// The YAML file.
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// Also say what loading it would change in a running gateway: the admin address of that.
        #[arg(long, value_name = "ADDRESS")]
        against: Option<String>,
        /// Print the configuration as it was understood, as YAML: with every default, and with variables expanded.
        #[arg(long, conflicts_with = "against")]
        print: bool,
        #[command(flatten)]
        how: check::How,
    },
    /// Turn the configuration of another proxy into one of Sockgate's, on standard output.
    ///
    /// What has no counterpart stands in a comment where it would belong, with the reason.
    Import {
        /// Whose file it is.
        #[arg(value_enum)]
        source: Source,
        /// The file; - for standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Look at a running deployment from outside, whatever proxy it is: what is wrong with its sockets, and how it is mended.
    ///
    /// It opens some sessions of Socket.IO, one after the other, and watches a poll and a socket that say nothing.
    Doctor {
        /// Where clients connect: https://app.example.com, with a path where that is not /socket.io/.
        #[arg(value_name = "URL", value_parser = Target::read)]
        target: Target,
        /// PEM: the authorities to trust, in place of the system's.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
        /// A field of every request, such as a token.
        #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = field)]
        headers: Vec<(String, String)>,
        /// How many sessions are opened.
        #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
        sessions: u16,
        /// The longest time, in seconds, that a silent socket and a held poll are watched.
        #[arg(long, value_name = "SECONDS", default_value_t = 40)]
        patience: u16,
        /// Print what was found as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask a running gateway whether it is ready; made for container health checks.
    Health {
        /// The admin address, such as 127.0.0.1:9901 or unix:/run/admin.sock.
        #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
        admin: String,
    },
    /// Tell how a running gateway is, with its upstreams, and what is not as in its file.
    Status {
        #[command(flatten)]
        at: At,
    },
    /// List the servers: state and why, weight, sessions, rates, faults.
    Servers {
        #[command(flatten)]
        at: At,
    },
    /// List sessions, look one up, or end one.
    Sessions {
        #[command(flatten)]
        which: Listing,
        #[command(flatten)]
        at: At,
    },
    /// Let go of a server's sessions at a pace, and watch them leave.
    Drain {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        pace: Pace,
        #[command(flatten)]
        at: At,
    },
    /// Take a server back that drains.
    Undrain {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        at: At,
    },
    /// Give a server another weight, which holds over reloads until the file says something new of it.
    Weight {
        #[command(flatten)]
        which: Which,
        /// 1 to 256, or `file` for what the file says.
        #[arg(value_parser = weight, value_name = "WEIGHT")]
        weight: Weight,
        #[command(flatten)]
        at: At,
    },
    /// Have a running gateway load its file anew, and say what that changed.
    Reload {
        /// Only say what it would change.
        #[arg(long)]
        plan: bool,
        #[command(flatten)]
        at: At,
    },
    /// Say what would become of a request: listener, route and why not those before it, upstream, times, and what its server
    /// would see. With `-c` by the file alone; with `--admin` by a running gateway, which knows how its servers are, and where
    /// a session lives.
    Explain(explain::Asked),
    /// Print a configuration to start from, one with every key, or the JSON Schema of all of them.
    Config {
        /// Which.
        #[arg(value_enum)]
        which: Carried,
    },
    /// Print what a shell needs to complete commands and options: `sockgate completions bash`.
    Completions {
        /// The shell.
        #[arg(value_enum)]
        shell: Shell,
    },
    /// Print the page of the manual: `sockgate man | man -l -`.
    Man,
    /// Show the servers live, until Ctrl-C.
    Top {
        /// What comes first.
        #[arg(long, value_enum, default_value_t = Sort::Rate)]
        sort: Sort,
        #[command(flatten)]
        at: At,
    },
}

/// A weight on the command line; `None` is the file's.
#[derive(Clone, Copy, Debug)]
struct Weight(Option<u32>);

fn weight(text: &str) -> Result<Weight, String> {
    match text.parse() {
        Ok(weight @ 1..=256) => Ok(Weight(Some(weight))),
        _ if text == "file" => Ok(Weight(None)),
        _ => Err("expected 1 to 256, or `file`".to_owned()),
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config } => run::run(&config),
        #[cfg(feature = "kubernetes")]
        Command::Controller(how) => controller::controller(*how),
        Command::Check { config, print: true, how, .. } => check::print_anew(&config, &how),
        Command::Check { config, against, how, .. } => check::check(&config, against.as_deref(), &how),
        Command::Import { source, file } => import::import(source, &file),
        Command::Doctor { target, ca, headers, sessions, patience, json } => {
            let patience = Duration::from_secs(patience.into());
            let target = target.with(headers, ca).within(sessions.into(), patience);
            doctor::doctor(&target, json)
        }
        Command::Health { admin } => health::health(&admin),
        Command::Status { at } => operate::with(&at, async |door| operate::status(door, at.json).await),
        Command::Servers { at } => operate::with(&at, async |door| operate::servers(door, at.json).await),
        Command::Sessions { which, at } => {
            operate::with(&at, async |door| operate::sessions(door, &which, at.json).await)
        }
        Command::Drain { which, pace, at } => {
            operate::with(&at, async |door| operate::drain(door, &which, &pace, at.json).await)
        }
        Command::Undrain { which, at } => {
            operate::with(&at, async |door| operate::undrain(door, &which, at.json).await)
        }
        Command::Weight { which, weight: Weight(weight), at } => {
            operate::with(&at, async |door| operate::weight(door, &which, weight, at.json).await)
        }
        Command::Reload { plan, at } => operate::with(&at, async |door| operate::reload(door, plan, at.json).await),
        Command::Explain(asked) => explain::explain(&asked),
        Command::Config { which } => config::show(which),
        Command::Completions { shell } => config::completions(shell),
        Command::Man => config::man(),
        Command::Top { sort, at } => operate::with(&at, async |door| top::top(door, sort, at.json).await),
    }
}

/// Reads `Name: value`.
fn field(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("expected `Name: value`")?;
    let value = value.trim();
    let good =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if !good || value.chars().any(char::is_control) {
        return Err("expected `Name: value`".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Loads a file; prints warnings, or every fault.
fn load(file: &Path) -> Result<Loaded, ExitCode> {
    match Config::load(file) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            Ok(loaded)
        }
        Err(faults) => {
            eprintln!("{faults}");
            Err(ExitCode::from(2))
        }
    }
}

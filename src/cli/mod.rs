//! The command line: one file for each command.

mod ask;
mod check;
mod health;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, Loaded};

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
  sockgate health 127.0.0.1:9901       ask a running gateway whether it is ready

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
    },
    /// Ask a running gateway whether it is ready; made for container health checks.
    Health {
        /// The admin address, such as 127.0.0.1:9901 or unix:/run/admin.sock.
        #[arg(value_name = "ADDRESS", default_value = "127.0.0.1:9901")]
        admin: String,
    },
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config } => run::run(&config),
        Command::Check { config, print: true, .. } => check::print(&config),
        Command::Check { config, against, .. } => check::check(&config, against.as_deref()),
        Command::Health { admin } => health::health(&admin),
    }
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

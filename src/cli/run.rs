//! `sockgate run`: load, build, serve.

use std::path::Path;
use std::process::ExitCode;

use log::{error, info, warn};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;
use crate::gateway::{Gateway, Signals};
use crate::logging;

/// The variable that names the HTTP engine, whatever the configuration says: who works on one runs the tests with it.
const ENGINE: &str = "SOCKGATE_ENGINE";

/// What is said beside the file.
pub(super) enum Beside {
    Nothing,
    /// By the objects of a cluster.
    #[cfg(feature = "kubernetes")]
    Cluster(Box<crate::controller::Terms>),
}

pub(super) fn run(file: &Path) -> ExitCode {
    serve(file, Beside::Nothing, || super::load(file).map(|loaded| loaded.config))
}

/// Serves what `load` gives, and what is said beside it.
pub(super) fn serve(file: &Path, beside: Beside, load: impl FnOnce() -> Result<Config, ExitCode>) -> ExitCode {
    let signals = Signals::catch();
    start_log();
    let signals = match signals {
        Ok(signals) => signals,
        Err(fault) => {
            error!("signals can't be caught: {fault}");
            return ExitCode::FAILURE;
        }
    };
    let config = match load() {
        Ok(config) => config,
        Err(code) => return code,
    };
    let engine = match std::env::var(ENGINE).unwrap_or_default().as_str() {
        "" => config.engine,
        name => match name.parse() {
            Ok(engine) => engine,
            Err(fault) => {
                error!("{ENGINE}: {fault}");
                return ExitCode::FAILURE;
            }
        },
    };
    raise_file_limit();
    #[cfg_attr(not(feature = "kubernetes"), allow(unused_mut))]
    let mut builder = Gateway::builder(config).file(file).engine(engine);
    match beside {
        Beside::Nothing => {}
        #[cfg(feature = "kubernetes")]
        Beside::Cluster(terms) => builder = builder.controller(*terms),
    }
    match builder.build() {
        Ok(gateway) => {
            gateway.run_with(signals);
            ExitCode::SUCCESS
        }
        Err(fault) => {
            error!("{fault}");
            ExitCode::FAILURE
        }
    }
}

/// The log for operators. Pingora tells about each client that leaves, and rustls about what each one says wrong in its
/// handshake; the first is the access log's to tell, and by the second strangers would fill a disk.
fn start_log() {
    logging::start("info,rustls=error,kube_client=off,pingora=warn,pingora_core=off,pingora_proxy=off");
}

/// Every socket takes two descriptors; the usual soft limit of 1024 would end at 500.
fn raise_file_limit() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft >= hard {
        return;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => info!("raised the limit of open files from {soft} to {hard}"),
        Err(fault) => warn!("the limit of open files stays at {soft}: {fault}"),
    }
}

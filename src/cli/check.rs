//! `sockgate check`: what is wrong with a file, and where.

use std::path::Path;
use std::process::ExitCode;

pub(super) fn check(file: &Path) -> ExitCode {
    match super::load(file) {
        Ok(config) => {
            let (listeners, routes, upstreams) = (config.listeners.len(), config.routes.len(), config.upstreams.len());
            println!("{}: good ({listeners} listeners, {routes} routes, {upstreams} upstreams)", file.display());
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

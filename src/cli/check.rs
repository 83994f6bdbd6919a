//! `sockgate check`: what is wrong with a file, and where.

use std::path::Path;
use std::process::ExitCode;

pub(super) fn check(file: &Path) -> ExitCode {
    match super::load(file) {
        Ok(config) => {
            let counted = [
                (config.listeners.len(), "listener"),
                (config.routes.len(), "route"),
                (config.upstreams.len(), "upstream"),
            ];
            let counted = counted.map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
            println!("{}: good ({})", file.display(), counted.join(", "));
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

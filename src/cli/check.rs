//! `sockgate check`: what is wrong with a file, and where; how it was understood; and what it would change in a running
//! gateway.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use super::ask::{Answer, Door, run};
use crate::config::{Config, Faults, Loaded, Memory, load_servers};
use crate::reload::Plan;
use crate::reload::certificates::Certificates;
use crate::upstream::config::Servers;

pub(super) fn check(file: &Path, against: Option<&str>) -> ExitCode {
    let Loaded { config, included, .. } = match super::load(file) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    warn_of_certificates(&config);
    if let Err(faults) = check_server_files(&config) {
        eprintln!("{faults}");
        return ExitCode::from(2);
    }
    let counted =
        [(config.listeners.len(), "listener"), (config.routes.len(), "route"), (config.upstreams.len(), "upstream")];
    let counted = counted.map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
    let with = match included.len() {
        0 => String::new(),
        1 => " with 1 other file".to_owned(),
        others => format!(" with {others} other files"),
    };
    let memory = Memory::of(&config).map_or_else(
        || "strangers can take any memory: `limits.connections` or `limits.buffers` is 0, which is no limit".to_owned(),
        |memory| memory.to_string(),
    );
    // Who reads no further than the first line has read what counts.
    let _ = writeln!(std::io::stdout(), "{}{with}: good ({})\n{memory}", file.display(), counted.join(", "));
    match against.map(|admin| (admin, plan(&config, admin))) {
        None => ExitCode::SUCCESS,
        Some((admin, Ok(plan))) => {
            println!("against {admin}:\n{}", plan.to_string().trim_end());
            ExitCode::SUCCESS
        }
        Some((admin, Err(fault))) => {
            eprintln!("{admin}: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// `--print`: only the configuration goes to standard output, so that it can go to a file.
pub(super) fn print(file: &Path) -> ExitCode {
    let config = match super::load(file) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    warn_of_certificates(&config);
    match config.to_yaml() {
        Ok(yaml) => {
            print!("{yaml}");
            ExitCode::SUCCESS
        }
        Err(fault) => {
            eprintln!("{}: can't be printed: {fault}", file.display());
            ExitCode::FAILURE
        }
    }
}

fn warn_of_certificates(config: &Config) {
    for warning in Certificates::of(config).warnings {
        eprintln!("warning: {warning}");
    }
}

/// Reads the files that list servers, as a start would.
fn check_server_files(config: &Config) -> Result<(), Faults> {
    for (name, upstream) in &config.upstreams {
        let Servers::File(said) = &upstream.servers else { continue };
        for (server, fault) in load_servers(&said.file)?.left_out() {
            eprintln!("warning: upstream {name}: left out: {server}: {fault}");
        }
    }
    Ok(())
}

/// What a running gateway says to this configuration.
fn plan(config: &Config, admin: &str) -> Result<Plan, String> {
    let asked = serde_json::to_vec(config).map_err(|error| error.to_string())?;
    let asking = run(Door::at(admin)?.ask("POST", "/plan", &asked)).and_then(|answer| answer);
    let Answer { status, body } = asking.map_err(|error| error.to_string())?;
    if status != 200 {
        return Err(format!("answered {status}: {}", body.trim()));
    }
    serde_json::from_str(&body).map_err(|error| format!("expected a plan: {error}"))
}

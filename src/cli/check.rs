//! `sockgate check`: what is wrong with a file and with what it names, and where; how it was understood; and what it would
//! change in a running gateway.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::ask::{Answer, Door, run};
use crate::config::{Config, Fault, Faults, Lint, Loaded, Memory, Parts};
use crate::reload::Plan;
use crate::reload::outside::{Outside, look};

/// How a file is checked.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct How {
    /// Don't look at the files that it names: for where they aren't.
    #[arg(long)]
    offline: bool,
    /// It is for `sockgate controller`: what Ingresses say is put beside it, certificates among that.
    #[arg(long)]
    controller: bool,
    /// Don't warn of this, by the name that stands in [ ] behind a warning; may be said several times.
    #[arg(long, value_name = "NAME")]
    allow: Vec<Lint>,
    /// Print what was found as JSON, on standard output.
    #[arg(long, conflicts_with = "print")]
    json: bool,
}

/// What was found: a configuration that can be loaded, or faults.
struct Verdict {
    loaded: Option<Loaded>,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

impl Verdict {
    fn of(file: &Path, how: &How) -> Self {
        let load = |file: &Path| match how.controller {
            true => Config::load_with(file, &Parts::default()).map(|(loaded, _)| loaded),
            false => Config::load(file),
        };
        let mut loaded = match load(file) {
            Ok(loaded) => loaded,
            Err(Faults(faults)) => return Self { loaded: None, faults, warnings: Vec::new() },
        };
        let outside = if how.offline { Outside::default() } else { look(&loaded) };
        let mut warnings = std::mem::take(&mut loaded.warnings);
        warnings.extend(outside.warnings);
        warnings.retain(|warning| warning.lint.is_none_or(|lint| !how.allow.contains(&lint)));
        Self { loaded: Some(loaded), faults: outside.faults, warnings }
    }

    /// For people.
    fn tell(&self) {
        for warning in &self.warnings {
            eprintln!("warning: {warning}");
        }
        if !self.faults.is_empty() {
            eprintln!("{}", Faults(self.faults.clone()));
        }
    }

    /// For machines.
    fn to_json(&self, file: &Path) -> Value {
        let one = |severity: &str, fault: &Fault| {
            let (found, expected) = fault.parts().unzip();
            json!({
                "severity": severity,
                "name": fault.lint.map(Lint::as_str),
                "file": fault.place.file,
                "line": fault.place.line,
                "column": fault.place.column,
                "path": fault.path,
                "what": fault.what,
                "found": found,
                "expected": expected,
            })
        };
        let faults = self.faults.iter().map(|fault| one("fault", fault));
        let findings: Vec<Value> = faults.chain(self.warnings.iter().map(|warning| one("warning", warning))).collect();
        let mut told =
            json!({ "file": file.display().to_string(), "good": self.faults.is_empty(), "findings": findings });
        if let Some(Loaded { config, included, .. }) = &self.loaded {
            told["included"] = included.iter().map(|file| file.display().to_string()).collect();
            told["listeners"] = config.listeners.len().into();
            told["routes"] = config.routes.len().into();
            told["upstreams"] = config.upstreams.len().into();
        }
        told
    }
}

pub(super) fn check(file: &Path, against: Option<&str>, how: &How) -> ExitCode {
    let verdict = Verdict::of(file, how);
    let mut told = verdict.to_json(file);
    if !how.json {
        verdict.tell();
    }
    let Verdict { loaded: Some(Loaded { config, included, .. }), faults, .. } = verdict else {
        if how.json {
            print(&told);
        }
        return ExitCode::from(2);
    };
    let planned = against.filter(|_| faults.is_empty()).map(|admin| (admin, plan(&config, admin)));
    if how.json {
        match &planned {
            Some((_, Ok(plan))) => told["plan"] = serde_json::to_value(plan).unwrap_or_default(),
            Some((admin, Err(fault))) => told["plan_fault"] = format!("{admin}: {fault}").into(),
            None => {}
        }
        print(&told);
    } else if faults.is_empty() {
        good(file, &config, included.len());
    }
    match planned {
        _ if !faults.is_empty() => ExitCode::from(2),
        None => ExitCode::SUCCESS,
        Some((admin, Ok(plan))) => {
            if !how.json {
                println!("against {admin}:\n{}", plan.to_string().trim_end());
            }
            ExitCode::SUCCESS
        }
        Some((admin, Err(fault))) => {
            eprintln!("{admin}: {fault}");
            ExitCode::FAILURE
        }
    }
}

/// Who reads no further than the first line has read what counts.
fn print(told: &Value) {
    let _ = writeln!(std::io::stdout(), "{told:#}");
}

fn good(file: &Path, config: &Config, others: usize) {
    let counted =
        [(config.listeners.len(), "listener"), (config.routes.len(), "route"), (config.upstreams.len(), "upstream")];
    let counted = counted.map(|(count, what)| format!("{count} {what}{}", if count == 1 { "" } else { "s" }));
    let with = match others {
        0 => String::new(),
        1 => " with 1 other file".to_owned(),
        others => format!(" with {others} other files"),
    };
    let memory = Memory::of(config).map_or_else(
        || "strangers can take any memory: `limits.connections` or `limits.buffers` is 0, which is no limit".to_owned(),
        |memory| memory.to_string(),
    );
    let _ = writeln!(std::io::stdout(), "{}{with}: good ({})\n{memory}", file.display(), counted.join(", "));
}

/// `--print`: only the configuration goes to standard output, so that it can go to a file. What it names need not be here.
pub(super) fn print_anew(file: &Path, how: &How) -> ExitCode {
    let verdict = Verdict::of(file, how);
    let verdict = if verdict.loaded.is_some() { Verdict { faults: Vec::new(), ..verdict } } else { verdict };
    verdict.tell();
    let Some(Loaded { config, .. }) = verdict.loaded else { return ExitCode::from(2) };
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

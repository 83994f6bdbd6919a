//! The configuration in force, and what operators have said otherwise since: that holds until the file says something new.

use std::collections::BTreeMap;

use ::http::StatusCode;

use super::Admin;
use super::endpoints::Answer;
use super::shape::{Elsewhere, Moment, told};
use crate::snapshot::Snapshot;

told! {
    /// The configuration in force.
    InForce {
        /// Its number: 1 for the one of the start.
        generation: u64,
        /// When it was loaded.
        loaded: Moment,
        /// The file that it comes from; null where a program made it.
        file: Option<String>,
        /// What operators have said otherwise.
        differences: Vec<Difference>,
        /// All of it with every default, but for secrets.
        configuration: Elsewhere,
    }

    /// Something that is not as the file says.
    Difference {
        /// The upstream.
        upstream: String,
        /// The server.
        server: String,
        /// `drain` or `weight`.
        key: &'static str,
        /// What the file says.
        file: String,
        /// What holds.
        now: String,
    }
}

/// Answers `GET /api/v1/config`.
pub(super) fn answer(admin: &Admin) -> Answer {
    let (snapshot, outcome) = (admin.core.snapshot.load(), admin.reloader.outcome());
    let written = snapshot.config.without_secrets().map_err(|error| error.to_string());
    match written.and_then(|tree| serde_json::to_value(tree).map_err(|error| error.to_string())) {
        Ok(configuration) => Answer::json(&InForce {
            generation: outcome.generation,
            loaded: Moment(outcome.loaded),
            file: admin.reloader.file().map(|file| file.display().to_string()),
            differences: differences(&snapshot),
            configuration: Elsewhere(configuration),
        }),
        Err(fault) => Answer::fault(StatusCode::INTERNAL_SERVER_ERROR, format!("it can't be written: {fault}")),
    }
}

fn differences(snapshot: &Snapshot) -> Vec<Difference> {
    let mut differences = Vec::new();
    let upstreams: BTreeMap<_, _> = snapshot.upstreams.iter().collect();
    for (name, upstream) in upstreams {
        for server in upstream.all_servers() {
            let mut add = |key, file: String, now: String| {
                let (upstream, server) = (name.to_string(), server.name().to_string());
                differences.push(Difference { upstream, server, key, file, now });
            };
            if server.drains_otherwise() {
                let now = server.is_draining();
                add("drain", (!now).to_string(), now.to_string());
            }
            if server.weight() != server.configured_weight() {
                add("weight", server.configured_weight().to_string(), server.weight().to_string());
            }
        }
    }
    differences
}

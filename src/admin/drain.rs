//! `/drain`: lets go of a server's sessions at a pace, or takes the server back.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use ::http::StatusCode;
use percent_encoding::percent_decode_str;
use serde::Serialize;

use super::endpoints::Answer;
use crate::snapshot::Snapshot;
use crate::upstream::config::Drain;
use crate::upstream::{Server, Upstream};

const HELP: &str = "expected ?upstream=NAME&server=NAME, and with POST also &rate=50 (goodbyes in a second, above 0), \
                    &jitter=0.3 (0 to 1), &deadline=5m, or &goodbye=false";

/// Answers a request to `/drain`.
pub(super) fn answer(snapshot: &Snapshot, method: &str, query: &str) -> Answer {
    let said = read(query);
    let (upstream, server) = match find(snapshot, &said) {
        Ok(found) => found,
        Err((status, fault)) => return Answer::fault(status, fault),
    };
    match method {
        "POST" => match pace(&said, &upstream.config().drain) {
            Ok(said) => upstream.drain(&server, said.pace()),
            Err(fault) => return Answer::fault(StatusCode::BAD_REQUEST, fault),
        },
        "DELETE" if !upstream.undrain(&server) => {
            let fault = format!("server `{}` was removed from the configuration: put it back there", server.name());
            return Answer::fault(StatusCode::CONFLICT, fault);
        }
        _ => {}
    }
    Answer::json(&Progress::of(&upstream, &server))
}

/// The drain of a server as `/drain` and `/status` tell it.
#[derive(Serialize)]
pub(super) struct Progress {
    open: usize,
    sessions: usize,
    told_goodbye: usize,
    over: bool,
}

impl Progress {
    /// `None` where it does not drain.
    pub(super) fn of(upstream: &Upstream, server: &Server) -> Option<Self> {
        let progress = upstream.progress(server)?;
        Some(Self {
            open: progress.open,
            sessions: progress.sessions,
            told_goodbye: progress.told,
            over: progress.over,
        })
    }
}

/// What the query says.
type Said<'a> = HashMap<&'a str, Cow<'a, str>>;

/// Takes a query apart; tools that build one write `%3A` for the colon in the name of a server.
fn read(query: &str) -> Said<'_> {
    let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key, decoded(value))).collect()
}

type Found = (Arc<Upstream>, Arc<Server>);

fn find(snapshot: &Snapshot, said: &Said<'_>) -> Result<Found, (StatusCode, String)> {
    let (Some(named), Some(name)) = (said.get("upstream"), said.get("server")) else {
        return Err((StatusCode::BAD_REQUEST, HELP.to_owned()));
    };
    let upstream = snapshot.upstreams.get(&**named).ok_or_else(|| {
        let mut names: Vec<&str> = snapshot.upstreams.keys().map(|name| &**name).collect();
        names.sort_unstable();
        (StatusCode::NOT_FOUND, format!("there is no upstream `{named}`, only {}", names.join(", ")))
    })?;
    let servers = upstream.all_servers();
    let server = servers.iter().find(|server| **server.name() == **name);
    let server = server.ok_or_else(|| {
        let names: Vec<&str> = servers.iter().map(|server| &**server.name()).collect();
        (StatusCode::NOT_FOUND, format!("upstream `{named}` has no server `{name}`, only {}", names.join(", ")))
    })?;
    Ok((Arc::clone(upstream), Arc::clone(server)))
}

/// The drain that the query asks for; what it does not say, the configuration of the upstream does.
fn pace(said: &Said<'_>, configured: &Drain) -> Result<Drain, String> {
    let mut drain = configured.clone();
    let number = |key: &str, expected: &str, fits: fn(f64) -> bool| -> Result<Option<f64>, String> {
        let Some(text) = said.get(key) else { return Ok(None) };
        let value = text.parse().ok().filter(|&value| fits(value));
        value.map(Some).ok_or_else(|| format!("{key}: found `{text}`, expected {expected}; {HELP}"))
    };
    if let Some(rate) = number("rate", "a number above 0", |rate| rate > 0.0 && rate <= 1_000_000.0)? {
        drain.rate = rate;
    }
    if let Some(jitter) = number("jitter", "a number from 0 to 1", |jitter| (0.0..=1.0).contains(&jitter))? {
        drain.jitter = jitter;
    }
    if let Some(text) = said.get("deadline") {
        drain.deadline = humantime::parse_duration(text)
            .map_err(|_| format!("deadline: found `{text}`, expected a time with its unit, such as 30s; {HELP}"))?;
    }
    if let Some(text) = said.get("goodbye") {
        drain.goodbye =
            text.parse().map_err(|_| format!("goodbye: found `{text}`, expected `true` or `false`; {HELP}"))?;
    } else if ["rate", "jitter", "deadline"].iter().any(|key| said.contains_key(key)) {
        // Who names a pace wants it.
        drain.goodbye = true;
    }
    Ok(drain)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pace_is_read_or_told_what_is_wrong_with_it() {
        let configured = Drain { rate: 7.0, ..Drain::default() };
        let silent = Drain { goodbye: false, ..Drain::default() };
        let read = |query| pace(&read(query), &configured);
        assert_eq!(read(""), Ok(configured.clone()));
        let said = Drain { goodbye: true, rate: 5.0, jitter: 0.0, deadline: Duration::from_secs(90) };
        assert_eq!(read("rate=5&jitter=0&deadline=1m30s"), Ok(said));
        assert!(!read("goodbye=false").unwrap().goodbye);
        assert!(!pace(&super::read(""), &silent).unwrap().goodbye);
        assert!(pace(&super::read("deadline=1m"), &silent).unwrap().goodbye);
        for (query, told) in [
            ("rate=fast", "rate: found `fast`"),
            ("rate=0", "above 0"),
            ("jitter=2", "from 0 to 1"),
            ("deadline=5", "such as 30s"),
            ("goodbye=perhaps", "expected `true` or `false`"),
        ] {
            assert!(read(query).unwrap_err().contains(told), "{query}");
        }
    }
}

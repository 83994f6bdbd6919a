//! `/drain`: lets go of a server's sessions at a pace, or takes the server back.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use ::http::StatusCode;

use super::Admin;
use super::endpoints::{Answer, Request};
use super::shape::told;
use super::state::no_upstream;
use crate::snapshot::Snapshot;
use crate::upstream::config::Drain;
use crate::upstream::{Server, Upstream};

const HELP: &str = "expected ?upstream=NAME&server=NAME, and with POST also &rate=50 (goodbyes in a second, above 0), \
                    &jitter=0.3 (0 to 1), &deadline=5m, or &goodbye=false";

/// Answers a request to `/drain`.
pub(super) fn answer(admin: &Arc<Admin>, request: &Request) -> Answer {
    let said = request.said();
    let (Some(named), Some(name)) = (said.get("upstream"), said.get("server")) else {
        return Answer::fault(StatusCode::BAD_REQUEST, HELP);
    };
    let (upstream, server) = match find(&admin.core.snapshot.load(), named, name) {
        Ok(found) => found,
        Err(answer) => return answer,
    };
    match request.method.as_str() {
        "POST" => match pace(&said, &upstream.config().drain) {
            Ok(said) => upstream.drain(&server, said.pace()),
            Err(fault) => return Answer::fault(StatusCode::BAD_REQUEST, format!("{fault}; {HELP}")),
        },
        "DELETE" if !upstream.undrain(&server) => return is_removed(&server),
        _ => {}
    }
    Answer::json(&Progress::of(&upstream, &server))
}

/// The answer to whoever wants a server back that the configuration has no longer.
pub(super) fn is_removed(server: &Server) -> Answer {
    let fault = format!("server `{}` was removed from the configuration: put it back there", server.name());
    Answer::fault(StatusCode::CONFLICT, fault).hint("add it to the file and reload")
}

told! {
    /// How far the drain of a server has come.
    Progress {
        /// Tunnels and pending polls that are open.
        open: usize,
        /// Sessions that live there.
        sessions: usize,
        /// Goodbyes said so far.
        told_goodbye: usize,
        /// Whether the last one has been said.
        over: bool,
    }
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

type Found = (Arc<Upstream>, Arc<Server>);

/// The server of this name, or the answer that says which there are.
pub(super) fn find(snapshot: &Snapshot, named: &str, name: &str) -> Result<Found, Answer> {
    let upstream = snapshot.upstreams.get(named).ok_or_else(|| no_upstream(snapshot, named))?;
    let servers = upstream.all_servers();
    let server = servers.iter().find(|server| **server.name() == *name);
    let server = server.ok_or_else(|| {
        let names: Vec<&str> = servers.iter().map(|server| &**server.name()).collect();
        let fault = format!("upstream `{named}` has no server `{name}`, only {}", names.join(", "));
        Answer::fault(StatusCode::NOT_FOUND, fault).hint("GET /api/v1/servers lists them")
    })?;
    Ok((Arc::clone(upstream), Arc::clone(server)))
}

/// The drain that somebody asks for; what is not said, the configuration of the upstream says.
pub(super) fn pace(said: &HashMap<&str, Cow<'_, str>>, configured: &Drain) -> Result<Drain, String> {
    let mut drain = configured.clone();
    let number = |key: &str, expected: &str, fits: fn(f64) -> bool| -> Result<Option<f64>, String> {
        let Some(text) = said.get(key) else { return Ok(None) };
        let value = text.parse().ok().filter(|&value| fits(value));
        value.map(Some).ok_or_else(|| format!("{key}: found `{text}`, expected {expected}"))
    };
    if let Some(rate) = number("rate", "a number above 0", |rate| rate > 0.0 && rate <= 1_000_000.0)? {
        drain.rate = rate;
    }
    if let Some(jitter) = number("jitter", "a number from 0 to 1", |jitter| (0.0..=1.0).contains(&jitter))? {
        drain.jitter = jitter;
    }
    if let Some(text) = said.get("deadline") {
        drain.deadline = humantime::parse_duration(text)
            .map_err(|_| format!("deadline: found `{text}`, expected a time with its unit, such as 30s"))?;
    }
    if let Some(text) = said.get("goodbye") {
        drain.goodbye = text.parse().map_err(|_| format!("goodbye: found `{text}`, expected `true` or `false`"))?;
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
        let pace_of = |query: &str, configured: &Drain| {
            pace(&Request { query: query.to_owned(), ..Request::default() }.said(), configured)
        };
        let read = |query| pace_of(query, &configured);
        assert_eq!(read(""), Ok(configured.clone()));
        let said = Drain { goodbye: true, rate: 5.0, jitter: 0.0, deadline: Duration::from_secs(90) };
        assert_eq!(read("rate=5&jitter=0&deadline=1m30s"), Ok(said));
        assert!(!read("goodbye=false").unwrap().goodbye);
        assert!(!pace_of("", &silent).unwrap().goodbye);
        assert!(pace_of("deadline=1m", &silent).unwrap().goodbye);
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

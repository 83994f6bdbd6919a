//! `/drain`: lets go of a server's sessions at a pace, or takes the server back.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};

use crate::drain::Pace;
use crate::snapshot::{Pool, Snapshot};
use crate::upstream::Server;

/// What is done when the query says nothing else: fifty goodbyes a second, spread by a third, all within five minutes.
const PACE: Pace = Pace { rate: 50.0, jitter: 0.3, deadline: Duration::from_secs(300) };

const HELP: &str = "expected ?upstream=NAME&server=NAME, and with POST also &rate=50 (goodbyes in a second), \
                    &jitter=0.3 (0 to 1) and &deadline=5m";

/// Answers a request to `/drain`.
pub(super) fn answer(snapshot: &Snapshot, method: &str, query: &str) -> (StatusCode, Value) {
    let said = read(query);
    let (pool, server) = match find(snapshot, &said) {
        Ok(found) => found,
        Err((status, fault)) => return (status, json!({ "error": fault })),
    };
    match method {
        "POST" => match pace(&said) {
            Ok(pace) => pool.drain(&server, pace),
            Err(fault) => return (StatusCode::BAD_REQUEST, json!({ "error": fault })),
        },
        "DELETE" => pool.undrain(&server),
        _ => {}
    }
    (StatusCode::OK, progress(&pool, &server))
}

/// The drain of a server as `/drain` and `/status` tell it.
pub(super) fn progress(pool: &Pool, server: &Server) -> Value {
    pool.progress(server).map_or(Value::Null, |progress| {
        json!({
            "open": progress.open,
            "sessions": progress.sessions,
            "told_goodbye": progress.told,
            "over": progress.over,
        })
    })
}

/// What the query says.
type Said<'a> = HashMap<&'a str, Cow<'a, str>>;

/// Takes a query apart; tools that build one write `%3A` for the colon in the name of a server.
fn read(query: &str) -> Said<'_> {
    let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
    query.split('&').filter_map(|pair| pair.split_once('=')).map(|(key, value)| (key, decoded(value))).collect()
}

type Found = (Arc<Pool>, Arc<Server>);

fn find(snapshot: &Snapshot, said: &Said<'_>) -> Result<Found, (StatusCode, String)> {
    let (Some(upstream), Some(name)) = (said.get("upstream"), said.get("server")) else {
        return Err((StatusCode::BAD_REQUEST, HELP.to_owned()));
    };
    let pool = snapshot.pools.get(&**upstream).ok_or_else(|| {
        let mut names: Vec<&str> = snapshot.pools.keys().map(|name| &**name).collect();
        names.sort_unstable();
        (StatusCode::NOT_FOUND, format!("there is no upstream `{upstream}`, only {}", names.join(", ")))
    })?;
    let servers = pool.upstream.servers();
    let server = servers.iter().find(|server| **server.name() == **name);
    let server = server.ok_or_else(|| {
        let names: Vec<&str> = servers.iter().map(|server| &**server.name()).collect();
        (StatusCode::NOT_FOUND, format!("upstream `{upstream}` has no server `{name}`, only {}", names.join(", ")))
    })?;
    Ok((Arc::clone(pool), Arc::clone(server)))
}

fn pace(said: &Said<'_>) -> Result<Pace, String> {
    let mut pace = PACE;
    let number = |key: &str, most: f64| -> Result<Option<f64>, String> {
        let Some(text) = said.get(key) else { return Ok(None) };
        let value = text.parse().ok().filter(|value| (0.0..=most).contains(value));
        value.map(Some).ok_or_else(|| format!("{key}: found `{text}`, expected a number up to {most}; {HELP}"))
    };
    if let Some(rate) = number("rate", 1_000_000.0)? {
        pace.rate = rate;
    }
    if let Some(jitter) = number("jitter", 1.0)? {
        pace.jitter = jitter;
    }
    if let Some(text) = said.get("deadline") {
        pace.deadline = humantime::parse_duration(text)
            .map_err(|_| format!("deadline: found `{text}`, expected a time with its unit, such as 30s; {HELP}"))?;
    }
    Ok(pace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_read_or_told_what_is_wrong_with_it() {
        let read = |query| pace(&read(query));
        assert_eq!(read(""), Ok(PACE));
        let said = Pace { rate: 5.0, jitter: 0.0, deadline: Duration::from_secs(90) };
        assert_eq!(read("rate=5&jitter=0&deadline=1m30s"), Ok(said));
        for (query, told) in
            [("rate=fast", "rate: found `fast`"), ("jitter=2", "up to 1"), ("deadline=5", "such as 30s")]
        {
            assert!(read(query).unwrap_err().contains(told), "{query}");
        }
    }
}

//! What the operator says of sessions that the gateway knows no protocol of.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The part of `sessions` that says how to tell the sessions of an app of one's own.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// Where a request says which session it belongs to.
    pub route: Places,
    /// Where a server's answer says which session it has opened. Default: clients make ids up, and the first request with one
    /// opens its session.
    pub learn: Option<Learn>,
    /// How long a session may be unused before it is over. Default 30 min.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
    /// The statuses by which a server says that it does not know a session. Clients get the first of them where a server
    /// drains, and has come to the deadline of that. Default: none.
    pub over: Vec<u16>,
    /// How sessions are told to leave a server. Default `websocket`.
    pub goodbye: Farewell,
    /// A request that tells whether a server knows a session, and changes nothing there. Default: none.
    pub question: Option<Asked>,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            route: Places::default(),
            learn: None,
            lifetime: Duration::from_secs(30 * 60),
            over: Vec::new(),
            goodbye: Farewell::default(),
            question: None,
        }
    }
}

/// `route`: the places where a request may say which session it belongs to. Those that are given are all looked at; where two
/// of them name different sessions, the request is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Places {
    /// A header field.
    pub header: Option<String>,
    /// A parameter of the query.
    pub query: Option<String>,
    /// A cookie.
    pub cookie: Option<String>,
    /// A segment of the path, as `/rooms/{id}`; `*` stands for any other segment, and more may follow.
    pub path: Option<String>,
}

impl Places {
    /// Whether none is given.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `learn`: where an answer says which session is open. Of several places the first that has an id counts, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Learn {
    /// A header field.
    pub header: Option<String>,
    /// A cookie that is set.
    pub cookie: Option<String>,
    /// A value in a body of JSON, as a pointer (RFC 6901): `/session/id`.
    pub json: Option<String>,
}

/// `goodbye`: how the sessions of a server that drains are told to leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Farewell {
    /// Their WebSockets get a Close frame, at the pace of the drain.
    #[default]
    Websocket,
    /// The same, and their streams of events end behind a whole event.
    Stream,
    /// They are not: they stay until the deadline of the drain.
    None,
}

/// `question`: `{id}` stands for the session, anywhere in `path`, `headers` and `body`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asked {
    /// The method. Default `GET`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Fields, beside those by which the client shows who it is.
    pub headers: BTreeMap<String, String>,
    /// A body. Default: none.
    pub body: Option<String>,
    /// The statuses that say that the server knows the session. Default 200 and 204.
    pub known: Vec<u16>,
    /// Those that say that it does not. Default 404.
    pub unknown: Vec<u16>,
}

impl Asked {
    /// Whether it has a field of this name of its own.
    pub fn brings(&self, name: &str) -> bool {
        self.headers.keys().any(|own| own.eq_ignore_ascii_case(name))
    }
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            method: "GET".to_owned(),
            path: String::new(),
            headers: BTreeMap::new(),
            body: None,
            known: vec![200, 204],
            unknown: vec![404],
        }
    }
}

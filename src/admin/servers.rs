//! One server at run time: drained and taken back, disabled and enabled, given another weight. What is said here holds
//! over reloads, until the file says something new of it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;

use super::Admin;
use super::drain::{self, Progress, is_removed, pace};
use super::endpoints::{Answer, Request};
use super::shape::{taken, told};
use super::state::no_upstream;
use super::status::Server as ServerTold;
use crate::upstream::{Server, Upstream};

taken! {
    /// How a server is to be drained; what is left out, `drain` of its upstream says.
    DrainAsked {
        /// Goodbyes in a second, above 0.
        rate: f64,
        /// The share by which each pause is varied at random, 0 to 1.
        jitter: f64,
        /// Whoever is left then goes at once: a time with its unit, such as `5m`.
        deadline: String,
        /// Whether anybody is told goodbye; else sessions stay until they end.
        goodbye: bool,
    }

    /// What weight a server is to have.
    WeightAsked {
        /// 1 to 256, or null for what the configuration says.
        weight: u32,
    }
}

told! {
    /// The drain of a server: how far it has come, or what one would do.
    DrainTold {
        /// Whether it gets no new sessions.
        draining: bool,
        /// How far goodbyes have come; null where there is no drain.
        progress: Option<Progress>,
        /// What a drain with the configured pace would do from here.
        would: Would,
    }

    /// What a drain would do.
    Would {
        /// Sessions that would move.
        sessions: usize,
        /// Tunnels and pending polls that would be told goodbye.
        open: usize,
        /// So many in a second; null where nobody is told.
        rate: Option<f64>,
        /// How long that takes at that pace, the deadline included; null where nobody is told.
        takes_seconds: Option<f64>,
        /// Servers that would take them.
        elsewhere: Vec<String>,
        /// What speaks against it.
        warning: Option<String>,
    }
}

/// Answers `GET /api/v1/servers`.
pub(super) fn all(admin: &Arc<Admin>, request: &Request) -> Answer {
    let snapshot = admin.core.snapshot.load();
    let said = request.said();
    let wanted = said.get("upstream");
    if let Some(name) = wanted.filter(|name| !snapshot.upstreams.contains_key(&***name)) {
        return no_upstream(&snapshot, name);
    }
    let mut upstreams: Vec<_> =
        snapshot.upstreams.iter().filter(|(name, _)| wanted.is_none_or(|wanted| ***name == **wanted)).collect();
    upstreams.sort_by_key(|&(name, _)| name);
    let servers = upstreams.iter().flat_map(|(_, upstream)| {
        upstream.all_servers().into_iter().map(|server| ServerTold::of(&admin.rates, upstream, &server))
    });
    Answer::json(&servers.collect::<Vec<_>>())
}

/// Does something with the server that a path names.
fn with(admin: &Admin, request: &Request, act: impl FnOnce(&Arc<Upstream>, &Arc<Server>) -> Answer) -> Answer {
    let [upstream, server] = request.parts.as_slice() else { return Answer::fault(StatusCode::NOT_FOUND, "no server") };
    match drain::find(&admin.core.snapshot.load(), upstream, server) {
        Ok((upstream, server)) => act(&upstream, &server),
        Err(answer) => answer,
    }
}

/// Answers with a server.
pub(super) fn one(admin: &Arc<Admin>, request: &Request) -> Answer {
    with(admin, request, |upstream, server| Answer::json(&ServerTold::of(&admin.rates, upstream, server)))
}

/// Answers with its drain.
pub(super) fn drain_told(admin: &Arc<Admin>, request: &Request) -> Answer {
    with(admin, request, |upstream, server| Answer::json(&DrainTold::of(upstream, server)))
}

/// Drains it.
pub(super) fn drain(admin: &Arc<Admin>, request: &Request) -> Answer {
    let asked: DrainAsked = match request.json() {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    with(admin, request, |upstream, server| match pace(&asked.said(), &upstream.config().drain) {
        Ok(said) => {
            upstream.drain(server, said.pace());
            Answer::json(&DrainTold::of(upstream, server))
        }
        Err(fault) => Answer::fault(StatusCode::BAD_REQUEST, fault)
            .hint("for example { \"rate\": 50, \"jitter\": 0.3, \"deadline\": \"5m\" }, or { \"goodbye\": false }"),
    })
}

/// Takes it back.
pub(super) fn undrain(admin: &Arc<Admin>, request: &Request) -> Answer {
    with(admin, request, |upstream, server| {
        if upstream.undrain(server) { Answer::json(&DrainTold::of(upstream, server)) } else { is_removed(server) }
    })
}

/// Takes it out of new work without a word to anybody.
pub(super) fn disable(admin: &Arc<Admin>, request: &Request) -> Answer {
    with(admin, request, |upstream, server| {
        upstream.drain(server, None);
        Answer::json(&ServerTold::of(&admin.rates, upstream, server))
    })
}

/// Takes it back, and tells of it.
pub(super) fn enable(admin: &Arc<Admin>, request: &Request) -> Answer {
    with(admin, request, |upstream, server| {
        if upstream.undrain(server) {
            Answer::json(&ServerTold::of(&admin.rates, upstream, server))
        } else {
            is_removed(server)
        }
    })
}

/// How long the owner of the set may take to build it anew.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(5);

/// Gives it another weight.
pub(super) async fn weight(admin: Arc<Admin>, request: Request) -> Answer {
    let asked: WeightAsked = match request.json() {
        Ok(asked) => asked,
        Err(answer) => return answer,
    };
    if let Some(weight) = asked.weight.filter(|weight| !(1..=256).contains(weight)) {
        return Answer::fault(StatusCode::BAD_REQUEST, format!("weight: found {weight}, expected 1 to 256"))
            .hint("a server that is to get nothing new is drained or disabled");
    }
    let set = with(&admin, &request, |upstream, server| {
        if server.is_removed() {
            return is_removed(server);
        }
        upstream.set_weight(server, asked.weight);
        Answer::text("")
    });
    if set.status != StatusCode::OK {
        return set;
    }
    // It is another task that builds the set, and the answer tells what holds.
    let holds = || match drain::find(&admin.core.snapshot.load(), &request.parts[0], &request.parts[1]) {
        Ok((_, server)) => server.weight() == asked.weight.unwrap_or(server.configured_weight()),
        Err(_) => true,
    };
    let waited = async {
        while !holds() {
            tokio::time::sleep(LOOK).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, waited).await;
    one(&admin, &request)
}

impl DrainAsked {
    /// The same in the form of a query.
    fn said(&self) -> HashMap<&'static str, Cow<'_, str>> {
        let Self { rate, jitter, deadline, goodbye } = self;
        let numbers = [("rate", rate), ("jitter", jitter)].into_iter();
        let numbers = numbers.filter_map(|(key, number)| Some((key, Cow::from(number.as_ref()?.to_string()))));
        let deadline = deadline.as_deref().map(|text| ("deadline", Cow::from(text)));
        let goodbye = goodbye.map(|goodbye| ("goodbye", Cow::from(goodbye.to_string())));
        numbers.chain(deadline).chain(goodbye).collect()
    }
}

impl DrainTold {
    fn of(upstream: &Upstream, server: &Server) -> Self {
        let pace = upstream.config().drain.pace();
        let (open, sessions) = (upstream.roster(server.id()).len(), upstream.sessions_on(server.id()));
        let others = upstream.servers();
        let elsewhere = others.iter().filter(|other| other.id() != server.id() && other.is_healthy());
        let elsewhere: Vec<String> = elsewhere.map(|other| other.name().to_string()).collect();
        let warning = match (elsewhere.is_empty(), open + sessions) {
            (true, 1..) => Some("no other server could take them: they come back to this one".to_owned()),
            (true, 0) => Some("no other server is there for new sessions: they still come to this one".to_owned()),
            (false, _) => None,
        };
        let takes = |pace: &crate::roster::Pace| (open as f64 / pace.rate).min(pace.deadline.as_secs_f64());
        Self {
            draining: server.is_draining(),
            progress: Progress::of(upstream, server),
            would: Would {
                sessions,
                open,
                rate: pace.as_ref().map(|pace| pace.rate),
                takes_seconds: pace.as_ref().map(takes),
                elsewhere,
                warning,
            },
        }
    }
}

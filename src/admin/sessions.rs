//! Sessions: listed in pages, looked up by id, and ended politely.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::http::StatusCode;
use ipnet::IpNet;

use super::Admin;
use super::endpoints::{Answer, Request};
use super::shape::told;
use super::state::no_upstream;
use crate::roster::Origin;
use crate::session::{Listed, SessionTable};
use crate::snapshot::Snapshot;
use crate::upstream::{ServerId, Upstream};

told! {
    /// A session.
    SessionTold {
        /// What lists and the log call it; ids are told nobody.
        session: String,
        /// Its upstream.
        upstream: String,
        /// The name of its server.
        server: String,
        /// `polling` or `websocket`.
        transport: &'static str,
        /// How long it has been known.
        age_seconds: f64,
        /// Whether a tunnel or a poll of it is open now.
        connected: bool,
        /// The address of its client; null while it is not connected.
        address: Option<String>,
        /// The listener that it comes in by.
        listener: Option<String>,
        /// The route.
        route: Option<String>,
        /// Whether it is told goodbye with its next request.
        leaving: bool,
        /// Whether nobody has come back with it since its handshake.
        unused: bool,
    }

    /// A page of sessions.
    SessionPage {
        /// The sessions.
        sessions: Vec<SessionTold>,
        /// The `cursor` of the next page; null behind the last.
        next: Option<String>,
        /// How many live in the upstreams that are looked at, whatever the other filters.
        live: usize,
    }

    /// What came of ending a session.
    LetGo {
        /// The session, as it was.
        session: SessionTold,
        /// `at_once`, where something of it was open, or `with_its_next_request`.
        told: &'static str,
    }
}

/// Most sessions on one page, and so many where nobody says.
const MOST: usize = 1000;
const USUAL: usize = 100;

/// What a list is asked for.
#[derive(Default)]
struct Filter {
    upstream: Option<String>,
    server: Option<String>,
    address: Option<IpNet>,
    websocket: Option<bool>,
    older_than: Option<Duration>,
    younger_than: Option<Duration>,
    limit: usize,
    cursor: Option<Cursor>,
}

/// Where a page begins: behind this session of this part of this upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cursor {
    part: usize,
    behind: u64,
    upstream: String,
}

impl Cursor {
    fn read(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '.');
        let part = parts.next()?.parse().ok().filter(|&part| part < SessionTable::PARTS)?;
        let behind = u64::from_str_radix(parts.next()?, 16).ok()?;
        Some(Self { part, behind, upstream: parts.next()?.to_owned() })
    }

    fn write(&self) -> String {
        format!("{}.{:x}.{}", self.part, self.behind, self.upstream)
    }
}

impl Filter {
    fn read(request: &Request) -> Result<Self, String> {
        let mut filter = Self { limit: USUAL, ..Self::default() };
        for (key, value) in request.said() {
            let fault = |expected: &str| format!("{key}: found `{value}`, expected {expected}");
            let time = || humantime::parse_duration(&value).map_err(|_| fault("a time with its unit, such as 5m"));
            match key {
                "upstream" => filter.upstream = Some(value.into_owned()),
                "server" => filter.server = Some(value.into_owned()),
                "address" => {
                    let network = value.parse().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
                    filter.address =
                        Some(network.map_err(|_| fault("an IP address, or a network such as 10.0.0.0/8"))?);
                }
                "transport" => {
                    filter.websocket = Some(match &*value {
                        "websocket" => true,
                        "polling" => false,
                        _ => return Err(fault("`polling` or `websocket`")),
                    });
                }
                "older_than" => filter.older_than = Some(time()?),
                "younger_than" => filter.younger_than = Some(time()?),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=MOST).contains(limit));
                    filter.limit = limit.ok_or_else(|| fault("a whole number, 1 to 1000"))?;
                }
                "cursor" => {
                    let cursor = Cursor::read(&value);
                    filter.cursor = Some(cursor.ok_or_else(|| fault("`next` of the page before"))?);
                }
                _ => {
                    return Err(format!(
                        "{key}: no such filter, expected `upstream`, `server`, `address`, `transport`, `older_than`, \
                         `younger_than`, `limit` or `cursor`"
                    ));
                }
            }
        }
        Ok(filter)
    }

    fn wants(&self, session: &Listed) -> bool {
        self.websocket.is_none_or(|websocket| websocket == session.websocket)
            && self.older_than.is_none_or(|age| session.age >= age)
            && self.younger_than.is_none_or(|age| session.age < age)
    }
}

/// Where the connected sessions of an upstream come from, by their names.
struct Visitors(HashMap<u64, (IpAddr, Origin)>);

impl Visitors {
    fn of(upstream: &Upstream) -> Self {
        let mut visitors = HashMap::new();
        for (_, roster) in upstream.rosters() {
            roster.each(|visitor| {
                if let Some(session) = visitor.session() {
                    visitors.insert(session, (visitor.client, visitor.origin.clone()));
                }
            });
        }
        Self(visitors)
    }
}

impl SessionTold {
    fn of(upstream: &Upstream, session: &Listed, visitors: &Visitors) -> Self {
        let connected = visitors.0.get(&session.name);
        let server = upstream.server_ever(ServerId::from_bits(session.server));
        Self {
            session: format!("{:016x}", session.name),
            upstream: upstream.name().to_string(),
            server: server.map_or_else(|| "-".to_owned(), |server| server.name().to_string()),
            transport: if session.websocket { "websocket" } else { "polling" },
            age_seconds: session.age.as_secs_f64(),
            connected: connected.is_some(),
            address: connected.map(|(client, _)| client.to_string()),
            listener: connected.map(|(_, origin)| origin.listener.to_string()),
            route: connected.and_then(|(_, origin)| origin.route.as_deref().map(str::to_owned)),
            leaving: session.leaving,
            unused: session.unused,
        }
    }
}

/// Does what may take a while where it holds up no probe.
async fn aside(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    let failed = |error: tokio::task::JoinError| Answer::fault(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    tokio::task::spawn_blocking(work).await.unwrap_or_else(failed)
}

/// The upstreams that have sessions, by name: that of this name, or all.
fn with_sessions(snapshot: &Snapshot, named: Option<&str>) -> Result<Vec<Arc<Upstream>>, Answer> {
    if let Some(name) = named.filter(|name| !snapshot.upstreams.contains_key(*name)) {
        return Err(no_upstream(snapshot, name));
    }
    let wanted = snapshot.upstreams.values().filter(|upstream| named.is_none_or(|name| **upstream.name() == *name));
    let mut upstreams: Vec<_> = wanted.filter(|upstream| upstream.sessions().is_some()).cloned().collect();
    upstreams.sort_by(|one, other| one.name().cmp(other.name()));
    Ok(upstreams)
}

/// Answers with a page.
pub(super) async fn page(admin: Arc<Admin>, request: Request) -> Answer {
    let filter = match Filter::read(&request) {
        Ok(filter) => filter,
        Err(fault) => return Answer::fault(StatusCode::BAD_REQUEST, fault),
    };
    let snapshot = admin.core.snapshot.load_full();
    aside(move || match with_sessions(&snapshot, filter.upstream.as_deref()) {
        Ok(upstreams) => Answer::json(&read_page(&upstreams, &filter)),
        Err(answer) => answer,
    })
    .await
}

fn read_page(upstreams: &[Arc<Upstream>], filter: &Filter) -> SessionPage {
    let live = upstreams.iter().filter_map(|upstream| upstream.sessions()).map(|table| table.live()).sum();
    let mut page = SessionPage { sessions: Vec::new(), next: None, live };
    let begins = filter.cursor.as_ref();
    for upstream in
        upstreams.iter().filter(|upstream| begins.is_none_or(|begins| **upstream.name() >= *begins.upstream))
    {
        let Some(table) = upstream.sessions() else { continue };
        let server = filter.server.as_ref().map(|name| ServerId::of(name).to_bits());
        let visitors = Visitors::of(upstream);
        let here = begins.filter(|begins| *begins.upstream == **upstream.name());
        for part in here.map_or(0, |here| here.part)..SessionTable::PARTS {
            let behind = here.filter(|here| here.part == part).map(|here| here.behind);
            for session in table.part(part) {
                let address = || visitors.0.get(&session.name).map(|(client, _)| *client);
                if behind.is_some_and(|behind| session.name <= behind)
                    || !filter.wants(&session)
                    || server.is_some_and(|server| server != session.server)
                    || filter
                        .address
                        .is_some_and(|network| !address().is_some_and(|address| network.contains(&address)))
                {
                    continue;
                }
                if page.sessions.len() == filter.limit {
                    return page;
                }
                page.sessions.push(SessionTold::of(upstream, &session, &visitors));
                let next = Cursor { part, behind: session.name, upstream: upstream.name().to_string() };
                page.next = Some(next.write());
            }
        }
    }
    page.next = None;
    page
}

/// The session that a path names, by its id or its name.
fn find(snapshot: &Snapshot, request: &Request) -> Result<(Arc<Upstream>, Listed), Answer> {
    let asked = request.parts.first().map_or("", String::as_str);
    let said = request.said();
    let upstreams = with_sessions(snapshot, said.get("upstream").map(|name| &**name))?;
    let by_id = upstreams.iter().find_map(|upstream| Some((upstream, upstream.sessions()?.look_at(asked)?)));
    let name = u64::from_str_radix(asked, 16).ok().filter(|_| asked.len() == 16);
    let by_name = || upstreams.iter().find_map(|upstream| Some((upstream, upstream.sessions()?.called(name?)?)));
    let found = by_id.or_else(by_name);
    found.map(|(upstream, session)| (Arc::clone(upstream), session)).ok_or_else(|| {
        let fault = "no session of this id or name lives here";
        Answer::fault(StatusCode::NOT_FOUND, fault)
            .hint("it may be over, or of another replica; GET /api/v1/sessions lists them")
    })
}

/// Answers with one session.
pub(super) async fn one(admin: Arc<Admin>, request: Request) -> Answer {
    let snapshot = admin.core.snapshot.load_full();
    aside(move || match find(&snapshot, &request) {
        Ok((upstream, session)) => Answer::json(&SessionTold::of(&upstream, &session, &Visitors::of(&upstream))),
        Err(answer) => answer,
    })
    .await
}

/// Ends one.
pub(super) async fn end(admin: Arc<Admin>, request: Request) -> Answer {
    let snapshot = admin.core.snapshot.load_full();
    aside(move || {
        let (upstream, session) = match find(&snapshot, &request) {
            Ok(found) => found,
            Err(answer) => return answer,
        };
        let told = SessionTold::of(&upstream, &session, &Visitors::of(&upstream));
        log::info!("upstream {}: session {} is ended, since an operator says so", upstream.name(), told.session);
        let open: usize = upstream.rosters().iter().map(|(_, roster)| roster.tell_those_of(session.name)).sum();
        if open == 0
            && let Some(table) = upstream.sessions()
        {
            table.let_go(&session);
        }
        Answer::json(&LetGo { session: told, told: if open > 0 { "at_once" } else { "with_its_next_request" } })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_as_they_are_written_and_nothing_else_is() {
        let cursor = Cursor { part: 511, behind: 0xfeed, upstream: "a.b".to_owned() };
        assert_eq!(Cursor::read(&cursor.write()), Some(cursor));
        for bad in ["", "512.1.a", "1.x.a", "1.2", "-1.2.a"] {
            assert_eq!(Cursor::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn filters_are_read_or_told_what_is_wrong_with_them() {
        let read = |query: &str| Filter::read(&Request { query: query.to_owned(), ..Request::default() });
        let filter = read("address=10.0.0.0/8&transport=polling&older_than=5m&limit=7").ok().unwrap();
        assert_eq!((filter.websocket, filter.limit), (Some(false), 7));
        assert_eq!(filter.older_than, Some(Duration::from_secs(300)));
        for (query, told) in [
            ("address=home", "address: found `home`"),
            ("transport=pigeon", "`polling` or `websocket`"),
            ("older_than=5", "such as 5m"),
            ("limit=0", "1 to 1000"),
            ("limit=1001", "1 to 1000"),
            ("cursor=x", "`next` of the page before"),
            ("colour=red", "colour: no such filter"),
        ] {
            assert!(read(query).err().unwrap().contains(told), "{query}");
        }
    }
}

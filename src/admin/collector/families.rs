//! What is told as metrics of the state that there is: each family's name, its meaning, and where its values are read.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Acquire;
use std::time::UNIX_EPOCH;

use prometheus::proto::MetricType;

use super::Seen;
use crate::admin::readiness;
use crate::admin::state::Sockets;
use crate::session::{Cause, Home, SessionTable};
use crate::upstream::{Server, State, Upstream};

/// One family: its name without the prefix, its type, what it means, and where its values are.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: MetricType,
    pub(super) help: &'static str,
    pub(super) read: Read,
}

/// Takes a sample: the values of its labels, and its own.
pub(super) type Add<'a> = dyn FnMut(&[&str], f64) + 'a;

/// Where values are read. Those of upstreams and servers have their labels beside `upstream`.
pub(super) enum Read {
    /// On the gateway.
    Gateway(fn(&Seen<'_>) -> f64),
    /// On parts of it, apart by these labels.
    Parts(&'static [&'static str], fn(&Seen<'_>, &mut Add<'_>)),
    /// On each server.
    Server(fn(&Server) -> u64),
    /// On each server, where there is something to tell.
    ServerOf(fn(&Upstream, &Server) -> Option<f64>),
    /// From what the session table knows of each server.
    Home(fn(&Home) -> u64),
    /// The same, apart by another label.
    HomeBy(&'static str, fn(&Home) -> Vec<(&'static str, usize)>),
    /// On the upstream.
    Upstream(fn(&Upstream) -> Option<f64>),
    /// On its session table, apart by another label.
    SessionsBy(&'static str, fn(&Upstream, &SessionTable) -> Vec<(&'static str, u64)>),
}

const GAUGE: MetricType = MetricType::GAUGE;
const COUNTER: MetricType = MetricType::COUNTER;

pub(super) const FAMILIES: [Family; 43] = [
    Family {
        name: "build_info",
        kind: GAUGE,
        help: "1, with the version of the program",
        read: Read::Parts(&["version"], |_, add| add(&[env!("CARGO_PKG_VERSION")], 1.0)),
    },
    Family {
        name: "start_seconds",
        kind: GAUGE,
        help: "When the gateway started, in Unix time",
        read: Read::Gateway(|seen| seen.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().floor()),
    },
    Family {
        name: "ready",
        kind: GAUGE,
        help: "1 while the gateway is ready for clients",
        read: Read::Gateway(|seen| f64::from(u8::from(readiness::of(seen.stays, seen.snapshot).ready))),
    },
    Family {
        name: "stopping",
        kind: GAUGE,
        help: "1 from when the gateway begins to stop",
        read: Read::Gateway(|seen| f64::from(u8::from(!seen.stays.load(Acquire)))),
    },
    Family {
        name: "connections_most",
        kind: GAUGE,
        help: "Most client connections at once; 0 for no limit",
        read: Read::Gateway(|seen| seen.limits.most() as f64),
    },
    Family {
        name: "certificate_ends_seconds",
        kind: GAUGE,
        help: "When the first certificate of a file ends, in Unix time",
        read: Read::Parts(&["file"], |seen, add| {
            for (file, ends) in &seen.snapshot.certificates_end {
                add(&[&file.display().to_string()], *ends as f64);
            }
        }),
    },
    Family {
        name: "route_requests_total",
        kind: COUNTER,
        help: "Requests that went a way",
        read: Read::Parts(&["route", "listener"], |seen, add| {
            // Those that share a name count together.
            let mut told = HashSet::new();
            for route in seen.snapshot.routes.iter().filter(|route| told.insert(&route.name)) {
                for (listener, count) in route.taken.by_listener() {
                    add(&[&route.name, listener], count as f64);
                }
                match route.taken.others() {
                    0 => {}
                    others => add(&[&route.name, "-"], others as f64),
                }
            }
        }),
    },
    Family {
        name: "sockets",
        kind: GAUGE,
        help: "Tunnels and pending polls that are open",
        read: Read::Parts(&["listener", "route"], |seen, add| {
            for (listener, routes) in Sockets::of(seen.snapshot).all() {
                for (route, &open) in routes {
                    add(&[listener, route.as_deref().unwrap_or("-")], open as f64);
                }
            }
        }),
    },
    Family {
        name: "server_weight",
        kind: GAUGE,
        help: "Share of new work beside the server's peers",
        read: Read::Server(|server| server.weight().into()),
    },
    Family {
        name: "server_most",
        kind: GAUGE,
        help: "Most requests and tunnels in flight; 0 for no limit",
        read: Read::Server(|server| server.max_connections() as u64),
    },
    Family {
        name: "server_sockets",
        kind: GAUGE,
        help: "Tunnels and pending polls that are open on the server",
        read: Read::ServerOf(|upstream, server| Some(upstream.roster(server.id()).len() as f64)),
    },
    Family {
        name: "server_first_byte_seconds",
        kind: GAUGE,
        help: "What the next answer is expected to take; absent where that is not measured",
        read: Read::ServerOf(|_, server| Some(server.first_byte()?.as_secs_f64())),
    },
    Family {
        name: "server_check_seconds",
        kind: GAUGE,
        help: "How long the last check took",
        read: Read::ServerOf(|_, server| Some(server.status().last_check?.took.as_secs_f64())),
    },
    Family {
        name: "server_drain_goodbyes",
        kind: GAUGE,
        help: "Goodbyes of a drain that is under way; absent where there is none",
        read: Read::ServerOf(|upstream, server| Some(upstream.progress(server)?.told as f64)),
    },
    Family {
        name: "server_up",
        kind: GAUGE,
        help: "1 when the server is up",
        read: Read::Server(|server| u64::from(server.state() == State::Up)),
    },
    Family {
        name: "server_draining",
        kind: GAUGE,
        help: "1 when the server drains, or was removed",
        read: Read::Server(|server| u64::from(server.is_draining())),
    },
    Family {
        name: "server_in_flight",
        kind: GAUGE,
        help: "Requests and tunnels in flight",
        read: Read::Server(|server| server.in_flight() as u64),
    },
    Family {
        name: "server_taken_total",
        kind: COUNTER,
        help: "Requests and tunnels given to the server",
        read: Read::Server(Server::total),
    },
    Family {
        name: "server_connects_total",
        kind: COUNTER,
        help: "Connections opened for requests and tunnels",
        read: Read::Server(Server::connects),
    },
    Family {
        name: "server_connect_failures_total",
        kind: COUNTER,
        help: "Failed connects",
        read: Read::Server(Server::connect_failures),
    },
    Family {
        name: "server_bad_answers_total",
        kind: COUNTER,
        help: "Answers that were bad, late or none",
        read: Read::Server(Server::bad_answers),
    },
    Family {
        name: "server_ejected",
        kind: GAUGE,
        help: "1 while the server is passed over",
        read: Read::Server(|server| u64::from(server.ejected().is_some())),
    },
    Family {
        name: "server_ejections_total",
        kind: COUNTER,
        help: "How often the server was passed over",
        read: Read::Server(Server::ejections),
    },
    Family {
        name: "queue_waiting",
        kind: GAUGE,
        help: "Requests that wait for a server",
        read: Read::Upstream(|upstream| Some(upstream.waiting() as f64)),
    },
    Family {
        name: "sessions",
        kind: GAUGE,
        help: "Sessions that live on the server",
        read: Read::Home(|home| home.live() as u64),
    },
    Family {
        name: "sessions_by_transport",
        kind: GAUGE,
        help: "Sessions that live on the server, by how they speak",
        read: Read::HomeBy("transport", |home| {
            let websockets = home.websockets();
            vec![("polling", home.live().saturating_sub(websockets)), ("websocket", websockets)]
        }),
    },
    Family {
        name: "sessions_opened_total",
        kind: COUNTER,
        help: "Sessions that were learned on the server",
        read: Read::Home(Home::opened),
    },
    Family {
        name: "sessions_closed_total",
        kind: COUNTER,
        help: "Sessions that ended, fell silent or moved away",
        read: Read::Home(Home::closed),
    },
    Family {
        name: "sessions_ended_total",
        kind: COUNTER,
        help: "Sessions that ended, by why",
        read: Read::SessionsBy("cause", |_, table| {
            let totals = table.totals();
            Cause::ALL.iter().map(|&cause| (cause.as_str(), totals.ended(cause))).collect()
        }),
    },
    Family {
        name: "session_events_total",
        kind: COUNTER,
        help: "What became of sessions and look-ups",
        read: Read::SessionsBy("event", |_, table| {
            let totals = table.totals();
            vec![
                ("learned", totals.learned),
                ("rescued", totals.rescued),
                ("inherited", totals.inherited),
                ("moved", totals.moved),
                ("refused", totals.refused),
                ("found", totals.found),
                ("unknown", totals.unknown),
            ]
        }),
    },
    Family {
        name: "sessions_placed_total",
        kind: COUNTER,
        help: "New sessions, by what chose their server",
        read: Read::SessionsBy("by", |upstream, _| {
            let placed = upstream.placements();
            vec![("balance", placed.balance), ("returning", placed.returning), ("spilled", placed.spilled)]
        }),
    },
    Family {
        name: "upgrades_recent",
        kind: GAUGE,
        help: "Sessions offered a WebSocket in the last minute, and their fate",
        read: Read::SessionsBy("state", |_, table| {
            let recent = table.upgrades();
            vec![("offered", recent.offered), ("reached", recent.reached)]
        }),
    },
    Family {
        name: "upgrade_ratio",
        kind: GAUGE,
        help: "The part of them that reached it; absent while there are none",
        read: Read::Upstream(|upstream| upstream.sessions()?.upgrades().ratio()),
    },
    Family {
        name: "rebalancing",
        kind: GAUGE,
        help: "1 while sessions are shed from servers that have too many",
        read: Read::Upstream(|upstream| Some(f64::from(u8::from(upstream.rebalancing()?.under_way)))),
    },
    Family {
        name: "largest_client_share",
        kind: GAUGE,
        help: "The part of the latest sessions that come from one client address",
        read: Read::Upstream(|upstream| Some(upstream.largest_client()?.share)),
    },
    Family {
        name: "new_sessions_waiting",
        kind: GAUGE,
        help: "Handshakes that wait for their turn",
        read: Read::Upstream(|upstream| Some(upstream.line()?.waiting as f64)),
    },
    Family {
        name: "new_sessions_refused_total",
        kind: COUNTER,
        help: "Handshakes that could not wait for their turn",
        read: Read::Upstream(|upstream| Some(upstream.line()?.refused as f64)),
    },
    Family {
        name: "discovery_servers",
        kind: GAUGE,
        help: "Servers that discovery has found",
        read: Read::Upstream(|upstream| Some(upstream.findings()?.servers as f64)),
    },
    Family {
        name: "discovery_left_out",
        kind: GAUGE,
        help: "Those that were found and can't be servers",
        read: Read::Upstream(|upstream| Some(upstream.findings()?.left_out.len() as f64)),
    },
    Family {
        name: "discovery_answers_total",
        kind: COUNTER,
        help: "Times that discovery found servers",
        read: Read::Upstream(|upstream| Some(upstream.inquiries()?.answers as f64)),
    },
    Family {
        name: "discovery_failures_total",
        kind: COUNTER,
        help: "Times that it found none",
        read: Read::Upstream(|upstream| Some(upstream.inquiries()?.failures as f64)),
    },
    Family {
        name: "discovery_changes_total",
        kind: COUNTER,
        help: "Times that it found others than before",
        read: Read::Upstream(|upstream| Some(upstream.inquiries()?.changes as f64)),
    },
    Family {
        name: "discovery_found_seconds",
        kind: GAUGE,
        help: "When it last found servers, in Unix time",
        read: Read::Upstream(|upstream| {
            let found = upstream.inquiries()?.found?.duration_since(UNIX_EPOCH).ok()?;
            Some(found.as_secs_f64().floor())
        }),
    },
];

impl Read {
    /// In the order in which values are given.
    pub(super) fn labels(&self) -> Vec<&'static str> {
        match self {
            Self::Gateway(_) => Vec::new(),
            Self::Parts(labels, _) => labels.to_vec(),
            Self::Server(_) | Self::ServerOf(_) | Self::Home(_) => vec!["upstream", "server"],
            Self::HomeBy(label, _) => vec!["upstream", "server", label],
            Self::Upstream(_) => vec!["upstream"],
            Self::SessionsBy(label, _) => vec!["upstream", label],
        }
    }
}

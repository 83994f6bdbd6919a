//! What is open in a running gateway, by the way it came in: what a plan counts.

use std::collections::HashMap;
use std::sync::Arc;

use crate::metrics::Metrics;
use crate::roster::Origin;
use crate::snapshot::Snapshot;
use crate::upstream::ServerConfig;

/// What is open in a running gateway.
#[derive(Clone, Debug, Default)]
pub struct Open {
    /// Tunnels and pending polls, with how many there are of each kind.
    pub sockets: HashMap<Socket, usize>,
    /// Sessions, by upstream and server.
    pub sessions: Vec<(Arc<str>, Arc<str>, usize)>,
    /// Connections, by listener.
    pub connections: Vec<(Arc<str>, usize)>,
    /// The servers that discovery has found, by upstream.
    pub found: HashMap<Arc<str>, FoundServers>,
}

/// Servers that discovery has found.
#[derive(Clone, Debug, Default)]
pub struct FoundServers {
    /// Who they are.
    pub servers: Vec<ServerConfig>,
    /// Whether the program tells of them: those stay, whatever the configuration says.
    pub by_program: bool,
}

/// Where a tunnel or pending poll is, and how it came there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Its upstream.
    pub upstream: Arc<str>,
    /// The name of its server; empty where that is gone already.
    pub server: Arc<str>,
    /// The way by which it came in.
    pub origin: Origin,
}

impl Open {
    /// Counts all that is open on what was built from the configuration in force.
    pub(super) fn of(snapshot: &Snapshot, metrics: &Metrics) -> Self {
        let mut open = Self::default();
        for (name, upstream) in &snapshot.upstreams {
            if upstream.is_found() {
                let (servers, by_program) = (upstream.list().servers().to_vec(), upstream.is_found_by_program());
                open.found.insert(Arc::clone(name), FoundServers { servers, by_program });
            }
            let servers = upstream.all_servers();
            let names: HashMap<_, _> = servers.iter().map(|server| (server.id(), server.name())).collect();
            for (id, roster) in upstream.rosters() {
                let server = names.get(&id).map_or_else(|| Arc::from(""), |&name| Arc::clone(name));
                for leave in roster.those(|_| true).into_iter().filter_map(|leave| leave.upgrade()) {
                    let (upstream, server) = (Arc::clone(name), Arc::clone(&server));
                    *open.sockets.entry(Socket { upstream, server, origin: leave.origin().clone() }).or_default() += 1;
                }
            }
            for server in servers.iter() {
                let sessions = upstream.sessions_on(server.id());
                open.sessions.push((Arc::clone(name), Arc::clone(server.name()), sessions));
            }
        }
        for said in &snapshot.config.listeners {
            let connections = metrics.listener(&said.name()).open.get();
            open.connections.push((said.name().into(), usize::try_from(connections).unwrap_or(0)));
        }
        open
    }
}

//! Upstreams without a network for the tests of this module: sessions that leave when they are told, and come back.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::metrics;
use crate::session::{Cause, How};
use crate::upstream::config::ServerConfig;
use crate::upstream::{Config, PickKey, Running, Server, Tried, Upstream};

/// An upstream at work, with clients.
pub(crate) struct Bench {
    pub(crate) upstream: Arc<Upstream>,
    _running: Running,
    clients: JoinSet<()>,
    moves: Arc<Vec<AtomicUsize>>,
}

/// Servers of these weights, called `a`, `b`, `c` and so on.
pub(crate) fn servers(weights: &[u16]) -> Vec<ServerConfig> {
    let entry = |(weight, name): (&u16, char)| json!({ "address": format!("10.0.0.{}:1", name as u32 - 96), "name": name.to_string(), "weight": weight });
    weights.iter().zip('a'..).map(entry).map(|entry| serde_json::from_value(entry).unwrap()).collect()
}

impl Bench {
    /// An upstream of these servers, which are up; `said` are more keys of the upstream.
    pub(crate) fn new(weights: &[u16], said: Value) -> Self {
        let base = json!({ "kind": "socket.io", "servers": ["10.0.0.1:1"], "health": { "check": "none" } });
        let mut all = base.as_object().unwrap().clone();
        all.extend(said.as_object().unwrap().clone());
        let mut config: Config = serde_json::from_value(all.into()).unwrap();
        config.servers = servers(weights).into();
        let upstream = Upstream::build("app", &config, metrics()).unwrap();
        Self { _running: upstream.start(), upstream, clients: JoinSet::new(), moves: Arc::default() }
    }

    /// Clients that open a session each, and stay. Each comes from an address of its own.
    pub(crate) async fn come(&mut self, clients: usize) {
        assert!(self.clients.is_empty(), "they come once");
        self.moves = Arc::new((0..clients).map(|_| AtomicUsize::new(0)).collect());
        for number in 0..clients {
            self.clients.spawn(client(Arc::clone(&self.upstream), number, Arc::clone(&self.moves)));
        }
        self.until(|bench| bench.loads().iter().sum::<usize>() == clients).await;
    }

    /// Waits, for an hour at most.
    pub(crate) async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..36_000 {
            if is_so(self) {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("an hour has passed: {:?} {:?}", self.loads(), self.upstream.rebalancing());
    }

    pub(crate) fn server(&self, name: &str) -> Arc<Server> {
        self.upstream.servers().iter().find(|server| &**server.name() == name).unwrap().clone()
    }

    /// The sessions of each server.
    pub(crate) fn loads(&self) -> Vec<usize> {
        self.upstream.servers().iter().map(|server| server.sessions()).collect()
    }

    /// How often each client has moved.
    pub(crate) fn moves(&self) -> Vec<usize> {
        self.moves.iter().map(|moves| moves.load(Ordering::Relaxed)).collect()
    }
}

/// One client: whenever it is told goodbye, it is back within the time that Socket.IO takes for that.
async fn client(upstream: Arc<Upstream>, number: usize, moves: Arc<Vec<AtomicUsize>>) {
    let key = PickKey::from(std::net::IpAddr::from(Ipv4Addr::from_bits(0x0a10_0000 + u32::try_from(number).unwrap())));
    let table = upstream.sessions().unwrap();
    loop {
        let lease = upstream.pick_new(&key, None, &mut Tried::default()).await.unwrap();
        let server = lease.server().clone();
        let session = table.key(&format!("{number} {}", moves[number].load(Ordering::Relaxed)));
        table.learn(session, server.home().unwrap(), Duration::from_secs(60), How::Handshake);
        let held = table.hold(session).unwrap();
        held.upgraded();
        lease.learned(&key);
        let leave = upstream.roster(server.id()).add(crate::roster::Origin::default(), true);
        leave.told().await;
        // Until the end of a message.
        sleep(Duration::from_millis(rand::random_range(0..200))).await;
        held.ended(Cause::Drain);
        drop((held, leave, lease));
        moves[number].fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(rand::random_range(100..1500))).await;
    }
}

//! Many light Socket.IO 4 clients that stay: each notes the servers that it has been on, and comes back when it is told
//! goodbye. Anything else that ends a session fails the test.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Client;
use super::polling::Polling;
use super::websocket::upgrade;

/// Clients that are there until this is dropped.
pub struct Crowd {
    clients: JoinSet<()>,
    ways: Arc<Mutex<Vec<Way>>>,
}

/// The servers that one client has been on, in order; the last one is where it is, unless it is on its way.
#[derive(Clone, Debug, Default)]
pub struct Way {
    pub homes: Vec<String>,
    pub is_home: bool,
}

/// How a client talks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Polling,
    WebSocket,
}

/// Clients that open a session at once.
const CONCURRENCY: usize = 20;

impl Crowd {
    /// As many clients of each kind; they are all there when this returns.
    pub async fn come(address: SocketAddr, kinds: &[(By, usize)]) -> Self {
        let kinds = kinds.iter().flat_map(|&(by, clients)| std::iter::repeat_n(by, clients));
        let turns = Arc::new(Semaphore::new(CONCURRENCY));
        let ways: Arc<Mutex<Vec<Way>>> = Arc::default();
        let mut clients = JoinSet::new();
        for (number, by) in kinds.enumerate() {
            ways.lock().unwrap().push(Way::default());
            clients.spawn(stay(address, by, number, Arc::clone(&ways), Arc::clone(&turns)));
        }
        let mut crowd = Self { clients, ways };
        crowd.settle().await;
        crowd
    }

    /// Waits until everybody has a session.
    pub async fn settle(&mut self) {
        self.wait("everybody has a session", |way| way.is_home).await;
    }

    /// Waits until nobody is on a server.
    pub async fn leave(&mut self, server: &str) {
        self.wait("all have left", |way| way.is_home && way.homes.last().is_some_and(|home| home != server)).await;
    }

    /// Waits until this holds for everybody; a crowd has more time than others.
    async fn wait(&mut self, what: &str, holds: impl Fn(&Way) -> bool) {
        let ways = Arc::clone(&self.ways);
        let all = || ways.lock().unwrap().iter().all(&holds);
        tokio::select! {
            () = async { while !all() { tokio::time::sleep(Duration::from_millis(50)).await } } => {}
            Some(ended) = self.clients.join_next() => fail(ended),
            () = tokio::time::sleep(Duration::from_secs(120)) => panic!("{what}: not in time: {:?}", self.homes()),
        }
    }

    /// Where each client has been.
    pub fn ways(&self) -> Vec<Vec<String>> {
        self.ways.lock().unwrap().iter().map(|way| way.homes.clone()).collect()
    }

    /// How many clients are on each server.
    pub fn homes(&self) -> BTreeMap<String, usize> {
        let mut homes = BTreeMap::new();
        for way in self.ways() {
            *homes.entry(way.last().cloned().unwrap_or_default()).or_default() += 1;
        }
        homes
    }

    /// Sessions that were left, by all clients together.
    pub fn moves(&self) -> usize {
        self.ways().iter().map(|way| way.len().saturating_sub(1)).sum()
    }

    /// Expects that nobody has failed by now.
    pub fn is_well(&mut self) {
        if let Some(ended) = self.clients.try_join_next() {
            fail(ended);
        }
    }
}

fn fail(ended: Result<(), tokio::task::JoinError>) {
    match ended {
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        _ => panic!("a client has left by itself"),
    }
}

async fn stay(address: SocketAddr, by: By, number: usize, ways: Arc<Mutex<Vec<Way>>>, turns: Arc<Semaphore>) {
    let arrive = |home: String| {
        let way = &mut ways.lock().unwrap()[number];
        way.homes.push(home);
        way.is_home = true;
    };
    loop {
        let turn = turns.acquire().await.unwrap();
        match by {
            By::Polling => {
                let mut session = Polling::open(&[address]).await;
                arrive(session.who().await);
                drop(turn);
                while session.next().await != "1" {}
            }
            By::WebSocket => {
                let mut session = Socket::open(Client::connect(address).await, None).await;
                arrive(session.who().await);
                drop(turn);
                while session.next().await.is_some() {}
            }
        }
        ways.lock().unwrap()[number].is_home = false;
        // Clients of Socket.IO wait for up to a second and a half.
        let pause = rand::rng().random_range(100..1000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

/// A Socket.IO 4 session on a WebSocket from its beginning.
pub struct Socket {
    client: Client,
    /// What the server said when the main namespace was joined.
    pub joined: Value,
}

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

impl Socket {
    /// Opens a session and joins the main namespace; `recover` asks for the session that was before.
    pub async fn open(mut client: Client, recover: Option<&Value>) -> Self {
        client.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, 101, "{}", answer.text());
        let mut session = Self { client, joined: Value::Null };
        let handshake = session.next().await.expect("a handshake");
        assert!(handshake.starts_with("0{"), "{handshake}");
        session.say(&format!("40{}", recover.map(Value::to_string).unwrap_or_default())).await;
        // What a recovered session has missed comes before the answer.
        loop {
            let packet = session.next().await.expect("an answer");
            if let Some(joined) = packet.strip_prefix("40") {
                session.joined = serde_json::from_str(joined).unwrap();
                return session;
            }
        }
    }

    /// Sends one packet.
    pub async fn say(&mut self, packet: &str) {
        assert!(packet.len() < 126, "one byte holds the length");
        // A mask of zeros leaves the payload as it is.
        let head = [TEXT, 0x80 | u8::try_from(packet.len()).unwrap(), 0, 0, 0, 0];
        self.client.send([&head, packet.as_bytes()].concat()).await;
    }

    /// The next packet that is no ping; `None` when the session was told goodbye by a Close frame with code 1012.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            let head = self.client.some_of(2).await.expect("a frame, or a goodbye");
            let length = match head[1] {
                126 => {
                    let length = self.client.some_of(2).await.expect("a length");
                    usize::from(u16::from_be_bytes([length[0], length[1]]))
                }
                length => usize::from(length),
            };
            let payload = self.client.some_of(length).await.expect("a payload");
            match head[0] {
                TEXT => match String::from_utf8(payload).unwrap() {
                    ping if ping == "2" => self.say("3").await,
                    packet => return Some(packet),
                },
                CLOSE => {
                    assert_eq!(payload, 1012u16.to_be_bytes(), "the code of a goodbye");
                    return None;
                }
                PING => {}
                other => panic!("a frame that begins with {other:#x}"),
            }
        }
    }

    /// Which server has the session.
    pub async fn who(&mut self) -> String {
        self.say(&format!("420{}", json!(["who"]))).await;
        loop {
            let packet = self.next().await.expect("an answer");
            if let Some(answer) = packet.strip_prefix("430") {
                let answer: Value = serde_json::from_str(answer).unwrap();
                return answer[0].as_str().unwrap().to_owned();
            }
        }
    }
}

//! A Socket.IO 4 client by raw HTTP long polling (Engine.IO 4), whose every request goes where the test says.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::Client;
use super::client::Answer;

/// One session. Requests go to the addresses in turn, each on a connection that is kept for the next one there.
pub struct Polling {
    ways: Vec<(SocketAddr, Option<Client>)>,
    turn: usize,
    pub sid: String,
    heard: VecDeque<String>,
}

/// Separates the packets of a payload.
const SEPARATOR: char = '\x1e';

impl Polling {
    /// Opens a session and joins the main namespace.
    pub async fn open(addresses: &[SocketAddr]) -> Self {
        let ways = addresses.iter().map(|&address| (address, None)).collect();
        let mut session = Self { ways, turn: 0, sid: String::new(), heard: VecDeque::new() };
        let answer = session.get("/socket.io/?EIO=4&transport=polling").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let handshake: Value = serde_json::from_str(answer.text().strip_prefix('0').unwrap()).unwrap();
        session.sid = handshake["sid"].as_str().unwrap().to_owned();
        session.say("40").await;
        let joined = session.next().await;
        assert!(joined.starts_with("40{"), "{joined}");
        session
    }

    /// From now on requests go to these addresses.
    pub fn redirect(&mut self, addresses: &[SocketAddr]) {
        self.ways = addresses.iter().map(|&address| (address, None)).collect();
    }

    pub fn path(&self) -> String {
        format!("/socket.io/?EIO=4&transport=polling&sid={}", self.sid)
    }

    /// Sends one packet in a POST of its own.
    pub async fn say(&mut self, packet: &str) {
        let answer = self.try_say(packet).await;
        assert_eq!((answer.status, &*answer.text()), (200, "ok"), "POST of {packet}");
    }

    pub async fn try_say(&mut self, packet: &str) -> Answer {
        let path = self.path();
        let answer = self.way().await.post(&path, packet.as_bytes()).await;
        self.note_close(&answer);
        answer
    }

    /// Sends an event that wants an acknowledgement.
    pub async fn emit(&mut self, id: u64, event: Value) {
        self.say(&format!("42{id}{event}")).await;
    }

    /// The next acknowledgement, with its number.
    pub async fn ack(&mut self) -> (u64, Value) {
        let packet = self.next().await;
        let ack = packet.strip_prefix("43").unwrap_or_else(|| panic!("no acknowledgement: {packet}"));
        let at = ack.find('[').unwrap();
        let given: Value = serde_json::from_str(&ack[at..]).unwrap();
        (ack[..at].parse().unwrap(), given[0].clone())
    }

    /// Which server has the session.
    pub async fn who(&mut self) -> String {
        self.emit(0, json!(["who"])).await;
        self.ack().await.1.as_str().unwrap().to_owned()
    }

    /// Polls once.
    pub async fn poll(&mut self) -> Answer {
        let path = self.path();
        self.get(&path).await
    }

    /// The next packet that is no ping; pings are answered.
    pub async fn next(&mut self) -> String {
        loop {
            if let Some(packet) = self.heard.pop_front() {
                match &*packet {
                    "2" => self.say("3").await,
                    _ => return packet,
                }
                continue;
            }
            let answer = self.poll().await;
            assert_eq!(answer.status, 200, "a poll: {}", answer.text());
            self.heard.extend(answer.text().split(SEPARATOR).map(str::to_owned));
        }
    }

    async fn get(&mut self, path: &str) -> Answer {
        let answer = self.way().await.get(path).await;
        self.note_close(&answer);
        answer
    }

    /// The next request needs a new connection where this answer was the last on its own.
    fn note_close(&mut self, answer: &Answer) {
        if answer.header("connection") == Some("close") {
            self.ways[self.turn].1 = None;
        }
    }

    async fn way(&mut self) -> &mut Client {
        self.turn = (self.turn + 1) % self.ways.len();
        let (address, client) = &mut self.ways[self.turn];
        if client.is_none() {
            *client = Some(Client::connect(*address).await);
        }
        client.as_mut().unwrap()
    }
}

//! Engine.IO servers in this process: just enough of one to open sessions and to know them; their WebSockets echo.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use super::client::Answer;
use super::websocket::switch;
use super::{Client, Scripted};

/// One such server. Its sessions begin with its name.
pub struct Eio {
    server: Scripted,
    known: Arc<Mutex<HashSet<String>>>,
    heard: Arc<Mutex<Vec<String>>>,
}

/// What it says to the question that a gateway asks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As Engine.IO 4 does.
    Proper,
    /// It objects to the transport before it looks at the session, in a way that looks like knowing it.
    YesToAll,
    /// Nothing at all to anybody.
    Hung,
    /// Nothing when it is asked about a session for the first time.
    BusyAtFirst,
}

impl Eio {
    pub async fn start(name: &'static str) -> Self {
        Self::with(name, Manner::Proper).await
    }

    pub async fn with(name: &'static str, manner: Manner) -> Self {
        let (known, heard) = (Arc::<Mutex<HashSet<String>>>::default(), Arc::<Mutex<Vec<String>>>::default());
        let (sids, heads) = (Arc::clone(&known), Arc::clone(&heard));
        let serve = move |mut client: Client, _| {
            let (sids, heads) = (Arc::clone(&sids), Arc::clone(&heads));
            async move {
                while let Some(request) = client.request().await {
                    let head = String::from_utf8_lossy(&request.head).into_owned();
                    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    let is_first = !heads.lock().unwrap().contains(&head);
                    let busy = manner == Manner::BusyAtFirst && is_first && target.contains("transport=websocket&sid=");
                    let sid = value(&target, "sid").unwrap_or_default();
                    let opens = head.to_ascii_lowercase().contains("\r\nupgrade: websocket\r\n")
                        && sids.lock().unwrap().contains(sid);
                    heads.lock().unwrap().push(head);
                    if opens {
                        return echo(client, &request.head).await;
                    }
                    if manner == Manner::Hung || busy {
                        std::future::pending::<()>().await;
                    }
                    let (status, body) = answer(name, &target, manner, &mut sids.lock().unwrap());
                    let length = body.len();
                    let answer = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: {length}\r\n\r\n{body}"
                    );
                    if client.try_send(answer).await.is_err() {
                        return;
                    }
                }
            }
        };
        Self { server: Scripted::start(serve).await, known, heard }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Connections so far.
    pub fn accepted(&self) -> usize {
        self.server.accepted()
    }

    /// Has a session that no gateway has seen.
    pub fn knows(&self, sid: impl Into<String>) {
        self.known.lock().unwrap().insert(sid.into());
    }

    /// Has lost a session.
    pub fn forgets(&self, sid: &str) {
        self.known.lock().unwrap().remove(sid);
    }

    /// The heads of all requests until now.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }

    /// The heads of those that asked whether it knows a session.
    pub fn questions(&self) -> Vec<String> {
        self.heard().into_iter().filter(|head| head.contains("transport=websocket&sid=")).collect()
    }
}

/// Opens a WebSocket, and sends back what comes.
async fn echo(mut client: Client, head: &[u8]) {
    if client.try_send(switch(head)).await.is_err() {
        return;
    }
    while let Some(bytes) = client.some().await {
        if client.try_send(bytes).await.is_err() {
            return;
        }
    }
    let _ = client.try_finish().await;
}

/// The value of a parameter.
fn value<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

fn answer(name: &str, target: &str, manner: Manner, known: &mut HashSet<String>) -> (&'static str, String) {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    let value = |name: &str| value(target, name);
    let bad = |code: u8| ("400 Bad Request", format!("{{\"code\":{code},\"message\":\"no\"}}"));
    match (value("sid"), value("transport")) {
        (None, None) => ("200 OK", format!("{name} {path}")),
        (None, Some(_)) => {
            let sid = format!("{name}-{}", known.len());
            known.insert(sid.clone());
            let timing = "\"pingInterval\":25000,\"pingTimeout\":20000";
            ("200 OK", format!("0{{\"sid\":\"{sid}\",\"upgrades\":[\"websocket\"],{timing}}}"))
        }
        (Some(_), Some("websocket")) if manner == Manner::YesToAll => bad(3),
        (Some(sid), _) if !known.contains(sid) => bad(1),
        (Some(_), Some("websocket")) => bad(3),
        (Some(_), _) => ("200 OK", format!("4{name}")),
    }
}

/// A poll of a session through a gateway, on a connection of its own.
pub async fn poll(gateway: SocketAddr, sid: &str) -> Answer {
    poll_from(1, gateway, sid).await
}

/// The same from 127.0.0.x.
pub async fn poll_from(last: u8, gateway: SocketAddr, sid: &str) -> Answer {
    let mut client = Client::connect_from(last, gateway).await;
    client.get(&format!("/socket.io/?EIO=4&transport=polling&sid={sid}")).await
}

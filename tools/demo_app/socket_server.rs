//! One Socket.IO server of the demo: it greets, echoes, and passes chat and presence between its own sockets and the hub.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::middleware::map_response;
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use socketioxide::SocketIo;
use socketioxide::TransportType;
use socketioxide::extract::{AckSender, Data, SocketRef};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;

use crate::hub::{Hub, News, Person};

/// Names of the servers; the page has a colour for each.
pub(crate) const NAMES: [&str; 6] = ["amber", "teal", "violet", "rose", "blue", "green"];

const LONGEST_NAME: usize = 24;
const LONGEST_TEXT: usize = 400;

/// All servers that run, by name.
pub(crate) type Names = &'static [&'static str];

/// What a client says about itself when it connects.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Introduction {
    name: String,
}

/// Serves as `servers[own]`.
pub(crate) async fn run(listener: TcpListener, servers: Names, own: usize, hub: Arc<Hub>) -> io::Result<()> {
    let server = servers[own];
    let (layer, sockets) = SocketIo::builder()
        .ping_interval(Duration::from_secs(10))
        .ping_timeout(Duration::from_secs(10))
        .max_payload(16 * 1024)
        .build_layer();

    let guest_book = hub.clone();
    sockets.ns("/", move |socket: SocketRef, Data(introduction): Data<Introduction>| async move {
        greet(&socket, introduction, servers, own, guest_book);
    });
    tokio::spawn(pass_on_news(sockets, hub));

    // The page reads this header from its own requests, and so can prove that each of them met the same server.
    let sign = HeaderValue::from_str(&format!("server;desc={server}")).map_err(io::Error::other)?;
    let app = Router::new().layer(layer).layer(map_response(move |mut answer: Response| {
        answer.headers_mut().insert("server-timing", sign.clone());
        async { answer }
    }));
    axum::serve(listener, app).await
}

fn greet(socket: &SocketRef, introduction: Introduction, servers: Names, own: usize, hub: Arc<Hub>) {
    let server = servers[own];
    let name = match shorten(&introduction.name, LONGEST_NAME) {
        name if name.is_empty() => "Guest".to_owned(),
        name => name,
    };
    socket.emit("welcome", &json!({ "server": server, "servers": servers, "chat": hub.chat() })).ok();
    hub.enter(describe(socket, name.clone(), server));

    socket.on("echo", move |ack: AckSender| async move {
        ack.send(server).ok();
    });

    let room = hub.clone();
    socket.on("upgraded", move |socket: SocketRef| async move {
        room.enter(describe(&socket, name, server));
    });

    let room = hub.clone();
    socket.on("say", move |socket: SocketRef, Data(text): Data<String>| async move {
        let text = shorten(&text, LONGEST_TEXT);
        if !text.is_empty() {
            room.say(socket.id.as_str(), text);
        }
    });

    socket.on_disconnect(move |socket: SocketRef| async move { hub.leave(socket.id.as_str()) });
}

fn describe(socket: &SocketRef, name: String, server: &'static str) -> Person {
    let transport = match socket.transport_type() {
        TransportType::Polling => "polling",
        TransportType::Websocket => "websocket",
    };
    Person { id: socket.id.to_string(), name, server, transport }
}

async fn pass_on_news(sockets: SocketIo, hub: Arc<Hub>) {
    let mut news = hub.news();
    loop {
        let sent = match news.recv().await {
            Ok(News::Said(line)) => sockets.emit("chat", &line).await,
            // Who missed some news gets the whole list again, which makes up for what was missed.
            Ok(News::PeopleChanged) | Err(RecvError::Lagged(_)) => sockets.emit("people", &hub.people()).await,
            Err(RecvError::Closed) => return,
        };
        if let Err(fault) = sent {
            eprintln!("a socket missed some news: {fault}");
        }
    }
}

fn shorten(text: &str, longest: usize) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(longest).collect()
}

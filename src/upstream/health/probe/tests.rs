//! What probes ask real sockets, and what they make of the answers.

use std::sync::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::upstream::testing::upstream;

/// A server on loopback that answers each request as the test says, and remembers the requests.
struct Scripted {
    address: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Scripted {
    async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let requests = seen.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {
                    let text = String::from_utf8(bytes.clone()).unwrap();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    if head.contains("content-length: ") && body.is_empty() {
                        continue;
                    }
                    let (line, _) = head.split_once("\r\n").unwrap();
                    let request = format!("{} {body}", line.trim_end_matches(" HTTP/1.1"));
                    let answer = answer(request.trim_end());
                    requests.lock().unwrap().push(request.trim_end().to_owned());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    if answer.contains("connection: close") {
                        break;
                    }
                    bytes.clear();
                }
            }
        });
        Self { address, seen }
    }

    fn target(&self, health: Value) -> Target {
        let upstream = upstream(json!({ "servers": [self.address], "health": health }));
        Target::new(&upstream, &upstream.servers()[0])
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

fn answer(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn an_http_check_asks_as_told_and_looks_at_status_and_body() {
    let server = Scripted::start(|_| answer(200, "all is well")).await;
    let check = |health| Http(server.target(health));
    assert_eq!(check(json!({})).probe().await, Ok("answered 200".to_owned()));
    let health = json!({ "method": "OPTIONS", "path": "/health?deep", "body": "well" });
    assert!(check(health).probe().await.is_ok());
    assert_eq!(server.requests(), ["GET /", "OPTIONS /health?deep"]);

    let fault = check(json!({ "status": "300-399" })).probe().await.unwrap_err().text;
    assert_eq!(fault, "answered 200, expected 300-399");
    let fault = check(json!({ "body": "ill" })).probe().await.unwrap_err().text;
    assert_eq!(fault, "answered 200 with a body that doesn't hold `ill`");
}

#[tokio::test]
async fn a_tcp_check_wants_a_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = upstream(json!({ "servers": [listener.local_addr().unwrap().to_string()] }));
    let target = || Target::new(&upstream, &upstream.servers()[0]);
    assert_eq!(Tcp(target()).probe().await, Ok("connected".to_owned()));
    drop(listener);
    let fault = Tcp(target()).probe().await.unwrap_err().text;
    assert!(fault.starts_with("can't connect: Connection refused"), "{fault}");
}

#[test]
fn servers_are_asked_by_the_host_that_they_go_by() {
    let host = |config: Value| {
        let upstream = upstream(config);
        upstream.own_host(&upstream.servers()[0])
    };
    assert_eq!(host(json!({ "servers": ["10.0.0.7:3000"] })), "10.0.0.7:3000");
    assert_eq!(host(json!({ "servers": ["unix:/run/app.sock"] })), "localhost");
    assert_eq!(host(json!({ "servers": ["unix:/run/app.sock"], "host": "app.example" })), "app.example");
}

#[tokio::test]
async fn an_engine_io_check_opens_a_session_and_closes_it() {
    let server = Scripted::start(|request| match request {
        "GET /socket.io/?EIO=4&transport=polling" => answer(
            200,
            r#"0{"sid":"lv_VI97HAXpY6yYWAAAC","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}"#,
        ),
        _ => answer(200, "ok"),
    })
    .await;
    let check = Session::new(server.target(json!({})));
    assert_eq!(check.probe().await, Ok("opened a session of Engine.IO 4".to_owned()));
    let goodbye = "POST /socket.io/?EIO=4&transport=polling&sid=lv_VI97HAXpY6yYWAAAC 1";
    assert_eq!(server.requests(), ["GET /socket.io/?EIO=4&transport=polling", goodbye]);
}

#[tokio::test]
async fn an_engine_io_check_takes_whatever_path_it_is_given() {
    let server = Scripted::start(|_| answer(200, r#"0{"sid":"a"}"#)).await;
    let check = Session::new(server.target(json!({ "path": "/node/engine.io/?token=x" })));
    assert!(check.probe().await.is_ok());
    let start = "GET /node/engine.io/?token=x&EIO=4&transport=polling";
    assert_eq!(server.requests()[0], start);
}

#[tokio::test]
async fn servers_of_engine_io_3_answer_in_their_own_framing() {
    let server = Scripted::start(|request| match request {
        "GET /socket.io/?EIO=4&transport=polling" => answer(200, "22:0{\"sid\":\"b\",\"x\":1}2:40"),
        _ => answer(200, "ok"),
    })
    .await;
    let check = Session::new(server.target(json!({})));
    assert_eq!(check.probe().await, Ok("opened a session of Engine.IO 3".to_owned()));
    assert_eq!(server.requests()[1], "POST /socket.io/?EIO=3&transport=polling&sid=b 1:1");
}

#[tokio::test]
async fn servers_that_refuse_engine_io_4_are_asked_for_3_and_remembered() {
    let server = Scripted::start(|request| match request {
        "GET /socket.io/?EIO=4&transport=polling" => {
            answer(400, r#"{"code":5,"message":"Unsupported protocol version"}"#)
        }
        "GET /socket.io/?EIO=3&transport=polling&b64=1" => answer(200, "13:0{\"sid\":\"b\"}2:40"),
        _ => answer(200, "ok"),
    })
    .await;
    let check = Session::new(server.target(json!({})));
    assert!(check.probe().await.is_ok());
    assert_eq!(server.requests().len(), 3);
    assert!(check.probe().await.is_ok());
    assert_eq!(server.requests()[0], "GET /socket.io/?EIO=3&transport=polling&b64=1");
}

#[tokio::test]
async fn servers_of_socket_io_0_9_pass_in_their_dialect() {
    let server = Scripted::start(|request| match request {
        "GET /socket.io/1/" => answer(200, "12345:60:60:websocket,xhr-polling"),
        _ => answer(200, "Welcome to socket.io."),
    })
    .await;
    let check = Session::new(server.target(json!({})));
    assert_eq!(check.probe().await, Ok("opened a session of Socket.IO 0.9".to_owned()));
    assert_eq!(server.requests()[3], "GET /socket.io/1/xhr-polling/12345?disconnect=1");
}

#[tokio::test]
async fn a_server_that_closes_after_each_answer_is_said_goodbye_too() {
    let server = Scripted::start(|_| {
        let body = r#"0{"sid":"a"}"#;
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}")
    })
    .await;
    let check = Session::new(server.target(json!({})));
    assert!(check.probe().await.is_ok());
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_server_without_engine_io_fails_with_what_it_said() {
    let server = Scripted::start(|_| answer(404, "Cannot GET /socket.io/")).await;
    let check = Session::new(server.target(json!({})));
    assert_eq!(
        check.probe().await.unwrap_err().text,
        "answered 404 `Cannot GET /socket.io/`, expected an Engine.IO handshake"
    );
}

//! A health check of one's own: servers of a mail app greet whoever connects, and one that greets with anything but 220 is
//! not well. Pingora's check of TCP looks at another upstream.
//!
//! `cargo run --example own_health_check` starts two such servers and a gateway, and shows what it thinks of them.

#![allow(clippy::disallowed_methods, reason = "the thread that asks serves nobody")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use pingora::lb::health_check::TcpHealthCheck;
use sockgate::{Config, Endpoint, Gateway, HealthCheck, PingoraHealthCheck, Server};
use tokio::io::AsyncReadExt;

struct Greeting;

#[async_trait]
impl HealthCheck for Greeting {
    async fn check(&self, server: &Server) -> Result<String, String> {
        let Some(Endpoint::Inet(address)) = server.endpoint() else { return Err("has no address".to_owned()) };
        let mut stream = tokio::net::TcpStream::connect(address).await.map_err(|fault| fault.to_string())?;
        let mut greeting = [0; 3];
        stream.read_exact(&mut greeting).await.map_err(|fault| fault.to_string())?;
        let greeting = String::from_utf8_lossy(&greeting);
        if greeting == "220" { Ok("greets".to_owned()) } else { Err(format!("greets with {greeting}, expected 220")) }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (well, ill) = (server("220 mail.example.com\r\n")?, server("421 too busy\r\n")?);
    let yaml = format!(
        "
listeners: [{{ name: mail, address: 127.0.0.1:0, protocol: tcp, upstream: mail }}, {{ name: other, address: 127.0.0.1:0, protocol: tcp, upstream: other }}]
upstreams:
  mail: {{ kind: tcp, servers: [{{ name: well, address: \"{well}\" }}, {{ name: ill, address: \"{ill}\" }}] }}
  other: {{ kind: tcp, servers: [\"{ill}\"] }}
admin: {{ address: 127.0.0.1:0 }}
access_log: {{ format: \"off\" }}
"
    );
    let gateway = Gateway::builder(Config::read("example.yaml", &yaml, &|_| None)?.config)
        .health_check("mail", Greeting)
        .health_check("other", PingoraHealthCheck(*TcpHealthCheck::new()))
        .build()?;
    let (admin, handle) = (gateway.address("admin").ok_or("an admin address")?, gateway.handle());
    let expected = ["greets with 421, expected 220", "\"text\": \"greets\"", "\"text\": \"passed\""];
    let asking = thread::spawn(move || {
        let seen = (0..500).any(|_| {
            thread::sleep(Duration::from_millis(20));
            status(&admin).is_ok_and(|text| expected.iter().all(|part| text.contains(part)))
        });
        handle.stop();
        seen
    });
    gateway.run();
    assert!(asking.join().map_err(|_| "the client panicked")?);
    println!("one server greets, and the other is told from it");
    Ok(())
}

fn server(greeting: &'static str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|mut stream| drop(stream.write_all(greeting.as_bytes())))
    });
    Ok(address)
}

fn status(admin: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin)?;
    write!(stream, "GET /status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

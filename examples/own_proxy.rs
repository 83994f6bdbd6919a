//! A `ProxyHttp` of one's own: every request needs a token, those that open a WebSocket too, and everything else stays
//! the gateway's. Where looking at requests is all that is wanted, a `Filter` is shorter (`examples/token_filter.rs`).
//!
//! `cargo run --example own_proxy` starts a gateway, asks with and without the token, and shows the statuses.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::RawFd;
use std::thread;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, Result};
use sockgate::{Balancer, Config, Context, Gateway};

/// Looks at the token, and hands what passes to the gateway's own hooks: every one of them, since sessions are learned in
/// one, bodies limited in another, and other servers tried in a third.
struct WithToken(Balancer);

#[async_trait]
impl ProxyHttp for WithToken {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        self.0.new_ctx()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        if session.get_header_bytes("x-token") != b"open sesame" {
            session.respond_error(401).await?;
            return Ok(true);
        }
        self.0.request_filter(session, ctx).await
    }

    async fn request_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        self.0.request_body_filter(session, body, end_of_stream, ctx).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        self.0.upstream_peer(session, ctx).await
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Context,
        error: Box<Error>,
    ) -> Box<Error> {
        self.0.fail_to_connect(session, peer, ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        descriptor: RawFd,
        digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        self.0.connected_to_upstream(session, reused, peer, descriptor, digest, ctx).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        request.remove_header("x-token");
        self.0.upstream_request_filter(session, request, ctx).await
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.0.upstream_response_filter(session, response, ctx).await
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        self.0.upstream_response_body_filter(session, body, end_of_stream, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.0.response_filter(session, response, ctx).await
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        self.0.fail_to_proxy(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        self.0.logging(session, error, ctx).await;
    }

    fn suppress_error_log(&self, session: &Session, ctx: &Context, error: &Error) -> bool {
        self.0.suppress_error_log(session, ctx, error)
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let yaml = format!(
        "
listeners: [{{ name: web, address: 127.0.0.1:0 }}]
routes: [{{ match: {{ path: /chat }}, upstream: chat }}, {{ respond: {{ body: welcome }} }}]
upstreams: {{ chat: {{ servers: [\"{}\"] }} }}
access_log: {{ format: \"off\" }}
",
        chat()?
    );
    let config = Config::read("example.yaml", &yaml, &|_| None)?.config;
    let gateway = Gateway::builder(config).proxy(WithToken).build()?;
    let (address, handle) = (gateway.address("web").ok_or("a listener")?, gateway.handle());
    let asking = thread::spawn(move || {
        let ask = |path, rest: &str| ["open sesame", "guess"].map(|token| status(&address, path, token, rest));
        let statuses = [ask("/", "Connection: close"), ask("/chat", "Connection: Upgrade\r\nUpgrade: websocket")];
        handle.stop();
        statuses
    });
    gateway.run();
    let statuses = asking.join().map_err(|_| "the client panicked")?;
    let [requests, upgrades] = statuses.map(|statuses| statuses.map(|status| status.unwrap_or_default()));
    println!("requests: {} with the token, {} with another", requests[0], requests[1]);
    println!("upgrades: {} with the token, {} with another", upgrades[0], upgrades[1]);
    assert_eq!((requests, upgrades), (["200", "401"].map(str::to_owned), ["101", "401"].map(str::to_owned)));
    Ok(())
}

/// A server that agrees to every WebSocket.
fn chat() -> std::io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                BufReader::new(stream.try_clone()?).lines().map_while(std::io::Result::ok).find(String::is_empty);
                write!(stream, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
            });
        }
    });
    Ok(address)
}

fn status(address: &str, path: &str, token: &str, rest: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: example\r\nX-Token: {token}\r\n{rest}\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.split(' ').nth(1).unwrap_or_default().to_owned())
}

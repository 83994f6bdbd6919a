//! A `ProxyHttp` of one's own: every request needs a token, and everything else stays the gateway's.
//!
//! `cargo run --example own_proxy` starts a gateway, asks with and without the token, and shows the statuses.

use std::io::{Read, Write};
use std::net::TcpStream;
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
use sockgate::{Balancer, Config, Exchange, Gateway};

/// Looks at the token, and hands what passes to the gateway's own hooks: every one of them, since sessions are learned in
/// one, bodies limited in another, and other servers tried in a third.
struct WithToken(Balancer);

#[async_trait]
impl ProxyHttp for WithToken {
    type CTX = Exchange;

    fn new_ctx(&self) -> Exchange {
        self.0.new_ctx()
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Exchange) -> Result<bool> {
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
        ctx: &mut Exchange,
    ) -> Result<()> {
        self.0.request_body_filter(session, body, end_of_stream, ctx).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Exchange) -> Result<Box<HttpPeer>> {
        self.0.upstream_peer(session, ctx).await
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        peer: &HttpPeer,
        ctx: &mut Exchange,
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
        ctx: &mut Exchange,
    ) -> Result<()> {
        self.0.connected_to_upstream(session, reused, peer, descriptor, digest, ctx).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        request.remove_header("x-token");
        self.0.upstream_request_filter(session, request, ctx).await
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        self.0.upstream_response_filter(session, response, ctx).await
    }

    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Exchange,
    ) -> Result<Option<Duration>> {
        self.0.upstream_response_body_filter(session, body, end_of_stream, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Exchange,
    ) -> Result<()> {
        self.0.response_filter(session, response, ctx).await
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Exchange) -> FailToProxy {
        self.0.fail_to_proxy(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Exchange) {
        self.0.logging(session, error, ctx).await;
    }

    fn suppress_error_log(&self, session: &Session, ctx: &Exchange, error: &Error) -> bool {
        self.0.suppress_error_log(session, ctx, error)
    }
}

const YAML: &str = "
listeners: [{ name: web, address: 127.0.0.1:0 }]
routes: [{ respond: { body: welcome } }]
access_log: { format: \"off\" }
";

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let config = Config::read("example.yaml", YAML, &|_| None)?.config;
    let gateway = Gateway::builder(config).proxy(WithToken).build()?;
    let (address, handle) = (gateway.address("web").ok_or("a listener")?, gateway.handle());
    let asking = thread::spawn(move || {
        let statuses = ["open sesame", "guess"].map(|token| status(&address, token));
        handle.stop();
        statuses
    });
    gateway.run();
    let [right, wrong] = asking.join().map_err(|_| "the client panicked")?.map(|status| status.unwrap_or_default());
    println!("with the token: {right}, with another: {wrong}");
    assert_eq!([right.as_str(), wrong.as_str()], ["200", "401"]);
    Ok(())
}

fn status(address: &str, token: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: example\r\nX-Token: {token}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split(' ').nth(1).unwrap_or_default().to_owned())
}

//! A filter of one's own: nobody gets in without a token, whether by HTTP/1, HTTP/2, polling or WebSocket.
//!
//! `cargo run --example token_filter` starts a gateway, asks with and without the token, and shows the statuses.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};
use sockgate::{Changes, Config, Filter, FilterAnswer, Gateway, HeaderEdits, Request, Response, Verdict};

/// Looks for a token, and keeps it from servers.
struct Token(&'static str);

#[async_trait]
impl Filter for Token {
    async fn request(&self, request: &Request<'_>, changes: &mut Changes) -> Verdict {
        if request.headers.get("x-token") != Some(self.0.as_bytes()) {
            return Verdict::Answer(FilterAnswer::text(401, "A token is needed.\n"));
        }
        changes.to_server.remove(HeaderName::from_static("x-token"));
        Verdict::Pass
    }

    fn response(&self, _response: &Response<'_>, edits: &mut HeaderEdits) {
        edits.set(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY"));
    }
}

const YAML: &str = "
listeners: [{ name: web, address: 127.0.0.1:0 }]
routes: [{ respond: { body: welcome } }]
access_log: { format: \"off\" }
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read("example.yaml", YAML, &|_| None)?.config;
    let gateway = Gateway::builder(config).filter(Token("open sesame")).build()?;
    let (address, handle) = (gateway.address("web").ok_or("a listener")?, gateway.handle());
    let asking = thread::spawn(move || {
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket";
        let asked = [("open sesame", "Accept: */*"), ("guess", "Accept: */*"), ("guess", upgrade)];
        let statuses = asked.map(|(token, rest)| status(&address, token, rest));
        handle.stop();
        statuses
    });
    gateway.run();
    let statuses = asking.join().map_err(|_| "the client panicked")?.map(|status| status.unwrap_or_default());
    println!(
        "with the token: {}, with another: {}, a WebSocket with another: {}",
        statuses[0], statuses[1], statuses[2]
    );
    assert_eq!(statuses, ["200", "401", "401"]);
    Ok(())
}

fn status(address: &str, token: &str, rest: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: example\r\nX-Token: {token}\r\n{rest}\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.split(' ').nth(1).unwrap_or_default().to_owned())
}

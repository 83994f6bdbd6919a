//! A router of one's own: paying customers, told by a header, go to servers of their own.
//!
//! `cargo run --example custom_router` starts two small servers and a gateway, asks twice, and shows who answered.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use sockgate::{Action, Config, Decision, Gateway, Request, Route, Router};

/// Two ways, and the rule that chooses between them.
struct ByPlan {
    gold: Arc<Route>,
    free: Arc<Route>,
}

impl Router for ByPlan {
    fn route(&self, request: &Request<'_>) -> Decision {
        let gold = request.headers.get("x-plan") == Some(b"gold");
        Decision::To(Arc::clone(if gold { &self.gold } else { &self.free }))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let yaml = format!(
        "
listeners: [{{ name: web, address: 127.0.0.1:0 }}]
upstreams:
  gold: {{ servers: [\"{}\"] }}
  free: {{ servers: [\"{}\"] }}
access_log: {{ format: \"off\" }}
",
        server("gold")?,
        server("free")?
    );
    let config = Config::read("example.yaml", &yaml, &|_| None)?.config;
    let to = |upstream: &str| {
        let action = Action::Upstream(upstream.into());
        Arc::new(Route::new(upstream, action))
    };
    let gateway = Gateway::builder(config).router(ByPlan { gold: to("gold"), free: to("free") }).build()?;
    let (address, handle) = (gateway.address("web").ok_or("a listener")?, gateway.handle());
    let running = move || -> std::io::Result<[String; 2]> { Ok([ask(&address, "gold")?, ask(&address, "none")?]) };
    let asking = thread::spawn(move || {
        let answers = running();
        handle.stop();
        answers
    });
    gateway.run();
    let answers = asking.join().map_err(|_| "the client panicked")??;
    println!("x-plan: gold is served by {:?}, x-plan: none by {:?}", answers[0], answers[1]);
    assert_eq!(answers, ["gold", "free"]);
    Ok(())
}

/// A server that answers every request with its name.
fn server(name: &'static str) -> std::io::Result<std::net::SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let head = BufReader::new(stream.try_clone()?).lines().map_while(Result::ok).find(String::is_empty);
                let length = name.len();
                head.map_or(Ok(()), |_| {
                    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}")
                })
            });
        }
    });
    Ok(address)
}

fn ask(address: &str, plan: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET / HTTP/1.1\r\nHost: example\r\nX-Plan: {plan}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
}

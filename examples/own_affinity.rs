//! An affinity of one's own: whoever is in the same room meets the same server, wherever they come from.
//!
//! `cargo run --example own_affinity` starts three small servers and a gateway, visits rooms twice, and shows who answered.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use sockgate::{Affinity, Config, Gateway, Request};

/// Rooms of `/rooms/7/…` each live on one server.
struct Room;

impl Affinity for Room {
    fn key<'a>(&self, request: &'a Request<'_>) -> Option<Cow<'a, [u8]>> {
        let room = request.path.canonical.strip_prefix("/rooms/")?.split('/').next()?;
        Some(room.as_bytes().into())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let servers = [server("a")?, server("b")?, server("c")?];
    let yaml = format!(
        "
listeners: [{{ name: web, address: 127.0.0.1:0 }}]
routes: [{{ upstream: app }}]
upstreams: {{ app: {{ servers: [{}], balance: client_ip, health: {{ check: none }} }} }}
access_log: {{ format: \"off\" }}
",
        servers.map(|server| format!("\"{server}\"")).join(", ")
    );
    let config = Config::read("example.yaml", &yaml, &|_| None)?.config;
    let gateway = Gateway::builder(config).affinity("app", Room).build()?;
    let (address, handle) = (gateway.address("web").ok_or("a listener")?, gateway.handle());
    let asking = thread::spawn(move || {
        let visit = |seat: usize| (0..60).map(|room| ask(&address, &format!("/rooms/{room}/{seat}"))).collect();
        let visits: [std::io::Result<Vec<String>>; 2] = [visit(1), visit(2)];
        handle.stop();
        visits
    });
    gateway.run();
    let [first, second] = asking.join().map_err(|_| "the client panicked")?;
    let (first, second) = (first?, second?);
    println!("rooms 0 to 59 are on {}", first.join(" "));
    assert_eq!(first, second, "each room is where it was");
    assert!(["a", "b", "c"].iter().all(|&name| first.iter().any(|server| server == name)), "and rooms are spread");
    Ok(())
}

/// A server that answers every request with its name.
fn server(name: &'static str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = stream.try_clone().map(|stream| BufReader::new(stream).lines().map_while(Result::ok));
            if head.is_ok_and(|mut head| head.any(|line| line.is_empty())) {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\n{name}");
            }
        }
    });
    Ok(address)
}

fn ask(address: &str, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: example\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
}

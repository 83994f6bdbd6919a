//! A session protocol of one's own: a shop whose carts live in the memory of the server that made them. It names a cart in a field
//! of its answers, and clients name it in the path.
//!
//! `cargo run --example own_session_protocol` starts three small shops and a gateway, opens carts, and looks into each of them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use sockgate::session::{Answered, Known, NewSession, Question, SessionRequest};
use sockgate::{Config, Gateway, Headers, Request, SessionProtocol};

struct Carts;

impl SessionProtocol for Carts {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let id = request.path.canonical.strip_prefix("/carts/").and_then(|rest| rest.split('/').next());
        let opens = request.method == "POST" && request.path.canonical == "/carts";
        SessionRequest { id, opens, ..SessionRequest::default() }
    }

    fn answered(&self, _dialect: u64, status: u16, headers: Headers<'_>) -> Answered {
        match (status, headers.get("x-cart")) {
            (201, Some(id)) => {
                Answered::Opened(NewSession::new(String::from_utf8_lossy(id), Duration::from_secs(3600)))
            }
            (404, _) => Answered::Refused { code: None, unknown: true },
            _ => Answered::Nothing,
        }
    }

    /// After a restart the gateway asks the shops whose cart it is.
    fn question(&self, _dialect: u64, id: &str, _request: &Request<'_>) -> Option<Question> {
        Some(Question::get(format!("/carts/{id}")))
    }

    fn is_known(&self, _dialect: u64, _question: &Question, status: u16, _body: &[u8]) -> Known {
        if status == 200 { Known::Yes } else { Known::No }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shops = [shop("a")?, shop("b")?, shop("c")?].map(|shop| format!("\"{shop}\"")).join(", ");
    let yaml = format!(
        "
listeners: [{{ name: web, address: 127.0.0.1:0 }}]
routes: [{{ upstream: shop }}]
upstreams: {{ shop: {{ servers: [{shops}], health: {{ check: none }} }} }}
access_log: {{ format: \"off\" }}
"
    );
    let visit = |yaml: &str, known: Vec<String>| -> Result<Vec<String>, Box<dyn std::error::Error>> {
        let config = Config::read("example.yaml", yaml, &|_| None)?.config;
        let gateway = Gateway::builder(config).session_protocol("shop", Carts).build()?;
        let (address, handle) = (gateway.address("web").ok_or("a listener")?, gateway.handle());
        let asking = thread::spawn(move || {
            let open = || (0..9).map(|_| ask(&address, "POST /carts")).collect();
            let carts: std::io::Result<Vec<String>> = if known.is_empty() { open() } else { Ok(known) };
            let looks = carts.and_then(|carts| {
                carts.iter().try_for_each(|cart| ask(&address, &format!("GET /carts/{cart}")).map(drop))?;
                Ok(carts)
            });
            handle.stop();
            looks
        });
        gateway.run();
        Ok(asking.join().map_err(|_| "the client panicked")??)
    };
    let carts = visit(&yaml, Vec::new())?;
    println!("carts: {}; another gateway finds them, too", carts.join(" "));
    assert!(["a", "b", "c"].iter().all(|name| carts.iter().any(|cart| cart.starts_with(name))), "they are spread");
    visit(&yaml, carts)?;
    Ok(())
}

/// A shop that knows its own carts, and says 404 to others.
fn shop(name: &'static str) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for (number, mut stream) in listener.incoming().flatten().enumerate() {
            let Ok(reader) = stream.try_clone().map(BufReader::new) else { continue };
            let head: Vec<String> = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            let asked = head.first().map_or("", String::as_str);
            let status = match asked.split(' ').nth(1).unwrap_or("") {
                "/carts" => format!("201 Created\r\nX-Cart: {name}-{number}"),
                target if target.starts_with(&format!("/carts/{name}-")) => "200 OK".to_owned(),
                _ => "404 Not Found".to_owned(),
            };
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    Ok(address)
}

/// The cart that an answer names.
fn ask(address: &str, what: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "{what} HTTP/1.1\r\nHost: example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 20"), "{what}: {answer}");
    let cart = answer.lines().find_map(|line| line.to_lowercase().strip_prefix("x-cart: ").map(str::to_owned));
    Ok(cart.unwrap_or_default())
}

//! An application of one's own behind a listener: it speaks in lines, and says goodbye when the gateway stops.
//!
//! `cargo run --example tcp_application` starts it, talks with it, and stops the gateway under an open connection.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::thread;

use async_trait::async_trait;
use sockgate::{ClientStream, Config, Gateway, TcpApplication};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

/// Greets whoever says a name.
struct Greeter;

#[async_trait]
impl TcpApplication for Greeter {
    async fn serve(&self, client: ClientStream) {
        let from = client.client().ip();
        let mut leaving = Box::pin(client.leaving());
        let mut client = tokio::io::BufReader::new(client);
        let mut name = String::new();
        loop {
            let is_over = tokio::select! {
                () = &mut leaving => true,
                read = client.read_line(&mut name) => matches!(read, Ok(0) | Err(_)),
            };
            let answer = if is_over { "goodbye\n".to_owned() } else { format!("hello {} at {from}\n", name.trim()) };
            if client.write_all(answer.as_bytes()).await.is_err() || is_over {
                return;
            }
            name.clear();
        }
    }
}

const YAML: &str = "
listeners: [{ name: greeter, address: 127.0.0.1:0, protocol: application }]
access_log: { format: \"off\" }
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read("example.yaml", YAML, &|_| None)?.config;
    let gateway = Gateway::builder(config).application("greeter", Greeter).build()?;
    let (address, handle) = (gateway.address("greeter").ok_or("a listener")?, gateway.handle());
    let talking = thread::spawn(move || -> std::io::Result<Vec<String>> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"Ada\n")?;
        let mut lines = BufReader::new(stream).lines();
        let hello = lines.next().transpose()?;
        handle.stop();
        Ok(hello.into_iter().chain(lines.map_while(Result::ok)).collect())
    });
    gateway.run();
    let heard = talking.join().map_err(|_| "the client panicked")??;
    println!("{}", heard.join(", then "));
    assert_eq!(heard, ["hello Ada at 127.0.0.1", "goodbye"]);
    Ok(())
}

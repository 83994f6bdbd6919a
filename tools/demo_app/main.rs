//! A small web app with three real Socket.IO servers: something worth putting a gateway in front of.
//!
//! `scripts/demo` runs it behind Sockgate. The page it serves shows live which server holds the visitor's session, on
//! which transport, and lets browsers chat across servers. By itself, after `npm ci` in this folder:
//!
//! ```text
//! cargo run --example demo_app
//! sockgate run -c conf/demo.yaml
//! ```

mod hub;
mod socket_server;
mod web;

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::hub::Hub;
use crate::socket_server::NAMES;

/// A web app and its Socket.IO servers, to stand behind a gateway.
#[derive(Parser)]
struct Args {
    /// Address of the web app; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:9410")]
    web: SocketAddr,

    /// Addresses of the Socket.IO servers, with commas between
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:9411,127.0.0.1:9412,127.0.0.1:9413")]
    sockets: Vec<SocketAddr>,

    /// The browser build of socket.io-client, which npm installs
    #[arg(long, default_value = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tools/demo_app/node_modules/socket.io-client/dist/socket.io.min.js"
    ))]
    client: PathBuf,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let names = NAMES
        .get(..args.sockets.len())
        .ok_or_else(|| format!("--sockets takes up to {} addresses: each has a colour of its own", NAMES.len()))?;
    let client = std::fs::read_to_string(&args.client)
        .map_err(|fault| format!("{}: {fault}; run `npm ci` in tools/demo_app", args.client.display()))?;

    let hub = Arc::new(Hub::new());
    let mut servers = JoinSet::new();
    for (own, address) in args.sockets.iter().enumerate() {
        let listener = listen(names[own], *address).await?;
        servers.spawn(socket_server::run(listener, names, own, hub.clone()));
    }
    let listener = listen("web", args.web).await?;
    servers.spawn(web::run(listener, client));

    tokio::select! {
        Some(ended) = servers.join_next() => Ok(ended??),
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
    }
}

/// Binds the address and says so in the words of the gateway, so that a script can read which port it became.
async fn listen(name: &str, address: SocketAddr) -> Result<TcpListener, Box<dyn Error>> {
    let listener = TcpListener::bind(address).await.map_err(|fault| format!("cannot listen on {address}: {fault}"))?;
    println!("listening {name} {}", listener.local_addr()?);
    Ok(listener)
}

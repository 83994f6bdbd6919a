//! TLS on both sides of the gateway.

mod acme;
mod clients;
mod handshake;
mod odd;
mod passthrough;
mod renewal;
mod server;
mod termination;
mod tickets;
mod told;

use std::net::SocketAddr;

use crate::support::Setup;
use crate::support::tls::Issued;

/// A TLS listener before one server; `tls` is what it is told.
fn over(tls: &str, server: SocketAddr) -> Setup {
    Setup::before(&[server]).listener(format!("tls: {{ {tls} }}"))
}

fn certificates(of: &[&Issued]) -> String {
    let list: Vec<String> = of.iter().map(|issued| issued.yaml()).collect();
    format!("certificates: [{}]", list.join(", "))
}

/// A server that has to be met with this `tls`, and is not checked, so that each attempt is the request's own.
fn to(server: SocketAddr, tls: &str) -> Setup {
    Setup::before(&[server]).unchecked().upstream(format!("tls: {{ {tls} }}, ejection: {{ failures: 0 }}"))
}

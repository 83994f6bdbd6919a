//! Who may ask, and from where: on plain requests, streams of HTTP/2, polls, upgrades and raw connections.

mod basic;
mod browser;
mod cors;
mod expiry;
mod forward_auth;
mod jwt;
mod key_set;
mod networks;
mod origins;

use std::net::SocketAddr;

use crate::support::Gateway;

/// A gateway before this server, whose routes are these, in flow style, before one that leads there.
async fn gateway(server: SocketAddr, access: &str, routes: &str) -> Gateway {
    Gateway::start(&yaml(server, access, routes)).await
}

fn yaml(server: SocketAddr, access: &str, routes: &str) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0, http2_websockets: true }}
routes:
{routes}  - {{ upstream: app }}
upstreams:
  app: {{ kind: socket.io, servers: [\"{server}\"], health: {{ check: none }} }}
access: {access}
"
    )
}

//! HAProxy's configuration for the comparison.

use std::fs;

use super::{Doors, World};
use crate::Error;

/// Writes the file; the arguments to start with. One process, of `nbthread` threads.
pub(super) fn configure(world: &World, doors: &Doors) -> Result<Vec<String>, Error> {
    let Doors { http, https, tcp } = doors;
    let servers: String =
        (1..).zip(&world.backend.http).map(|(number, server)| format!("    server s{number} {server}\n")).collect();
    let configuration = format!(
        "global
    nbthread {threads}
    maxconn {connections}
    ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
    mode http
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    timeout http-keep-alive 75s
    option forwardfor
    # Like the others, which let go of a request whose client has left.
    option abortonclose
    # Like the others, which share their kept connections among all clients.
    http-reuse always
frontend web
    bind {http}
    bind {https} ssl crt {both} alpn h2,http/1.1
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
    use_backend socket_io if {{ path_beg /socket.io/ }}
    default_backend app
backend app
    balance roundrobin
{servers}backend socket_io
    balance source
    hash-type consistent
{servers}frontend raw
    mode tcp
    bind {tcp}
    default_backend raw
backend raw
    mode tcp
    server s1 {raw}
",
        threads = world.threads,
        connections = world.files.saturating_sub(200) / 2,
        both = world.path("both.pem"),
        raw = world.backend.tcp,
    );
    let file = world.path("haproxy.cfg");
    fs::write(&file, configuration)?;
    Ok(vec!["-db".to_owned(), "-f".to_owned(), file])
}

//! HAProxy's configuration for the comparison.

use std::fs;

use super::{Doors, Extras, World};
use crate::Error;

const BESIDES: &str = "\
    log global
    option httplog
    unique-id-format %{+X}o%ci%cp%fi%fp%Ts%rt%pid
    http-request set-header X-Request-Id %[unique-id] unless { req.hdr(X-Request-Id) -m found }
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Forwarded-Host %[req.hdr(Host)]
    http-request set-header X-Forwarded-Port %[dst_port]
";

/// Writes the file; the arguments to start with. One process, of `nbthread` threads.
pub(super) fn configure(world: &World, doors: &Doors, extras: Extras) -> Result<Vec<String>, Error> {
    let Doors { http, https, tcp } = doors;
    let servers: String =
        (1..).zip(&world.backend.http).map(|(number, server)| format!("    server s{number} {server}\n")).collect();
    let configuration = format!(
        "global
    nbthread {threads}
    maxconn {connections}
{log}    ssl-default-bind-options ssl-min-ver TLSv1.2
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
{besides}    use_backend socket_io if {{ path_beg /socket.io/ }}
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
        // It writes no files; its standard output is one here.
        log = if extras == Extras::AsInUse { "    log stdout format raw local0\n" } else { "" },
        besides = if extras == Extras::AsInUse { BESIDES } else { "" },
        connections = world.files.saturating_sub(200) / 2,
        both = world.path("both.pem"),
        raw = world.backend.tcp,
    );
    let file = world.path("haproxy.cfg");
    fs::write(&file, configuration)?;
    Ok(vec!["-db".to_owned(), "-f".to_owned(), file])
}

//! Sockgate's configuration for the comparison: its defaults, but for what all of them are told to do alike.

use std::fs;

use super::{Doors, Extras, World};
use crate::Error;

const QUIET: &str = "\
forwarding: { x_forwarded_host: false, x_forwarded_port: false, x_real_ip: false, request_id: '' }
access_log: { format: 'off' }
";

const ROUTES: &str = "  - { match: { path: /socket.io/ }, upstream: socket_io }\n  - { upstream: app }";

/// Writes the file; the arguments to start with.
pub(super) fn configure(world: &World, doors: &Doors, extras: Extras) -> Result<Vec<String>, Error> {
    let Doors { http, https, tcp } = doors;
    let servers: Vec<String> = world.backend.http.iter().map(|server| format!("\"{server}\"")).collect();
    let servers = servers.join(", ");
    let raw = world.backend.tcp;
    let (cert, key) = (world.path("cert.pem"), world.path("key.pem"));
    let (routes, of_app, besides) = match extras {
        Extras::None => (ROUTES.to_owned(), String::new(), QUIET.to_owned()),
        Extras::Among(peer) => (
            "  - { upstream: app }".to_owned(),
            format!(", kind: socket.io, peers: [\"{peer}\"]"),
            format!("{QUIET}peers: {{ secret_file: {} }}\n", world.path("secret")),
        ),
        // The rest is how it comes.
        Extras::AsInUse => (
            ROUTES.to_owned(),
            String::new(),
            format!("access_log: {{ file: {} }}\n", world.path("sockgate-access.log")),
        ),
        Extras::Rule(rule) => {
            (rule.routes(world), rule.upstream().to_owned(), format!("{QUIET}{}", rule.besides(world)))
        }
    };
    let yaml = format!(
        "threads: {threads}
listeners:
  - {{ name: web, address: \"{http}\" }}
  - {{ name: secure, address: \"{https}\", tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }} }}
  - {{ name: raw, address: \"{tcp}\", protocol: tcp, upstream: raw }}
routes:
{routes}
upstreams:
  app: {{ servers: [{servers}], health: {{ check: none }}, timeouts: {{ first_byte: 1h, keep_alive: 60s }}{of_app} }}
  socket_io: {{ kind: socket.io, servers: [{servers}], health: {{ check: none }}, timeouts: {{ keep_alive: 60s }} }}
  raw: {{ kind: tcp, servers: [\"{raw}\"], health: {{ check: none }} }}
{besides}",
        threads = world.threads,
    );
    let file = world.path("sockgate.yaml");
    fs::write(&file, yaml)?;
    Ok(vec!["run".to_owned(), "-c".to_owned(), file])
}

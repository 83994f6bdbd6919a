//! Sockgate's configuration for the comparison: its defaults, but for what all of them are told to do alike.

use std::fs;

use super::{Doors, Extras, World};
use crate::Error;

const QUIET: &str = "\
forwarding: { x_forwarded_host: false, x_forwarded_port: false, x_real_ip: false, request_id: '' }
access_log: { format: 'off' }
";

/// Writes the file; the arguments to start with.
pub(super) fn configure(world: &World, doors: &Doors, extras: Extras) -> Result<Vec<String>, Error> {
    let Doors { http, https, tcp } = doors;
    let servers: Vec<String> = world.backend.http.iter().map(|server| format!("\"{server}\"")).collect();
    let servers = servers.join(", ");
    let raw = world.backend.tcp;
    let (cert, key) = (world.path("cert.pem"), world.path("key.pem"));
    let yaml = format!(
        "threads: {threads}
listeners:
  - {{ name: web, address: \"{http}\" }}
  - {{ name: secure, address: \"{https}\", tls: {{ certificates: [{{ cert: {cert}, key: {key} }}] }} }}
  - {{ name: raw, address: \"{tcp}\", protocol: tcp, upstream: raw }}
routes:
  - {{ match: {{ path: /socket.io/ }}, upstream: socket_io }}
  - {{ upstream: app }}
upstreams:
  app: {{ servers: [{servers}], health: {{ check: none }}, timeouts: {{ first_byte: 1h, keep_alive: 60s }} }}
  socket_io: {{ kind: socket.io, servers: [{servers}], health: {{ check: none }}, timeouts: {{ keep_alive: 60s }} }}
  raw: {{ kind: tcp, servers: [\"{raw}\"], health: {{ check: none }} }}
{besides}",
        threads = world.threads,
        besides = match extras {
            Extras::None => QUIET.to_owned(),
            // The rest is how it comes.
            Extras::AsInUse => format!("access_log: {{ file: {} }}\n", world.path("sockgate-access.log")),
        },
    );
    let file = world.path("sockgate.yaml");
    fs::write(&file, yaml)?;
    Ok(vec!["run".to_owned(), "-c".to_owned(), file])
}

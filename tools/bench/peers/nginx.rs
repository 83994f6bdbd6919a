//! nginx's configuration for the comparison.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use super::{Doors, Extras, World};
use crate::Error;

/// Debian's module for raw TCP.
const STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

const BESIDES: &str = "\
    proxy_set_header X-Request-Id $request_id;
    proxy_set_header X-Real-IP $remote_addr;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Forwarded-Port $server_port;
";

/// Writes the file; the arguments to start with. A master and as many workers as the others have threads; `alone`, one
/// process and no master, for tools that look at one.
pub(super) fn configure(
    program: &Path,
    world: &World,
    doors: &Doors,
    extras: Extras,
    alone: bool,
) -> Result<Vec<String>, Error> {
    let Doors { http, https, tcp } = doors;
    let servers: String = world.backend.http.iter().map(|server| format!("        server {server};\n")).collect();
    let workers = if alone { 1 } else { world.threads };
    // With one worker, nothing is to be shared out.
    let reuseport = if workers > 1 { " reuseport" } else { "" };
    let configuration = format!(
        "{user}daemon off;
master_process {master};
worker_processes {workers};
worker_rlimit_nofile {files};
pid {pid};
{stream}events {{ worker_connections {connections}; multi_accept on; }}
http {{
    access_log {log};
    client_body_temp_path {bodies};
    proxy_temp_path {answers};
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
    upstream app {{
{servers}        keepalive 256;
        keepalive_requests 1000000000;
    }}
    upstream socket_io {{
        hash $remote_addr consistent;
{servers}        keepalive 256;
        keepalive_requests 1000000000;
    }}
    proxy_http_version 1.1;
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header Upgrade $http_upgrade;
    proxy_set_header Connection $connection_upgrade;
{besides}    proxy_read_timeout 1h;
    proxy_send_timeout 1h;
    server {{
        listen {http} backlog=16384{reuseport};
        listen {https} ssl http2 backlog=16384{reuseport};
        ssl_certificate {cert};
        ssl_certificate_key {key};
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:TLS:10m;
        http2_max_requests 1000000000;
        # Large answers pass through memory; small buffers serve what is held for long.
        # Bodies pass as they come, as with the others.
        client_max_body_size 0;
        location / {{ proxy_pass http://app; proxy_request_buffering off; client_body_buffer_size 64k; proxy_buffers 8 16k; proxy_busy_buffers_size 32k; proxy_max_temp_file_size 0; }}
        location = /echo {{ proxy_pass http://app; proxy_buffer_size 4k; }}
        location = /hold {{ proxy_pass http://app; proxy_buffer_size 4k; }}
        location /socket.io/ {{ proxy_pass http://socket_io; proxy_buffer_size 4k; }}
    }}
}}
stream {{
    server {{ listen {tcp} backlog=16384{reuseport}; proxy_pass {raw}; proxy_timeout 1h; }}
}}
",
        user = if fs::metadata("/proc/self")?.uid() == 0 { "user root;\n" } else { "" },
        master = if alone { "off" } else { "on" },
        stream = if takes_modules(program) { format!("load_module {STREAM};\n") } else { String::new() },
        log = if extras == Extras::AsInUse { world.path("nginx-access.log") } else { "off".to_owned() },
        besides = if extras == Extras::AsInUse { BESIDES } else { "" },
        files = world.files,
        pid = world.path("nginx.pid"),
        connections = world.files.saturating_sub(100),
        bodies = world.path("nginx-bodies"),
        answers = world.path("nginx-answers"),
        cert = world.path("cert.pem"),
        key = world.path("key.pem"),
        raw = world.backend.tcp,
    );
    let file = world.path("nginx.conf");
    fs::write(&file, configuration)?;
    let folder = world.folder.display().to_string();
    Ok(["-p", &folder, "-c", &file, "-e", "stderr"].map(str::to_owned).to_vec())
}

/// Whether this nginx carries raw TCP by Debian's module; others are built with it, and fit no module of Debian's.
fn takes_modules(program: &Path) -> bool {
    let said = Command::new(program).arg("-V").stdin(Stdio::null()).output();
    said.is_ok_and(|said| String::from_utf8_lossy(&said.stderr).contains("--with-stream=dynamic"))
        && Path::new(STREAM).exists()
}

//! Backends of HAProxy as upstreams: their servers, checks, balance, cookies and times.

use serde_yaml::{Mapping, Value};

use super::super::draft::{Draft, Part, literal, time};
use super::words::{Line, Section};
use super::{header, mode, not_needed};

/// Whether a line of a `listen` is about its servers.
pub(super) fn is_of_backend(line: &Line) -> bool {
    matches!(
        line.word(0),
        "server"
            | "balance"
            | "cookie"
            | "hash-type"
            | "default-server"
            | "http-check"
            | "stick-table"
            | "stick"
            | "server-template"
            | "fullconn"
    ) || line.word(0) == "option" && matches!(line.word(1), "httpchk" | "tcp-check" | "ssl-hello-chk" | "redispatch")
}

pub(super) fn read(draft: &mut Draft, section: &Section, defaults: &[Line]) {
    let is_http = mode(section, defaults) == "http";
    let is_listen = section.kind == "listen";
    let mut part = Part::default();
    if !is_http {
        part.set("kind", "tcp");
    }
    let mut server_defaults: Vec<String> = Vec::new();
    let mut servers: Vec<Mapping> = Vec::new();
    let (mut checks, mut first_checked) = (false, None);
    let own = |line: &&Line| !is_listen || is_of_backend(line) || matches!(line.word(0), "timeout");
    for line in defaults
        .iter()
        .filter(|line| matches!(line.word(0), "balance" | "timeout" | "default-server") || line.word(1) == "httpchk")
        .chain(section.lines.iter().filter(own))
    {
        match (line.word(0), line.word(1)) {
            ("mode" | "bind", _) => {}
            ("server", name) => {
                let words: Vec<String> = line.words.iter().chain(&server_defaults).cloned().collect();
                let line = Line { words, ..line.clone() };
                match server(&mut part, name, &line) {
                    Ok(server) => servers.push(server),
                    Err(why) => part.leave_out(line.number, &line.text, why),
                }
                if line.has("check") {
                    checks = true;
                    first_checked.get_or_insert(line);
                }
            }
            ("default-server", _) => server_defaults.extend(line.words[1..].iter().cloned()),
            ("balance", how) => balance(&mut part, how, line),
            ("hash-type", _) => part.leave_out(line.number, &line.text, "hashes are consistent by themselves"),
            ("cookie", _) => cookie(&mut part, line),
            ("option", "httpchk") => {
                part.set("health.check", "http");
                let words = &line.words[2..];
                match words {
                    [] => {}
                    [path] => part.set("health.path", literal(path)),
                    [method, path, ..] => {
                        if method != "GET" && method != "OPTIONS" {
                            part.set("health.method", method.clone());
                        }
                        part.set("health.path", literal(path));
                        if let Some(host) =
                            words.iter().find_map(|word| word.split_once("Host: ").map(|(_, host)| host))
                        {
                            part.set_entry("health.headers", "host", literal(host.trim()));
                        }
                    }
                }
            }
            ("option", "tcp-check" | "ssl-hello-chk") => part.set_new("health.check", "tcp"),
            ("http-check", "send") => {
                if let Some(method) = line.after("meth") {
                    part.set("health.method", method);
                }
                if let Some(uri) = line.after("uri") {
                    part.set("health.path", literal(uri));
                }
                for at in line.words.iter().enumerate().filter(|(_, word)| *word == "hdr").map(|(at, _)| at) {
                    part.set_entry(
                        "health.headers",
                        &line.word(at + 1).to_ascii_lowercase(),
                        literal(line.word(at + 2)),
                    );
                }
            }
            ("http-check", "expect") => match (line.after("status"), line.after("string")) {
                (Some(status), _) if status.chars().all(|c| c.is_ascii_digit() || c == '-') => {
                    part.set("health.status", status)
                }
                (_, Some(text)) => part.set("health.body", literal(text)),
                _ => part.leave_out(line.number, &line.text, "a check expects one range of statuses, or a text"),
            },
            ("timeout", which) => timeout(&mut part, which, line, is_http),
            ("stick-table" | "stick", _) => {
                let why = "sessions of Socket.IO are followed by themselves (`kind: socket.io`), others by `affinity`";
                part.leave_out(line.number, &line.text, why);
            }
            ("http-request" | "http-response", _) if line.condition().is_none() => {
                if let Err(why) = header(&mut part, line) {
                    part.leave_out(line.number, &line.text, why);
                }
            }
            ("server-template", _) => {
                let why = "servers that DNS finds are `servers: { dns: NAME, port: PORT }`";
                part.leave_out(line.number, &line.text, why);
            }
            ("fullconn" | "acl", _) => part.leave_out(line.number, &line.text, "it has no counterpart on an upstream"),
            _ => part.leave_out(line.number, &line.text, not_needed(line).unwrap_or("it has no counterpart")),
        }
    }
    match first_checked {
        Some(line) => check(&mut part, &line),
        None if !checks => {
            part.value.remove("health");
            part.set("health.check", "none");
        }
        None => {}
    }
    if servers.is_empty() {
        if is_listen && !section.lines.iter().any(|line| line.word(0) == "server") {
            return;
        }
        part.note("It had no server that could be carried over: say where they are.");
        servers.push(Mapping::from_iter([("address".into(), "127.0.0.1:8080".into())]));
    }
    let servers = servers.into_iter().map(|server| match (server.len(), server.get("address")) {
        (1, Some(address)) => address.clone(),
        _ => Value::Mapping(server),
    });
    // The servers are what one looks for first.
    let mut ordered = Mapping::new();
    for key in ["kind", "balance"] {
        if let Some(value) = part.value.remove(key) {
            ordered.insert(key.into(), value);
        }
    }
    ordered.insert("servers".into(), Value::Sequence(servers.collect()));
    ordered.extend(std::mem::take(&mut part.value));
    part.value = ordered;
    *draft.upstream(&section.name) = part;
}

fn server(part: &mut Part, name: &str, line: &Line) -> Result<Mapping, String> {
    let address = line.word(2);
    let address = address.strip_prefix("ipv4@").or_else(|| address.strip_prefix("ipv6@")).unwrap_or(address);
    let mut server = Mapping::new();
    let mut set = |key: &str, value: Value| _ = server.insert(key.into(), value);
    if let Some(path) = address.strip_prefix("unix@").or_else(|| address.starts_with('/').then_some(address)) {
        set("address", format!("unix:{path}").into());
    } else {
        match address.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => {
                let host =
                    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
                set("address", format!("{host}:{port}").into());
            }
            _ => return Err("a server is HOST:PORT, with one port".to_owned()),
        }
    }
    set("name", name.into());
    match line.after("weight").map(str::parse::<u64>) {
        Some(Ok(0)) => set("drain", true.into()),
        Some(Ok(1)) | None => {}
        Some(Ok(weight)) => set("weight", weight.min(256).into()),
        Some(Err(_)) => return Err("its weight is no number".to_owned()),
    }
    if let Some(Ok(most)) = line.after("maxconn").map(str::parse::<u64>) {
        set("max_connections", most.into());
    }
    if line.has("backup") {
        set("priority", 1.into());
    }
    if line.has("disabled") {
        return Err("it is disabled".to_owned());
    }
    if line.has("send-proxy-v2") || line.has("send-proxy-v2-ssl") {
        part.set("proxy_protocol", "v2");
    } else if line.has("send-proxy") {
        part.set("proxy_protocol", "v1");
    }
    if line.has("ssl") {
        part.set_new("tls", Mapping::new());
        if line.after("verify") == Some("none") {
            part.set("tls.verify", false);
        }
        if let Some(file) = line.after("ca-file").filter(|file| !file.starts_with('@')) {
            part.set("tls.ca", literal(file));
        }
        if let Some(name) = line.after("sni").and_then(|sni| sni.strip_prefix("str(")) {
            part.set("tls.server_name", literal(name.trim_end_matches(')')));
        }
        if line.after("alpn").is_some_and(|protocols| protocols.starts_with("h2")) {
            part.set("http2", true);
        }
    } else if line.after("proto") == Some("h2") {
        part.set("http2", true);
    }
    Ok(server)
}

fn balance(part: &mut Part, how: &str, line: &Line) {
    let argument = how.split_once('(').map(|(_, rest)| rest.trim_end_matches(')').to_owned());
    match how.split('(').next().unwrap_or_default() {
        "roundrobin" | "static-rr" => part.set("balance", "round_robin"),
        "leastconn" => part.set("balance", "least_connections"),
        "source" => part.set("balance", "client_ip"),
        "url_param" => {
            part.set("balance", "client_ip");
            part.set("affinity.query", literal(line.word(2)));
        }
        "hdr" => {
            part.set("balance", "client_ip");
            part.set("affinity.header", argument.unwrap_or_default());
        }
        _ => part.leave_out(
            line.number,
            &line.text,
            "`balance` is client_ip, round_robin or least_connections, among others",
        ),
    }
}

fn cookie(part: &mut Part, line: &Line) {
    let name = line.word(1);
    if name == "io" && line.has("prefix") {
        // Engine.IO's own cookie, whose value is the session.
        part.has_sessions = true;
        return;
    }
    if line.has("prefix") || line.has("rewrite") {
        part.set("balance", "client_ip");
        part.set("affinity.app_cookie", literal(name));
        part.note("The application's cookie chose the server by a mark in its value; here its whole value is hashed.");
        return;
    }
    part.set("affinity.cookie", Mapping::new());
    part.set("affinity.cookie.name", literal(name));
    if line.has("secure") {
        part.set("affinity.cookie.secure", "always");
    }
    if let Some(Ok(seconds)) =
        line.after("maxlife").or_else(|| line.after("maxidle")).map(|time| time.trim_end_matches('s').parse::<u64>())
    {
        part.set("affinity.cookie.max_age", format!("{seconds}s"));
    }
    part.note("Cookies that clients have already are not read: they get a new one with their next answer.");
}

fn timeout(part: &mut Part, which: &str, line: &Line, is_http: bool) {
    let Some(said) = time(line.word(2), "ms") else {
        part.leave_out(line.number, &line.text, "expected a time such as 30s");
        return;
    };
    match which {
        "connect" => {
            if said.ends_with('d') || said.ends_with('h') {
                let why = "a server that takes so long to be connected to is down: 5s, the default, stays";
                part.leave_out(line.number, &line.text, why);
            } else {
                part.set("timeouts.connect", said);
            }
        }
        "server" if is_http => {
            part.set("timeouts.first_byte", said.clone());
            part.set("timeouts.read_idle", said);
        }
        "server" => part.set_new("timeouts.tunnel_idle", said),
        "tunnel" => part.set("timeouts.tunnel_idle", said),
        "queue" => part.set("queue.timeout", said),
        "check" => part.set("health.timeout", said),
        "http-request" | "http-keep-alive" | "client" => {}
        _ => part.leave_out(line.number, &line.text, "what has ended is let go by itself"),
    }
}

/// The terms of the first server that is checked hold for all.
fn check(part: &mut Part, line: &Line) {
    let number = |key: &str| line.after(key).and_then(|text| text.parse::<u64>().ok());
    part.set_new("health.check", "tcp");
    if let Some(interval) = line.after("inter").and_then(|text| time(text, "ms")) {
        let short = interval.ends_with("ms");
        part.set("health.interval", if short { "1s".to_owned() } else { interval });
    }
    if let Some(rise) = number("rise") {
        part.set("health.rise", rise);
    }
    if let Some(fall) = number("fall") {
        part.set("health.fall", fall);
    }
}

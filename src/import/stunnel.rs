//! stunnel's configuration: services become raw listeners with TLS, or raw upstreams with it.

use serde_yaml::Value;

use super::Unreadable;
use super::draft::{Draft, Part, Remark, literal, pair};

/// A service, or what stands before the first.
#[derive(Default)]
struct Service {
    name: String,
    line: usize,
    options: Vec<(usize, String, String)>,
}

impl Service {
    fn last(&self, name: &str) -> Option<&str> {
        self.options
            .iter()
            .rev()
            .find(|(_, option, _)| option.eq_ignore_ascii_case(name))
            .map(|(_, _, value)| value.as_str())
    }
}

/// Reads a file.
pub(super) fn read(text: &str) -> Result<Draft, Unreadable> {
    let mut services = vec![Service::default()];
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with([';', '#']) {
            continue;
        }
        let number = at + 1;
        if let Some(name) = line.strip_prefix('[') {
            let name =
                name.strip_suffix(']').ok_or_else(|| Unreadable { line: number, what: "found no `]`".to_owned() })?;
            services.push(Service { name: name.trim().to_owned(), line: number, options: Vec::new() });
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| Unreadable {
            line: number,
            what: format!("found `{line}`, expected `name = value` or `[service]`"),
        })?;
        if let Some(service) = services.last_mut() {
            service.options.push((number, name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    let general = services.remove(0);
    if services.is_empty() {
        return Err(Unreadable { line: 1, what: "found no `[service]`".to_owned() });
    }
    let mut draft = Draft::default();
    for (number, name, value) in &general.options {
        if !matches!(&*name.to_ascii_lowercase(), "cert" | "key" | "cafile" | "sslversion" | "sslversionmin" | "client")
        {
            draft.leave_out(*number, &format!("{name} = {value}"), why(name));
        }
    }
    for service in &services {
        if let Err(why) = one(&mut draft, service, &general) {
            draft.leave_out(service.line, &format!("[{}]", service.name), why);
        }
    }
    Ok(draft)
}

fn why(name: &str) -> &'static str {
    match &*name.to_ascii_lowercase() {
        "pid" | "setuid" | "setgid" | "chroot" | "foreground" | "fips" | "service" => {
            "the service manager does that (conf/systemd)"
        }
        "debug" | "output" | "syslog" | "log" => {
            "RUST_LOG says what is logged, and `access_log` has a line for each connection"
        }
        "ciphers" | "ciphersuites" | "options" | "curves" | "curve" | "renegotiation" | "securitylevel" | "engine" => {
            "only good ciphers and versions are on (`tls`)"
        }
        "socket"
        | "delay"
        | "session"
        | "sessioncachesize"
        | "sessioncachetimeout"
        | "compression"
        | "retry"
        | "rndbytes"
        | "rndfile" => "it is done by itself",
        "timeoutbusy" | "timeoutclose" | "timeoutconnect" | "timeoutidle" => "see `timeouts` of the upstream",
        _ => "it has no counterpart",
    }
}

fn one(draft: &mut Draft, service: &Service, general: &Service) -> Result<(), String> {
    let said = |name: &str| service.last(name).or_else(|| general.last(name));
    let is_client = said("client").is_some_and(|value| value.eq_ignore_ascii_case("yes"));
    let accept = service.last("accept").ok_or("it has no `accept`")?;
    let mut listener = Part::default();
    listener.set("address", address(accept, "0.0.0.0").ok_or("`accept` is a port, or HOST:PORT")?);
    listener.set("name", service.name.clone());
    listener.set("protocol", "tcp");
    listener.set("upstream", service.name.clone());
    let mut upstream = Part::default();
    upstream.set("kind", "tcp");
    let connects: Vec<&str> = service
        .options
        .iter()
        .filter(|(_, name, _)| name.eq_ignore_ascii_case("connect"))
        .map(|(_, _, value)| value.as_str())
        .collect();
    if connects.is_empty() {
        return Err("it has no `connect`".to_owned());
    }
    let servers =
        connects.iter().map(|connect| address(connect, "127.0.0.1").map(Value::from)).collect::<Option<Vec<_>>>();
    upstream.set("servers", Value::Sequence(servers.ok_or("`connect` is a port, or HOST:PORT")?));
    if !is_client {
        let cert = said("cert").ok_or("it has no `cert`")?;
        let key = said("key").unwrap_or(cert);
        listener.push("tls.certificates", pair(cert, key));
        if said("sslVersionMin").or_else(|| said("sslVersion")) == Some("TLSv1.3") {
            listener.set("tls.min_version", 1.3);
        }
        if let Some(ca) = said("CAfile").filter(|_| said("verify").is_some() || said("verifyChain").is_some()) {
            listener.set("tls.client_certificates.ca", literal(ca));
        }
    } else {
        let verifies = said("verifyChain").is_some_and(|value| value.eq_ignore_ascii_case("yes"))
            || said("verify").is_some_and(|value| value >= "2");
        upstream.set("tls.verify", verifies);
        if let Some(ca) = said("CAfile") {
            upstream.set("tls.ca", literal(ca));
        }
        if let Some(name) = service.last("checkHost").or_else(|| service.last("sni")) {
            upstream.set("tls.server_name", name);
        }
    }
    for (number, name, value) in &service.options {
        let text = format!("{name} = {value}");
        match (&*name.to_ascii_lowercase(), value.as_str()) {
            (
                "accept" | "connect" | "cert" | "key" | "client" | "cafile" | "sslversion" | "sslversionmin"
                | "checkhost" | "verify" | "verifychain",
                _,
            ) => {}
            ("sni", _) if is_client => {}
            ("protocol", "proxy") if is_client => {
                listener.remarks.push(Remark::of_line(
                    *number,
                    &text,
                    "a client of TLS tells its server nothing of clients here",
                ));
            }
            ("protocol", "proxy") => upstream.set("proxy_protocol", "v1"),
            ("timeoutidle", _) => match super::draft::time(value, "s") {
                Some(time) => upstream.set("timeouts.tunnel_idle", time),
                None => listener.leave_out(*number, &text, "expected seconds"),
            },
            ("timeoutconnect", _) => match super::draft::time(value, "s") {
                Some(time) => upstream.set("timeouts.connect", time),
                None => listener.leave_out(*number, &text, "expected seconds"),
            },
            _ => listener.leave_out(*number, &text, why(name)),
        }
    }
    draft.listeners.push(listener);
    *draft.upstream(&service.name) = upstream;
    Ok(())
}

/// A port, or HOST:PORT.
fn address(text: &str, host: &str) -> Option<String> {
    if let Some((at, port)) = text.rsplit_once(':') {
        port.parse::<u16>().ok()?;
        let at = match at {
            "" | "*" => host.to_owned(),
            "::" | ":" => return Some(format!(":{port}")),
            at if at.contains(':') && !at.starts_with('[') => format!("[{at}]"),
            at => at.to_owned(),
        };
        return Some(format!("{at}:{port}"));
    }
    text.parse::<u16>().ok().map(|port| format!("{host}:{port}"))
}

//! HAProxy's configuration: frontends become listeners and routes, backends become upstreams.

mod acl;
mod backend;
mod words;

use serde_yaml::{Mapping, Value};

use self::acl::{Listeners, Named, condition, criterion};
use self::words::{Line, Section};
use super::Unreadable;
use super::draft::{Draft, Part, Remark, literal, pair, time};

/// Reads a file.
pub(super) fn read(text: &str) -> Result<Draft, Unreadable> {
    let sections = words::read(text)?;
    let mut draft = Draft::default();
    // Later `defaults` stand in place of those before them.
    let mut defaults: Vec<Line> = Vec::new();
    let fronts = sections.iter().filter(|section| is_front(section)).count();
    for section in &sections {
        match section.kind.as_str() {
            "global" => global(&mut draft, section),
            "defaults" => defaults = section.lines.clone(),
            "frontend" | "listen" | "backend" => {}
            _ => draft.leave_out(section.head.number, &section.head.text, "the section has no counterpart"),
        }
        if is_front(section) {
            let alone = fronts == 1;
            Front { draft: &mut draft, section, defaults: &defaults, all: &sections, alone }.read();
        }
        if matches!(section.kind.as_str(), "backend" | "listen") {
            backend::read(&mut draft, section, &defaults);
        }
    }
    client_timeouts(&mut draft, &sections);
    Ok(draft)
}

fn is_front(section: &Section) -> bool {
    section.kind == "frontend" || section.kind == "listen" && section.lines.iter().any(|line| line.word(0) == "bind")
}

/// The mode of a section.
fn mode<'a>(section: &'a Section, defaults: &'a [Line]) -> &'a str {
    let last = |lines: &'a [Line]| lines.iter().rev().find(|line| line.word(0) == "mode").map(|line| line.word(1));
    last(&section.lines).or_else(|| last(defaults)).unwrap_or("tcp")
}

/// Why lines are left out that need no counterpart.
fn not_needed(line: &Line) -> Option<&'static str> {
    Some(match (line.word(0), line.word(1)) {
        ("option", "forwardfor" | "originalto") => "X-Forwarded-For is always told (`forwarding`)",
        (
            "option",
            "httplog"
            | "tcplog"
            | "dontlognull"
            | "log-health-checks"
            | "dontlog-normal"
            | "logasap"
            | "log-separate-errors",
        )
        | ("log" | "log-format" | "log-tag" | "log-format-sd" | "unique-id-format" | "unique-id-header", _) => {
            "every request and tunnel has its line already (`access_log`)"
        }
        (
            "option",
            "http-server-close"
            | "http-keep-alive"
            | "httpclose"
            | "forceclose"
            | "http-pretend-keepalive"
            | "prefer-last-server"
            | "tcp-smart-accept"
            | "tcp-smart-connect"
            | "http-tunnel"
            | "http-buffer-request"
            | "splice-auto"
            | "splice-request"
            | "splice-response"
            | "clitcpka"
            | "srvtcpka"
            | "tcpka"
            | "nolinger"
            | "abortonclose"
            | "checkcache"
            | "http-use-htx"
            | "contstats"
            | "http-no-delay"
            | "http-ignore-probes"
            | "redispatch"
            | "allbackups"
            | "socket-stats"
            | "independent-streams",
        )
        | ("http-reuse", _) => "connections are kept, shared and given up by themselves",
        ("retries", _) => "`connect_retries` tries three other servers by itself",
        ("no", _) => "it takes back what is not carried over",
        ("stats" | "monitor-uri" | "monitor-net" | "monitor", _) => "the admin address tells more (`admin`)",
        ("http-request" | "http-response", "set-log-level" | "capture" | "set-nice" | "set-mark" | "set-tos")
        | ("capture" | "declare", _) => "the access log has what it needs (`access_log`)",
        ("maxconn", _) if line.words.len() < 2 => "it says no number",
        _ => return None,
    })
}

fn global(draft: &mut Draft, section: &Section) {
    for line in &section.lines {
        let why = match line.word(0) {
            "maxconn" => {
                if let Ok(connections) = line.word(1).parse::<u64>() {
                    draft.top("limits").set("connections", connections);
                    continue;
                }
                "it says no number"
            }
            "nbthread" => {
                if let Ok(threads) = line.word(1).parse::<u64>() {
                    draft.set_top("threads", threads);
                }
                continue;
            }
            "user" | "group" | "chroot" | "daemon" | "pidfile" | "uid" | "gid" | "nbproc" | "cpu-map"
            | "master-worker" => "the service manager does that (conf/systemd)",
            "log" => "every request and tunnel has its line already (`access_log`)",
            "stats" => "the admin address tells more (`admin`)",
            word if word.starts_with("ssl-default") => {
                "only good ciphers and versions are on (`tls.min_version`, `tls.ciphers`)"
            }
            word if word.starts_with("tune.") => "buffers are lent to whoever reads or writes",
            "ca-base" | "crt-base" => "paths of files are written out",
            "maxconnrate" | "maxsslrate" | "maxsessrate" => {
                "`limits.rate` limits requests, and `new_sessions` sessions"
            }
            _ => "it has no counterpart",
        };
        draft.leave_out(line.number, &line.text, why);
    }
}

/// `timeout client` and the like hold for all listeners here; the first that is said does.
fn client_timeouts(draft: &mut Draft, sections: &[Section]) {
    for section in sections.iter().filter(|section| matches!(section.kind.as_str(), "defaults" | "frontend" | "listen"))
    {
        for line in section.lines.iter().filter(|line| line.word(0) == "timeout") {
            let key = match line.word(1) {
                "http-request" => "head",
                "http-keep-alive" => "keep_alive",
                "client" => "body",
                _ => continue,
            };
            let Some(time) = time(line.word(2), "ms") else {
                continue;
            };
            draft.top("timeouts").set_new(key, time);
        }
    }
}

/// A frontend, or the front of a `listen`.
struct Front<'a> {
    draft: &'a mut Draft,
    section: &'a Section,
    defaults: &'a [Line],
    all: &'a [Section],
    /// Whether there is no other, so that routes need not say whose they are.
    alone: bool,
}

impl Front<'_> {
    fn read(mut self) {
        let is_http = mode(self.section, self.defaults) == "http";
        let listeners = self.binds(is_http);
        if is_http {
            self.routes(&listeners);
            self.hints();
        }
    }

    /// Makes the listeners; gives their names.
    fn binds(&mut self, is_http: bool) -> Listeners {
        let mut listeners = Listeners::default();
        let mut remarks: Vec<Remark> = Vec::new();
        let binds = self.section.lines.iter().filter(|line| line.word(0) == "bind");
        let several = binds.clone().flat_map(|line| line.word(1).split(',')).count() > 1;
        let mut made = Vec::new();
        for line in binds {
            for address in line.word(1).split(',') {
                let Some(address) = bind_address(address) else {
                    remarks.push(Remark::of_line(
                        line.number,
                        &line.text,
                        "expected one IP:PORT, and no range of ports",
                    ));
                    continue;
                };
                let twin =
                    |part: &Part| part.get("address").and_then(Value::as_str) == Some(&*format!("0.0.0.0{address}"));
                if let Some(twin) = made.iter_mut().find(|part: &&mut Part| twin(part)) {
                    // All addresses of both families.
                    twin.set("address", address);
                    continue;
                }
                let mut part = Part::default();
                part.set("address", address);
                let name = match (several, made.len()) {
                    (false, _) | (true, 0) => self.section.name.clone(),
                    (true, at) => format!("{}-{}", self.section.name, at + 1),
                };
                part.set("name", name.clone());
                let tls = line.has("ssl");
                if tls {
                    bind_tls(&mut part, line);
                }
                if line.has("accept-proxy") {
                    part.set("proxy_protocol", "required");
                    part.note("Say in `forwarding.trusted_proxies` whose PROXY header is believed.");
                    self.draft
                        .top("forwarding")
                        .set_new("trusted_proxies", Value::Sequence(vec!["127.0.0.0/8".into()]));
                }
                if let Some(Ok(most)) = line.after("maxconn").map(str::parse::<u64>) {
                    part.set("max_connections", most);
                }
                if tls {
                    listeners.tls.push(name)
                } else {
                    listeners.plain.push(name)
                }
                made.push(part);
            }
        }
        let most = self.section.lines.iter().find(|line| line.word(0) == "maxconn");
        let most = most.and_then(|line| line.word(1).parse::<u64>().ok());
        if let (Some(first), Some(most)) = (made.first_mut(), most) {
            first.set_new("max_connections", most);
        }
        let raw = (!is_http).then(|| self.raw(&mut remarks));
        for part in &mut made {
            if let Some(upstream) = &raw {
                part.set("protocol", "tcp");
                part.set("upstream", upstream.clone());
            }
        }
        if let Some(first) = made.first_mut() {
            first.remarks.splice(0..0, remarks);
        } else {
            self.draft.leave_out(
                self.section.head.number,
                &self.section.head.text,
                "it has no `bind` that can be carried over",
            );
        }
        self.draft.listeners.extend(made);
        listeners
    }

    /// The one upstream of raw connections.
    fn raw(&mut self, remarks: &mut Vec<Remark>) -> String {
        let mut upstream = (self.section.kind == "listen").then(|| self.section.name.clone());
        for line in &self.section.lines {
            match line.word(0) {
                "default_backend" => upstream = Some(line.word(1).to_owned()),
                "bind" | "mode" | "maxconn" | "timeout" => {}
                "use_backend" => {
                    let why = "a raw listener has one upstream; names of TLS that pass through are `tls.passthrough` \
                               of a listener of HTTP";
                    remarks.push(Remark::of_line(line.number, &line.text, why));
                }
                _ if self.section.kind == "listen" => {}
                _ => {
                    let why = not_needed(line).unwrap_or("it has no counterpart for raw connections");
                    remarks.push(Remark::of_line(line.number, &line.text, why));
                }
            }
        }
        let upstream = upstream.or_else(|| {
            let first = self.section.lines.iter().find(|line| line.word(0) == "use_backend")?;
            Some(first.word(1).to_owned())
        });
        upstream.unwrap_or_default()
    }

    fn routes(&mut self, listeners: &Listeners) {
        let named = self.named(listeners);
        let own = if self.alone {
            Mapping::new()
        } else {
            let names: Vec<Value> = listeners.plain.iter().chain(&listeners.tls).cloned().map(Value::from).collect();
            Mapping::from_iter([("listener".into(), Value::Sequence(names))])
        };
        let mut general = Part::default();
        let (mut routes, mut last, mut pending) = (Vec::new(), None, Vec::new());
        for line in &self.section.lines {
            let matched = line
                .condition()
                .map_or(Ok(Mapping::new()), |(words, turned)| condition(words, turned, &named, listeners));
            let mut part = Part { remarks: std::mem::take(&mut pending), ..Part::default() };
            let done = match (line.word(0), line.word(1)) {
                ("bind" | "mode" | "acl" | "maxconn" | "timeout", _) => Ok(false),
                ("use_backend", name) if !name.contains('%') => {
                    part.set("upstream", name);
                    Ok(true)
                }
                ("default_backend", name) => {
                    last = Some(name.to_owned());
                    Ok(false)
                }
                ("redirect", _) | ("http-request", "redirect") => redirect(&mut part, line).map(|()| true),
                ("http-request", "deny" | "reject") | ("block", _) => {
                    part.set(
                        "respond.status",
                        line.after("deny_status").and_then(|status| status.parse::<u64>().ok()).unwrap_or(403),
                    );
                    Ok(true)
                }
                ("http-request", "return") => respond(&mut part, line).map(|()| true),
                ("http-request" | "http-response", _) => match header(&mut Part::default(), line) {
                    Ok(()) if line.condition().is_some() => {
                        Err("fields are changed on a route with a `match` of its own (`request_headers`)".to_owned())
                    }
                    Ok(()) => header(&mut general, line).map(|()| false),
                    Err(why) => Err(why),
                },
                ("compression", _) => {
                    general.set_new("compression", Mapping::new());
                    Ok(false)
                }
                // Of a `listen`, what its servers are.
                _ if self.section.kind == "listen" && backend::is_of_backend(line) => Ok(false),
                _ => Err(not_needed(line).unwrap_or("it has no counterpart").to_owned()),
            };
            match (done, matched) {
                (Ok(true), Ok(matched)) => {
                    let mut all = own.clone();
                    all.extend(matched);
                    if !all.is_empty() {
                        let mut ordered = Mapping::from_iter([("match".into(), Value::Mapping(all))]);
                        ordered.extend(std::mem::take(&mut part.value));
                        part.value = ordered;
                    }
                    routes.push(part);
                }
                (Ok(false), Ok(_)) => pending = part.remarks,
                (Err(why), _) | (Ok(_), Err(why)) => {
                    pending = part.remarks;
                    pending.push(Remark::of_line(line.number, &line.text, why));
                }
            }
        }
        if self.section.kind == "listen"
            && last.is_none()
            && self.section.lines.iter().any(|line| line.word(0) == "server")
        {
            last = Some(self.section.name.clone());
        }
        let mut end = Part { remarks: pending, ..Part::default() };
        if let Some(name) = last {
            if !own.is_empty() {
                end.set("match", own);
            }
            end.set("upstream", name);
            routes.push(end);
        } else if let Some(part) = routes.last_mut() {
            part.remarks.extend(end.remarks);
        }
        for part in &mut routes {
            if part.get("upstream").is_some() {
                for (key, value) in &general.value {
                    part.value.insert(key.clone(), value.clone());
                }
            }
        }
        // What answers by itself is asked first there, wherever it stands.
        routes.sort_by_key(|part| part.get("upstream").is_some());
        self.draft.routes.extend(routes);
    }

    /// The conditions that have names, those that stand in the section of the upstream included.
    fn named(&self, listeners: &Listeners) -> Named {
        let mut named = Named::new();
        for line in self.section.lines.iter().filter(|line| line.word(0) == "acl" && line.words.len() > 2) {
            let made = criterion(&line.words[2..], listeners).map_err(|why| format!("`{}`: {why}", line.text));
            named.entry(line.word(1).to_owned()).or_default().push(made);
        }
        named
    }

    /// What an operator should know of several frontends.
    fn hints(&mut self) {
        let shared =
            self.all.iter().filter(|section| is_front(section) && mode(section, self.defaults) == "http").count();
        if shared > 1
            && let Some(route) = self.draft.routes.first_mut()
        {
            route.note("Routes of all frontends are one list: `match.listener` says whose each is.");
        }
    }
}

fn bind_address(text: &str) -> Option<String> {
    if let Some(path) = text.strip_prefix("unix@").or_else(|| text.starts_with('/').then_some(text)) {
        return Some(format!("unix:{path}"));
    }
    let text = text.strip_prefix("ipv4@").or_else(|| text.strip_prefix("ipv6@")).unwrap_or(text);
    let (host, port) = text.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    Some(match host {
        "" | "*" => format!("0.0.0.0:{port}"),
        "::" | "[::]" => format!(":{port}"),
        host if host.contains(':') && !host.starts_with('[') => format!("[{host}]:{port}"),
        host if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() => {
            format!("{host}:{port}")
        }
        "localhost" => format!("127.0.0.1:{port}"),
        _ => return None,
    })
}

fn bind_tls(part: &mut Part, line: &Line) {
    let mut files = line.words.windows(2).filter(|pair| pair[0] == "crt").map(|pair| &pair[1]).peekable();
    if files.peek().is_none() {
        part.note("It named no certificate: say where it is.");
        part.push("tls.certificates", pair("cert.pem", "key.pem"));
    }
    for file in files {
        if !file.ends_with(".pem") && !file.ends_with(".crt") && !file.contains('.') {
            part.note(format!("{file} looks like a folder: name each certificate in it."));
        }
        part.push("tls.certificates", pair(file, file));
    }
    if line.after("ssl-min-ver") == Some("TLSv1.3") {
        part.set("tls.min_version", 1.3);
    }
    if let Some(ca) = line.after("ca-file") {
        part.set("tls.client_certificates.ca", literal(ca));
        if line.after("verify") == Some("optional") {
            part.set("tls.client_certificates.mode", "optional");
        }
    }
    if line.after("alpn").is_some_and(|protocols| !protocols.contains("h2")) {
        part.set("http2", false);
    }
}

/// `redirect scheme https code 301` and the like.
fn redirect(part: &mut Part, line: &Line) -> Result<(), String> {
    let status = line.after("code").and_then(|code| code.parse::<u64>().ok()).unwrap_or(302);
    if let Some(scheme) = line.after("scheme") {
        part.set("redirect.status", status);
        part.set("redirect.scheme", scheme);
        return Ok(());
    }
    let to =
        line.after("prefix").or_else(|| line.after("location")).ok_or("expected `scheme`, `prefix` or `location`")?;
    if to.contains('%') {
        return Err("a redirect has no variables here but the path and host that it keeps".to_owned());
    }
    part.set("redirect.status", status);
    super::nginx::redirect_to(part, to, line.has("prefix"))
}

/// `http-request return status 200 content-type text/plain string "…"`.
fn respond(part: &mut Part, line: &Line) -> Result<(), String> {
    if line.has("file") || line.has("lf-string") || line.has("lf-file") || line.has("errorfile") {
        return Err("an answer is text here (`respond.body`), or files of a folder (`files`)".to_owned());
    }
    part.set("respond.status", line.after("status").and_then(|status| status.parse::<u64>().ok()).unwrap_or(200));
    if let Some(kind) = line.after("content-type") {
        part.set_entry("respond.headers", "content-type", literal(kind));
    }
    if let Some(body) = line.after("string") {
        part.set("respond.body", literal(body));
    }
    Ok(())
}

/// `http-request set-header X-A b` and the like, on a route or an upstream.
fn header(part: &mut Part, line: &Line) -> Result<(), String> {
    let side = if line.word(0) == "http-request" { "request_headers" } else { "response_headers" };
    let name = line.word(2).to_ascii_lowercase();
    if let "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-port" | "x-forwarded-host" | "x-real-ip"
    | "x-request-id" = &*name
    {
        return Err("servers are told that by itself (`forwarding`)".to_owned());
    }
    let end = line.condition().map_or(line.words.len(), |(words, _)| line.words.len() - words.len() - 1);
    let value = line.words.get(3..end).unwrap_or_default().join(" ");
    let value = variables(&value)?;
    if side == "request_headers" && name == "host" && line.word(1) == "set-header" {
        part.set("host", value);
        return Ok(());
    }
    match line.word(1) {
        "set-header" if side == "response_headers" && name == "strict-transport-security" => {
            return Err("`tls.hsts` of the listener says that".to_owned());
        }
        "set-header" => part.set_entry(&format!("{side}.set"), &name, value),
        "add-header" => part.set_entry(&format!("{side}.add"), &name, value),
        "del-header" => part.push(&format!("{side}.remove"), name),
        _ => {
            return Err(not_needed(line).unwrap_or("it has no counterpart").to_owned());
        }
    }
    Ok(())
}

/// A value in HAProxy's log format as one of ours.
fn variables(text: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("%[") {
        out.push_str(&literal(&rest[..at]));
        let end = rest[at..].find(']').ok_or("it has a `%[` that is not closed")? + at;
        out.push_str(match &rest[at + 2..end] {
            "src" => "${client.ip}",
            "src_port" => "${client.port}",
            "dst_port" => "${listener.port}",
            "ssl_fc_sni" => "${tls.server_name}",
            "ssl_fc_protocol" => "${tls.version}",
            "ssl_fc_cipher" => "${tls.cipher}",
            "hdr(host)" | "req.hdr(host)" | "req.hdr(Host)" | "hdr(Host)" => "${request.host}",
            "path" => "${request.path}",
            "method" => "${request.method}",
            "unique-id" => "${request.id}",
            other => {
                return Err(format!("`%[{other}]` has no counterpart among the variables"));
            }
        });
        rest = &rest[end + 1..];
    }
    if rest.contains('%') {
        return Err("variables of the log format have no counterpart".to_owned());
    }
    out.push_str(&literal(rest));
    Ok(out)
}

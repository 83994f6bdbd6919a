//! nginx's configuration: servers become listeners and routes, locations routes, `upstream` blocks upstreams.

mod grammar;
mod location;

use serde_yaml::{Mapping, Value};

use self::grammar::Directive;
use super::Unreadable;
use super::draft::{Draft, Part, list, literal, pair, time};

/// Reads a file: a whole one, or one that `http` includes.
pub(super) fn read(text: &str) -> Result<Draft, Unreadable> {
    let directives = grammar::read(text)?;
    let mut reader = Reader::default();
    let is_part = directives.iter().any(|one| matches!(one.name.as_str(), "server" | "upstream" | "map"));
    if is_part {
        reader.http(&directives);
    }
    for one in &directives {
        match one.name.as_str() {
            "http" => reader.http(&one.children),
            "stream" => reader.stream(&one.children),
            _ if is_part => {}
            "events" => {}
            "worker_processes" => match one.argument(0).parse::<u64>() {
                Ok(threads) => reader.draft.set_top("threads", threads),
                Err(_) => reader.draft.leave_out(one.line, &one.text(), "one thread for each core is the default"),
            },
            "user" | "pid" | "daemon" | "worker_rlimit_nofile" => {
                reader.draft.leave_out(one.line, &one.text(), "the service manager does that (conf/systemd)");
            }
            _ => reader.draft.leave_out(one.line, &one.text(), why(one)),
        }
    }
    if reader.servers == 0 {
        let what = "found no `server`, expected one in `http`, in `stream` or by itself".to_owned();
        return Err(Unreadable { line: 1, what });
    }
    reader.draft.routes.extend(std::mem::take(&mut reader.defaults));
    Ok(reader.draft)
}

#[derive(Default)]
struct Reader {
    draft: Draft,
    /// How many servers there were.
    servers: usize,
    /// Routes of servers that take what no other does.
    defaults: Vec<Part>,
    /// The address of each listener, and how many servers it has.
    several: bool,
}

/// Why a directive is left out.
fn why(one: &Directive) -> &'static str {
    match one.name.as_str() {
        "map" if one.arguments.iter().any(|argument| argument == "$http_upgrade") => {
            "upgrades are carried by themselves"
        }
        "include" => "import that file, too, where it says more than types and defaults",
        "sendfile"
        | "tcp_nopush"
        | "tcp_nodelay"
        | "proxy_buffering"
        | "proxy_request_buffering"
        | "proxy_buffers"
        | "proxy_buffer_size"
        | "proxy_busy_buffers_size"
        | "proxy_cache_bypass"
        | "proxy_no_cache"
        | "proxy_http_version"
        | "keepalive"
        | "proxy_max_temp_file_size"
        | "types_hash_max_size"
        | "server_names_hash_bucket_size"
        | "server_names_hash_max_size"
        | "client_body_buffer_size"
        | "client_header_buffer_size"
        | "reset_timedout_connection"
        | "open_file_cache"
        | "variables_hash_max_size"
        | "keepalive_requests"
        | "keepalive_disable"
        | "proxy_socket_keepalive"
        | "proxy_headers_hash_max_size"
        | "proxy_headers_hash_bucket_size"
        | "lingering_close"
        | "lingering_timeout"
        | "multi_accept" => "bodies and answers pass as they come, and connections are kept by themselves",
        "access_log" | "log_format" | "error_log" | "log_not_found" | "rewrite_log" => {
            "every request and tunnel has its line already (`access_log`)"
        }
        "proxy_cache"
        | "proxy_cache_path"
        | "proxy_cache_valid"
        | "proxy_cache_key"
        | "expires"
        | "etag"
        | "proxy_cache_use_stale" => "there is no cache",
        "limit_req" | "limit_req_zone" | "limit_conn" | "limit_conn_zone" => {
            "`limits.rate` and `limits.connections_per_address` do that"
        }
        "resolver" | "resolver_timeout" => "servers that DNS finds are `servers: { dns: NAME, port: PORT }`",
        "ssl_prefer_server_ciphers"
        | "ssl_ciphers"
        | "ssl_session_cache"
        | "ssl_session_timeout"
        | "ssl_session_tickets"
        | "ssl_dhparam"
        | "ssl_ecdh_curve"
        | "ssl_conf_command"
        | "ssl_buffer_size" => "only good ciphers are on, and tickets are changed by themselves (`tls`)",
        "ssl_stapling" | "ssl_stapling_verify" | "ssl_trusted_certificate" => {
            "an OCSP response is shown from a file (`certificates.ocsp`)"
        }
        "default_type" | "types" | "charset" | "server_tokens" | "autoindex" | "more_clear_headers" => {
            "it is so by itself, or needs no saying"
        }
        "gzip_types" | "gzip_vary" | "gzip_proxied" | "gzip_comp_level" | "gzip_min_length" | "gzip_buffers"
        | "gzip_http_version" | "gzip_disable" | "gzip_static" | "brotli_types" | "brotli_comp_level" => {
            "`compression` has good defaults for it"
        }
        "set_real_ip_from" | "real_ip_header" | "real_ip_recursive" => {
            "`forwarding.trusted_proxies` says who is believed"
        }
        "proxy_next_upstream" | "proxy_next_upstream_tries" | "proxy_next_upstream_timeout" => {
            "what may be tried again is (`connect_retries`)"
        }
        "fastcgi_pass" | "uwsgi_pass" | "scgi_pass" | "memcached_pass" | "fastcgi_param" | "fastcgi_index" => {
            "servers speak HTTP here"
        }
        "proxy_redirect" | "proxy_cookie_path" | "proxy_cookie_domain" => {
            "`rewrite` brings redirects and cookies back by itself"
        }
        "sticky" | "sticky_cookie" => "`affinity.cookie` does that",
        "auth_request" => "`access.forward_auth` does that",
        _ => "it has no counterpart",
    }
}

impl Reader {
    fn http(&mut self, directives: &[Directive]) {
        self.several = directives.iter().filter(|one| one.name == "server").count() > 1;
        for one in directives.iter().filter(|one| one.name == "upstream") {
            self.upstream(one, true);
        }
        let general: Vec<Directive> =
            directives.iter().filter(|one| location::is_inherited(&one.name)).cloned().collect();
        for one in directives {
            match one.name.as_str() {
                "server" => self.server(one, &general),
                "upstream" => {}
                "keepalive_timeout" => self.top_time("keep_alive", one),
                "client_header_timeout" => self.top_time("head", one),
                "client_body_timeout" => self.top_time("body", one),
                "send_timeout" => self.top_time("write", one),
                name if location::is_inherited(name) => {}
                _ => self.draft.leave_out(one.line, &one.text(), why(one)),
            }
        }
    }

    fn top_time(&mut self, key: &str, one: &Directive) {
        match time(one.argument(0), "s") {
            Some(time) => self.draft.top("timeouts").set_new(key, time),
            None => self.draft.leave_out(one.line, &one.text(), "expected a time such as 30s"),
        }
    }

    fn upstream(&mut self, block: &Directive, is_http: bool) {
        let mut part = Part::default();
        if !is_http {
            part.set("kind", "tcp");
        }
        // nginx goes round where nothing else is said.
        part.set("balance", "round_robin");
        let mut servers = Vec::new();
        for one in &block.children {
            match one.name.as_str() {
                "server" => match server(one) {
                    Ok(server) => servers.push(server),
                    Err(why) => part.leave_out(one.line, &one.text(), why),
                },
                "least_conn" => part.set("balance", "least_connections"),
                "ip_hash" => part.set("balance", "client_ip"),
                "random" => part.set("balance", "power_of_two"),
                "hash" => hash(&mut part, one),
                "zone" => part.leave_out(one.line, &one.text(), "all threads know the same"),
                _ => part.leave_out(one.line, &one.text(), why(one)),
            }
        }
        part.set("servers", Value::Sequence(servers));
        *self.draft.upstream(block.argument(0)) = part;
    }

    /// An address in `proxy_pass` by itself; gives the name of its upstream.
    fn upstream_of(&mut self, scheme: &str, authority: &str, is_http: bool) -> Option<String> {
        let is_tls = scheme == "https";
        if self.draft.has_upstream(authority) {
            if is_tls {
                self.draft.upstream(authority).set_new("tls", Mapping::new());
                // nginx asks for no certificate that it could trust.
                self.draft.upstream(authority).set_new("tls.verify", false);
            }
            return Some(authority.to_owned());
        }
        let address = match authority.strip_prefix("unix:") {
            Some(path) => format!("unix:{}", path.trim_end_matches(':')),
            None if authority.contains('$') => return None,
            None => with_port(authority, if is_tls { 443 } else { 80 })?,
        };
        let name: String =
            address.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '.' { c } else { '_' }).collect();
        let part = self.draft.upstream(&name);
        if !is_http {
            part.set("kind", "tcp");
        }
        part.set("servers", Value::Sequence(vec![address.into()]));
        if is_tls {
            part.set("tls.verify", false);
        }
        Some(name)
    }

    fn stream(&mut self, directives: &[Directive]) {
        for one in directives.iter().filter(|one| one.name == "upstream") {
            self.upstream(one, false);
        }
        for block in directives.iter().filter(|one| one.name == "server") {
            self.servers += 1;
            let mut part = Part::default();
            let mut upstream = None;
            let mut timeouts = Vec::new();
            for one in &block.children {
                match one.name.as_str() {
                    "listen" => match address(one.argument(0)) {
                        Some(address) => part.set("address", address),
                        None => part.leave_out(one.line, &one.text(), "expected one IP:PORT"),
                    },
                    "proxy_pass" => upstream = self.upstream_of("tcp", one.argument(0), false),
                    "proxy_timeout" | "proxy_connect_timeout" => timeouts.push(one.clone()),
                    "ssl_certificate" | "ssl_certificate_key" => {}
                    _ => part.leave_out(one.line, &one.text(), why(one)),
                }
            }
            if let Some(certificate) = certificate(block) {
                part.push("tls.certificates", certificate);
            }
            let Some(upstream) = upstream else {
                self.draft.leave_out(block.line, &block.text(), "it has no `proxy_pass` that can be carried over");
                continue;
            };
            for one in timeouts {
                let key = if one.name == "proxy_timeout" { "timeouts.tunnel_idle" } else { "timeouts.connect" };
                if let Some(time) = time(one.argument(0), "s") {
                    self.draft.upstream(&upstream).set(key, time);
                }
            }
            if part.get("address").is_none() {
                self.draft.leave_out(block.line, &block.text(), "it has no `listen` that can be carried over");
                continue;
            }
            part.set("protocol", "tcp");
            part.set("upstream", upstream);
            self.draft.listeners.push(part);
        }
        for one in directives.iter().filter(|one| !matches!(one.name.as_str(), "upstream" | "server")) {
            self.draft.leave_out(one.line, &one.text(), why(one));
        }
    }

    fn server(&mut self, block: &Directive, general: &[Directive]) {
        self.servers += 1;
        let (mut names, mut is_default) = (Vec::new(), false);
        let mut listeners = Vec::new();
        let mut own: Vec<Directive> = general.to_vec();
        let mut remarks = Part::default();
        let mut listens: Vec<Directive> = block.children.iter().filter(|one| one.name == "listen").cloned().collect();
        if listens.is_empty() {
            listens.push(Directive {
                line: block.line,
                name: "listen".to_owned(),
                arguments: vec!["80".to_owned()],
                children: Vec::new(),
            });
        }
        let all_tls = block.child("ssl").is_some_and(|one| one.argument(0) == "on");
        for one in &listens {
            is_default |= one.arguments.iter().any(|argument| argument == "default_server" || argument == "default");
            let tls = all_tls || one.arguments.iter().any(|argument| argument == "ssl");
            match self.listener(one, tls, block) {
                Some(name) => listeners.push((name, tls)),
                None => remarks.leave_out(one.line, &one.text(), "expected one IP:PORT, a port or unix:PATH"),
            }
        }
        listeners.dedup();
        for one in &block.children {
            match one.name.as_str() {
                "listen"
                | "ssl_certificate"
                | "ssl_certificate_key"
                | "ssl"
                | "http2"
                | "ssl_protocols"
                | "location"
                | "ssl_client_certificate"
                | "ssl_verify_client" => {}
                "server_name" => {
                    for name in &one.arguments {
                        match name.as_str() {
                            "_" | "" => is_default = true,
                            name if name.starts_with('~') || name.trim_start_matches("*.").contains('*') => {
                                remarks.leave_out(
                                    one.line,
                                    &one.text(),
                                    format!(
                                        "`{name}` is no name, nor `*.` before one: see `headers_regex: {{ host: … }}`"
                                    ),
                                );
                            }
                            name => names.extend(match name.strip_prefix('.') {
                                Some(name) => {
                                    vec![name.to_lowercase(), format!("*.{}", name.to_lowercase())]
                                }
                                None => vec![name.to_lowercase()],
                            }),
                        }
                    }
                }
                "client_header_timeout" => self.top_time("head", one),
                "client_body_timeout" => self.top_time("body", one),
                "keepalive_timeout" => self.top_time("keep_alive", one),
                "send_timeout" => self.top_time("write", one),
                name if location::is_inherited(name) => {
                    // What stands further inside has the last word.
                    if location::is_single(name) {
                        own.retain(|other| other.name != name);
                    }
                    own.push(one.clone());
                }
                "return" | "if" | "rewrite" => {}
                _ => remarks.leave_out(one.line, &one.text(), why(one)),
            }
        }
        let mut base = Mapping::new();
        if !names.is_empty() {
            base.insert("host".into(), list(&names));
        } else {
            is_default |= self.several;
        }
        if self.several {
            base.insert("listener".into(), list(&listeners.iter().map(|(name, _)| name).collect::<Vec<_>>()));
        }
        let mut routes = self.locations(block, &own, &base, &listeners);
        match routes.first_mut() {
            Some(first) => first.remarks.splice(0..0, remarks.remarks).for_each(drop),
            None => {
                self.draft.leave_out(block.line, &block.text(), "nothing of it leads anywhere");
            }
        }
        if is_default && base.get("host").is_none() {
            self.defaults.extend(routes)
        } else {
            self.draft.routes.extend(routes)
        }
    }

    /// The listener at this address, with what a server adds to it; its name.
    fn listener(&mut self, listen: &Directive, tls: bool, block: &Directive) -> Option<String> {
        let address = address(listen.argument(0))?;
        let port = address.rsplit_once(':').map_or("", |(_, port)| port).to_owned();
        // IPv6 of a port whose IPv4 is there already.
        let twin = self.draft.listeners.iter().position(|part| {
            let other = part.get("address").and_then(Value::as_str).unwrap_or_default();
            other == address
                || !port.is_empty() && is_any(other) && is_any(&address) && other.ends_with(&format!(":{port}"))
        });
        let at = twin.unwrap_or_else(|| {
            let mut part = Part::default();
            part.set("address", address.clone());
            part.set(
                "name",
                if port.is_empty() {
                    "unix".to_owned()
                } else {
                    format!("{}-{port}", if tls { "https" } else { "http" })
                },
            );
            self.draft.listeners.push(part);
            self.draft.listeners.len() - 1
        });
        let part = &mut self.draft.listeners[at];
        if twin.is_some() && address != part.get("address").and_then(Value::as_str).unwrap_or_default() {
            part.set("address", format!(":{port}"));
        }
        if tls {
            match certificate(block) {
                Some(certificate) => {
                    let known = part.get("tls.certificates").and_then(Value::as_sequence);
                    if !known.is_some_and(|known| known.contains(&Value::Mapping(certificate.clone()))) {
                        part.push("tls.certificates", certificate);
                    }
                }
                None if part.get("tls").is_none() => {
                    part.note("It named no certificate: say where it is.");
                    part.push("tls.certificates", pair("cert.pem", "key.pem"));
                }
                None => {}
            }
            if block.child("ssl_protocols").is_some_and(|one| one.arguments == ["TLSv1.3"]) {
                part.set("tls.min_version", 1.3);
            }
            if let Some(ca) = block.child("ssl_client_certificate") {
                part.set("tls.client_certificates.ca", literal(ca.argument(0)));
                if block.child("ssl_verify_client").is_some_and(|one| one.argument(0).starts_with("optional")) {
                    part.set("tls.client_certificates.mode", "optional");
                }
            }
        }
        if listen.arguments.iter().any(|argument| argument == "proxy_protocol") {
            part.set("proxy_protocol", "required");
            part.note("Say in `forwarding.trusted_proxies` whose PROXY header is believed.");
            let name = part.get("name").and_then(Value::as_str).map(str::to_owned);
            self.draft.top("forwarding").set_new("trusted_proxies", Value::Sequence(vec!["127.0.0.0/8".into()]));
            return name;
        }
        part.get("name").and_then(Value::as_str).map(str::to_owned)
    }
}

fn is_any(address: &str) -> bool {
    address.starts_with("0.0.0.0:") || address.starts_with("[::]:") || address.starts_with(':')
}

fn certificate(block: &Directive) -> Option<Mapping> {
    let cert = block.child("ssl_certificate")?;
    let key = block.child("ssl_certificate_key").unwrap_or(cert);
    Some(pair(cert.argument(0), key.argument(0)))
}

/// Where a `listen` binds.
fn address(text: &str) -> Option<String> {
    if text.starts_with("unix:") {
        return Some(text.to_owned());
    }
    if text.parse::<u16>().is_ok() {
        return Some(format!("0.0.0.0:{text}"));
    }
    if text.starts_with('[') {
        return Some(if text.ends_with(']') { format!("{text}:80") } else { text.to_owned() });
    }
    let (host, port) = text.split_once(':').unwrap_or((text, "80"));
    port.parse::<u16>().ok()?;
    match host {
        "*" => Some(format!("0.0.0.0:{port}")),
        "localhost" => Some(format!("127.0.0.1:{port}")),
        host => host.parse::<std::net::IpAddr>().ok().map(|host| format!("{host}:{port}")),
    }
}

/// A server's address with its port.
fn with_port(text: &str, port: u16) -> Option<String> {
    let has_port = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !port.contains(']') && !host.is_empty() && port.parse::<u16>().is_ok());
    let good = !text.is_empty() && !text.contains(['/', '$', ' ']);
    good.then(|| if has_port { text.to_owned() } else { format!("{text}:{port}") })
}

fn server(one: &Directive) -> Result<Value, String> {
    let text = one.argument(0);
    let address = match text.strip_prefix("unix:") {
        Some(path) => format!("unix:{path}"),
        None => with_port(text, 80).ok_or("expected HOST:PORT")?,
    };
    let mut server = Mapping::from_iter([("address".into(), address.clone().into())]);
    for argument in &one.arguments[1..] {
        match argument.split_once('=') {
            Some(("weight", weight)) => {
                let weight: u64 = weight.parse().map_err(|_| "its weight is no number")?;
                if weight != 1 {
                    server.insert("weight".into(), weight.min(256).into());
                }
            }
            Some(("max_conns", most)) => {
                let most: u64 = most.parse().map_err(|_| "its `max_conns` is no number")?;
                server.insert("max_connections".into(), most.into());
            }
            // Servers that fail are passed over by `ejection`, which has good defaults.
            Some(("max_fails" | "fail_timeout" | "slow_start" | "route", _)) => {}
            _ if argument == "backup" => _ = server.insert("priority".into(), 1.into()),
            _ if argument == "down" => return Err("it is `down`".to_owned()),
            _ if argument == "resolve" => {
                return Err("servers that DNS finds are `servers: { dns: NAME, port: PORT }`".to_owned());
            }
            _ => return Err(format!("`{argument}` has no counterpart")),
        }
    }
    Ok(if server.len() == 1 { address.into() } else { Value::Mapping(server) })
}

fn hash(part: &mut Part, one: &Directive) {
    part.set("balance", "client_ip");
    let key = one.argument(0);
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match ["$cookie_", "$arg_", "$http_"].iter().find_map(|start| Some((*start, key.strip_prefix(start)?))) {
        Some(("$cookie_", name)) if is_name(name) => part.set("affinity.app_cookie", name),
        Some(("$arg_", name)) if is_name(name) => part.set("affinity.query", name),
        Some(("$http_", name)) if is_name(name) => part.set("affinity.header", name.replace('_', "-")),
        _ if matches!(key, "$remote_addr" | "$binary_remote_addr" | "$proxy_protocol_addr") => {}
        _ => part.leave_out(
            one.line,
            &one.text(),
            "a hash is of the client's address, or of one header, parameter or cookie",
        ),
    }
}

/// A redirect to what is written as an address, `$host` and `$request_uri` included; `prefix`: the path is kept behind it.
pub(super) fn redirect_to(part: &mut Part, to: &str, prefix: bool) -> Result<(), String> {
    let (scheme, rest) = match to.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
        Some(("$scheme", rest)) => (None, rest),
        Some(_) => return Err("a redirect goes to http or https".to_owned()),
        None => (None, to),
    };
    let (authority, path) = match rest.find('/').or_else(|| rest.find("$request_uri")).or_else(|| rest.find("$uri")) {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let (host, port) =
        authority.split_once(':').map_or((authority, None), |(host, port)| (host, port.parse::<u16>().ok()));
    if let Some(scheme) = scheme {
        part.set("redirect.scheme", scheme);
    }
    if !host.is_empty() && !matches!(host, "$host" | "$http_host" | "$server_name") {
        if host.contains('$') {
            return Err("a redirect has no variables here but the path and host that it keeps".to_owned());
        }
        part.set("redirect.host", host.to_lowercase());
    }
    if let Some(port) = port {
        part.set("redirect.port", port);
    }
    let keeps =
        prefix || matches!(path, "$request_uri" | "$uri" | "$uri$is_args$args" | "/$request_uri" | "/$1" | "$1");
    if keeps {
        if prefix && !path.trim_matches('/').is_empty() {
            return Err("a redirect keeps the path, or has one of its own".to_owned());
        }
    } else if path.contains('$') {
        return Err("a redirect has no variables here but the path and host that it keeps".to_owned());
    } else {
        part.set("redirect.path", literal(if path.is_empty() { "/" } else { path }));
    }
    Ok(())
}

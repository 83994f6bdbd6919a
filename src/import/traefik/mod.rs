//! Traefik's configuration, static and dynamic: entry points become listeners, routers routes, services upstreams.

mod rule;

use serde_yaml::{Mapping, Value};

use super::Unreadable;
use super::draft::{Draft, Part, literal, pair, time};

/// Reads a file.
pub(super) fn read(text: &str) -> Result<Draft, Unreadable> {
    let root: Value = serde_yaml::from_str(text).map_err(|fault| Unreadable {
        line: fault.location().map_or(1, |at| at.line()),
        what: format!("{fault}; only YAML is understood"),
    })?;
    let known = ["http", "tcp", "entryPoints"].iter().any(|key| root.get(key).is_some());
    if !known {
        return Err(Unreadable { line: 1, what: "found neither `http`, `tcp` nor `entryPoints`".to_owned() });
    }
    let mut reader = Reader { text, root: &root, draft: Draft::default() };
    for (key, _) in entries(&root) {
        match key {
            "http" | "tcp" | "entryPoints" | "tls" => {}
            "log" | "accessLog" => {
                reader.leave_out(&[key], "RUST_LOG says what is logged, and `access_log` has a line for each request")
            }
            "api" | "ping" | "metrics" | "tracing" => reader.leave_out(&[key], "the admin address tells it (`admin`)"),
            "providers" => reader.leave_out(&[key], "the file is watched by itself (`reload.watch`)"),
            "certificatesResolvers" => {}
            _ => reader.leave_out(&[key], "it has no counterpart"),
        }
    }
    reader.listeners();
    reader.services("http");
    reader.services("tcp");
    reader.routers();
    reader.raw();
    Ok(reader.draft)
}

struct Reader<'a> {
    text: &'a str,
    root: &'a Value,
    draft: Draft,
}

/// The entries of a map, in their order.
fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_mapping().into_iter().flatten().filter_map(|(key, value)| Some((key.as_str()?, value)))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn texts(value: Option<&Value>) -> Vec<String> {
    value.and_then(Value::as_sequence).into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The name of a service or middleware without its provider.
fn bare(name: &str) -> &str {
    name.split('@').next().unwrap_or(name)
}

impl Reader<'_> {
    /// The line on which these keys stand one within the other.
    fn line(&self, path: &[&str]) -> usize {
        let mut keys = path.iter();
        let mut wanted = keys.next();
        let mut found = 1;
        for (at, line) in self.text.lines().enumerate() {
            let Some(key) = wanted else { break };
            let trimmed = line.trim_start().trim_start_matches("- ").trim_matches(['"', '\'']);
            if trimmed.starts_with(key) && trimmed[key.len()..].trim_start_matches(['"', '\'']).starts_with(':') {
                found = at + 1;
                wanted = keys.next();
            }
        }
        found
    }

    fn leave_out(&mut self, path: &[&str], why: &str) {
        self.draft.leave_out(self.line(path), &path.join("."), why);
    }

    fn leave_out_of(&self, part: &mut Part, path: &[&str], why: impl Into<String>) {
        part.leave_out(self.line(path), &path.join("."), why);
    }

    fn listeners(&mut self) {
        let points = self.root.get("entryPoints").cloned().unwrap_or_default();
        let mut names: Vec<String> = entries(&points).map(|(name, _)| name.to_owned()).collect();
        if names.is_empty() {
            // The file says only what routers ask for.
            let routers = ["http", "tcp"].iter().filter_map(|kind| self.root.get(kind)?.get("routers"));
            names = routers
                .flat_map(|routers| entries(routers).map(|(_, one)| one).collect::<Vec<_>>())
                .flat_map(|router| texts(router.get("entryPoints")))
                .collect();
            names.sort();
            names.dedup();
            if names.is_empty() {
                names.push("web".to_owned());
            }
        }
        let with_tls: Vec<String> = self.tls_points(&names);
        for name in &names {
            let mut part = Part::default();
            let point = points.get(name.as_str());
            let address = point.map_or("", |point| text(point, "address"));
            let address = address.split('/').next().unwrap_or_default();
            if address.is_empty() {
                let port = if with_tls.contains(name) { 443 } else { 80 };
                part.set("address", format!("0.0.0.0:{port}"));
                part.note(format!("The file says no address of `{name}`."));
            } else {
                part.set("address", address);
            }
            part.set("name", name.clone());
            if with_tls.contains(name) {
                self.certificates(&mut part);
            }
            if let Some(point) = point {
                if let Some(ips) = point.get("proxyProtocol") {
                    part.set("proxy_protocol", "from_trusted");
                    let trusted = texts(ips.get("trustedIPs"));
                    self.draft
                        .top("forwarding")
                        .set("trusted_proxies", Value::Sequence(trusted.into_iter().map(Value::from).collect()));
                }
                let trusted = texts(point.get("forwardedHeaders").and_then(|headers| headers.get("trustedIPs")));
                if !trusted.is_empty() {
                    self.draft
                        .top("forwarding")
                        .set("trusted_proxies", Value::Sequence(trusted.into_iter().map(Value::from).collect()));
                }
                let redirect = point.get("http").and_then(|http| http.get("redirections")?.get("entryPoint"));
                if let Some(redirect) = redirect {
                    let mut route = Part::default();
                    route.set("match.listener", name.clone());
                    route.set("redirect.status", 308);
                    route.set(
                        "redirect.scheme",
                        if text(redirect, "scheme").is_empty() { "https" } else { text(redirect, "scheme") },
                    );
                    self.draft.routes.push(route);
                }
                for (key, _) in entries(point) {
                    match key {
                        "address" | "proxyProtocol" | "forwardedHeaders" | "http" => {}
                        "transport" => {
                            self.leave_out_of(&mut part, &["entryPoints", name, key], "see `timeouts` and `drain`")
                        }
                        "http2" | "http3" | "udp" => self.leave_out_of(
                            &mut part,
                            &["entryPoints", name, key],
                            "HTTP/2 is on by itself; there is no UDP",
                        ),
                        _ => self.leave_out_of(&mut part, &["entryPoints", name, key], "it has no counterpart"),
                    }
                }
            }
            self.draft.listeners.push(part);
        }
    }

    /// Entry points of which a router, or they themselves, ask for TLS.
    fn tls_points(&self, names: &[String]) -> Vec<String> {
        let points = self.root.get("entryPoints");
        let own =
            |name: &String| points.and_then(|points| points.get(name.as_str())?.get("http")?.get("tls")).is_some();
        let mut with: Vec<String> = names.iter().filter(|name| own(name) || name.contains("secure")).cloned().collect();
        for kind in ["http", "tcp"] {
            let Some(routers) = self.root.get(kind).and_then(|kind| kind.get("routers")) else {
                continue;
            };
            for (_, router) in entries(routers).filter(|(_, router)| {
                router.get("tls").is_some_and(|tls| !tls.get("passthrough").is_some_and(|on| *on == true))
            }) {
                let of = texts(router.get("entryPoints"));
                if let [one] = of.as_slice() {
                    with.push(one.clone());
                }
            }
        }
        with
    }

    fn certificates(&self, part: &mut Part) {
        let tls = self.root.get("tls");
        let listed = tls.and_then(|tls| tls.get("certificates")).and_then(Value::as_sequence);
        for one in listed.into_iter().flatten() {
            part.push("tls.certificates", pair(text(one, "certFile"), text(one, "keyFile")));
        }
        if part.get("tls").is_none() {
            if let Some((name, resolver)) = self.root.get("certificatesResolvers").and_then(|all| entries(all).next()) {
                let acme = resolver.get("acme").cloned().unwrap_or_default();
                let mut ordered = Part::default();
                let mut domains: Vec<String> = self.hosts();
                domains.sort();
                domains.dedup();
                ordered.set("acme.domains", Value::Sequence(domains.into_iter().map(Value::from).collect()));
                if !text(&acme, "email").is_empty() {
                    ordered.set("acme.email", text(&acme, "email"));
                }
                ordered.set("acme.storage", "/var/lib/sockgate/acme");
                if acme.get("httpChallenge").is_some() {
                    ordered.set("acme.challenge", "http-01");
                }
                part.push("tls.certificates", ordered.value);
                part.note(format!(
                    "The certificates of `{name}` are ordered anew: where they lie in acme.json is not read."
                ));
                return;
            }
            part.note("The file names no certificate: say where it is.");
            part.push("tls.certificates", pair("cert.pem", "key.pem"));
        }
        let options = tls.and_then(|tls| tls.get("options")?.get("default"));
        if options.is_some_and(|options| text(options, "minVersion") == "VersionTLS13") {
            part.set("tls.min_version", 1.3);
        }
    }

    /// The hosts of all rules.
    fn hosts(&self) -> Vec<String> {
        let routers = self.root.get("http").and_then(|http| http.get("routers"));
        let rules = routers.into_iter().flat_map(|routers| {
            entries(routers).map(|(_, router)| text(router, "rule").to_owned()).collect::<Vec<_>>()
        });
        let mut hosts = Vec::new();
        for rule in rules {
            let matched = rule::read(&rule).unwrap_or_default();
            match matched.get("host") {
                Some(Value::String(host)) => hosts.push(host.clone()),
                Some(Value::Sequence(all)) => hosts.extend(all.iter().filter_map(Value::as_str).map(str::to_owned)),
                _ => {}
            }
        }
        hosts
    }

    fn services(&mut self, kind: &str) {
        let Some(services) = self.root.get(kind).and_then(|kind| kind.get("services")).cloned() else {
            return;
        };
        for (name, service) in entries(&services) {
            let Some(balancer) = service.get("loadBalancer") else {
                continue;
            };
            let mut part = Part::default();
            if kind == "tcp" {
                part.set("kind", "tcp");
            }
            part.set("balance", if text(balancer, "strategy") == "p2c" { "power_of_two" } else { "round_robin" });
            let mut servers = Vec::new();
            let mut secure = false;
            for server in balancer.get("servers").and_then(Value::as_sequence).into_iter().flatten() {
                let url = if kind == "http" { text(server, "url") } else { text(server, "address") };
                let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
                let authority = rest.split('/').next().unwrap_or_default();
                secure |= scheme == "https";
                if scheme == "h2c" {
                    part.set("http2", true);
                }
                let port = if scheme == "https" { 443 } else { 80 };
                let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
                let address = if has_port { authority.to_owned() } else { format!("{authority}:{port}") };
                if authority.is_empty() {
                    self.leave_out_of(&mut part, &[kind, "services", name, "servers"], "expected addresses");
                } else if let Some(weight) = server.get("weight").and_then(Value::as_u64).filter(|&weight| weight > 1) {
                    servers.push(Value::Mapping(Mapping::from_iter([
                        ("address".into(), address.into()),
                        ("weight".into(), weight.min(256).into()),
                    ])));
                } else {
                    servers.push(address.into());
                }
            }
            if servers.is_empty() {
                servers.push("127.0.0.1:8080".into());
                part.note("It had no servers: say where they are.");
            }
            part.set("servers", Value::Sequence(servers));
            if secure {
                part.set("tls", Mapping::new());
            }
            for (key, value) in entries(balancer) {
                match key {
                    "servers" | "strategy" => {}
                    "sticky" => {
                        let cookie = value.get("cookie").cloned().unwrap_or_default();
                        part.set("affinity.cookie", Mapping::new());
                        if !text(&cookie, "name").is_empty() {
                            part.set("affinity.cookie.name", literal(text(&cookie, "name")));
                        }
                        if cookie.get("secure") == Some(&Value::Bool(true)) {
                            part.set("affinity.cookie.secure", "always");
                        }
                        if let Some(age) = cookie.get("maxAge").and_then(Value::as_u64).filter(|&age| age > 0) {
                            part.set("affinity.cookie.max_age", format!("{age}s"));
                        }
                        part.note("Cookies that clients have already are not read: they get a new one with their next answer.");
                    }
                    "healthCheck" => {
                        part.set("health.check", "http");
                        if !text(value, "path").is_empty() {
                            part.set("health.path", literal(text(value, "path")));
                        }
                        if let Some(said) =
                            value.get("interval").and_then(Value::as_str).and_then(|said| time(said, "s"))
                        {
                            part.set("health.interval", said);
                        }
                        if let Some(said) =
                            value.get("timeout").and_then(Value::as_str).and_then(|said| time(said, "s"))
                        {
                            part.set("health.timeout", said);
                        }
                        if !text(value, "hostname").is_empty() {
                            part.set_entry("health.headers", "host", text(value, "hostname"));
                        }
                    }
                    "passHostHeader" => {
                        if *value == false {
                            self.leave_out_of(
                                &mut part,
                                &[kind, "services", name, key],
                                "servers get the client's `Host`, or a fixed one (`host`)",
                            );
                        }
                    }
                    "proxyProtocol" => part.set(
                        "proxy_protocol",
                        if value.get("version").and_then(Value::as_u64) == Some(1) { "v1" } else { "v2" },
                    ),
                    "serversTransport" => {
                        let transport = self
                            .root
                            .get(kind)
                            .and_then(|kind| kind.get("serversTransports")?.get(bare(value.as_str()?)));
                        let transport = transport.cloned().unwrap_or_default();
                        if transport.get("insecureSkipVerify") == Some(&Value::Bool(true)) {
                            part.set("tls.verify", false);
                        }
                        if !text(&transport, "serverName").is_empty() {
                            part.set("tls.server_name", text(&transport, "serverName"));
                        }
                        if let Some(ca) = texts(transport.get("rootCAs")).first() {
                            part.set("tls.ca", literal(ca));
                        }
                    }
                    "responseForwarding" => {}
                    _ => self.leave_out_of(&mut part, &[kind, "services", name, key], "it has no counterpart"),
                }
            }
            *self.draft.upstream(name) = part;
        }
    }

    fn routers(&mut self) {
        let Some(routers) = self.root.get("http").and_then(|http| http.get("routers")).cloned() else {
            return;
        };
        let mut ranked: Vec<(i64, Part)> = Vec::new();
        let mut remarks = Vec::new();
        let points = self.draft.listeners.len();
        for (name, router) in entries(&routers) {
            let said = text(router, "rule");
            // The longest rule goes first where nothing else is said.
            let rank =
                router.get("priority").and_then(Value::as_i64).filter(|&rank| rank != 0).unwrap_or(said.len() as i64);
            let mut part = Part::default();
            part.set("name", name);
            let mut all = match rule::read(said) {
                Ok(all) => all,
                Err(why) => {
                    remarks.push((vec!["http", "routers", name, "rule"], format!("{why}: {said}")));
                    continue;
                }
            };
            let of = texts(router.get("entryPoints"));
            if points > 1 && !of.is_empty() && of.len() < points {
                let value = if let [one] = of.as_slice() {
                    one.clone().into()
                } else {
                    Value::Sequence(of.into_iter().map(Value::from).collect())
                };
                all.insert("listener".into(), value);
            }
            if !all.is_empty() {
                part.set("match", all);
            }
            let service = bare(text(router, "service")).to_owned();
            let mut leads = false;
            for middleware in texts(router.get("middlewares")) {
                let middleware = bare(&middleware).to_owned();
                let settings =
                    self.root.get("http").and_then(|http| http.get("middlewares")?.get(middleware.as_str())).cloned();
                let Some(settings) = settings else {
                    self.leave_out_of(
                        &mut part,
                        &["http", "routers", name, "middlewares"],
                        format!("the file says nothing of `{middleware}`"),
                    );
                    continue;
                };
                for (kind, settings) in entries(&settings) {
                    match self.middleware(&mut part, kind, settings) {
                        Ok(answers) => leads |= answers,
                        Err(why) => self.leave_out_of(&mut part, &["http", "middlewares", &middleware, kind], why),
                    }
                }
            }
            if !leads {
                match self.service("http", &service) {
                    Ok(upstream) => part.set("upstream", upstream),
                    Err(why) => {
                        remarks.push((vec!["http", "routers", name, "service"], why));
                        continue;
                    }
                }
            }
            ranked.push((rank, part));
        }
        for (path, why) in remarks {
            self.leave_out(&path, &why);
        }
        ranked.sort_by_key(|(rank, _)| -rank);
        self.draft.routes.extend(ranked.into_iter().map(|(_, part)| part));
    }

    /// The upstream of a service of `http` or `tcp`, or those of a weighted one.
    fn service(&self, kind: &str, name: &str) -> Result<Value, String> {
        if self.draft.has_upstream(name) {
            return Ok(name.into());
        }
        let service = self.root.get(kind).and_then(|all| all.get("services")?.get(name));
        let weighted = service.and_then(|service| service.get("weighted")?.get("services")?.as_sequence());
        let Some(weighted) = weighted else {
            return Err(format!("the file has no load balancer of the name `{name}`"));
        };
        let one = |one: &Value| {
            let name = bare(text(one, "name")).to_owned();
            let weight = one.get("weight").and_then(Value::as_u64).unwrap_or(1);
            self.draft.has_upstream(&name).then(|| {
                Value::Mapping(Mapping::from_iter([("name".into(), name.into()), ("weight".into(), weight.into())]))
            })
        };
        let all = weighted.iter().map(one).collect::<Option<Vec<_>>>();
        all.map(Value::Sequence).ok_or_else(|| format!("`{name}` leads to what the file does not say"))
    }

    /// Adds a middleware; whether it answers by itself.
    fn middleware(&self, part: &mut Part, kind: &str, settings: &Value) -> Result<bool, String> {
        match kind {
            "stripPrefix" => match texts(settings.get("prefixes")).as_slice() {
                [one] => part.set("rewrite.strip_prefix", literal(one)),
                _ => return Err("a route strips one prefix".to_owned()),
            },
            "addPrefix" => part.set("rewrite.add_prefix", literal(text(settings, "prefix"))),
            "replacePathRegex" => {
                part.set("rewrite.regex", literal(text(settings, "regex")));
                part.set("rewrite.to", literal(text(settings, "replacement")));
            }
            "redirectScheme" => {
                part.set(
                    "redirect.status",
                    if settings.get("permanent") == Some(&Value::Bool(true)) { 308 } else { 307 },
                );
                part.set("redirect.scheme", text(settings, "scheme"));
                if let Some(port) =
                    settings.get("port").and_then(Value::as_str).and_then(|port| port.parse::<u16>().ok())
                {
                    part.set("redirect.port", port);
                }
                return Ok(true);
            }
            "headers" => {
                for (from, side) in
                    [("customRequestHeaders", "request_headers"), ("customResponseHeaders", "response_headers")]
                {
                    for (name, value) in settings.get(from).into_iter().flat_map(|map| entries(map).collect::<Vec<_>>())
                    {
                        match value {
                            Value::String(text) if text.is_empty() => {
                                part.push(&format!("{side}.remove"), name.to_lowercase())
                            }
                            value => {
                                let text = value.as_str().map_or_else(
                                    || serde_yaml::to_string(value).unwrap_or_default().trim().to_owned(),
                                    str::to_owned,
                                );
                                part.set_entry(&format!("{side}.set"), &name.to_lowercase(), literal(&text));
                            }
                        }
                    }
                }
                let others: Vec<&str> =
                    entries(settings).map(|(key, _)| key).filter(|key| !key.starts_with("custom")).collect();
                if !others.is_empty() {
                    return Err(format!(
                        "of it, {} are not carried over: see `tls.hsts`, `access.cors` and `response_headers`",
                        others.join(", ")
                    ));
                }
            }
            "compress" => part.set("compression", Mapping::new()),
            "ipAllowList" | "ipWhiteList" => {
                let list = texts(settings.get("sourceRange"));
                part.set("access.allow", Value::Sequence(list.into_iter().map(Value::from).collect()));
            }
            "forwardAuth" => {
                part.set("access.forward_auth.url", literal(text(settings, "address")));
                let fields = texts(settings.get("authResponseHeaders"));
                if !fields.is_empty() {
                    part.set(
                        "access.forward_auth.to_server",
                        Value::Sequence(fields.iter().map(|name| name.to_lowercase().into()).collect()),
                    );
                }
            }
            "basicAuth" if !text(settings, "usersFile").is_empty() => {
                part.set("access.basic.users.file", literal(text(settings, "usersFile")));
            }
            "buffering" => match settings.get("maxRequestBodyBytes").and_then(Value::as_u64) {
                Some(bytes) => part.set("limits.body", format!("{bytes}B")),
                None => return Err("bodies pass as they come".to_owned()),
            },
            "rateLimit" => return Err("see `limits.rate`".to_owned()),
            "retry" => return Err("what may be tried again is (`connect_retries`)".to_owned()),
            "circuitBreaker" => return Err("`ejection` passes over servers that fail".to_owned()),
            "errors" => return Err("see `error_pages`".to_owned()),
            _ => return Err("it has no counterpart".to_owned()),
        }
        Ok(false)
    }

    /// Routers of raw connections: each entry point of them is a listener of its own.
    fn raw(&mut self) {
        let Some(routers) = self.root.get("tcp").and_then(|tcp| tcp.get("routers")).cloned() else {
            return;
        };
        for (name, router) in entries(&routers) {
            let path = ["tcp", "routers", name, "rule"];
            let said = text(router, "rule");
            let of = texts(router.get("entryPoints"));
            let through = router.get("tls").is_some_and(|tls| tls.get("passthrough") == Some(&Value::Bool(true)));
            let service = match self.service("tcp", bare(text(router, "service"))) {
                Ok(service) => service,
                Err(why) => {
                    self.leave_out(&path, &why);
                    continue;
                }
            };
            let names: Vec<String> = said.split('`').skip(1).step_by(2).map(str::to_lowercase).collect();
            let mut taken = false;
            for listener in self
                .draft
                .listeners
                .iter_mut()
                .filter(|part| of.iter().any(|name| part.get("name").and_then(Value::as_str) == Some(name)))
            {
                if said.starts_with("HostSNI(") && names == ["*"] && !through {
                    listener.set("protocol", "tcp");
                    listener.set("upstream", service.clone());
                    taken = true;
                } else if said.starts_with("HostSNI(")
                    && through
                    && !names.contains(&"*".to_owned())
                    && listener.get("tls").is_some()
                {
                    let one = [
                        ("names", Value::Sequence(names.iter().cloned().map(Value::from).collect())),
                        ("upstream", service.clone()),
                    ];
                    listener
                        .push("tls.passthrough", Mapping::from_iter(one.map(|(key, value)| (Value::from(key), value))));
                    taken = true;
                }
            }
            if !taken {
                self.leave_out(&path, "raw connections have one service for a listener; names that pass through are `tls.passthrough` of one with TLS");
            }
        }
    }
}

//! Locations of nginx as routes, in the order in which nginx would choose among them.

use serde_yaml::{Mapping, Value};

use super::super::draft::{Part, Remark, list, literal, time};
use super::grammar::Directive;
use super::{Reader, redirect_to, why};

/// Directives that hold inside of where they stand, too.
pub(super) fn is_inherited(name: &str) -> bool {
    is_single(name)
        || matches!(name, "proxy_set_header" | "add_header" | "allow" | "deny" | "proxy_hide_header" | "error_page")
}

/// Of those, the ones of which one counts.
pub(super) fn is_single(name: &str) -> bool {
    matches!(
        name,
        "client_max_body_size"
            | "proxy_read_timeout"
            | "proxy_connect_timeout"
            | "proxy_send_timeout"
            | "gzip"
            | "brotli"
            | "root"
            | "index"
            | "auth_basic"
            | "auth_basic_user_file"
            | "proxy_ssl_verify"
            | "proxy_ssl_name"
            | "proxy_ssl_trusted_certificate"
            | "try_files"
    )
}

/// A location, and where it stands among the others.
struct Ranked {
    rank: (u8, usize),
    parts: Vec<Part>,
}

impl Reader {
    /// The routes of a server.
    pub(super) fn locations(
        &mut self,
        block: &Directive,
        own: &[Directive],
        base: &Mapping,
        listeners: &[(String, bool)],
    ) -> Vec<Part> {
        let mut routes = Vec::new();
        for one in &block.children {
            match one.name.as_str() {
                "if" => routes.push(condition(one, base, listeners)),
                "return" => {
                    let mut part = matching(base.clone());
                    match give(&mut part, one) {
                        Ok(()) => routes.push(part),
                        Err(why) => routes.push(left_out(one, why)),
                    }
                }
                "rewrite" => {
                    let mut part = matching(base.clone());
                    match rewrite(&mut part, one) {
                        Ok(()) => routes.push(part),
                        Err(why) => routes.push(left_out(one, why)),
                    }
                }
                _ => {}
            }
        }
        let mut ranked = Vec::new();
        for (at, one) in block.children.iter().filter(|one| one.name == "location").enumerate() {
            ranked.extend(self.location(one, at, own, base, None));
        }
        let has_all = ranked.iter().any(|one| one.rank == (4, usize::MAX - 1));
        ranked.sort_by_key(|one| one.rank);
        routes.extend(ranked.into_iter().flat_map(|one| one.parts));
        // What no location takes is looked for in the folder.
        if !has_all && own.iter().any(|one| one.name == "root") {
            let mut part = matching(base.clone());
            files(&mut part, own, None);
            finish(&mut part, own, &[]);
            routes.push(part);
        }
        // Remarks go to what comes next, or before.
        let mut kept: Vec<Part> = Vec::new();
        let mut pending: Vec<Remark> = Vec::new();
        for mut part in routes {
            if part.get("upstream").or(part.get("files")).or(part.get("redirect")).or(part.get("respond")).is_none() {
                pending.extend(part.remarks);
                continue;
            }
            part.remarks.splice(0..0, std::mem::take(&mut pending));
            kept.push(part);
        }
        match kept.last_mut() {
            Some(last) => last.remarks.extend(pending),
            None => pending.into_iter().for_each(|remark| self.draft.remark(remark)),
        }
        kept
    }

    fn location(
        &mut self,
        block: &Directive,
        at: usize,
        outer: &[Directive],
        base: &Mapping,
        within: Option<&str>,
    ) -> Vec<Ranked> {
        let (how, path) = match block.arguments.as_slice() {
            [path] => ("", path.as_str()),
            [how, path] => (how.as_str(), path.as_str()),
            _ => {
                return vec![Ranked { rank: (4, 0), parts: vec![left_out(block, "expected a path".to_owned())] }];
            }
        };
        let length = usize::MAX - 1 - path.len();
        let mut part = Part::default();
        let mut all = base.clone();
        let rank = match how {
            _ if path.starts_with('@') => {
                return vec![Ranked {
                    rank: (4, 0),
                    parts: vec![left_out(block, "there are no named locations".to_owned())],
                }];
            }
            "=" => {
                all.insert("path_exact".into(), literal(path).into());
                (0, at)
            }
            "^~" | "" => {
                if path != "/" {
                    all.insert("path".into(), literal(path).into());
                    if !path.ends_with('/') {
                        part.note(format!("`{path}` is a whole segment here: {path}x does not belong to it."));
                    }
                }
                match (how, path) {
                    ("^~", _) => (1, length),
                    (_, "/") => (4, usize::MAX - 1),
                    _ => (3, length),
                }
            }
            "~" | "~*" => {
                let case = if how == "~*" { "(?i)" } else { "" };
                if regex::Regex::new(path).is_err() {
                    let why = "the regular expression takes more than linear time (looking around, or back)".to_owned();
                    return vec![Ranked { rank: (2, at), parts: vec![left_out(block, why)] }];
                }
                all.insert("path_regex".into(), literal(&format!("{case}{path}")).into());
                (2, at)
            }
            _ => {
                return vec![Ranked { rank: (4, 0), parts: vec![left_out(block, format!("`{how}` is not known"))] }];
            }
        };
        if !all.is_empty() {
            part.set("match", all.clone());
        }
        let mut inside: Vec<Directive> = outer.to_vec();
        let replaces =
            |name: &str| matches!(name, "proxy_set_header" | "add_header" | "allow" | "deny") || is_single(name);
        for one in block.children.iter().filter(|one| is_inherited(&one.name)) {
            inside.retain(|other| {
                !(replaces(&one.name) && other.name == one.name && outer.iter().any(|outer| outer.line == other.line))
            });
            inside.push(one.clone());
        }
        let mut nested = Vec::new();
        let mut before = Vec::new();
        let mut leads = false;
        for one in &block.children {
            let done = match one.name.as_str() {
                "proxy_pass" | "grpc_pass" => {
                    leads = true;
                    self.pass(&mut part, one, if how.starts_with('~') { None } else { Some(within.unwrap_or(path)) })
                }
                "return" => {
                    leads = true;
                    give(&mut part, one)
                }
                "alias" => {
                    leads = true;
                    files(&mut part, &inside, Some(one.argument(0)));
                    if path != "/" && !how.starts_with('~') {
                        part.set("rewrite.strip_prefix", literal(path.trim_end_matches('/')));
                    }
                    Ok(())
                }
                "location" => {
                    nested.extend(self.location(one, at, &inside, base, None));
                    Ok(())
                }
                "if" => {
                    before.push(condition(one, &all, &[]));
                    Ok(())
                }
                "rewrite" => path_rewrite(&mut part, one),
                "internal" => Err("it is of error pages and the like".to_owned()),
                name if is_inherited(name) => Ok(()),
                _ => Err(why(one).to_owned()),
            };
            if let Err(why) = done {
                part.leave_out(one.line, &one.text(), why);
            }
        }
        if !leads
            && (inside.iter().any(|one| one.name == "root") || block.children.iter().any(|one| one.name == "try_files"))
        {
            files(&mut part, &inside, None);
            leads = true;
        }
        if leads {
            let tls = part.get("upstream").and_then(Value::as_str).map(str::to_owned);
            finish(&mut part, &inside, &block.children);
            if let Some(name) = tls {
                self.timeouts(&name, &inside);
            }
            let upgrades = inside
                .iter()
                .any(|one| one.name == "proxy_set_header" && one.argument(0).eq_ignore_ascii_case("upgrade"));
            if let Some(name) = part.get("upstream").and_then(Value::as_str).filter(|_| upgrades).map(str::to_owned) {
                let upstream = self.draft.upstream(&name);
                // WebSockets, and clients that stay on one server by their address.
                if upstream.get("balance").is_some_and(|balance| balance == "client_ip")
                    && upstream.get("affinity").is_none()
                {
                    upstream.has_sessions = true;
                }
            }
        } else if nested.is_empty() && before.is_empty() {
            part.leave_out(
                block.line,
                &block.text(),
                "it leads nowhere here, so that it is answered 501 and by no other location",
            );
            part.set("respond.status", 501);
        }
        before.push(part);
        nested.push(Ranked { rank, parts: before });
        nested
    }

    /// `proxy_pass http://name/path`.
    fn pass(&mut self, part: &mut Part, one: &Directive, path: Option<&str>) -> Result<(), String> {
        let to = one.argument(0);
        let (scheme, rest) = to.split_once("://").ok_or("expected http:// or https:// and a name")?;
        let (authority, uri) = match rest.strip_prefix("unix:") {
            Some(unix) => {
                let end = unix.find(':').map_or(rest.len(), |at| at + 5);
                (&rest[..end], rest[end..].strip_prefix(':').filter(|uri| !uri.is_empty()))
            }
            None => match rest.find('/') {
                Some(at) => (&rest[..at], Some(&rest[at..])),
                None => (rest, None),
            },
        };
        let scheme = if scheme.starts_with("grpcs") { "https" } else { scheme };
        let name = self.upstream_of(scheme, authority, true).ok_or("a server's name has no variables here")?;
        if one.name == "grpc_pass" {
            self.draft.upstream(&name).set("http2", true);
        }
        part.set("upstream", name);
        match (uri, path) {
            (None, _) => {}
            (Some(uri), _) if uri.contains('$') => {
                return Err("a path has no variables here: see `rewrite`".to_owned());
            }
            (Some(uri), Some(path)) => {
                let (from, to) = (path.trim_end_matches('/'), uri.trim_end_matches('/'));
                if from != to {
                    if !from.is_empty() {
                        part.set("rewrite.strip_prefix", literal(from));
                    }
                    if !to.is_empty() {
                        part.set("rewrite.add_prefix", literal(to));
                    }
                }
            }
            (Some(_), None) => {
                return Err("a regular expression has no path that could be replaced: see `rewrite`".to_owned());
            }
        }
        Ok(())
    }

    /// Times of a location, which are its upstream's here; the longest that any location says.
    fn timeouts(&mut self, upstream: &str, inside: &[Directive]) {
        let part = self.draft.upstream(upstream);
        for (name, keys) in [
            ("proxy_connect_timeout", &["connect"][..]),
            ("proxy_read_timeout", &["first_byte", "read_idle", "tunnel_idle"]),
        ] {
            let Some(one) = inside.iter().rev().find(|one| one.name == name) else {
                continue;
            };
            let Some(said) = time(one.argument(0), "s") else {
                continue;
            };
            for key in keys {
                part.set_new(&format!("timeouts.{key}"), said.clone());
            }
        }
        for (name, key) in [("proxy_ssl_name", "tls.server_name"), ("proxy_ssl_trusted_certificate", "tls.ca")] {
            if let Some(one) =
                inside.iter().rev().find(|one| one.name == name).filter(|one| !one.argument(0).contains('$'))
            {
                part.set(key, literal(one.argument(0)));
            }
        }
        if inside.iter().any(|one| one.name == "proxy_ssl_verify" && one.argument(0) == "on") {
            part.set("tls.verify", true);
        }
    }
}

fn matching(matched: Mapping) -> Part {
    let mut part = Part::default();
    if !matched.is_empty() {
        part.set("match", matched);
    }
    part
}

fn left_out(one: &Directive, why: String) -> Part {
    let mut part = Part::default();
    part.leave_out(one.line, &one.text(), why);
    part
}

/// `return 301 https://…;` and `return 200 "text";`.
fn give(part: &mut Part, one: &Directive) -> Result<(), String> {
    let (status, to) = match one.arguments.as_slice() {
        [only] => match only.parse::<u64>() {
            Ok(status) => (status, ""),
            Err(_) => (302, only.as_str()),
        },
        [status, to] => (status.parse().map_err(|_| "expected a status")?, to.as_str()),
        _ => return Err("expected a status and perhaps a text or an address".to_owned()),
    };
    match status {
        301 | 302 | 303 | 307 | 308 => {
            part.set("redirect.status", status);
            redirect_to(part, to, false)
        }
        // nginx closes the connection without a word.
        444 => {
            part.set("respond.status", 403);
            Ok(())
        }
        200..=599 => {
            part.set("respond.status", status);
            if to.contains('$') {
                return Err("an answer's text has no variables".to_owned());
            }
            if !to.is_empty() {
                part.set("respond.body", literal(to));
            }
            Ok(())
        }
        _ => Err("expected a status from 200 to 599".to_owned()),
    }
}

/// `if ($host = a) { return … }` and the like.
fn condition(block: &Directive, base: &Mapping, listeners: &[(String, bool)]) -> Part {
    let words = block.arguments.join(" ");
    let words = words.trim_start_matches('(').trim_end_matches(')').trim();
    let parts: Vec<&str> = words.split_whitespace().collect();
    let mut all = base.clone();
    let made = match parts.as_slice() {
        ["$host" | "$http_host", "=", host] => {
            all.insert("host".into(), host.trim_matches('"').to_lowercase().into());
            Ok(())
        }
        ["$scheme", "=" | "!=", scheme] if !listeners.is_empty() => {
            let tls = (*scheme == "https") == (parts[1] == "=");
            let names: Vec<String> =
                listeners.iter().filter(|(_, is_tls)| *is_tls == tls).map(|(name, _)| name.clone()).collect();
            if names.is_empty() {
                Err("none of its listeners is so".to_owned())
            } else {
                all.insert("listener".into(), list(&names));
                Ok(())
            }
        }
        ["$request_method", "=", method] => {
            all.insert("method".into(), (*method).into());
            Ok(())
        }
        ["$http_upgrade", "=" | "~*" | "~", value]
            if value.trim_matches(['"', '^', '$']).eq_ignore_ascii_case("websocket") =>
        {
            all.insert("upgrade".into(), "websocket".into());
            Ok(())
        }
        _ => Err("a route has `match` for it: host, path, method, headers, `when` and more".to_owned()),
    };
    let mut part = matching(all);
    let done = made.and_then(|()| match block.children.as_slice() {
        [one] if one.name == "return" => give(&mut part, one),
        [one] if one.name == "rewrite" => rewrite(&mut part, one),
        _ => Err("of conditions, only those are carried over that return or rewrite".to_owned()),
    });
    match done {
        Ok(()) => part,
        Err(why) => left_out(block, why),
    }
}

/// `rewrite ^ https://host$request_uri permanent;` of a server.
fn rewrite(part: &mut Part, one: &Directive) -> Result<(), String> {
    let to = one.argument(1);
    let status: u64 = match one.argument(2) {
        "permanent" => 301,
        "redirect" => 302,
        _ if to.starts_with("http") => 302,
        _ => return Err("see `rewrite` of a route".to_owned()),
    };
    if !matches!(one.argument(0), "^" | "^(.*)$" | "^(.*)" | "^/(.*)$" | "^/(.*)" | "(.*)") {
        part.set("match.path_regex", literal(one.argument(0)));
    }
    part.set("redirect.status", status);
    redirect_to(part, to, false)
}

/// `rewrite ^/app/(.*)$ /$1 break;` of a location.
fn path_rewrite(part: &mut Part, one: &Directive) -> Result<(), String> {
    let (from, to) = (one.argument(0), one.argument(1));
    if !matches!(one.argument(2), "break" | "last" | "") || to.starts_with("http") {
        let mut other = Part::default();
        rewrite(&mut other, one)?;
        let redirect = other.value.remove("redirect").ok_or("see `redirect`")?;
        part.set("redirect", redirect);
        return Ok(());
    }
    if regex::Regex::new(from).is_err() {
        return Err("the regular expression takes more than linear time (looking around, or back)".to_owned());
    }
    part.set("rewrite.regex", literal(from));
    part.set("rewrite.to", to.replace('$', "$$"));
    Ok(())
}

/// A folder from which files are served.
fn files(part: &mut Part, inside: &[Directive], alias: Option<&str>) {
    let last = |name: &str| inside.iter().rev().find(|one| one.name == name);
    let root = alias.or_else(|| last("root").map(|one| one.argument(0))).unwrap_or("html");
    part.set("files.root", literal(root));
    if let Some(index) =
        last("index").map(|one| one.argument(0)).filter(|index| *index != "index.html" && !index.is_empty())
    {
        part.set("files.index", literal(index));
    }
    if let Some(one) = last("try_files") {
        match one.arguments.last().map(String::as_str) {
            Some(page) if page.starts_with('/') && !page.contains(['$', '?']) => {
                part.set("files.fallback", literal(page.trim_start_matches('/')));
            }
            Some("=404") | None => {}
            Some(_) => {
                part.leave_out(one.line, &one.text(), "what is not there is answered 404, or by `files.fallback`")
            }
        }
    }
}

/// What holds for the route beside where it leads.
fn finish(part: &mut Part, inside: &[Directive], own: &[Directive]) {
    let is_proxied = part.get("upstream").is_some();
    let is_own = |one: &Directive| own.iter().any(|own| own.line == one.line && own.name == one.name);
    for one in inside {
        let done = match one.name.as_str() {
            "proxy_set_header" if is_proxied => request_header(part, one),
            "add_header" => response_header(part, one),
            "proxy_hide_header" => {
                part.push("response_headers.remove", one.argument(0).to_lowercase());
                Ok(())
            }
            "client_max_body_size" if is_proxied => match size(one.argument(0)) {
                Some(size) => {
                    part.set("limits.body", size);
                    Ok(())
                }
                None => Err("`limits.body` of 0 is no limit, and only for all routes".to_owned()),
            },
            "gzip" | "brotli" if is_proxied => {
                if one.argument(0) == "on" {
                    part.set_new("compression", Mapping::new());
                }
                Ok(())
            }
            "allow" | "deny" => {
                if one.argument(0) == "all" {
                    if one.name == "deny" && part.get("access.allow").is_none() {
                        part.set("access.deny", Value::Sequence(vec!["0.0.0.0/0".into(), "::/0".into()]));
                    }
                } else {
                    part.push(&format!("access.{}", one.name), one.argument(0));
                }
                Ok(())
            }
            "auth_basic_user_file"
                if !inside.iter().any(|one| one.name == "auth_basic" && one.argument(0) == "off") =>
            {
                part.set("access.basic.users.file", literal(one.argument(0)));
                Ok(())
            }
            "auth_basic" if one.argument(0) != "off" && inside.iter().any(|one| one.name == "auth_basic_user_file") => {
                part.set("access.basic.realm", literal(one.argument(0)));
                Ok(())
            }
            "error_page" => Err("`error_pages` are of statuses that the gateway gives by itself".to_owned()),
            _ => Ok(()),
        };
        if let (Err(why), true) = (done, is_own(one) || own.is_empty()) {
            part.leave_out(one.line, &one.text(), why);
        }
    }
}

fn request_header(part: &mut Part, one: &Directive) -> Result<(), String> {
    let (name, value) = (one.argument(0).to_lowercase(), one.argument(1));
    match (name.as_str(), value) {
        ("upgrade" | "connection" | "accept-encoding", _) => return Ok(()),
        ("host", "$host" | "$http_host") => return Ok(()),
        ("host", "$proxy_host") => {
            return Err("servers get the client's `Host`, or a fixed one (`host`)".to_owned());
        }
        ("host", host) if !host.contains('$') => {
            part.set("host", host);
            return Ok(());
        }
        (
            "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-forwarded-port" | "x-real-ip"
            | "x-request-id",
            value,
        ) if value.starts_with('$') => {
            // Servers are told that by itself.
            return Ok(());
        }
        (_, "") => {
            part.push("request_headers.remove", name);
            return Ok(());
        }
        _ => {}
    }
    let value = variables(value)?;
    part.set_entry("request_headers.set", &name, value);
    Ok(())
}

fn response_header(part: &mut Part, one: &Directive) -> Result<(), String> {
    let name = one.argument(0).to_lowercase();
    if name == "strict-transport-security" {
        return Err("`tls.hsts` of the listener says that".to_owned());
    }
    let value = variables(one.argument(1))?;
    part.set_entry("response_headers.add", &name, value);
    Ok(())
}

/// A value with nginx's variables as one with ours.
fn variables(text: &str) -> Result<String, String> {
    let known = [
        ("$remote_addr", "${client.ip}"),
        ("$remote_port", "${client.port}"),
        ("$host", "${request.host}"),
        ("$server_port", "${listener.port}"),
        ("$scheme", "${request.scheme}"),
        ("$request_uri", "${request.target}"),
        ("$request_id", "${request.id}"),
        ("$request_method", "${request.method}"),
        ("$ssl_server_name", "${tls.server_name}"),
        ("$ssl_protocol", "${tls.version}"),
        ("$ssl_cipher", "${tls.cipher}"),
        ("$ssl_client_s_dn", "${client.cert.subject}"),
    ];
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let name = rest[at + 1..].trim_start_matches('{');
        let length = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        let braces = rest.len() - at - 1 - name.len();
        let name = format!("${}", &name[..length]);
        let known = known.iter().find(|(theirs, _)| *theirs == name).map(|(_, ours)| (*ours).to_owned());
        let header =
            || name.strip_prefix("$http_").map(|name| format!("${{request.headers.{}}}", name.replace('_', "-")));
        let cookie = || name.strip_prefix("$cookie_").map(|name| format!("${{request.cookies.{name}}}"));
        let ours = known
            .or_else(header)
            .or_else(cookie)
            .ok_or_else(|| format!("`{name}` has no counterpart among the variables"))?;
        out.push_str(&ours);
        rest = &rest[at + length + 1 + 2 * braces..];
    }
    out.push_str(rest);
    Ok(out)
}

/// A size such as `10m`; none where there is no limit.
fn size(text: &str) -> Option<String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok().filter(|&number| number > 0)?;
    let unit = match &text[digits.len()..].to_ascii_lowercase()[..] {
        "" => "B",
        "k" => "KiB",
        "m" => "MiB",
        "g" => "GiB",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

//! What annotations of an Ingress or a route say: the gateway's own, and those of ingress-nginx, each of them taken, approximated
//! or refused aloud. The table here is the one that docs/kubernetes.md shows.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::nearest;

/// What the names of the gateway's own begin with.
pub(crate) const OWN: &str = "sockgate.io/";
/// What those of ingress-nginx begin with.
pub(crate) const NGINX: &str = "nginx.ingress.kubernetes.io/";
/// That of the other controller for nginx whose users have sockets.
const WEBSOCKET_SERVICES: &str = "nginx.org/websocket-services";

/// What becomes of an annotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It means here what it means there.
    Taken,
    /// It has the nearest that there is.
    Approximated,
    /// It has no effect, and an Event says so.
    Refused,
    /// The Ingress is not served: without what it asks for it would be open to those who may not come.
    Closed,
}

impl How {
    /// The word for it in the docs.
    #[cfg(test)]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Approximated => "approximated",
            Self::Refused => "refused",
            Self::Closed => "closed",
        }
    }
}

/// The gateway's own annotations, and what they say.
pub(crate) const OWN_NAMES: [(&str, &str); 16] = [
    ("kind", "`kind` of the upstreams: what sessions their servers have"),
    ("balance", "`balance` of the upstreams"),
    ("grace", "`sessions.grace`"),
    ("returning", "`sessions.returning`"),
    ("drain-rate", "`drain.rate`: goodbyes in a second when a pod ends"),
    ("drain-deadline", "`drain.deadline`"),
    ("drain-goodbye", "`drain.goodbye`: `false` for none"),
    ("slow-start", "`slow_start`"),
    ("check", "`health.check`, such as `none` where the word of Kubernetes is enough"),
    ("connect-timeout", "`timeouts.connect`"),
    ("first-byte-timeout", "`timeouts.first_byte`"),
    ("tunnel-idle-timeout", "`timeouts.tunnel_idle`: how long a WebSocket may be silent"),
    ("websocket-ping", "`websocket.ping_interval`; not where sessions have pings of their own"),
    ("origins", "`access.origins`: the sites whose pages may ask, with commas between"),
    ("host", "`host`: the Host that pods see"),
    ("http2", "`http2`: `true` where pods are asked by HTTP/2, as gRPC needs it"),
];

/// The annotations of ingress-nginx that are known, and what becomes of each.
pub(crate) const NGINX_NAMES: [(&str, How, &str); 95] = {
    use How::{Approximated, Closed, Refused, Taken};
    [
        ("affinity", Taken, "`cookie`; a cookie of the gateway's own, that other gateways understand, too"),
        ("affinity-mode", Approximated, "a client stays with its pod for as long as that lives, as by `persistent`"),
        ("affinity-canary-behavior", Refused, "there are no canaries"),
        ("session-cookie-name", Taken, "without it `INGRESSCOOKIE`"),
        ("session-cookie-path", Taken, "without it `/`"),
        ("session-cookie-samesite", Taken, ""),
        ("session-cookie-conditional-samesite-none", Approximated, "`same_site: auto`, which tells by the request"),
        ("session-cookie-secure", Taken, "without it where the client speaks TLS"),
        ("session-cookie-max-age", Taken, ""),
        ("session-cookie-expires", Approximated, "as `max-age`, which has the last word"),
        ("session-cookie-change-on-failure", Approximated, "a client moves when its pod is gone"),
        ("session-cookie-domain", Refused, "the cookie is for the host that set it"),
        (
            "upstream-hash-by",
            Approximated,
            "`$remote_addr`, `$http_…`, `$arg_…`, `$cookie_…`, `$request_uri` or `$host`, alone",
        ),
        ("upstream-hash-by-subset", Refused, ""),
        ("upstream-hash-by-subset-size", Refused, ""),
        ("load-balance", Approximated, "`round_robin`, `ewma` as `peak_ewma`"),
        ("proxy-connect-timeout", Taken, ""),
        (
            "proxy-read-timeout",
            Approximated,
            "to the head of an answer, between two reads of it, and of silence in a WebSocket",
        ),
        ("proxy-send-timeout", Approximated, "for one write to make progress"),
        ("proxy-next-upstream", Approximated, "a failed connect is tried elsewhere, a request that was sent is not"),
        ("proxy-next-upstream-tries", Approximated, "as `connect_retries`"),
        ("proxy-next-upstream-timeout", Refused, ""),
        ("proxy-body-size", Approximated, "at most as `limits.body` of the file says; `0` for that"),
        ("client-body-buffer-size", Approximated, "bodies go on as they come"),
        ("proxy-buffering", Approximated, "answers go on as they come"),
        ("proxy-request-buffering", Approximated, "bodies go on as they come"),
        ("proxy-buffer-size", Approximated, "there is no such buffer"),
        ("proxy-buffers-number", Approximated, "there is no such buffer"),
        ("proxy-busy-buffers-size", Approximated, "there is no such buffer"),
        ("proxy-max-temp-file-size", Approximated, "nothing is written to files"),
        ("proxy-http-version", Approximated, "1.1, or HTTP/2 by `backend-protocol`"),
        ("ssl-redirect", Taken, "without it `true` for hosts that have TLS"),
        ("force-ssl-redirect", Taken, ""),
        ("preserve-trailing-slash", Approximated, "redirects keep the path as it is"),
        ("permanent-redirect", Taken, ""),
        ("permanent-redirect-code", Taken, ""),
        ("temporal-redirect", Taken, ""),
        ("temporal-redirect-code", Taken, ""),
        ("relative-redirects", Refused, ""),
        ("from-to-www-redirect", Refused, "say both hosts"),
        ("app-root", Taken, ""),
        ("rewrite-target", Approximated, "paths of this Ingress are regular expressions then, not all of the host"),
        ("use-regex", Approximated, "for paths of this Ingress of the type ImplementationSpecific"),
        ("x-forwarded-prefix", Taken, ""),
        ("upstream-vhost", Taken, ""),
        ("server-alias", Refused, "say a rule for each host"),
        ("service-upstream", Approximated, "pods are asked in any case"),
        ("backend-protocol", Taken, "`HTTP`, `HTTPS` (not verified, as there), `GRPC`, `GRPCS` or `AUTO_HTTP`"),
        ("proxy-ssl-secret", Refused, "certificates of pods are not verified"),
        ("proxy-ssl-verify", Refused, "certificates of pods are not verified"),
        ("proxy-ssl-verify-depth", Refused, ""),
        ("proxy-ssl-name", Taken, ""),
        (
            "proxy-ssl-server-name",
            Approximated,
            "a name is asked for anyway: that of `proxy-ssl-name`, or of the Service",
        ),
        ("proxy-ssl-protocols", Refused, ""),
        ("proxy-ssl-ciphers", Refused, ""),
        ("whitelist-source-range", Taken, ""),
        ("allowlist-source-range", Taken, ""),
        ("denylist-source-range", Taken, ""),
        ("enable-cors", Taken, ""),
        ("cors-allow-origin", Taken, "without it `*`"),
        ("cors-allow-methods", Taken, ""),
        ("cors-allow-headers", Taken, "without it those that a page asks for"),
        ("cors-allow-credentials", Approximated, "not with `*`: any site could read what belongs to the user"),
        ("cors-expose-headers", Taken, ""),
        ("cors-max-age", Taken, ""),
        ("limit-rps", Approximated, "`limits.rate`, with the burst of `limit-burst-multiplier`"),
        ("limit-rpm", Approximated, "the same, for a minute"),
        ("limit-burst-multiplier", Taken, "without it 5"),
        ("limit-connections", Refused, "`limits.connections_per_address` of the file is for all"),
        ("limit-rate", Refused, ""),
        ("limit-rate-after", Refused, ""),
        ("limit-allowlist", Refused, ""),
        ("limit-whitelist", Refused, ""),
        ("auth-url", Approximated, "`access.forward_auth`; an address without variables"),
        ("auth-response-headers", Taken, ""),
        ("auth-method", Refused, "the service is asked with the method of `forward_auth`"),
        ("auth-signin", Refused, "who may not come gets the answer of the service"),
        ("auth-cache-key", Refused, ""),
        ("auth-type", Closed, "say `access.basic` in the file"),
        ("auth-secret", Closed, "say `access.basic` in the file"),
        ("auth-tls-secret", Closed, "say `client_certificates` of the listener in the file"),
        ("auth-tls-verify-client", Closed, "say `client_certificates` of the listener in the file"),
        ("satisfy", Closed, "all that is asked for has to hold"),
        ("enable-modsecurity", Closed, ""),
        ("canary", Closed, "it would be served to everybody"),
        ("ssl-passthrough", Refused, "say `passthrough` of the listener in the file"),
        ("mirror-target", Refused, ""),
        ("custom-http-errors", Refused, "say `error_pages` in the file"),
        ("default-backend", Refused, "say `defaultBackend`"),
        ("enable-access-log", Refused, ""),
        ("configuration-snippet", Refused, "never: a piece of another's configuration"),
        ("server-snippet", Refused, "never: a piece of another's configuration"),
        ("auth-snippet", Closed, "never: a piece of another's configuration"),
        ("stream-snippet", Refused, "never: a piece of another's configuration"),
        ("modsecurity-snippet", Closed, "never: a piece of another's configuration"),
    ]
};

/// What annotations say of all that an Ingress makes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Settings {
    /// Keys of its upstreams.
    pub(crate) upstream: Map<String, Value>,
    /// Keys of its routes that lead to them.
    pub(crate) route: Map<String, Value>,
    /// Whether plain HTTP is led to HTTPS; by default for hosts that have TLS.
    pub(crate) to_tls: Option<bool>,
    /// The same, whether the hosts have TLS here or not.
    pub(crate) always_to_tls: bool,
    /// Where all of it is sent instead.
    pub(crate) redirect: Option<Value>,
    /// Where `/` is sent.
    pub(crate) app_root: Option<String>,
    pub(crate) use_regex: bool,
    pub(crate) rewrite_target: Option<String>,
}

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Read {
    pub(crate) settings: Settings,
    /// What is refused, approximated or not known.
    pub(crate) notes: Vec<(&'static str, String)>,
    /// Why the Ingress can't be served.
    pub(crate) closed: Vec<String>,
}

/// Why an annotation is of no use.
#[derive(Debug, PartialEq, Eq)]
enum Misfit {
    /// What was found and what would do.
    Value(String),
    /// Nobody knows it here.
    Unknown,
}

type Taking = Result<(), Misfit>;

/// Reads what concerns the gateway; annotations of others are theirs.
pub(crate) fn read(annotations: &BTreeMap<String, String>) -> Read {
    let mut read = Read::default();
    let mut said = Said { all: annotations, settings: &mut read.settings };
    let (mut notes, mut closed) = (Vec::new(), Vec::new());
    for (name, value) in annotations {
        let value = value.trim();
        let taking = if let Some(own) = name.strip_prefix(OWN) {
            said.own(own, value)
        } else if let Some(theirs) = name.strip_prefix(NGINX) {
            match NGINX_NAMES.iter().find(|(known, ..)| *known == theirs) {
                Some((_, How::Taken | How::Approximated, _)) => said.nginx(theirs, value),
                // What is turned off asks for nothing.
                Some((_, How::Closed, _)) if matches!(value, "false" | "off" | "none" | "") => Ok(()),
                Some((_, How::Closed, why)) => {
                    closed.push(because(format!("`{name}` is refused, and without it nobody is served"), why));
                    Ok(())
                }
                Some((_, How::Refused, why)) => {
                    notes.push(("AnnotationRefused", because(format!("`{name}` is refused and has no effect"), why)));
                    Ok(())
                }
                None => Err(Misfit::Unknown),
            }
        } else {
            // WebSockets need no word.
            Ok(())
        };
        match taking {
            Ok(()) => {}
            Err(Misfit::Value(what)) => closed.push(format!("`{name}`: found `{value}`, expected {what}")),
            Err(Misfit::Unknown) => {
                let own =
                    name.strip_prefix(OWN).and_then(|own| nearest(own, OWN_NAMES.iter().map(|(known, _)| *known)));
                let meant = own.map(|meant| format!(": did you mean `{OWN}{meant}`?")).unwrap_or_default();
                notes.push(("AnnotationUnknown", format!("`{name}` is not known here and has no effect{meant}")));
            }
        }
    }
    said.together(&mut notes);
    (read.notes, read.closed) = (notes, closed);
    read
}

/// The same for who never had any of ingress-nginx.
pub(crate) fn read_own(annotations: &BTreeMap<String, String>) -> Read {
    let own = annotations.iter().filter(|(name, _)| name.starts_with(OWN));
    read(&own.map(|(name, value)| (name.clone(), value.clone())).collect())
}

fn because(what: String, why: &str) -> String {
    if why.is_empty() { what } else { format!("{what}: {why}") }
}

/// Annotations as they are taken up.
struct Said<'a> {
    all: &'a BTreeMap<String, String>,
    settings: &'a mut Settings,
}

impl Said<'_> {
    /// Another one of ingress-nginx.
    fn also(&self, name: &str) -> Option<&str> {
        self.all.get(&format!("{NGINX}{name}")).map(|value| value.trim())
    }

    fn upstream(&mut self, path: &[&str], value: impl Into<Value>) -> Taking {
        put(&mut self.settings.upstream, path, value.into());
        Ok(())
    }

    fn route(&mut self, path: &[&str], value: impl Into<Value>) -> Taking {
        put(&mut self.settings.route, path, value.into());
        Ok(())
    }

    /// What is the file's own word goes on as it is: whoever reads that says what is wrong with it.
    fn own(&mut self, name: &str, value: &str) -> Taking {
        match name {
            "kind" => self.upstream(&["kind"], value),
            "balance" => self.upstream(&["balance"], value),
            "grace" => self.upstream(&["sessions", "grace"], value),
            "returning" => self.upstream(&["sessions", "returning"], value),
            "drain-rate" => self.upstream(&["drain", "rate"], number(value)?),
            "drain-deadline" => self.upstream(&["drain", "deadline"], value),
            "drain-goodbye" => self.upstream(&["drain", "goodbye"], switch(value)?),
            "slow-start" => self.upstream(&["slow_start"], value),
            "check" => self.upstream(&["health", "check"], value),
            "connect-timeout" => self.upstream(&["timeouts", "connect"], value),
            "first-byte-timeout" => self.upstream(&["timeouts", "first_byte"], value),
            "tunnel-idle-timeout" => self.upstream(&["timeouts", "tunnel_idle"], value),
            "websocket-ping" => self.upstream(&["websocket", "ping_interval"], value),
            "origins" => self.route(&["access", "origins"], list(value)),
            "host" => self.upstream(&["host"], value),
            "http2" => self.upstream(&["http2"], switch(value)?),
            _ => Err(Misfit::Unknown),
        }
    }

    fn nginx(&mut self, name: &str, value: &str) -> Taking {
        match name {
            "affinity" if value == "cookie" => {
                let name = self.also("session-cookie-name").unwrap_or("INGRESSCOOKIE").to_owned();
                self.upstream(&["affinity", "cookie", "name"], name)
            }
            "affinity" => expected("`cookie`"),
            "affinity-mode" if matches!(value, "balanced" | "persistent") => Ok(()),
            "affinity-mode" => expected("`balanced` or `persistent`"),
            "session-cookie-name"
            | "cors-allow-origin"
            | "cors-allow-methods"
            | "cors-allow-headers"
            | "cors-expose-headers"
            | "limit-burst-multiplier" => Ok(()),
            "session-cookie-path" => self.cookie("path", value.into()),
            "session-cookie-samesite" => self.cookie("same_site", value.to_ascii_lowercase().into()),
            "session-cookie-conditional-samesite-none" => match switch(value)? {
                true => self.cookie("same_site", "auto".into()),
                false => Ok(()),
            },
            "session-cookie-secure" => {
                let secure = if switch(value)? { "always" } else { "never" };
                self.cookie("secure", secure.into())
            }
            "session-cookie-max-age" => self.cookie("max_age", seconds(value)?),
            "session-cookie-expires" if self.also("session-cookie-max-age").is_some() => Ok(()),
            "session-cookie-expires" => self.cookie("max_age", seconds(value)?),
            "session-cookie-change-on-failure" => switch(value).map(drop),
            "upstream-hash-by" => self.hash_by(value),
            "load-balance" => match value {
                "round_robin" => self.upstream(&["balance"], "round_robin"),
                "ewma" => self.upstream(&["balance"], "peak_ewma"),
                _ => expected("`round_robin` or `ewma`"),
            },
            "proxy-connect-timeout" => self.upstream(&["timeouts", "connect"], seconds(value)?),
            "proxy-read-timeout" => {
                let time = seconds(value)?;
                ["first_byte", "read_idle", "tunnel_idle"]
                    .into_iter()
                    .try_for_each(|key| self.upstream(&["timeouts", key], time.clone()))
            }
            "proxy-send-timeout" => self.upstream(&["timeouts", "write"], seconds(value)?),
            "proxy-next-upstream" if value == "off" => self.upstream(&["connect_retries"], 0),
            "proxy-next-upstream-tries" => {
                // There the first one counts, and 0 is any number.
                let tries = whole(value)?;
                self.upstream(&["connect_retries"], tries.checked_sub(1).unwrap_or(3))
            }
            "proxy-body-size" => match size(value)? {
                0 => Ok(()),
                bytes => self.route(&["limits", "body"], format!("{bytes}B")),
            },
            "proxy-next-upstream"
            | "client-body-buffer-size"
            | "proxy-buffering"
            | "proxy-request-buffering"
            | "proxy-buffer-size"
            | "proxy-buffers-number"
            | "proxy-busy-buffers-size"
            | "proxy-max-temp-file-size"
            | "proxy-http-version"
            | "preserve-trailing-slash"
            | "service-upstream"
            | "proxy-ssl-server-name" => Ok(()),
            "ssl-redirect" => {
                self.settings.to_tls = Some(switch(value)?);
                Ok(())
            }
            "force-ssl-redirect" => {
                self.settings.always_to_tls = switch(value)?;
                Ok(())
            }
            "permanent-redirect" => self.redirect(value, "permanent-redirect-code", 301),
            "temporal-redirect" => self.redirect(value, "temporal-redirect-code", 302),
            "permanent-redirect-code" | "temporal-redirect-code" => whole(value).map(drop),
            "app-root" => {
                self.settings.app_root = Some(value.to_owned());
                Ok(())
            }
            "rewrite-target" => {
                self.settings.rewrite_target = Some(value.to_owned());
                Ok(())
            }
            "use-regex" => {
                self.settings.use_regex = switch(value)?;
                Ok(())
            }
            "x-forwarded-prefix" => self.route(&["request_headers", "set", "x-forwarded-prefix"], plain(value)?),
            "upstream-vhost" => self.upstream(&["host"], plain(value)?),
            "backend-protocol" => self.protocol(value),
            "proxy-ssl-name" => match self.also("backend-protocol") {
                Some("HTTPS" | "GRPCS") => self.upstream(&["tls", "server_name"], value),
                _ => Ok(()),
            },
            "whitelist-source-range" | "allowlist-source-range" => self.route(&["access", "allow"], some(list(value))?),
            "denylist-source-range" => self.route(&["access", "deny"], some(list(value))?),
            "enable-cors" if switch(value)? => self.cors(),
            "enable-cors" => Ok(()),
            "cors-allow-credentials" => switch(value).map(drop),
            "cors-max-age" => seconds(value).map(drop),
            "limit-rps" => self.rate(value, "1s"),
            "limit-rpm" => self.rate(value, "1m"),
            "auth-url" if value.contains('$') => expected("an address without variables"),
            "auth-url" => self.route(&["access", "forward_auth", "url"], value),
            "auth-response-headers" => match self.also("auth-url") {
                Some(_) => self.route(&["access", "forward_auth", "to_server"], list(value)),
                None => Ok(()),
            },
            _ => Err(Misfit::Unknown),
        }
    }

    /// A key of the cookie, which is only set where there is one.
    fn cookie(&mut self, key: &str, value: Value) -> Taking {
        match self.also("affinity") {
            Some("cookie") => self.upstream(&["affinity", "cookie", key], value),
            _ => Ok(()),
        }
    }

    fn hash_by(&mut self, value: &str) -> Taking {
        let name = value.trim_start_matches('$').trim_start_matches('{').trim_end_matches('}');
        let header = |name: &str| name.replace('_', "-");
        self.upstream(&["balance"], "client_ip")?;
        match name {
            "remote_addr" | "binary_remote_addr" => Ok(()),
            "request_uri" | "uri" => self.upstream(&["affinity", "cel"], "request.path"),
            "host" => self.upstream(&["affinity", "cel"], "request.host"),
            _ => match name.split_once('_') {
                Some(("http", name)) if is_word(name) => self.upstream(&["affinity", "header"], header(name)),
                Some(("arg", name)) if is_word(name) => self.upstream(&["affinity", "query"], name),
                Some(("cookie", name)) if is_word(name) => self.upstream(&["affinity", "app_cookie"], name),
                _ => expected("one of $remote_addr, $http_…, $arg_…, $cookie_…, $request_uri and $host"),
            },
        }
    }

    fn protocol(&mut self, value: &str) -> Taking {
        let tls = |said: &mut Self| said.upstream(&["tls", "verify"], false);
        match value {
            "HTTP" | "AUTO_HTTP" => Ok(()),
            "HTTPS" => tls(self),
            "GRPC" => self.upstream(&["http2"], true),
            "GRPCS" => {
                tls(self)?;
                self.upstream(&["http2"], true)
            }
            _ => expected("`HTTP`, `HTTPS`, `GRPC`, `GRPCS` or `AUTO_HTTP`"),
        }
    }

    /// To one address, whatever was asked for.
    fn redirect(&mut self, value: &str, code: &str, usual: u64) -> Taking {
        let status = self.also(code).map_or(Ok(usual), whole)?;
        let (scheme, rest) = match value.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
            None if value.starts_with('/') => (None, value),
            _ => return expected("an address such as https://www.example.com"),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(whole(port)?)),
            None => (authority, None),
        };
        let mut redirect = json!({ "status": status, "path": if path.is_empty() { "/" } else { path } });
        let keys = [
            ("scheme", scheme.map(Value::from)),
            ("host", Some(host).filter(|host| !host.is_empty()).map(Value::from)),
        ];
        for (key, value) in keys.into_iter().chain([("port", port.map(Value::from))]) {
            if let Some(value) = value {
                redirect[key] = value;
            }
        }
        self.settings.redirect = Some(redirect);
        Ok(())
    }

    fn cors(&mut self) -> Taking {
        let origins = list(self.also("cors-allow-origin").unwrap_or("*"));
        let every = origins.iter().any(|origin| origin == "*");
        let credentials = self.also("cors-allow-credentials").map_or(Ok(true), switch)? && !every;
        let origins = if every { json!("*") } else { Value::from(origins) };
        let mut cors = json!({ "origins": origins, "credentials": credentials });
        let usual = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
        cors["methods"] = list(self.also("cors-allow-methods").unwrap_or(usual)).into();
        for (key, name) in [("headers", "cors-allow-headers"), ("expose", "cors-expose-headers")] {
            let names = self.also(name).map(list).unwrap_or_default();
            if !names.iter().any(|name| name == "*") && !names.is_empty() {
                cors[key] = names.into();
            }
        }
        cors["max_age"] = seconds(self.also("cors-max-age").unwrap_or("1728000"))?;
        self.route(&["access", "cors"], cors)
    }

    fn rate(&mut self, value: &str, per: &str) -> Taking {
        let requests = whole(value)?;
        let times = self.also("limit-burst-multiplier").map_or(Ok(5), whole)?;
        let one = json!({ "requests": requests, "per": per, "burst": requests.saturating_mul(times.max(1)) });
        let rates = self.settings.route.entry("limits").or_insert_with(|| json!({}));
        match rates.get_mut("rate").and_then(Value::as_array_mut) {
            Some(all) => all.push(one),
            None => rates["rate"] = json!([one]),
        }
        Ok(())
    }

    /// What only shows when all have been read.
    fn together(&mut self, notes: &mut Vec<(&'static str, String)>) {
        let every = self.also("cors-allow-origin").is_none_or(|origins| origins.contains('*'));
        let is_on = |name: &str| self.also(name) == Some("true");
        if is_on("enable-cors") && is_on("cors-allow-credentials") && every {
            let what = format!(
                "`{NGINX}cors-allow-credentials` is not taken beside `*`: any site could read what belongs to the user"
            );
            notes.push(("AnnotationRefused", what));
        }
        for name in self.all.keys().filter(|name| name.starts_with("nginx.org/") && *name != WEBSOCKET_SERVICES) {
            notes.push(("AnnotationUnknown", format!("`{name}` is not known here and has no effect")));
        }
    }
}

/// Puts a value below these keys.
fn put(map: &mut Map<String, Value>, path: &[&str], value: Value) {
    match path {
        [] => {}
        [key] => drop(map.insert((*key).to_owned(), value)),
        [key, rest @ ..] => {
            let below = map.entry(*key).or_insert_with(|| json!({}));
            if let Value::Object(below) = below {
                put(below, rest, value);
            }
        }
    }
}

fn expected<T>(what: &str) -> Result<T, Misfit> {
    Err(Misfit::Value(what.to_owned()))
}

fn switch(value: &str) -> Result<bool, Misfit> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => expected("`true` or `false`"),
    }
}

fn whole(value: &str) -> Result<u64, Misfit> {
    value.parse().or_else(|_| expected("a whole number"))
}

fn number(value: &str) -> Result<Value, Misfit> {
    let number: Option<f64> = value.parse().ok().filter(|number: &f64| number.is_finite());
    number.map(Value::from).map_or_else(|| expected("a number"), Ok)
}

/// Seconds, which nginx writes without a unit, or with one.
fn seconds(value: &str) -> Result<Value, Misfit> {
    let time = match value.parse::<u32>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.into())),
        Err(_) => humantime::parse_duration(value).ok(),
    };
    time.map_or_else(|| expected("seconds, such as 60"), |time| Ok(humantime::format_duration(time).to_string().into()))
}

/// A size as nginx writes it: `8m`, `512k`, bytes without a unit.
fn size(value: &str) -> Result<u64, Misfit> {
    let (digits, unit) = value.split_at(value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len()));
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        _ => return expected("a size such as 8m"),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.map_or_else(|| expected("a size such as 8m"), Ok)
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect()
}

/// An empty list would let everybody in, or nobody.
fn some(list: Vec<String>) -> Result<Vec<String>, Misfit> {
    if list.is_empty() { expected("networks with commas between") } else { Ok(list) }
}

/// A text that is no more than that: in the file `$` would begin a variable.
fn plain(value: &str) -> Result<&str, Misfit> {
    if value.contains('$') { expected("a text without variables") } else { Ok(value) }
}

fn is_word(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(pairs: &[(&str, &str)]) -> Read {
        read(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn nginx(pairs: &[(&str, &str)]) -> Read {
        let named: Vec<_> = pairs.iter().map(|(name, value)| (format!("{NGINX}{name}"), *value)).collect();
        said(&named.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>())
    }

    #[test]
    fn each_annotation_of_the_table_is_known_to_the_reader() {
        for (name, how, _) in NGINX_NAMES {
            let Read { notes, closed, .. } = nginx(&[(name, "?")]);
            let unknown = notes.iter().any(|(reason, _)| *reason == "AnnotationUnknown");
            assert!(!unknown, "{name}");
            match how {
                How::Refused => assert_eq!((notes.len(), closed.len()), (1, 0), "{name}"),
                How::Closed => assert_eq!((notes.len(), closed.len()), (0, 1), "{name}"),
                How::Taken | How::Approximated => assert_eq!(notes, [], "{name}"),
            }
        }
        for (name, _) in OWN_NAMES {
            let Read { notes, .. } = said(&[(&format!("{OWN}{name}"), "?")]);
            assert_eq!(notes, [], "{name}");
        }
        let Read { notes, .. } = said(&[("sockgate.io/knid", "http"), ("example.com/kind", "x")]);
        assert_eq!(notes.len(), 1);
    }

    /// What the docs tell is what the code does.
    #[test]
    fn the_tables_of_the_docs_are_these() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/kubernetes.md");
        let docs = std::fs::read_to_string(file).unwrap();
        let own: String = OWN_NAMES.iter().map(|(name, what)| format!("| `{name}` | {what} |\n")).collect();
        let space = |note: &str| if note.is_empty() { String::new() } else { format!(" {note}") };
        let theirs = NGINX_NAMES.iter();
        let theirs = theirs.map(|(name, how, note)| format!("| `{name}` | {} |{} |\n", how.as_str(), space(note)));
        for table in [own, theirs.collect()] {
            assert!(docs.contains(&table), "docs/kubernetes.md has to have this:\n{table}");
        }
    }

    #[test]
    fn cookies_are_those_that_were_asked_for() {
        let read = nginx(&[
            ("affinity", "cookie"),
            ("session-cookie-name", "route"),
            ("session-cookie-expires", "172800"),
            ("session-cookie-max-age", "3600"),
            ("session-cookie-samesite", "Strict"),
            ("session-cookie-secure", "true"),
        ]);
        let cookie = json!({ "name": "route", "max_age": "1h", "same_site": "strict", "secure": "always" });
        assert_eq!(read.settings.upstream["affinity"]["cookie"], cookie);
        assert_eq!(nginx(&[("session-cookie-path", "/x")]).settings, Settings::default(), "no affinity, no cookie");
    }

    #[test]
    fn what_a_value_can_not_mean_closes_the_ingress() {
        for (name, value) in [
            ("whitelist-source-range", ""),
            ("proxy-read-timeout", "soon"),
            ("affinity", "ip"),
            ("upstream-hash-by", "$request_uri$remote_addr"),
            ("proxy-body-size", "8x"),
            ("backend-protocol", "FCGI"),
            ("permanent-redirect", "javascript:alert(1)"),
            ("auth-url", "http://$host/verify"),
            ("upstream-vhost", "${client.ip}"),
            ("auth-type", "basic"),
        ] {
            assert_eq!(nginx(&[(name, value)]).closed.len(), 1, "{name}: {value}");
        }
        assert_eq!(nginx(&[("canary", "false")]), Read::default());
    }

    #[test]
    fn values_are_those_of_nginx() {
        assert_eq!(size("8m").unwrap(), 8 << 20);
        assert_eq!(size("0").unwrap(), 0);
        assert_eq!(seconds("90").unwrap(), "1m 30s");
        assert_eq!(seconds("90s").unwrap(), "1m 30s");
        let by = |value: &str| nginx(&[("upstream-hash-by", value)]).settings.upstream;
        assert_eq!(by("$http_x_user_id")["affinity"]["header"], "x-user-id");
        assert_eq!(by("${arg_room}")["affinity"]["query"], "room");
        assert_eq!(by("$binary_remote_addr").get("affinity"), None);
        let redirect = nginx(&[("permanent-redirect", "https://www.example.com:8443/new")]).settings.redirect.unwrap();
        let expected =
            json!({ "status": 301, "path": "/new", "scheme": "https", "host": "www.example.com", "port": 8443 });
        assert_eq!(redirect, expected);
        let every = nginx(&[("enable-cors", "true"), ("cors-allow-credentials", "true")]);
        assert_eq!(every.settings.route["access"]["cors"]["credentials"], false);
        assert_eq!(every.notes.len(), 1);
    }
}

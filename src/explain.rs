//! What would become of a request: which listener takes it, which route and why not those before it, where it goes, what its
//! server would see, and which times apply.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::{Value, json};

use crate::address::BindAddress;
use crate::config::Config;
use crate::exchange::{AmongPeers, Core, Exchange, RequestHead};
use crate::http::head;
use crate::listener::config::Protocol;
use crate::listener::{self, Info, TlsInfo};
use crate::router::Action;
use crate::upstream::Upstream;
use crate::upstream::config::{Balance, Timeouts};

/// What is asked.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    /// A URL, with a method before it unless that is GET.
    pub(crate) request: String,
    /// Header fields of it, each as `Name: value`.
    pub(crate) headers: Vec<String>,
    /// The address that it comes from.
    pub(crate) from: IpAddr,
    /// The listener that it comes to; without, the first that fits scheme and port.
    pub(crate) listener: Option<String>,
}

/// A URL, taken apart.
struct Url {
    method: String,
    secure: bool,
    authority: String,
    host: String,
    port: u16,
    target: String,
}

impl Url {
    fn read(text: &str) -> Result<Self, String> {
        let (method, url) =
            text.trim().split_once(' ').map_or(("GET", text.trim()), |(method, url)| (method, url.trim()));
        let fault = || format!("`{url}` is no URL: expected one such as https://app.example.com/path");
        let (scheme, rest) = url.split_once("://").ok_or_else(fault)?;
        let secure = match scheme {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return Err(fault()),
        };
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| fault())?),
            _ => (authority, if secure { 443 } else { 80 }),
        };
        if host.is_empty() || method.is_empty() {
            return Err(fault());
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self {
            method: method.to_uppercase(),
            secure,
            authority: authority.to_owned(),
            host: host.to_owned(),
            port,
            target,
        })
    }
}

/// The listener that a request comes to: the one that is named, or the first that fits.
fn choose<'a>(config: &'a Config, url: &Url, named: Option<&str>) -> Result<&'a listener::Config, String> {
    let http = || config.listeners.iter().filter(|listener| listener.protocol == Protocol::Http);
    if let Some(name) = named {
        let known: Vec<String> = http().map(|listener| listener.name()).collect();
        let found = http().find(|listener| listener.name() == name);
        return found.ok_or_else(|| format!("there is no listener `{name}` for HTTP, only {}", known.join(", ")));
    }
    let plain_too = |listener: &listener::Config| listener.detect.as_ref().is_some_and(|detect| detect.plain);
    let speaks = |listener: &&listener::Config| match (url.secure, listener.tls.is_some()) {
        (true, tls) => tls,
        (false, tls) => !tls || plain_too(listener),
    };
    let port = |listener: &&listener::Config| match &listener.address {
        BindAddress::Inet(address) => address.port() == url.port,
        BindAddress::Unix(_) => false,
    };
    let found = http().filter(speaks).find(port).or_else(|| http().find(speaks));
    found.ok_or_else(|| {
        let what = if url.secure { "HTTPS" } else { "plain HTTP" };
        format!("no listener speaks {what}: say one with --listener where something before the gateway does")
    })
}

/// What would become of it, as this gateway is. Nobody is asked who would have to be waited for, and nothing is sent. Only one
/// that is `live` tells which server it would be now: another knows nothing of how they are.
///
/// # Errors
/// Why the question is none, in a sentence.
pub(crate) fn explain(core: &Core, asked: &Question, live: bool) -> Result<Value, String> {
    let url = Url::read(&asked.request)?;
    let snapshot = core.snapshot.load_full();
    let listener = choose(&snapshot.config, &url, asked.listener.as_deref())?;
    let mut text = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", url.method, url.target, url.authority);
    for field in &asked.headers {
        let (name, value) = field.split_once(':').ok_or_else(|| format!("-H `{field}`: expected `Name: value`"))?;
        if name.trim().is_empty() || field.contains(['\r', '\n']) {
            return Err(format!("-H `{field}`: expected `Name: value`"));
        }
        let _ = write!(text, "{}: {}\r\n", name.trim(), value.trim());
    }
    // Whoever writes the opening of a WebSocket by hand leaves out what only machines look at.
    let says = |name: &str| asked.headers.iter().any(|field| field.to_ascii_lowercase().starts_with(name));
    if says("upgrade:") && !says("sec-websocket-key:") {
        text += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        if !says("connection:") {
            text += "Connection: Upgrade\r\n";
        }
    }
    text += "\r\n";
    let mut room = head::room();
    let head = head::parse(text.as_bytes(), &mut room, 0).map_err(|refusal| refusal.to_string())?;
    let head = RequestHead::from(&head);

    let local = SocketAddr::from(([127, 0, 0, 1], url.port));
    let tls = listener.tls.is_some().then(|| TlsInfo {
        server_name: Some(url.host.clone()),
        version: "TLSv1.3",
        cipher: "",
        alpn: None,
        client: None,
        hsts: None,
    });
    let info = Arc::new(Info {
        listener: listener.name().into(),
        peer: (asked.from, 50000).into(),
        local,
        told: None,
        tls: tls.filter(|_| url.secure),
        passed_name: None,
        http2_websockets: false,
        strayed: AtomicBool::new(false),
    });
    let (exchange, refusal) = Exchange::consider(core, &info, &head);
    let mark = exchange.marked(&head);
    // A question of a peer is answered before any route is looked for.
    let routed = !mark.as_ref().is_some_and(|mark| mark.asks);
    let passed_over = if routed { exchange.passed_over(&head) } else { Vec::new() };
    let mut told = json!({
        "listener": { "name": listener.name(), "address": listener.address.to_string(), "tls": listener.tls.is_some() },
        "live": live,
        "client": exchange.client().to_string(),
        "websocket": head.websocket,
        "mark": mark.map(|mark| json!({ "believed": mark.believed, "asks": mark.asks })),
        "passed_over": passed_over.into_iter().map(|(route, why)| json!({ "route": route, "why": why })).collect::<Vec<_>>(),
        "route": null,
        "refused": refusal.map(|refusal| json!({ "status": refusal.status(), "why": refusal.to_string() })),
    });
    let place = exchange.route().and_then(|route| snapshot.routes.iter().position(|known| Arc::ptr_eq(known, route)));
    let Some((route, place)) = exchange.route().zip(place) else { return Ok(told) };
    let said = &snapshot.config.routes[place];
    told["route"] = json!({
        "name": &*route.name,
        "place": place,
        "match": said.matches,
        "action": match route.action {
            _ if exchange.share().is_some() => "respond",
            Action::Upstream(_) => "upstream",
            Action::Respond(_) => "respond",
            Action::Redirect(_) => "redirect",
            Action::Files(_) => "files",
        },
        "split_over": said.upstream.iter().flat_map(|shares| &shares.0).map(|share| share.to_string()).collect::<Vec<_>>(),
        "split_by": said.split.by,
        "share": exchange.share(),
        "asks": asks(&snapshot.config, said),
    });
    let Some(upstream) = exchange.upstream().and_then(|name| snapshot.upstreams.get(name)) else { return Ok(told) };
    let of = upstream.config();
    let session = exchange
        .session_said()
        .map(|(transport, opens, named)| json!({ "transport": transport, "opens": opens, "named": named }));
    let names = |upstream: &Upstream| -> Vec<String> {
        upstream.servers().iter().map(|server| server.name().to_string()).collect()
    };
    let peers = exchange.among_peers(live).map(|peers| {
        let AmongPeers { upstream, asked, at, why } = peers;
        json!({ "upstream": &**upstream.name(), "gateways": names(&upstream), "asked": asked, "at": at, "why": why })
    });
    let by_hash = if of.balance() == Balance::ClientIp { exchange.by_hash() } else { Vec::new() };
    told["upstream"] = json!({
        "name": &**upstream.name(),
        "kind": of.kind,
        "balance": of.balance(),
        "servers": names(upstream),
        "cookie": of.affinity.cookie.is_some(),
        "session": session,
        "peers": peers,
        "by_hash": by_hash,
        "choice": live.then(|| exchange.choice()).flatten().map(|(server, why)| json!({ "server": server, "why": why })),
    });
    told["request"] =
        json!({ "method": head.method, "target": exchange.target(&head), "fields": fields(&exchange, &head) });
    told["times"] = times(said, of, &exchange, head.websocket);
    Ok(told)
}

/// What is asked of whoever comes that way, and where that is said.
fn asks(config: &Config, route: &crate::router::Config) -> Vec<String> {
    let (access, place) = match (&route.access, &config.access) {
        (Some(own), top) => (own.over(top.as_ref()), "the route"),
        (None, Some(top)) => (top.clone(), "the top level"),
        (None, None) => return Vec::new(),
    };
    let keys = serde_json::to_value(&access).ok();
    let said = keys.as_ref().and_then(Value::as_object).into_iter().flatten();
    let is_asked = |(key, value): &(&String, &Value)| {
        let says_nothing = value.is_null() || *value == &json!([]) || *value == &json!({}) || value.is_boolean();
        *key != "inherit" && !says_nothing
    };
    let said = said.filter(is_asked);
    said.map(|(key, _)| format!("{key}, by `access` of {place}")).collect()
}

/// The fields that the server would see, in their order.
fn fields(exchange: &Exchange, head: &RequestHead<'_>) -> Vec<[String; 2]> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    let mut fields: Vec<[String; 2]> =
        exchange.host(head).map(|host| ["Host".to_owned(), text(host)]).into_iter().collect();
    let to_server = exchange.to_server(head);
    head.headers.each(|name, value| {
        if !name.eq_ignore_ascii_case("host") && to_server.pass(name) {
            fields.push([name.to_owned(), text(value)]);
        }
    });
    to_server.add(|name, value| fields.push([name.to_owned(), text(value)]));
    if head.websocket {
        fields.extend([["Connection", "Upgrade"], ["Upgrade", "websocket"]].map(|field| field.map(str::to_owned)));
    }
    fields
}

/// The times that apply, and where each comes from.
fn times(
    route: &crate::router::Config,
    upstream: &crate::upstream::Config,
    exchange: &Exchange,
    websocket: bool,
) -> Value {
    let (said, usual) = (&upstream.timeouts, Timeouts::default());
    let source = |of_route: bool, of_upstream: bool| match (of_route, of_upstream) {
        (true, _) => "the route",
        (false, true) => "the upstream",
        (false, false) => "the default",
    };
    let time = |time: Duration, from: &str| {
        let written = if time.is_zero() { "no limit".to_owned() } else { humantime::format_duration(time).to_string() };
        json!({ "time": written, "from": from })
    };
    let mut times = json!({
        "connect": time(said.connect, source(false, said.connect != usual.connect)),
        "write": time(said.write, source(false, said.write != usual.write)),
    });
    if websocket {
        let idle = route.timeouts.tunnel_idle;
        let from = source(idle.is_some(), said.tunnel_idle.is_some());
        times["tunnel_idle"] = time(idle.or(said.tunnel_idle).unwrap_or_default(), from);
    } else {
        let first_byte = exchange.first_byte_timeout().unwrap_or_default();
        times["first_byte"] = time(first_byte, source(route.timeouts.first_byte.is_some(), said.first_byte.is_some()));
        let from = source(route.timeouts.read_idle.is_some(), said.read_idle != usual.read_idle);
        times["read_idle"] = time(exchange.read_idle_timeout(), from);
    }
    times
}

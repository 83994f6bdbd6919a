//! What a line of the access log tells, and how it is written.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::text::Text;

/// What a line tells; what is empty, zero or `None` is left out.
#[derive(Clone, Debug)]
pub struct Record {
    /// What ended, or began.
    pub event: Event,
    /// When the request's head was whole, or the raw connection was known to be one.
    pub began: SystemTime,
    /// From then until now.
    pub duration: Duration,
    /// From then until the first byte of the server's answer.
    pub first_byte: Option<Duration>,
    /// Time spent in the upstream's waiting room.
    pub queued: Duration,
    /// Where from.
    pub client: IpAddr,
    /// Who asked, where a name and a password had to be said.
    pub user: Option<Arc<str>>,
    /// The subject of the certificate that the client has shown, or its fingerprint where there is none.
    pub certificate: Option<Arc<str>>,
    /// Where it came in.
    pub listener: Arc<str>,
    /// What was spoken: `HTTP/1.1`, `HTTP/2`, `WebSocket`, `TCP`.
    pub protocol: &'static str,
    /// How Engine.IO travels, by the query: `polling`, `websocket`.
    pub transport: Option<&'static str>,
    /// Over TLS.
    pub secure: bool,
    /// The method; empty for raw connections.
    pub method: Cow<'static, str>,
    /// The host asked for.
    pub host: String,
    /// Path and query as sent, but for the id of a session, which would let whoever reads it take the session over.
    pub target: String,
    /// A keyed hash of that id: the same session has the same one in every line of its process.
    pub session: String,
    /// What came of looking for that session among the servers, where nobody knew it: `found`, `unknown` and the like.
    pub search: &'static str,
    /// The status of the answer; 0 for raw connections and clients that left before one.
    pub status: u16,
    /// The route that matched.
    pub route: Option<Arc<str>>,
    /// The upstream that it was carried to.
    pub upstream: Option<Arc<str>>,
    /// The server that took it.
    pub server: Option<Arc<str>>,
    /// Servers tried.
    pub tries: u32,
    /// Bytes from the client: a body, or what a tunnel carried.
    pub bytes_in: u64,
    /// Bytes to the client.
    pub bytes_out: u64,
    /// WebSocket messages from the client.
    pub messages_in: u64,
    /// WebSocket messages to the client.
    pub messages_out: u64,
    /// Who ended it and how: `client`, `server`, `idle`, or the word of a refusal.
    pub closed_by: &'static str,
    /// The code of the WebSocket Close frame that ended it.
    pub close_code: Option<u16>,
    /// The id in `X-Request-Id`.
    pub request_id: String,
    /// What the PROXY header calls the connection.
    pub unique_id: String,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request was answered.
    Request,
    /// A tunnel opened.
    Open,
    /// A tunnel closed.
    Close,
}

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Open => "open",
            Self::Close => "close",
        }
    }
}

/// One value of a line.
enum Value<'a> {
    Text(&'a str),
    Time(SystemTime),
    Number(u64),
    Seconds(Duration),
    Flag,
}

impl Value<'_> {
    /// Writes the value as it stands; the machinery of `fmt` would cost most of a line.
    fn push_plain(&self, line: &mut String) {
        match *self {
            Self::Text(text) => line.push_str(text),
            Self::Time(time) => drop(write!(line, "{}", humantime::format_rfc3339_millis(time))),
            Self::Number(number) => line.push_str(&Text::number(number)),
            Self::Seconds(time) => {
                // To the nearest microsecond; the digits that are missing in front are zeros.
                let rounded = time.saturating_add(Duration::from_nanos(500));
                let micros = Text::number(u64::from(rounded.subsec_micros()) + 1_000_000);
                line.push_str(&Text::number(rounded.as_secs()));
                line.push('.');
                line.push_str(&micros[1..]);
            }
            Self::Flag => line.push_str("true"),
        }
    }
}

impl Record {
    /// Adds the line to `line`, without its end.
    pub(super) fn write(&self, json: bool, line: &mut String) {
        if json { self.write_json(line) } else { self.write_text(line) }
    }

    /// Hands out what there is to tell, in the order of a line.
    fn tell(&self, mut say: impl FnMut(&str, Value<'_>)) {
        say("time", Value::Time(self.began));
        let mut text = |key: &str, value: &str| {
            if !value.is_empty() {
                say(key, Value::Text(value));
            }
        };
        text("event", self.event.as_str());
        text("client", &Text::address(self.client));
        text("user", self.user.as_deref().unwrap_or(""));
        text("certificate", self.certificate.as_deref().unwrap_or(""));
        text("listener", &self.listener);
        text("protocol", self.protocol);
        text("transport", self.transport.unwrap_or(""));
        text("method", &self.method);
        text("host", &self.host);
        text("target", &self.target);
        text("session", &self.session);
        text("search", self.search);
        text("route", self.route.as_deref().unwrap_or(""));
        text("upstream", self.upstream.as_deref().unwrap_or(""));
        text("server", self.server.as_deref().unwrap_or(""));
        text("closed_by", self.closed_by);
        text("id", &self.request_id);
        text("unique_id", &self.unique_id);
        let mut number = |key: &str, value: u64| {
            if value != 0 {
                say(key, Value::Number(value));
            }
        };
        number("status", self.status.into());
        number("tries", if self.tries > 1 { self.tries.into() } else { 0 });
        number("bytes_in", self.bytes_in);
        number("bytes_out", self.bytes_out);
        number("messages_in", self.messages_in);
        number("messages_out", self.messages_out);
        number("close_code", self.close_code.unwrap_or(0).into());
        if self.secure {
            say("tls", Value::Flag);
        }
        if !self.queued.is_zero() {
            say("queued", Value::Seconds(self.queued));
        }
        if let Some(first_byte) = self.first_byte {
            say("first_byte", Value::Seconds(first_byte));
        }
        if self.event != Event::Open {
            say("duration", Value::Seconds(self.duration));
        }
    }

    fn write_text(&self, line: &mut String) {
        self.tell(|key, value| {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(key);
            line.push('=');
            match value {
                Value::Text(text) if !text.bytes().all(is_bare) => drop(write!(line, "{text:?}")),
                value => value.push_plain(line),
            }
        });
    }

    fn write_json(&self, line: &mut String) {
        line.push('{');
        self.tell(|key, value| {
            if line.len() > 1 {
                line.push(',');
            }
            line.push('"');
            line.push_str(key);
            line.push_str("\":");
            match value {
                Value::Text(text) => drop(write!(line, "{}", serde_json::Value::from(text))),
                Value::Time(_) => {
                    line.push('"');
                    value.push_plain(line);
                    line.push('"');
                }
                value => value.push_plain(line),
            }
        });
        line.push('}');
    }
}

/// Bytes that need no quotes in a text line.
fn is_bare(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::access_log) fn record() -> Record {
        Record {
            event: Event::Close,
            began: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(1500),
            first_byte: None,
            queued: Duration::ZERO,
            client: [192, 0, 2, 1].into(),
            user: None,
            certificate: None,
            listener: "web".into(),
            protocol: "WebSocket",
            transport: Some("websocket"),
            secure: true,
            method: "GET".into(),
            host: "example.com".to_owned(),
            target: "/socket.io/?x=\"quoted\"".to_owned(),
            session: String::new(),
            search: "",
            status: 101,
            route: Some("sockets".into()),
            upstream: Some("sockets".into()),
            server: Some("a".into()),
            tries: 1,
            bytes_in: 12,
            bytes_out: 0,
            messages_in: 2,
            messages_out: 0,
            closed_by: "client",
            close_code: Some(1001),
            request_id: String::new(),
            unique_id: String::new(),
        }
    }

    #[test]
    fn text_lines_quote_what_could_break_them() {
        let mut line = String::new();
        record().write_text(&mut line);
        assert_eq!(
            line,
            "time=1970-01-01T00:00:00.000Z event=close client=192.0.2.1 listener=web protocol=WebSocket \
             transport=websocket method=GET host=example.com target=\"/socket.io/?x=\\\"quoted\\\"\" route=sockets \
             upstream=sockets server=a closed_by=client status=101 bytes_in=12 messages_in=2 close_code=1001 tls=true \
             duration=1.500000"
        );
    }

    #[test]
    fn json_lines_are_json_whatever_clients_send() {
        let mut line = String::new();
        Record { target: "/\u{1}\"\\\n".to_owned(), ..record() }.write_json(&mut line);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["target"], "/\u{1}\"\\\n");
        assert_eq!(value["close_code"], 1001);
        assert!(!line.contains('\n'));
    }
}

//! What a span tells, in the words of OpenTelemetry's conventions for HTTP and, where these have none, in those of the access
//! log (`sockgate.…`). No more than the log: ids of sessions are hashes, secrets in the query are left out.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Event, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::Trace;
use crate::access_log::Record;

/// A TLS handshake of a client.
#[derive(Debug)]
pub struct Handshake {
    /// When it began.
    pub began: SystemTime,
    /// Where it came in.
    pub listener: Arc<str>,
    /// Where from.
    pub client: IpAddr,
    /// The name that was asked for.
    pub server_name: Option<String>,
    /// What was agreed on, or why there was no agreement.
    pub outcome: Result<Agreed, String>,
}

/// Version, cipher suite and protocol.
pub type Agreed = (&'static str, &'static str, Option<&'static str>);

static SCOPE: LazyLock<InstrumentationScope> =
    LazyLock::new(|| InstrumentationScope::builder("sockgate").with_version(env!("CARGO_PKG_VERSION")).build());

/// The span of a request, and that of what a server was asked, where one was.
pub(super) fn of_request(trace: &Trace, record: &Record) -> impl Iterator<Item = SpanData> + use<> {
    let what = if record.method.is_empty() { record.protocol } else { &record.method };
    let named = |of: Option<&Arc<str>>| match of {
        Some(of) => format!("{what} {of}"),
        None => what.to_owned(),
    };
    let ended = record.began + record.duration;
    let mut attributes = asked(record);
    answered(record, &mut attributes);
    let failed = failed(record);
    let status = |attributes: &mut Vec<KeyValue>| match &failed {
        Some(why) => {
            attributes.push(KeyValue::new("error.type", why.clone()));
            Status::error("")
        }
        None => Status::Unset,
    };
    let of_gateway = trace.span(trace.span, trace.parent, SpanKind::Server, named(record.route.as_ref()));
    let of_gateway = SpanData {
        parent_span_is_remote: trace.parent.is_some(),
        start_time: record.began,
        end_time: ended,
        status: status(&mut attributes),
        attributes,
        ..of_gateway
    };
    let of_server = trace.placed.filter(|_| record.server.is_some()).map(|placed| {
        let mut attributes = vec![KeyValue::new("server.address", trace.server.clone())];
        text(&mut attributes, "sockgate.upstream", record.upstream.as_deref());
        text(&mut attributes, "sockgate.server", record.server.as_deref());
        text(&mut attributes, "http.request.method", Some(&*record.method));
        answered(record, &mut attributes);
        let mut events = SpanEvents::default();
        let first_byte = record.first_byte.map(|after| record.began + after);
        for (name, at) in [("connected", trace.connected), ("first byte", first_byte)] {
            events.events.extend(at.map(|at| Event::new(name, at, Vec::new(), 0)));
        }
        SpanData {
            start_time: placed,
            // The clock of the system may have been put back meanwhile.
            end_time: ended.max(placed),
            status: status(&mut attributes),
            attributes,
            events,
            ..trace.span(trace.question, Some(trace.span), SpanKind::Client, named(record.upstream.as_ref()))
        }
    });
    [Some(of_gateway), of_server].into_iter().flatten()
}

/// The span of a tunnel, from its opening on.
pub(super) fn of_tunnel(trace: &Trace, record: &Record) -> SpanData {
    let mut attributes = asked(record);
    text(&mut attributes, "sockgate.upstream", record.upstream.as_deref());
    text(&mut attributes, "sockgate.server", record.server.as_deref());
    text(&mut attributes, "sockgate.closed_by", Some(record.closed_by));
    for (name, count) in [
        ("sockgate.bytes_in", record.bytes_in),
        ("sockgate.bytes_out", record.bytes_out),
        ("sockgate.messages_in", record.messages_in),
        ("sockgate.messages_out", record.messages_out),
    ] {
        attributes.push(KeyValue::new(name, number(count)));
    }
    if let Some(code) = record.close_code {
        attributes.push(KeyValue::new("sockgate.close_code", i64::from(code)));
    }
    let (name, opened) = (format!("{} tunnel", record.protocol), trace.opened.unwrap_or(record.began));
    SpanData {
        start_time: opened,
        end_time: (record.began + record.duration).max(opened),
        attributes,
        ..trace.span(super::some_id(), Some(trace.span), SpanKind::Internal, name)
    }
}

impl Handshake {
    pub(super) fn span(self, trace: &Trace) -> SpanData {
        let mut attributes = vec![
            KeyValue::new("client.address", self.client.to_string()),
            KeyValue::new("sockgate.listener", self.listener.to_string()),
        ];
        text(&mut attributes, "tls.client.server_name", self.server_name.as_deref());
        let status = match self.outcome {
            Ok((version, cipher, protocol)) => {
                attributes.push(KeyValue::new("tls.protocol.name", "tls"));
                attributes
                    .push(KeyValue::new("tls.protocol.version", version.trim_start_matches("TLSv").replace('_', ".")));
                attributes.push(KeyValue::new("tls.cipher", cipher));
                text(&mut attributes, "tls.next_protocol", protocol);
                Status::Unset
            }
            Err(why) => {
                attributes.push(KeyValue::new("error.type", "tls_handshake"));
                Status::error(why)
            }
        };
        SpanData {
            start_time: self.began,
            end_time: SystemTime::now().max(self.began),
            status,
            attributes,
            ..trace.span(trace.span, None, SpanKind::Server, "TLS handshake".to_owned())
        }
    }
}

impl Trace {
    fn span(&self, id: u64, parent: Option<u64>, span_kind: SpanKind, name: String) -> SpanData {
        let flags = TraceFlags::SAMPLED | TraceFlags::new(self.random);
        let own = SpanId::from(id);
        SpanData {
            span_context: SpanContext::new(TraceId::from(self.id), own, flags, false, self.state.clone()),
            parent_span_id: parent.map_or(SpanId::INVALID, SpanId::from),
            parent_span_is_remote: false,
            span_kind,
            name: Cow::Owned(name),
            start_time: SystemTime::UNIX_EPOCH,
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: SCOPE.clone(),
        }
    }
}

/// What was asked for, by whom, and which way it went.
fn asked(record: &Record) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(24);
    let mut add = |name: &'static str, value: &str| text(&mut attributes, name, Some(value));
    let (path, query) = record.target.split_once('?').unwrap_or((&record.target, ""));
    let (protocol, version) = record.protocol.split_once('/').unwrap_or((record.protocol, ""));
    add("http.request.method", &record.method);
    add("url.scheme", if record.secure { "https" } else { "http" });
    add("url.path", path);
    add("url.query", query);
    add("server.address", &record.host);
    add("client.address", &record.client.to_string());
    add("network.protocol.name", &protocol.to_ascii_lowercase());
    add("network.protocol.version", version);
    add("user.name", record.user.as_deref().unwrap_or(""));
    add("sockgate.listener", &record.listener);
    add("sockgate.route", record.route.as_deref().unwrap_or(""));
    add("sockgate.transport", record.transport.unwrap_or(""));
    add("sockgate.session", &record.session);
    add("sockgate.search", record.search);
    add("sockgate.request_id", &record.request_id);
    attributes
}

/// What came of it.
fn answered(record: &Record, attributes: &mut Vec<KeyValue>) {
    if record.status != 0 {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(record.status)));
    }
    for (name, count) in [
        ("http.request.body.size", record.bytes_in),
        ("http.response.body.size", record.bytes_out),
        ("sockgate.tries", record.tries.into()),
    ] {
        attributes.push(KeyValue::new(name, number(count)));
    }
    if record.queued > Duration::ZERO {
        attributes.push(KeyValue::new("sockgate.queued", record.queued.as_secs_f64()));
    }
    text(attributes, "sockgate.closed_by", Some(record.closed_by));
}

/// Why it is an error of a server's or the gateway's, if it is.
fn failed(record: &Record) -> Option<String> {
    let why = if record.closed_by.is_empty() { record.status.to_string() } else { record.closed_by.to_owned() };
    (record.status >= 500 || record.closed_by == "server" && record.status != 101).then_some(why)
}

fn text(attributes: &mut Vec<KeyValue>, name: &'static str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        attributes.push(KeyValue::new(name, value.to_owned()));
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

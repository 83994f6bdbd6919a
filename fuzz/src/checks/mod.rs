//! What holds for any bytes at all: one check for each fuzz target, which `cargo test` replays over the corpus.

mod access;
mod config;
#[cfg(test)]
mod corpus;
mod sealed;
mod sessions;
mod tls;

pub use access::{cross_site, tokens};
pub use config::configurations;
pub use sealed::{cookies, ticket_keys};
pub use sessions::{first_events, json_pointers, peer_marks, signalr_negotiations, sockjs_paths};
pub use tls::{tls_records, tls_streams};

use std::net::IpAddr;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};
use httparse::{EMPTY_HEADER, Header, Status};

use crate::filter::Expression;
use crate::http::Forwarding;
use crate::http::client::AnswerReader;
use crate::http::edits::HeaderEdits;
use crate::http::forwarding::Seen as Client;
use crate::http::framing::{Body, Chunks, Malformed, request_body, response_body};
use crate::http::head::{self, Kind};
use crate::http::passing::{CHUNK_AHEAD, Passing};
use crate::http::request_id::RequestId;
use crate::http::response::{self, Towards};
use crate::request::{Headers, Path, Request};
use crate::wire::client_hello::{self, Hello};
use crate::wire::engine_io::{HandshakeReader, LONGEST_SID, LONGEST_SILENCE, Progress, RequestInfo, error_code};
use crate::wire::flash::{self, AllowRule, Policy, PolicyRequest};
use crate::wire::ping::OwnPings;
use crate::wire::proxy_protocol::{self, Version};
use crate::wire::sniff::{self, Verdict, sniff};
use crate::wire::trace_context::TraceParent;
use crate::wire::websocket::{FrameCounts, FrameTracker, Violation};

/// A verdict stays, comes by the limit at the latest, and agrees with the reader of Flash policy requests.
pub fn sniffing(bytes: &[u8]) {
    let whole = sniff(bytes);
    assert!(whole != Verdict::Incomplete || bytes.len() < sniff::LIMIT);
    assert_eq!(whole == Verdict::FlashPolicy, flash::read(bytes) == PolicyRequest::Complete);
    for end in 0..bytes.len().min(128) {
        let early = sniff(&bytes[..end]);
        assert!(early == Verdict::Incomplete || early == whole, "{early:?} after {end} bytes, then {whole:?}");
    }
}

/// A trace's parent is read only where it means something, and is written as the same; of version 00 byte for byte, but for flags
/// that nobody knows.
pub fn trace_parents(bytes: &[u8]) {
    let Some(parent) = TraceParent::read(bytes) else { return };
    assert!(parent.trace != 0 && parent.span != 0 && parent.flags < 4);
    let written = parent.write();
    assert_eq!(TraceParent::read(&written), Some(parent));
    assert!(bytes[..2] != *b"00" || bytes[..53] == written[..53]);
}

/// An expression is refused, or holds or does not, whatever it says: none ends the process.
pub fn expressions(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(expression) = Expression::compile(text) {
        let _ = expression.holds(&Request::nothing(), "/");
    }
}

/// A verdict stays, comes by the limit at the latest, and a name is one of a host.
pub fn client_hellos(bytes: &[u8]) {
    let whole = client_hello::read(bytes);
    assert!(whole != Hello::Incomplete || bytes.len() < client_hello::LONGEST);
    for end in 0..bytes.len().min(600) {
        let early = client_hello::read(&bytes[..end]);
        assert!(early == Hello::Incomplete || early == whole, "{early:?} after {end} bytes, then {whole:?}");
    }
    if let Hello::For(name) = &whole {
        assert!((1..=253).contains(&name.len()) && !name.contains(|c: char| c.is_ascii_uppercase() || c.is_control()));
        assert_eq!(client_hello::read(&[bytes, b"\x17\x03\x03"].concat()), whole);
    }
}

/// A verdict stays, comes by the limit at the latest, and what is read can be written and read again.
pub fn proxy_headers(bytes: &[u8]) {
    let whole = proxy_protocol::read(bytes);
    assert!(whole != Ok(None) || bytes.len() < proxy_protocol::LONGEST);
    for end in 0..bytes.len().min(256) {
        let early = proxy_protocol::read(&bytes[..end]);
        assert!(early == Ok(None) || early == whole, "{early:?} after {end} bytes, then {whole:?}");
    }
    let Ok(Some((header, length))) = whole else { return };
    assert!(length <= bytes.len() && length <= proxy_protocol::LONGEST);
    for version in [Version::V1, Version::V2] {
        let written = header.write(version);
        let (again, read) = proxy_protocol::read(&written).unwrap().unwrap();
        assert_eq!(read, written.len());
        assert_eq!(again.write(version), written);
    }
}

/// Frames are the same in one piece and in many, and so is whether the stream is between two of them.
pub fn websocket_frames(bytes: &[u8]) {
    let follow = |piece: usize| {
        let (mut tracker, mut seen) = (FrameTracker::new(), FrameCounts::default());
        let result: Result<(), Violation> = bytes.chunks(piece).try_for_each(|part| tracker.advance(part, &mut seen));
        (result, seen, tracker.at_boundary(), tracker.in_message())
    };
    let whole = follow(bytes.len().max(1));
    assert_eq!(follow(1), whole);
    assert_eq!(follow(7), whole);
    assert!(whole.1.messages <= whole.1.frames.into());
    let carry = |piece: usize| {
        let (mut pings, mut tracker, mut seen) = (OwnPings::new(OWN_PING), FrameTracker::new(), FrameCounts::default());
        let (mut carried, mut broken) = (Vec::new(), None);
        for part in bytes.chunks(piece) {
            let mut part = if broken.is_none() { [pings.held(), part].concat() } else { part.to_vec() };
            if broken.is_none() {
                let kept = pings.sift(&mut part, &mut tracker, &mut seen).unwrap_or_else(|(kept, violation)| {
                    broken = Some(violation);
                    kept
                });
                assert!(pings.held().len() <= OwnPings::MOST_HELD);
                part.truncate(kept);
            }
            carried.extend(part);
        }
        if broken.is_none() {
            carried.extend_from_slice(pings.held());
        }
        (carried, broken, seen)
    };
    let sifted = carry(bytes.len().max(1));
    assert_eq!(carry(1), sifted);
    assert_eq!(carry(7), sifted);
    if !bytes.windows(2).any(|header| matches!(header, [0x8a, 0x08 | 0x88])) {
        assert_eq!(sifted.0, bytes, "nothing but answers is taken out");
    }
}

/// The payload of the Pings whose answers are taken out of frames.
const OWN_PING: u64 = u64::from_be_bytes(*b"sockgate");

/// An answer is the same in one piece and in many, and what it says can be kept and added up.
pub fn engine_io_handshake(bytes: &[u8]) {
    let read = |piece: usize| {
        let mut reader = HandshakeReader::new();
        let mut answers = bytes.chunks(piece).map(|part| reader.push(part));
        answers.find(|answer| *answer != Progress::NeedMore).unwrap_or(Progress::NeedMore)
    };
    let whole = read(bytes.len().max(1));
    assert_eq!(read(1), whole);
    assert_eq!(read(7), whole);
    if let Progress::Found(handshake) = whole {
        let query = format!("sid={}", handshake.sid);
        assert_eq!(RequestInfo::read("/", Some(&query)).sid, Some(&*handshake.sid));
        assert!(handshake.ping_interval + handshake.ping_timeout <= 2 * LONGEST_SILENCE);
    }
    assert!(error_code(bytes).is_none_or(|code| code <= 5));
}

/// What is read from a target stands in it and is short.
pub fn engine_io_request(bytes: &[u8]) {
    let target = String::from_utf8_lossy(bytes);
    let info = match target.split_once('?') {
        Some((path, query)) => RequestInfo::read(path, Some(query)),
        None => RequestInfo::read(&target, None),
    };
    if let Some(sid) = info.sid {
        assert!(target.contains(sid) && (1..=LONGEST_SID).contains(&sid.len()));
    }
    assert!(info.jsonp.is_none_or(|index| target.contains(&index.to_string())));
}

/// Every policy that is accepted has one NUL, at its end.
pub fn flash_policies(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (domain, ports) = text.split_once('\n').unwrap_or((&text, "*"));
    let rule = AllowRule { domain: domain.into(), ports: ports.into() };
    for policy in [Policy::from_xml(bytes), Policy::from_rules(&[rule])].into_iter().flatten() {
        let answer = policy.answer();
        assert_eq!(answer.iter().position(|&byte| byte == 0), Some(answer.len() - 1));
        assert_eq!(Policy::from_xml(answer), Ok(policy));
    }
}

/// What is read of a path is read the same again, and leads nowhere but down.
pub fn paths(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(path) = Path::read(&text) else {
        return;
    };
    let forms = path.loose.iter().map(String::as_str).chain([&*path.canonical]);
    for form in forms.filter(|form| *form != "*") {
        assert_eq!(Path::read(form).map(|again| again.canonical.into_owned()), Ok(form.to_owned()));
        let mut segments = form.strip_prefix('/').unwrap_or_else(|| panic!("{form:?} is relative")).split('/').rev();
        assert!(!matches!(segments.next(), Some("." | "..")), "{form:?}");
        assert!(!segments.any(|segment| matches!(segment, "" | "." | "..")), "{form:?}");
    }
    // Some server reads it so that nothing is left to disagree on.
    let settled = |form: &str| Path::read(form).is_ok_and(|again| again.loose.is_empty());
    assert!(settled(&path.canonical) || path.loose.iter().any(|form| settled(form)), "{path:?}");
}

/// A body ends at the same byte in one piece and in many, and where httparse sees a chunk, it is the same one.
pub fn chunks(bytes: &[u8]) {
    let follow = |piece: usize| {
        let mut chunks = Chunks::default();
        let taken: Option<usize> = bytes.chunks(piece).map(|part| chunks.advance(part)).sum();
        taken.map(|taken| (taken, chunks.is_done()))
    };
    let whole = follow(bytes.len().max(1));
    assert_eq!(follow(1), whole);
    assert_eq!(follow(7), whole);
    let Some((taken, done)) = whole else {
        return;
    };
    assert!(done || taken == bytes.len());
    let mut at = 0;
    while let Some(Ok(Status::Complete((line, size)))) = bytes[..taken].get(at..).map(httparse::parse_chunk_size) {
        if size == 0 {
            assert!(!done || bytes[at + line..taken].ends_with(b"\r\n"));
            return;
        }
        at = usize::try_from(size).ok().and_then(|size| (at + line + 2).checked_add(size)).unwrap_or(usize::MAX);
        assert!(!done || at < taken, "a chunk goes on behind the end of the body");
    }
}

/// Bodies end in one way, whatever the order of the fields.
pub fn framing(bytes: &[u8]) {
    let check = |fields: &[Header<'_>], read: &dyn Fn(&[Header<'_>]) -> Result<Body, Malformed>| {
        let count = |name: &str| fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name)).count();
        let declared = (count("content-length"), count("transfer-encoding"));
        let body = read(fields);
        match body {
            Ok(Body::Length(_)) => assert_eq!(declared, (1, 0)),
            Ok(Body::Chunked) => assert_eq!(declared, (0, 1)),
            Ok(Body::UntilClose) => assert_eq!(declared, (0, 0)),
            Ok(Body::None) | Err(_) => {}
        }
        let backwards: Vec<_> = fields.iter().rev().copied().collect();
        assert_eq!(read(&backwards).ok(), body.ok());
        body
    };
    let mut fields = [EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut fields);
    if let (Ok(Status::Complete(_)), Some(version)) = (request.parse(bytes), request.version) {
        let body = check(request.headers, &|fields| request_body(version, fields));
        assert!(body != Ok(Body::UntilClose), "a client that closes gets no answer");
        assert!(body != Ok(Body::Chunked) || version == 1);
    }
    let mut fields = [EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut fields);
    if let (Ok(Status::Complete(_)), Some(status)) = (response.parse(bytes), response.code) {
        check(response.headers, &|fields| response_body(status, fields)).ok();
    }
}

/// An answer is the same in one piece and in many, no longer than wanted, and only what ends with it can be used again.
pub fn answers(bytes: &[u8]) {
    for (is_head, most_body) in [(false, usize::MAX), (false, 16), (true, 16)] {
        let read = |piece: usize| {
            let mut reader = AnswerReader::new(is_head, most_body);
            let mut answers = bytes.chunks(piece).map(|part| reader.push(part));
            let answer = answers.find_map(Result::transpose).unwrap_or_else(|| reader.close());
            answer.map(|answer| (answer.status, answer.body)).map_err(|fault| fault.to_string())
        };
        let whole = read(bytes.len().max(1));
        assert_eq!(read(1), whole);
        assert_eq!(read(7), whole);
        if let Ok((status, body)) = whole {
            assert!(status >= 200 || status == 101);
            assert!(body.len() <= if is_head { 0 } else { most_body });
        }
        let reusable = |bytes: &[u8]| {
            let answer = AnswerReader::new(is_head, most_body).push(bytes);
            answer.is_ok_and(|answer| answer.is_some_and(|answer| answer.reusable))
        };
        assert!(!reusable(bytes) || !reusable(&[bytes, b"H"].concat()));
    }
}

/// A head that is taken says the same in its plain form, and all of it.
pub fn request_heads(bytes: &[u8]) {
    let bytes = BytesMut::from(bytes);
    let mut fields = head::room();
    let Ok(sent) = head::parse(&bytes, &mut fields, 0) else {
        return;
    };
    let Ok(kind) = sent.kind(0) else {
        return;
    };
    if matches!(kind, Kind::Upgrade(_)) {
        assert_eq!((sent.method, request_body(sent.minor_version, sent.fields)), ("GET", Ok(Body::None)));
    }
    let Some(plain) = sent.to_plain_form() else {
        return;
    };
    let mut fields = [EMPTY_HEADER; head::MOST_FIELDS];
    assert_eq!(httparse::Request::new(&mut fields).parse(&plain), Ok(Status::Complete(plain.len())));
    let mut fields = head::room();
    let read = head::parse(&plain, &mut fields, 0).unwrap_or_else(|refusal| panic!("{refusal}: {plain:?}"));
    assert!(read.to_plain_form().is_none(), "{plain:?}");
    assert_eq!(read.kind(0), Ok(kind));
    assert_eq!((read.method, read.minor_version), (sent.method, sent.minor_version));
    assert_eq!(read.authority(), sent.authority());
    let mut path = sent.path_and_query().to_owned();
    for (never, escape) in [("\"", "%22"), ("<", "%3C"), (">", "%3E"), ("`", "%60")] {
        path = path.replace(never, escape);
    }
    assert_eq!(read.path_and_query().trim_start_matches('/'), path.trim_start_matches('/'));
    let others = |head: &head::Head<'_>| -> Vec<_> {
        let fields = head.fields.iter().filter(|field| !field.name.eq_ignore_ascii_case("host"));
        fields.map(|field| (field.name.to_owned(), field.value.to_vec())).collect()
    };
    assert_eq!(others(&read), others(&sent));
}

/// A body arrives the same in one piece and in many, and ends at the same byte; in chunks cut anew it says the same.
pub fn passing(bytes: &[u8]) {
    let half = bytes.len() as u64 / 2;
    for body in [Body::Chunked, Body::Length(half), Body::UntilClose, Body::None] {
        let follow = |piece: usize, in_chunks: bool| {
            let mut passing = Passing::new(body, in_chunks);
            let (mut data, mut sent, mut taken) = (Vec::new(), Vec::new(), 0);
            for part in bytes.chunks(piece) {
                if passing.is_over() {
                    break;
                }
                let mut buffer = vec![0; CHUNK_AHEAD + part.len() + 16];
                let read = CHUNK_AHEAD..CHUNK_AHEAD + part.len();
                buffer[read.clone()].copy_from_slice(part);
                let found = passing.take(&mut buffer[read])?;
                taken += found.taken;
                let found = CHUNK_AHEAD + found.data.start..CHUNK_AHEAD + found.data.end;
                data.extend_from_slice(&buffer[found.clone()]);
                let mut kept = Vec::new();
                passing.frame_into(&mut kept, &buffer[found.clone()]);
                let framed = passing.frame(&mut buffer, found);
                assert_eq!(&buffer[framed.clone()], kept);
                sent.extend_from_slice(&buffer[framed]);
                if passing.take_trailers().is_some() {
                    sent.extend_from_slice(passing.end());
                }
            }
            Some((data, taken, passing.is_over(), sent))
        };
        let plain = follow(bytes.len().max(1), false);
        assert_eq!(follow(1, false), plain);
        assert_eq!(follow(7, false), plain);
        if body == Body::Chunked {
            let (mut chunks, mut data) = (Chunks::default(), Vec::new());
            let taken = chunks.decode(bytes, |part| data.extend_from_slice(part));
            assert_eq!(plain, taken.map(|taken| (data.clone(), taken, chunks.is_done(), data)));
        }
        for piece in [bytes.len().max(1), 1, 7] {
            let anew = follow(piece, true);
            assert_eq!(anew.is_some(), plain.is_some());
            let (Some((data, _, over, sent)), Some((expected, ..))) = (anew, &plain) else { continue };
            assert_eq!(&data, expected);
            let (mut chunks, mut read) = (Chunks::default(), Vec::new());
            assert_eq!(chunks.decode(&sent, |part| read.extend_from_slice(part)), Some(sent.len()));
            assert!(read == data && (chunks.is_done() == over || body == Body::None || body == Body::Length(0)));
        }
    }
}

/// The head of an answer that passes can be read, tells its end in one way, and says nothing of another connection.
pub fn response_heads(bytes: &[u8]) {
    let mut fields = head::room();
    let Ok(Some(sent)) = response::parse(bytes, &mut fields) else {
        return;
    };
    assert!(sent.length <= bytes.len());
    if sent.is_interim() {
        return;
    }
    for (to_head, knows_chunks, keep) in [(false, true, true), (false, false, false), (true, true, false)] {
        let Ok(body) = sent.body(to_head) else { continue };
        let mut out = Vec::new();
        sent.write(&mut out, &HeaderEdits::default(), body, Towards { knows_chunks, keep });
        let mut fields = [EMPTY_HEADER; head::MOST_FIELDS + 2];
        let mut read = httparse::Response::new(&mut fields);
        assert_eq!(read.parse(&out), Ok(Status::Complete(out.len())), "{:?}", String::from_utf8_lossy(&out));
        assert_eq!(read.code, Some(sent.status));
        let expected = match body {
            Body::Chunked | Body::UntilClose if knows_chunks => Body::Chunked,
            Body::Chunked => Body::UntilClose,
            body => body,
        };
        if body != Body::None {
            assert_eq!(response_body(sent.status, read.headers), Ok(expected));
        }
        let headers = Headers::Fields(read.headers);
        assert_eq!(headers.lists("connection", "close"), !keep);
        for stays in ["keep-alive", "upgrade", "trailer", "proxy-authenticate"] {
            assert!(headers.get(stays).is_none(), "{stays}");
        }
    }
}

/// A stranger's fields change nothing, a trusted proxy's nothing behind the last stranger, and both engines agree.
pub fn forwarding(bytes: &[u8]) {
    let rules = Forwarding {
        trusted_proxies: ["10.0.0.0/8", "fd00::/8"].iter().flat_map(|network| network.parse()).collect(),
        forwarded: true,
        ..Forwarding::default()
    };
    let [proxy, stranger] = [IpAddr::from([10, 0, 0, 1]), IpAddr::from([203, 0, 113, 9])];
    let head = [bytes, b"\r\n\r\n"].concat();
    let mut fields = [EMPTY_HEADER; 32];
    let Ok(Status::Complete((_, fields))) = httparse::parse_headers(&head, &mut fields) else {
        return;
    };
    let map: HeaderMap = fields
        .iter()
        .filter_map(|field| Some((field.name.parse::<HeaderName>().ok()?, HeaderValue::from_bytes(field.value).ok()?)))
        .collect();
    let tell = |peer, headers| {
        let mut told = Vec::new();
        let client = rules.client(peer, headers);
        let seen = Client { peer, client, local_port: 443, secure: true, authority: Some("example.com"), headers };
        rules.tell(&seen, rules.trusts(peer), &RequestId::Given("id".into()), |name, value| {
            told.push(((*name).to_owned(), String::from_utf8(value.to_vec()).expect("what is told is text")));
        });
        told
    };
    let (sent, none) = (Headers::Fields(fields), Headers::Fields(&[]));
    assert_eq!((rules.client(stranger, sent), tell(stranger, sent)), (stranger, tell(stranger, none)));
    assert!(matches!(rules.request_id(stranger, sent), RequestId::Own(_)));

    let id = rules.request_id(proxy, sent);
    let id = id.as_str();
    assert!((1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    let told = tell(proxy, sent);
    let real = told.iter().find(|(name, _)| name == "X-Real-IP").map(|(_, value)| value.parse());
    assert_eq!(real, Some(Ok(rules.client(proxy, sent))), "the client that the chain vouches for, and no other");
    assert!(told.iter().all(|(_, value)| HeaderValue::from_bytes(value.as_bytes()).is_ok()), "{told:?}");
    assert!(told[0].0 == "X-Forwarded-For" && told[0].1.rsplit(", ").next() == Some("10.0.0.1"));
    assert_eq!(
        (rules.client(proxy, Headers::Map(&map)), tell(proxy, Headers::Map(&map))),
        (rules.client(proxy, sent), told)
    );
    let last = [fields, &[Header { name: "X-Forwarded-For", value: b"203.0.113.9, 10.9.9.9" }]].concat();
    assert_eq!(rules.client(proxy, Headers::Fields(&last)), stranger);
}

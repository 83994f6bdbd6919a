//! The shapes are what engine.io 1.8, 3.6 and 6.6 and socket.io 0.9.19 answered when they were asked.

use super::*;
use proptest::prelude::*;

const EIO4: &[u8] = br#"0{"sid":"VFasDgXqYtlUU8WhAAAA","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#;
const EIO4_AND_A_MESSAGE: &[u8] = b"0{\"sid\":\"VFasDgXqYtlUU8WhAAAA\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}\x1e4hello";
const EIO4_JSONP: &[u8] = br#"___eio[12]("0{\"sid\":\"VFasDgXqYtlUU8WhAAAA\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000,\"maxPayload\":1000000}\u001e4hello");"#;
const EIO3: &[u8] =
    br#"97:0{"sid":"VFasDgXqYtlUU8WhAAAA","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}2:40"#;
const EIO3_JSONP: &[u8] = br#"___eio[0]("97:0{\"sid\":\"VFasDgXqYtlUU8WhAAAA\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000}");"#;
const EIO3_BINARY: &[u8] = b"\x00\x09\x07\xff0{\"sid\":\"VFasDgXqYtlUU8WhAAAA\",\"upgrades\":[\"websocket\"],\"pingInterval\":25000,\"pingTimeout\":20000}\x01\x04\xff\x04\x01\x02\x03";
const SIO09: &[u8] = b"yBdwd9xD1kAb22r30vo4:60:60:websocket,htmlfile,xhr-polling,jsonp-polling";
const SIO09_JSONP: &[u8] = br#"io.j[0]("yBdwd9xD1kAb22r30vo4:60:60:websocket,htmlfile,xhr-polling,jsonp-polling");"#;

const ENGINE_IO: [&[u8]; 6] = [EIO4, EIO4_AND_A_MESSAGE, EIO4_JSONP, EIO3, EIO3_JSONP, EIO3_BINARY];
const SOCKET_IO_09: [&[u8]; 2] = [SIO09, SIO09_JSONP];

fn read(body: &[u8]) -> Progress {
    HandshakeReader::new().push(body)
}

/// The answer, and after how many bytes it came.
fn read_byte_by_byte(body: &[u8]) -> (Progress, usize) {
    let mut reader = HandshakeReader::new();
    for (index, byte) in body.iter().enumerate() {
        match reader.push(&[*byte]) {
            Progress::NeedMore => {}
            answer => return (answer, index + 1),
        }
    }
    (Progress::NeedMore, body.len())
}

fn handshake(sid: &str, interval: u64, timeout: u64, websocket: bool) -> Progress {
    Progress::Found(Handshake {
        sid: sid.into(),
        ping_interval: Duration::from_secs(interval),
        ping_timeout: Duration::from_secs(timeout),
        websocket,
    })
}

#[test]
fn every_dialect_is_understood_whole_and_byte_by_byte() {
    for body in ENGINE_IO {
        let expected = handshake("VFasDgXqYtlUU8WhAAAA", 25, 20, true);
        assert_eq!(read(body), expected, "{}", body.escape_ascii());
        assert_eq!(read_byte_by_byte(body).0, expected, "{}", body.escape_ascii());
    }
    for body in SOCKET_IO_09 {
        let expected = handshake("yBdwd9xD1kAb22r30vo4", 60, 60, true);
        assert_eq!(read(body), expected, "{}", body.escape_ascii());
        assert_eq!(read_byte_by_byte(body).0, expected, "{}", body.escape_ascii());
    }
}

#[test]
fn the_session_is_known_before_the_last_byte_that_the_client_needs() {
    let (_, needed) = read_byte_by_byte(EIO4_AND_A_MESSAGE);
    assert_eq!(needed, EIO4.len(), "the first packet is enough");
    let (_, needed) = read_byte_by_byte(SIO09);
    assert_eq!(&SIO09[..needed], b"yBdwd9xD1kAb22r30vo4:60:60:websocket");
}

#[test]
fn what_is_no_handshake_is_known_as_early_as_possible() {
    for (body, needed) in [
        (&b"<html>"[..], 1),
        (br#"{"code":1,"message":"Session ID unknown"}"#, 1),
        (b"\x1f\x8b\x08", 1),
        (b"\x01\x04\xff\x04", 1),
        (b"\x00\xff0{", 2),
        (b"\x00\x01\x00\xff4", 5),
        (b"40{\"sid\":\"abc\"}", 3),
        (b"6:4hello", 4),
        (b"1234567890123:0{", 16),
        (b"sid:60:60:carrier-pigeon", 11),
        (b"sid:60:6o:websocket", 9),
        (b":60:60:websocket", 1),
        (b"io.j[0](new Error(\"handshake unauthorized\"));", 9),
        (b"___eio[0]({\"type\":\"Buffer\"});", 11),
        (b"___eio[12345678901](\"", 18),
        (b"___eio[0](\"4\");", 13),
        (b"___eio[0](\"0{\\u00zz", 18),
        (b"0{\"sid\":\"abc\"]", 14),
        (b"0{\"upgrades\":[]}", 16),
        (b"0{\"sid\":\"a b\"}", 14),
        (b"0{\"sid\":\"\"}", 11),
        (b"0{\"sid\":7}", 10),
    ] {
        assert_eq!(read_byte_by_byte(body), (Progress::NotOne, needed), "{}", body.escape_ascii());
        assert_eq!(read(body), Progress::NotOne, "{}", body.escape_ascii());
    }
}

#[test]
fn what_could_still_be_one_is_waited_for() {
    for body in
        [&b""[..], b"_", b"___eio[", b"io", b"io.j[1](", b"ok", b"0", b"97:", b"\x00\x09", b"0{\"sid\":\"}", b"a:60"]
    {
        assert_eq!(read(body), Progress::NeedMore, "{}", body.escape_ascii());
    }
}

#[test]
fn a_reader_that_has_answered_says_nothing_else() {
    for body in [EIO4, b"<html>"] {
        let mut reader = HandshakeReader::new();
        assert_ne!(reader.push(body), Progress::NeedMore);
        assert_eq!(reader.push(EIO4), Progress::NotOne);
    }
}

#[test]
fn unknown_and_missing_fields_are_no_obstacle() {
    let body = br#"0{"x":{"y":["}",{}]},"sid":"a.b~c","upgrades":["webtransport"],"pingTimeout":500.5}"#;
    let Progress::Found(found) = read(body) else {
        panic!("not found");
    };
    assert_eq!(found.sid, "a.b~c");
    assert_eq!(found.ping_interval, Duration::from_secs(25), "the default of Engine.IO 4");
    assert_eq!(found.ping_timeout, Duration::from_micros(500_500));
    assert!(!found.websocket);
}

#[test]
fn no_server_can_claim_a_time_that_overflows() {
    let body = br#"0{"sid":"a","pingInterval":1e300,"pingTimeout":-5}"#;
    assert_eq!(read(body), handshake("a", LONGEST_SILENCE.as_secs(), 0, false));
    assert_eq!(read(b"a:9999999999:0:htmlfile"), handshake("a", LONGEST_SILENCE.as_secs(), 0, false));
}

#[test]
fn socket_io_0_9_may_leave_its_timeouts_out() {
    assert_eq!(read(b"1234:::flashsocket"), handshake("1234", LONGEST_SILENCE.as_secs(), 0, true));
    assert_eq!(read(b"0:15:25:xhr-polling"), handshake("0", 15, 25, false));
}

#[test]
fn javascript_escapes_are_undone() {
    let body = br#"___eio[]("0{\x22sid\u0022:\"a\",\"note\":\"\u00e9\ud83d\ude00\ud83d\/\'\"}");"#;
    assert_eq!(read(body), handshake("a", 25, 20, false));
    let (mut unescape, mut out) = (Unescape::default(), Vec::new());
    for byte in br"\u00e9\ud83d\ude00\ud83dx\x41\n\q" {
        assert!(unescape.step(*byte, &mut out));
    }
    assert_eq!(String::from_utf8(out).unwrap(), "\u{e9}\u{1f600}\u{fffd}xA\nq");
}

#[test]
fn an_answer_without_end_is_given_up_at_the_limit() {
    let mut body = br#"0{"sid":"a","note":""#.to_vec();
    body.resize(LONGEST_HANDSHAKE - 1, b' ');
    let mut reader = HandshakeReader::new();
    assert_eq!(reader.push(&body), Progress::NeedMore);
    assert!(reader.kept.capacity() <= 2 * LONGEST_HANDSHAKE);
    assert_eq!(reader.push(b" and on"), Progress::NotOne);
    body.extend_from_slice(b"\"}");
    assert_eq!(read(&body), Progress::NotOne, "the last byte stands behind the limit");
    body.remove(100);
    assert_eq!(read(&body), handshake("a", 25, 20, false));
}

/// Bodies of all dialects, whole or with one byte changed.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let shapes: Vec<&[u8]> = ENGINE_IO.into_iter().chain(SOCKET_IO_09).collect();
    let change = prop::option::of((any::<prop::sample::Index>(), any::<u8>()));
    (prop::sample::select(shapes), change).prop_map(|(shape, change)| {
        let mut body = shape.to_vec();
        if let Some((at, byte)) = change {
            body[at.index(shape.len())] = byte;
        }
        body
    })
}

proptest! {
    #[test]
    fn any_split_gives_the_same_answer(
        body in prop_oneof![4 => body(), 1 => prop::collection::vec(any::<u8>(), 0..100)],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = read(&body);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        ends.push(body.len());
        ends.sort_unstable();
        let (mut reader, mut from, mut answer) = (HandshakeReader::new(), 0, Progress::NeedMore);
        for end in ends {
            if answer == Progress::NeedMore {
                answer = reader.push(&body[from..end]);
                from = end;
            }
        }
        prop_assert_eq!(&answer, &whole);
        prop_assert_eq!(read_byte_by_byte(&body).0, whole);
    }

    #[test]
    fn what_a_server_writes_is_what_is_read(
        sid in "[A-Za-z0-9_-]{1,40}",
        interval in 0u64..86_400,
        timeout in 0u64..86_400,
        websocket: bool,
        note in "\\PC{0,20}",
    ) {
        let upgrades: &[&str] = if websocket { &["websocket"] } else { &[] };
        let json = serde_json::json!({
            "note": note, "sid": sid, "upgrades": upgrades, "pingInterval": interval * 1000, "pingTimeout": timeout * 1000,
        });
        let packet = format!("0{json}");
        let length = packet.encode_utf16().count();
        let jsonp = format!("___eio[3]({});", serde_json::to_string(&packet).unwrap());
        let transports = if websocket { "websocket,xhr-polling" } else { "xhr-polling,websocket" };
        let expected = handshake(&sid, interval, timeout, websocket);
        for body in [
            format!("{length}:{packet}"),
            jsonp,
            format!("{sid}:{interval}:{timeout}:{transports}"),
            packet,
        ] {
            prop_assert_eq!(read(body.as_bytes()), expected.clone(), "{}", body);
        }
    }
}

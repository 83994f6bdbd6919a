use proptest::prelude::*;

use super::*;
use crate::request::testing::request;

const SID: &str = "lv_VI97HAXpY6yYWAAAC";

/// Reads a request as the gateway would, and gives what it says to the test.
fn reading<T>(method: &str, target: &str, test: impl FnOnce(SessionRequest<'_>, &Request<'_>) -> T) -> T {
    let request = request(method, target, &[]);
    test(EngineIo.read(&request), &request)
}

fn dialect(target: &str) -> u64 {
    reading("GET", target, |said, _| said.dialect)
}

fn answer(dialect: u64, status: u16, body: &[&[u8]]) -> Answered {
    match EngineIo.answered(dialect, status, Headers::Fields(&[])) {
        Answered::Body(mut reader) => {
            let last = body.len() - 1;
            let mut parts = body.iter().enumerate();
            parts.find_map(|(index, part)| reader.read(part, index == last)).unwrap_or(Answered::Nothing)
        }
        settled => settled,
    }
}

#[test]
fn requests_say_what_they_are_to_their_session() {
    for (method, target, id, opens, reads_answer, polls, ends, transport) in [
        ("GET", "/socket.io/?EIO=4&transport=polling", None, true, true, false, false, Some("polling")),
        ("GET", "/socket.io/?EIO=4&transport=polling&sid={}", Some(SID), false, false, true, false, Some("polling")),
        ("POST", "/socket.io/?EIO=4&transport=polling&sid={}", Some(SID), false, false, false, false, Some("polling")),
        ("GET", "/socket.io/?EIO=3&transport=polling&j=7", None, true, true, false, false, Some("jsonp_polling")),
        ("GET", "/socket.io/?EIO=4&transport=websocket", None, true, false, false, false, Some("websocket")),
        (
            "GET",
            "/socket.io/?EIO=4&transport=websocket&sid={}",
            Some(SID),
            false,
            false,
            false,
            false,
            Some("websocket"),
        ),
        ("GET", "/socket.io/1/?t=1", None, true, true, false, false, None),
        ("GET", "/socket.io/1/xhr-polling/{}", Some(SID), false, false, true, false, Some("polling")),
        ("GET", "/socket.io/1/htmlfile/{}", Some(SID), false, false, false, false, Some("htmlfile")),
        ("GET", "/socket.io/1/{}/?disconnect=1", Some(SID), false, false, false, true, None),
        ("GET", "/socket.io/?sid={}", Some(SID), false, false, false, false, None),
        ("GET", "/socket.io/socket.io.js", None, false, false, false, false, None),
    ] {
        let target = target.replace("{}", SID);
        reading(method, &target, |said, _| {
            let dialect = said.dialect;
            let expected = SessionRequest {
                id,
                opens,
                reads_answer,
                polls,
                ends,
                transport,
                dialect,
                ..SessionRequest::default()
            };
            assert_eq!(said, expected, "{method} {target}");
        });
    }
}

#[test]
fn a_handshake_opens_a_session_wherever_its_answer_is_cut() {
    let polling = dialect("/socket.io/?EIO=4&transport=polling");
    let body = br#"0{"sid":"a","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}"#;
    for at in 0..body.len() {
        let Answered::Opened(opened) = answer(polling, 200, &[&body[..at], &body[at..]]) else { panic!("{at}") };
        let silence = Duration::from_secs(45);
        assert_eq!(opened, NewSession { websocket: true, ..NewSession::new("a", silence) });
    }
    let socket = dialect("/socket.io/?EIO=4&transport=websocket");
    assert!(matches!(answer(socket, 101, &[body]), Answered::Opened(_)));
    for (target, status) in [
        ("/socket.io/?EIO=4&transport=polling", 403),
        ("/socket.io/?EIO=4&transport=polling&sid=a", 200),
        ("/socket.io/?EIO=4&transport=websocket&sid=a", 101),
        ("/socket.io/socket.io.js", 200),
    ] {
        assert!(matches!(answer(dialect(target), status, &[body]), Answered::Nothing), "{status} {target}");
    }
}

#[test]
fn a_refusal_is_read_to_its_end() {
    let poll = dialect("/socket.io/?EIO=4&transport=polling&sid=a");
    let refused = |body: &[&[u8]]| match answer(poll, 400, body) {
        Answered::Refused { code, unknown } => Some((code, unknown)),
        _ => None,
    };
    assert_eq!(refused(&[br#"{"code":1,"#, br#""message":"Session ID unknown"}"#]), Some((Some(1), true)));
    assert_eq!(refused(&[br#"{"code":3,"message":"Bad request"}"#, b""]), Some((Some(3), false)));
    assert_eq!(refused(&[b"7:::1+0"]), Some((Some(1), true)));
    assert_eq!(refused(&[b"<h1>Bad Request</h1>"]), None);
    assert_eq!(refused(&[&[b'['; 1000], &[b'['; 1000]]), None);
    assert!(matches!(answer(poll, 404, &[br#"{"code":1}"#]), Answered::Nothing), "not Engine.IO's word for it");
}

#[test]
fn goodbyes_are_heard_in_the_words_of_the_client() {
    let client = |target: &str, body: &str| EngineIo.is_client_goodbye(dialect(target), body.as_bytes());
    assert!(client("/socket.io/?EIO=4&transport=polling&sid=a", "1"));
    assert!(client("/socket.io/?EIO=3&transport=polling&sid=a", "1:1"));
    assert!(client("/socket.io/?EIO=3&transport=polling&j=1&sid=a", "d=1%3A1"));
    assert!(client("/socket.io/1/jsonp-polling/a", "d=%220%3A%3A%22"), "the callback is in the query of polls only");
    assert!(!client("/socket.io/?EIO=4&transport=polling&sid=a", "42[\"1\"]"));
    assert!(!client("/socket.io/?EIO=4&transport=websocket&sid=a", "1"), "that is no POST of Engine.IO's");
    let server = |target: &str, body: &str| EngineIo.is_server_goodbye(dialect(target), body.as_bytes(), true);
    assert!(server("/socket.io/?EIO=4&transport=polling&sid=a", "1"));
    assert!(server("/socket.io/?EIO=3&transport=polling&j=7&sid=a", "___eio[7](\"1:1\");"));
    assert!(server("/socket.io/1/jsonp-polling/a?i=0", "io.j[0](\"0::\");"));
    assert!(!server("/socket.io/?EIO=4&transport=polling&sid=a", "6"));
}

#[test]
fn a_poll_is_said_goodbye_in_the_words_of_its_client() {
    let goodbye = |target: &str| {
        let Goodbye { status, content_type, body } =
            EngineIo.goodbye(dialect(target), &request("GET", target, &[])).unwrap();
        assert_eq!(status, 200);
        (content_type, String::from_utf8(body.into_owned()).unwrap())
    };
    let (plain, script) = ("text/plain; charset=UTF-8", "text/javascript; charset=UTF-8");
    for (target, content_type, body) in [
        ("/socket.io/?EIO=4&transport=polling&sid=a", plain, "1"),
        ("/socket.io/?transport=polling&sid=a", plain, "1:1"),
        ("/socket.io/?EIO=3&transport=polling&j=7&sid=a", script, "___eio[7](\"1:1\");"),
        ("/socket.io/1/xhr-polling/a", plain, "7:::1+0"),
        ("/socket.io/1/jsonp-polling/a?i=0", script, "io.j[0](\"7:::1+0\");"),
    ] {
        assert_eq!(goodbye(target), (content_type, body.to_owned()), "{target}");
    }
}

#[test]
fn a_session_comes_to_its_websocket_with_the_second_message_and_in_0_9_at_once() {
    assert_eq!(EngineIo.arrival(dialect("/socket.io/?EIO=4&transport=websocket&sid=a")), Arrival::Message(2));
    assert_eq!(EngineIo.arrival(dialect("/socket.io/?EIO=3&transport=websocket&sid=a")), Arrival::Message(2));
    assert_eq!(EngineIo.arrival(dialect("/socket.io/1/websocket/a")), Arrival::Unsure);
}

#[test]
fn servers_are_asked_for_a_session_without_harm() {
    let question = |target: &str| {
        reading("POST", target, |said, request| EngineIo.question(said.dialect, said.id.unwrap(), request))
    };
    let asked = question("/app/socket.io/?EIO=4&transport=polling&sid=a");
    assert_eq!(asked, Some(Question::get("/app/socket.io/?EIO=4&transport=websocket&sid=a")));
    let asked = question("/socket.io/?transport=polling&sid=a");
    assert_eq!(asked, Some(Question::get("/socket.io/?EIO=3&transport=websocket&sid=a")));
    assert_eq!(question("/socket.io/1/xhr-polling/a"), None, "its polls take messages with them");
}

#[test]
fn only_an_objection_to_the_transport_of_a_session_is_a_yes() {
    let first = Question::get("/socket.io/?EIO=4&transport=websocket&sid=a");
    let known = |status, body: &str| EngineIo.is_known(0, &first, status, body.as_bytes());
    assert_eq!(known(400, r#"{"code":3,"message":"Bad request"}"#), Known::Yes);
    assert_eq!(known(400, r#"{"code":"3","message":"Bad request"}"#), Known::Yes);
    assert_eq!(known(400, r#""Invalid transport""#), Known::Yes);
    assert_eq!(known(400, r#"{"code":1,"message":"Session ID unknown"}"#), Known::No);
    for (status, body) in [
        (400, r#"{"code":2,"message":"Bad handshake method"}"#),
        (400, r#"{"code":4,"message":"Forbidden"}"#),
        (400, r#"{"code":5,"message":"Unsupported protocol version"}"#),
        (400, r#""Invalid session abc""#),
        (200, r#"{"code":3}"#),
        (404, "Cannot GET /socket.io/"),
        (500, ""),
    ] {
        assert_eq!(known(status, body), Known::Untold, "{status} {body}");
    }
}

#[test]
fn a_server_that_allows_polling_only_is_asked_in_another_way() {
    let mut first = Question::get("/socket.io/?EIO=4&transport=websocket&sid=a");
    first.fields.push(("host".into(), b"a".to_vec()));
    let only_polling = br#"{"code":0,"message":"Transport unknown"}"#;
    let Known::Ask(second) = EngineIo.is_known(0, &first, 400, only_polling) else { panic!("no other question") };
    assert_eq!((second.method, &*second.target), ("PUT", "/socket.io/?EIO=4&transport=polling&sid=a"));
    assert_eq!(second.fields, first.fields);
    let known = |status, body: &str| EngineIo.is_known(0, &second, status, body.as_bytes());
    assert_eq!(known(500, ""), Known::Yes);
    assert_eq!(known(400, r#"{"code":3,"message":"Bad request"}"#), Known::Yes, "it is on a WebSocket");
    assert_eq!(known(400, r#"{"code":1,"message":"Session ID unknown"}"#), Known::No);
    assert_eq!(known(400, r#"{"code":0,"message":"Transport unknown"}"#), Known::Untold);
    assert_eq!(known(500, "Internal Server Error"), Known::Untold);
}

#[test]
fn a_server_is_told_what_its_client_would_say() {
    let farewell =
        |target: &str| reading("GET", target, |said, request| EngineIo.farewell(said.dialect, "a", request)).unwrap();
    let told = farewell("/socket.io/?EIO=4&transport=polling&sid=a");
    assert_eq!((told.method, &*told.target), ("POST", "/socket.io/?EIO=4&transport=polling&sid=a"));
    assert_eq!(told.body.as_deref(), Some(&b"1"[..]));
    assert_eq!(farewell("/socket.io/?EIO=3&transport=polling&sid=a").body.as_deref(), Some(&b"1:1"[..]));
    let told = farewell("/socket.io/1/xhr-polling/a");
    assert_eq!((told.method, &*told.target), ("GET", "/socket.io/1/xhr-polling/a?disconnect=1"));
}

#[test]
fn sessions_are_expected_where_socket_io_listens_by_itself() {
    for path in ["/socket.io/", "/socket.io", "/tenant/7/socket.io/", "/engine.io/"] {
        assert!(EngineIo.is_usual_path(path), "{path}");
    }
    for path in ["/", "/reports/yearly", "/socket.io/reports", "/my-socket.io/"] {
        assert!(!EngineIo.is_usual_path(path), "{path}");
    }
}

#[test]
fn every_poll_may_be_one() {
    let token = format!("/socket.io/?token={}&EIO=4&transport=polling&sid=abc", "x".repeat(4000));
    for target in [
        token.as_str(),
        "/socket.io/?EIO=4&transport=polling&sid=abc",
        "/socket.io/?sid=abc&EIO=3&transport=polling&j=0",
        "/socket.io/1/xhr-polling/abc?t=1",
        "/socket.io/1/jsonp-polling/abc?t=1&i=0",
    ] {
        assert!(reading("GET", target, |said, _| said.polls), "{target}");
        assert!(EngineIo.may_be_poll(target.as_bytes()), "{target}");
    }
    assert!(!EngineIo.may_be_poll(b"/"));
}

#[test]
fn a_check_opens_a_session_and_closes_it() {
    let check = EngineIo.check().unwrap();
    let opened = |way, path, body: &str| check.opened(way, path, 200, body.as_bytes()).unwrap();
    let post = |target: &str, body: &'static [u8]| Some(Question::post(target, "text/plain;charset=UTF-8", body));
    assert_eq!(check.open(0, None), Question::get("/socket.io/?EIO=4&transport=polling"));
    assert_eq!(check.open(1, None), Question::get("/socket.io/?EIO=3&transport=polling&b64=1"));
    assert_eq!(check.open(2, Some("/node/")), Question::get("/node/1/"));
    assert_eq!(check.open(0, Some("/?token=x")), Question::get("/?token=x&EIO=4&transport=polling"));
    assert_eq!(check.ways(), 3);
    let session = opened(0, None, r#"0{"sid":"a"}"#);
    assert_eq!(session.what, "a session of Engine.IO 4");
    assert_eq!(session.goodbye, post("/socket.io/?EIO=4&transport=polling&sid=a", b"1"));
    let session = opened(0, None, r#"13:0{"sid":"b"}2:40"#);
    assert_eq!(
        (session.what, session.goodbye),
        ("a session of Engine.IO 3", post("/socket.io/?EIO=3&transport=polling&sid=b", b"1:1"))
    );
    let session = opened(2, None, "12345:60:60:websocket,xhr-polling");
    assert_eq!(
        (session.what, session.goodbye),
        ("a session of Socket.IO 0.9", Some(Question::get("/socket.io/1/xhr-polling/12345?disconnect=1")))
    );
}

#[test]
fn a_check_tells_handshakes_from_look_alikes() {
    let opened = |way, status, body: &[u8]| EngineIo.opened(way, None, status, body).is_some();
    assert!(opened(0, 200, b"0{\"sid\":\"a\"}\x1e40"));
    assert!(opened(1, 200, b"\x00\x01\x03\xff0{\"sid\":\"a\"}"));
    assert!(!opened(0, 404, b"0{\"sid\":\"a\"}"));
    for body in [
        &b""[..],
        b"0",
        b"0{}",
        b"0{\"sid\":\"\"}",
        b"0{\"sid\":\"a b\"}",
        b"0{\"sid\":\"a&b\"}",
        b"0{\"sid\":\"a",
        b"<html>12:0{</html>",
        b":0{\"sid\":\"a\"}",
        b"{\"sid\":\"a\"}",
        b"\x00\x01",
    ] {
        assert!(!opened(0, 200, body), "{body:?}");
    }
    for body in [&b"Welcome to socket.io."[..], b"a:b:c:d", b"1:60:60:", b"1:60:60", b"\xff:60:60:x"] {
        assert!(!opened(2, 200, body), "{body:?}");
    }
}

proptest! {
    #[test]
    fn a_dialect_is_what_it_was_packed_of(revision in 0..3usize, flags in 0..8u8, jsonp: Option<u32>) {
        let flag = |bit| flags & bit != 0;
        let revision = REVISIONS[revision];
        let dialect = Dialect { revision, polling: flag(1), form: flag(2), opens: flag(4), jsonp };
        prop_assert_eq!(Dialect::unpack(dialect.pack()), dialect);
    }

    #[test]
    fn any_number_is_a_dialect(packed: u64) {
        Dialect::unpack(packed);
    }
}

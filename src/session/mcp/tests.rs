use super::*;
use crate::request::testing::request;

fn field<'a>(name: &'a str, value: &'a str) -> httparse::Header<'a> {
    httparse::Header { name, value: value.as_bytes() }
}

const ID: &str = "1868a90c-2d0b-4ac5-8a86-3b5d8d5c0a4b";

#[test]
fn a_session_is_named_by_its_header_or_by_the_query_of_the_older_transport() {
    let session = [field("MCP-Session-Id", ID)];
    let events = [field("Accept", "text/event-stream")];
    for (method, target, fields, expected) in [
        ("POST", "/mcp", &session[..], Some(ID)),
        ("GET", "/mcp", &session, Some(ID)),
        ("DELETE", "/mcp?sessionId=other", &session, Some(ID)),
        ("OPTIONS", "/mcp", &session, None),
        ("POST", "/mcp", &[], None),
        ("POST", "/messages?sessionId=a", &[], Some("a")),
        ("POST", "/messages/?x=y&session_id=b", &[], Some("b")),
        ("POST", "/m?sessionid=c", &[], Some("c")),
        ("GET", "/messages?sessionId=a", &[], None),
        ("GET", "/sse", &events, None),
    ] {
        let request = request(method, target, fields);
        let said = Mcp.read(&request);
        assert_eq!(said.id, expected, "{method} {target}");
        assert_eq!(said.streams, method == "GET" && (expected == Some(ID) || target == "/sse"), "{method} {target}");
        let opens = expected.is_none() && (method == "POST" || target == "/sse");
        assert_eq!((said.opens, said.reads_answer), (opens, opens && method == "GET"), "{method} {target}");
    }
}

#[test]
fn requests_of_revisions_without_sessions_are_of_none() {
    let discover = [field("Mcp-Method", "server/discover"), field("Mcp-Session-Id", ID)];
    let later = [field("MCP-Protocol-Version", "2026-07-28"), field("Mcp-Session-Id", ID)];
    let before = [field("MCP-Protocol-Version", "2025-11-25"), field("Mcp-Session-Id", ID)];
    assert_eq!(Mcp.read(&request("POST", "/mcp", &discover)), SessionRequest::default());
    assert_eq!(Mcp.read(&request("POST", "/mcp", &later)), SessionRequest::default());
    assert_eq!(Mcp.read(&request("POST", "/mcp", &before)).id, Some(ID));
}

#[test]
fn two_ids_are_ambiguous_and_what_is_no_id_is_no_session() {
    let said = |fields: &[httparse::Header<'_>]| {
        let request = request("POST", "/mcp", fields);
        let said = Mcp.read(&request);
        (said.id.map(str::to_owned), said.is_ambiguous, said.opens)
    };
    let two = [field("Mcp-Session-Id", "a"), field("mcp-session-id", "b")];
    assert!(said(&two).1);
    let twice = [field("Mcp-Session-Id", "a"), field("mcp-session-id", "a")];
    assert_eq!(said(&twice), (Some("a".to_owned()), false, false));
    let long = "x".repeat(64 * 1024);
    for odd in ["", "a b", "\u{e9}", &long] {
        assert_eq!(said(&[field("Mcp-Session-Id", odd)]), (None, false, false), "{}", odd.len());
    }
}

fn opened(dialect: u64, status: u16, fields: &[httparse::Header<'_>]) -> Option<String> {
    match Mcp.answered(dialect, status, Headers::Fields(fields)) {
        Answered::Opened(session) => session.id,
        _ => None,
    }
}

#[test]
fn ids_are_learned_from_good_answers_only() {
    let session = [field("mcp-session-id", ID)];
    assert_eq!(opened(OPENS, 200, &session).as_deref(), Some(ID));
    for status in [400, 404, 406, 500, 302] {
        assert_eq!(opened(OPENS, status, &session), None, "{status}");
    }
    assert_eq!(opened(0, 200, &session), None, "every answer may repeat it");
    assert_eq!(opened(OPENS, 200, &[field("mcp-session-id", "a b")]), None);
}

#[test]
fn a_session_is_over_when_its_server_says_so() {
    let nothing = Headers::Fields(&[]);
    let unknown = |answered| matches!(answered, Answered::Refused { unknown: true, .. });
    assert!(unknown(Mcp.answered(0, 404, nothing)) && unknown(Mcp.answered(DELETES, 404, nothing)));
    assert!(unknown(Mcp.answered(OLDER, 404, nothing)));
    assert!(!unknown(Mcp.answered(0, 400, nothing)), "much else is a bad request");
    assert!(!unknown(Mcp.answered(OPENS, 404, nothing)));
    assert!(matches!(Mcp.answered(DELETES, 200, nothing), Answered::Ended));
    assert!(matches!(Mcp.answered(DELETES, 204, nothing), Answered::Ended));
    assert!(matches!(Mcp.answered(DELETES, 405, nothing), Answered::Nothing), "it lives on");
}

#[test]
fn the_older_transport_says_its_session_in_its_first_event() {
    let stream = [field("Content-Type", "text/event-stream; charset=utf-8")];
    for (said, expected) in [
        ("event: endpoint\r\ndata: /messages/?session_id=0123abcd\r\n\r\n", Some("0123abcd")),
        ("event: endpoint\ndata: message?sessionId=a_-b\n\n", Some("a_-b")),
        ("event: endpoint\ndata: http://a.example/x?y=1&sessionid=A2\n\n", Some("A2")),
        ("event: endpoint\ndata: /messages\n\n", None),
        ("data: /messages?sessionId=a\n\n", None),
    ] {
        for cut in 0..=said.len() {
            let Answered::Body(mut reader) = Mcp.answered(OPENS | EVENTS, 200, Headers::Fields(&stream)) else {
                panic!("nobody reads it")
            };
            let first = reader.read(&said.as_bytes()[..cut], false);
            let answered = first.or_else(|| reader.read(&said.as_bytes()[cut..], false));
            let id = match answered {
                Some(Answered::Opened(session)) => {
                    assert!(session.ends_with_answer);
                    session.id
                }
                Some(Answered::Nothing) => None,
                _ => panic!("{said:?} cut at {cut}"),
            };
            assert_eq!(id.as_deref(), expected, "{said:?} cut at {cut}");
        }
    }
    assert!(matches!(Mcp.answered(OPENS | EVENTS, 200, Headers::Fields(&[])), Answered::Nothing));
}

#[test]
fn the_question_is_asked_as_its_client_would_and_answered_by_the_status() {
    let fields = [
        field("Authorization", "Bearer x"),
        field("Cookie", "a=b"),
        field("Origin", "http://a.example"),
        field("MCP-Protocol-Version", "2025-06-18"),
        field("Mcp-Session-Id", ID),
        field("X-Other", "no"),
    ];
    let question = Mcp.question(0, "made-up", &request("GET", "/mcp?tenant=1", &fields)).unwrap();
    assert_eq!((question.method, &*question.target), ("POST", "/mcp?tenant=1"));
    let value = |name| question.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_slice());
    assert_eq!(value("mcp-session-id"), Some(&b"made-up"[..]));
    assert_eq!(value("authorization"), Some(&b"Bearer x"[..]));
    assert_eq!((value("cookie"), value("origin")), (Some(&b"a=b"[..]), Some(&b"http://a.example"[..])));
    assert_eq!(value("mcp-protocol-version"), Some(&b"2025-06-18"[..]));
    assert_eq!(value("x-other"), None);
    let older = Mcp.question(OLDER, "made-up", &request("POST", "/messages/?a=b&session_id=b1", &[])).unwrap();
    assert_eq!(older.target, "/messages/?a=b&session_id=made-up");
    assert!(older.fields.iter().all(|(name, _)| name != "mcp-session-id"));
    for (status, known) in [
        (202, Known::Yes),
        (404, Known::No),
        (400, Known::No),
        (401, Known::Untold),
        (200, Known::Untold),
        (503, Known::Untold),
    ] {
        assert_eq!(Mcp.is_known(0, &question, status, b""), known, "{status}");
    }
}

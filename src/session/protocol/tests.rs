use std::sync::Arc;

use super::*;
use crate::request::testing::request;
use crate::session::{How, SessionTable};

/// Sessions that a header field names, and nothing else.
struct ByHeader;

impl SessionProtocol for ByHeader {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let id = request.headers.get("mcp-session-id").and_then(|id| std::str::from_utf8(id).ok());
        let (opens, ends) = (id.is_none() && request.method == "POST", request.method == "DELETE");
        SessionRequest { id, opens, ends, ..SessionRequest::default() }
    }

    fn answered(&self, _dialect: u64, status: u16, headers: Headers<'_>) -> Answered {
        match (status, headers.get("mcp-session-id")) {
            (200, Some(id)) => Answered::Opened(NewSession::new(String::from_utf8_lossy(id), LIFE)),
            (404, None) => Answered::Refused { code: None, unknown: true },
            _ => Answered::Nothing,
        }
    }

    fn question(&self, _dialect: u64, id: &str, request: &Request<'_>) -> Option<Question> {
        let cancelled = br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"sockgate"}}"#;
        let question = Question::post(&*request.path.canonical, "application/json", &cancelled[..])
            .with("mcp-session-id", id)
            .with("accept", "application/json, text/event-stream");
        Some(question.with_those_of(request, &["authorization"]))
    }

    fn is_known(&self, _dialect: u64, _question: &Question, status: u16, _body: &[u8]) -> Known {
        match status {
            202 => Known::Yes,
            400 | 404 => Known::No,
            _ => Known::Untold,
        }
    }
}

const LIFE: Duration = Duration::from_secs(30 * 60);

/// Sessions whose clients choose the id and put it into the path, as those of SockJS do.
struct ByClient;

impl SessionProtocol for ByClient {
    fn read<'r>(&self, request: &'r Request<'_>) -> SessionRequest<'r> {
        let mut segments = request.path.canonical.rsplit('/');
        let (transport, id) = (segments.next(), segments.next());
        let opens = transport == Some("xhr");
        SessionRequest { id, opens, polls: opens, dialect: u64::from(opens), ..SessionRequest::default() }
    }

    fn answered(&self, dialect: u64, status: u16, _headers: Headers<'_>) -> Answered {
        match (dialect, status) {
            (1, 200) => Answered::Opened(NewSession::named(Duration::from_secs(5))),
            (0, 404) => Answered::Refused { code: None, unknown: true },
            _ => Answered::Nothing,
        }
    }

    fn goodbye(&self, _dialect: u64, _request: &Request<'_>) -> Option<Goodbye> {
        let body = b"c[1012,\"Service restart\"]\n"[..].into();
        Some(Goodbye { status: 200, content_type: "application/javascript; charset=UTF-8", body })
    }
}

fn named(id: &str) -> [httparse::Header<'_>; 2] {
    let field = |name, value| httparse::Header { name, value };
    [field("Authorization", b"Bearer x"), field("Mcp-Session-Id", id.as_bytes())]
}

#[test]
fn a_session_that_a_header_names_is_opened_found_and_ended() {
    let protocol: Arc<dyn SessionProtocol> = Arc::new(ByHeader);
    let (table, id) = (SessionTable::new(10), "1868a90c");
    let first = request("POST", "/mcp", &[]);
    assert_eq!(protocol.read(&first), SessionRequest { opens: true, ..SessionRequest::default() });
    let fields = named(id);
    let Answered::Opened(opened) = protocol.answered(0, 200, Headers::Fields(&fields)) else {
        panic!("nothing opened")
    };
    table.learn(table.key(&opened.id.unwrap()), &table.home(7), opened.silence, How::Handshake);
    let later = request("POST", "/mcp", &fields);
    let said = protocol.read(&later);
    assert_eq!(table.find(table.key(said.id.unwrap())).map(|found| found.server), Some(7));
    assert!(!said.opens && !said.ends && protocol.goodbye(said.dialect, &later).is_none());
    assert!(protocol.read(&request("DELETE", "/mcp", &fields)).ends);
    assert!(matches!(protocol.answered(0, 404, Headers::Fields(&[])), Answered::Refused { unknown: true, .. }));
    assert!(matches!(protocol.answered(0, 406, Headers::Fields(&fields)), Answered::Nothing), "a dead id");
}

#[test]
fn a_question_can_carry_what_the_client_brought() {
    let fields = named("1868a90c");
    let question = ByHeader.question(0, "1868a90c", &request("GET", "/mcp", &fields)).unwrap();
    assert_eq!((question.method, &*question.target), ("POST", "/mcp"));
    assert!(question.fields.contains(&("authorization".into(), b"Bearer x".to_vec())));
    assert_eq!(ByHeader.is_known(0, &question, 202, b""), Known::Yes);
    assert_eq!(ByHeader.is_known(0, &question, 401, b""), Known::Untold);
}

#[test]
fn a_session_whose_client_chose_the_id_is_learned_with_its_first_answer() {
    let first = request("POST", "/echo/000/kx2a5b1c/xhr", &[]);
    let said = ByClient.read(&first);
    assert_eq!((said.id, said.opens, said.polls), (Some("kx2a5b1c"), true, true));
    let Answered::Opened(opened) = ByClient.answered(said.dialect, 200, Headers::Fields(&[])) else {
        panic!("nothing")
    };
    assert_eq!(opened.id, None, "the one that the request named");
    let send = request("POST", "/echo/000/kx2a5b1c/xhr_send", &[]);
    let said = ByClient.read(&send);
    assert_eq!((said.id, said.opens), (Some("kx2a5b1c"), false));
    assert!(matches!(
        ByClient.answered(said.dialect, 404, Headers::Fields(&[])),
        Answered::Refused { unknown: true, .. }
    ));
    assert_eq!(&*ByClient.goodbye(1, &send).unwrap().body, b"c[1012,\"Service restart\"]\n");
}

#[test]
fn what_a_protocol_does_not_say_has_no_effect() {
    assert!(
        !ByHeader.is_client_goodbye(0, b"1")
            && !ByHeader.is_server_goodbye(0, b"1", true)
            && !ByHeader.may_be_poll(b"/")
    );
    assert_eq!(ByHeader.arrival(0), Arrival::AtOnce);
    assert_eq!(ByClient.question(0, "a", &request("GET", "/", &[])), None);
    assert_eq!(ByClient.is_known(0, &Question::get("/"), 200, b""), Known::Untold);
    assert!(ByHeader.check().is_none());
    assert!(ByHeader.last_words(0).is_none() && ByHeader.last_message(0).is_none() && !ByHeader.clients_make_ids());
    assert_eq!(ByHeader.path_of_sessions("/a/negotiate"), "/a/negotiate");
}

#[test]
fn last_words_follow_whole_events_only() {
    let last = LastWords { words: b""[..].into(), behind: ENDS_OF_EVENTS };
    for said in ["", "data: a\n\n", ": ping\r\n\r\n", "x\r\r"] {
        assert!(last.may_follow(said.as_bytes()), "{said:?}");
    }
    for said in ["data: a", "data: a\n", "\r\n", "data: a\r\n"] {
        assert!(!last.may_follow(said.as_bytes()), "{said:?}");
    }
}

use super::*;
use crate::request::testing::request;

const NONE: Headers<'static> = Headers::Fields(&[]);

#[test]
fn every_transport_names_its_session_by_the_path() {
    for (method, target, opens, polls, streams) in [
        ("POST", "/echo/000/abc/xhr", true, true, false),
        ("POST", "/echo/000/abc/xhr_streaming", true, true, true),
        ("GET", "/echo/000/abc/eventsource", true, true, true),
        ("GET", "/echo/000/abc/htmlfile?c=x", true, true, true),
        ("GET", "/echo/000/abc/jsonp?c=x", true, true, false),
        ("GET", "/echo/000/abc/websocket", true, false, false),
        ("POST", "/echo/999/abc/xhr_send", false, false, false),
        ("POST", "/echo/000/abc/jsonp_send", false, false, false),
    ] {
        let request = request(method, target, &[]);
        let said = SockJs.read(&request);
        assert_eq!((said.id, said.opens, said.polls, said.streams), (Some("abc"), opens, polls, streams), "{target}");
    }
    for (method, target) in [
        ("GET", "/echo/info"),
        ("GET", "/echo"),
        ("GET", "/echo/iframe.html"),
        ("GET", "/echo/websocket"),
        ("OPTIONS", "/echo/000/abc/xhr"),
        ("GET", "/echo/000/abc/xhr"),
    ] {
        assert_eq!(SockJs.read(&request(method, target, &[])), SessionRequest::default(), "{method} {target}");
    }
}

#[test]
fn a_session_opens_with_the_first_answer_and_is_unknown_where_nothing_can_be_said_to_it() {
    let answered = |transport, status| SockJs.answered(dialect_of(transport), status, NONE);
    assert!(matches!(answered(Transport::Xhr, 200), Answered::Opened(NewSession { id: None, .. })));
    assert!(matches!(answered(Transport::WebSocket, 101), Answered::Opened(_)));
    assert!(matches!(answered(Transport::XhrSend, 404), Answered::Refused { unknown: true, .. }));
    for (transport, status) in [
        (Transport::XhrSend, 204),
        (Transport::Xhr, 404),
        (Transport::Xhr, 500),
        (Transport::WebSocket, 404),
        (Transport::WebSocket, 200),
    ] {
        assert!(matches!(answered(transport, status), Answered::Nothing), "{transport:?} {status}");
    }
}

#[test]
fn the_question_is_an_empty_message_and_none_is_asked_for_a_websocket() {
    let poll = request("POST", "/echo/000/abc/xhr?x=y", &[]);
    let question = SockJs.question(dialect_of(Transport::Xhr), "other", &poll).unwrap();
    assert_eq!((question.method, &*question.target), ("POST", "/echo/000/other/xhr_send"));
    assert_eq!(question.body.as_deref(), Some(&b"[]"[..]));
    assert_eq!(SockJs.is_known(1, &question, 204, b""), Known::Yes);
    assert_eq!(SockJs.is_known(1, &question, 404, b""), Known::No);
    assert_eq!(SockJs.is_known(1, &question, 500, b""), Known::Untold);
    let socket = request("GET", "/echo/000/abc/websocket", &[]);
    assert_eq!(SockJs.question(dialect_of(Transport::WebSocket), "abc", &socket), None);
}

#[test]
fn each_transport_has_its_own_goodbye() {
    let goodbye = |transport: Transport, target: &str| {
        let request = request(transport.method(), target, &[]);
        let goodbye = SockJs.goodbye(dialect_of(transport), &request);
        assert_eq!(SockJs.says_goodbye(dialect_of(transport), &request), goodbye.is_some(), "{target}");
        goodbye.map(|goodbye| String::from_utf8(goodbye.body.to_vec()).unwrap())
    };
    let frame = "c[1012,\"Service restart\"]";
    assert_eq!(goodbye(Transport::Xhr, "/e/0/a/xhr"), Some(format!("{frame}\n")));
    let script = "/**/cb(\"c[1012,\\\"Service restart\\\"]\");\r\n";
    assert_eq!(goodbye(Transport::Jsonp, "/e/0/a/jsonp?c=cb").as_deref(), Some(script));
    assert_eq!(goodbye(Transport::Jsonp, "/e/0/a/jsonp?c=(x)"), None);
    for transport in [Transport::HtmlFile, Transport::WebSocket, Transport::XhrSend, Transport::JsonpSend] {
        assert_eq!(goodbye(transport, &format!("/e/0/a/{}", transport.as_str())), None);
    }
    for transport in [Transport::XhrStreaming, Transport::EventSource] {
        let whole = goodbye(transport, &format!("/e/0/a/{}", transport.as_str())).unwrap();
        assert!(whole.contains(frame), "{whole}");
    }
    for transport in [Transport::XhrStreaming, Transport::EventSource, Transport::HtmlFile] {
        let LastWords { words, behind } = SockJs.last_words(dialect_of(transport)).unwrap();
        assert!(String::from_utf8_lossy(&words).contains("c[1012,"), "{transport:?}");
        assert!(behind.iter().any(|end| words.ends_with(end)), "{transport:?}");
    }
    assert!(SockJs.last_words(dialect_of(Transport::Xhr)).is_none());
    assert_eq!(
        SockJs.last_message(dialect_of(Transport::WebSocket)).map(|message| message(1001)),
        Some("c[1001,\"Service restart\"]".to_owned())
    );
    assert!(SockJs.last_message(dialect_of(Transport::Xhr)).is_none());
}

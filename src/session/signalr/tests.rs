use super::*;
use crate::request::testing::request;

const NONE: Headers<'static> = Headers::Fields(&[]);
const ID: &str = "Xn2vQ0b1rT8mK5yZ_w-3Ag";

fn field<'a>(name: &'a str, value: &'a str) -> httparse::Header<'a> {
    httparse::Header { name, value: value.as_bytes() }
}

#[test]
fn requests_name_their_connection_in_the_query() {
    let events = [field("Accept", "text/event-stream")];
    let client = [field("X-SignalR-User-Agent", "Microsoft SignalR/8.0")];
    for (method, target, fields, dialect) in [
        ("POST", "/chat/negotiate?negotiateVersion=1", &[][..], NEGOTIATES),
        ("POST", "/chat/negotiate", &[], NEGOTIATES),
        ("POST", "/negotiate", &[], NEGOTIATES),
        ("GET", &format!("/chat?id={ID}"), &events, EVENTS),
        ("GET", &format!("/chat?id={ID}&_=17"), &client, POLL),
        ("POST", &format!("/chat?id={ID}"), &[], SEND),
        ("POST", &format!("/chat/refresh?id={ID}"), &[], SEND),
        ("DELETE", &format!("/chat?id={ID}"), &[], DELETES),
        ("OPTIONS", &format!("/chat?id={ID}"), &[], 0),
        ("GET", "/items?id=5", &[], 0),
        ("POST", "/items", &[], 0),
        ("GET", "/chat/negotiate", &[], 0),
    ] {
        let request = request(method, target, fields);
        let said = SignalR.read(&request);
        assert_eq!(said.dialect, dialect, "{method} {target}");
        assert_eq!(said.id, (dialect > NEGOTIATES).then_some(ID), "{method} {target}");
        assert_eq!((said.opens, said.polls), (dialect == NEGOTIATES, dialect == POLL), "{method} {target}");
    }
    let two = format!("/chat?id={ID}&id=AAAAAAAAAAAAAAAAAAAAAA");
    assert!(SignalR.read(&request("GET", &two, &[])).is_ambiguous);
}

#[test]
fn the_answer_to_a_negotiation_opens_and_404_says_that_nobody_knows_it() {
    let Answered::Body(mut reader) = SignalR.answered(NEGOTIATES, 200, NONE) else { panic!("it is read") };
    assert!(reader.read(b"{\"connectionId\":\"807809a5-31bf-470d", false).is_none());
    let rest = format!("-9e23-afaee35d8a0d\",\"negotiateVersion\":1,\"connectionToken\":\"{ID}\"}}");
    let Some(Answered::Opened(opened)) = reader.read(rest.as_bytes(), false) else { panic!("it is opened") };
    assert_eq!((opened.id.as_deref(), opened.websocket), (Some(ID), false));
    assert!(matches!(SignalR.answered(NEGOTIATES, 401, NONE), Answered::Nothing));
    assert!(matches!(SignalR.answered(POLL, 404, NONE), Answered::Refused { unknown: true, .. }));
    assert!(matches!(SignalR.answered(WEBSOCKET, 101, NONE), Answered::Nothing));
    assert!(matches!(SignalR.answered(DELETES, 202, NONE), Answered::Ended));
}

#[test]
fn the_question_says_nothing_to_the_connection_and_keeps_what_lets_its_client_in() {
    let target = format!("/chat?id={ID}&access_token=t");
    let poll = request("GET", &target, &[]);
    let question = SignalR.question(WEBSOCKET, "other", &poll).unwrap();
    assert_eq!((question.method, &*question.target), ("POST", "/chat?id=other&access_token=t"));
    assert_eq!(question.body.as_deref(), Some(&b""[..]));
    for (status, known) in [(200, Known::Yes), (405, Known::Yes), (404, Known::No), (401, Known::Untold)] {
        assert_eq!(SignalR.is_known(POLL, &question, status, b""), known);
    }
    assert_eq!(SignalR.path_of_sessions("/chat/negotiate"), "/chat");
}

#[test]
fn polls_and_streams_have_goodbyes_and_a_connection_that_is_over_is_unknown() {
    let target = format!("/chat?id={ID}");
    let poll = request("GET", &target, &[]);
    assert_eq!(SignalR.goodbye(POLL, &poll).map(|goodbye| goodbye.status), Some(204));
    assert_eq!(SignalR.goodbye(SEND, &poll), None);
    assert!(SignalR.last_words(EVENTS).is_some_and(|last| last.words.is_empty()));
    assert!(SignalR.last_words(POLL).is_none());
    assert_eq!(SignalR.over(WEBSOCKET).map(|over| over.status), Some(404));
    assert_eq!(SignalR.farewell(POLL, ID, &poll).map(|farewell| farewell.method), Some("DELETE"));
}

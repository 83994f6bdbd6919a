use serde_json::json;

use super::*;
use crate::request::testing::request;

fn rules(said: serde_json::Value) -> Rules {
    Rules::new(&serde_json::from_value(said).unwrap()).unwrap()
}

fn field<'a>(name: &'a str, value: &'a str) -> httparse::Header<'a> {
    httparse::Header { name, value: value.as_bytes() }
}

fn everywhere() -> Rules {
    rules(json!({
        "route": { "header": "X-Session", "query": "sid", "cookie": "SESSION", "path": "/rooms/{id}" },
        "learn": { "header": "x-session" },
        "over": [410],
    }))
}

#[test]
fn a_session_is_named_wherever_the_rule_says() {
    let rules = everywhere();
    for (target, fields, expected) in [
        ("/", vec![], None),
        ("/", vec![field("x-session", "a")], Some("a")),
        ("/?x=1&sid=b", vec![], Some("b")),
        ("/?xsid=b&sid=", vec![], None),
        ("/", vec![field("Cookie", "y=1; SESSION=c")], Some("c")),
        ("/rooms/d", vec![], Some("d")),
        ("/rooms/d/messages/2", vec![], Some("d")),
        ("/rooms", vec![], None),
        ("/room/d", vec![], None),
        ("/rooms/a?sid=a", vec![field("X-Session", "a"), field("Cookie", "SESSION=a")], Some("a")),
    ] {
        let request = request("GET", target, &fields);
        let said = rules.read(&request);
        assert_eq!((said.id, said.opens, said.is_ambiguous), (expected, expected.is_none(), false), "{target}");
    }
}

#[test]
fn two_places_that_differ_are_ambiguous() {
    let rules = everywhere();
    for (target, fields) in [
        ("/rooms/a?sid=b", vec![]),
        ("/?sid=a&sid=b", vec![]),
        ("/", vec![field("X-Session", "a"), field("x-session", "b")]),
        ("/?sid=b", vec![field("Cookie", "SESSION=a")]),
    ] {
        assert!(rules.read(&request("GET", target, &fields)).is_ambiguous, "{target}");
    }
    let long = "x".repeat(64 * 1024);
    let target = format!("/rooms/a?sid={long}");
    let fields = [field("X-Session", &long)];
    let request = request("GET", &target, &fields);
    let said = rules.read(&request);
    assert_eq!((said.id, said.is_ambiguous), (Some("a"), false), "what is longer than any id is none");
}

#[test]
fn a_path_may_have_segments_that_say_nothing() {
    let rule = PathRule::new("/v1/*/rooms/{id}").unwrap();
    assert_eq!(rule.find("/v1/x/rooms/a"), Some("a"));
    assert_eq!(rule.find("/v1/x/y/rooms/a"), None);
    for wrong in ["", "/", "/a", "rooms/{id}", "/{id}/{id}", "/a{id}", "/a//{id}", "/a?x={id}", "/{name}"] {
        assert!(PathRule::new(wrong).is_err(), "{wrong}");
    }
}

/// What an answer teaches: the id of a session that is open (`.` for the one that the request named), or what else.
fn taught(rules: &Rules, dialect: u64, status: u16, fields: &[httparse::Header<'_>], body: &[u8]) -> String {
    match rules.answered(dialect, status, Headers::Fields(fields)) {
        Answered::Nothing => "nothing".to_owned(),
        Answered::Ended => "ended".to_owned(),
        Answered::Refused { unknown, .. } => format!("refused, unknown: {unknown}"),
        Answered::Opened(session) => session.id.unwrap_or_else(|| ".".to_owned()),
        Answered::Body(mut reader) => {
            let (first, rest) = body.split_at(body.len() / 2);
            match reader.read(first, false).or_else(|| reader.read(rest, true)) {
                Some(Answered::Opened(session)) => session.id.unwrap(),
                Some(Answered::Nothing) => "nothing".to_owned(),
                _ => "more".to_owned(),
            }
        }
    }
}

#[test]
fn ids_are_learned_from_the_place_that_the_rule_says() {
    let by_header = everywhere();
    let header = [field("X-Session", "a")];
    assert_eq!(taught(&by_header, 0, 200, &header, b""), "a");
    assert_eq!(taught(&by_header, 0, 302, &header, b""), "a");
    assert_eq!(taught(&by_header, 0, 101, &header, b""), "a");
    assert_eq!(taught(&by_header, 0, 401, &header, b""), "nothing");
    assert_eq!(taught(&by_header, 0, 200, &[], b""), "nothing");

    let by_cookie = rules(json!({ "route": { "cookie": "S" }, "learn": { "cookie": "S" } }));
    let set =
        |cookie: &str| taught(&by_cookie, 0, 200, &[field("Set-Cookie", "x=y"), field("Set-Cookie", cookie)], b"");
    assert_eq!(set("S=b; Path=/; HttpOnly"), "b");
    assert_eq!(set("SS=b"), "nothing");
    let out = [field("Set-Cookie", "S=; Max-Age=0")];
    assert_eq!(taught(&by_cookie, NAMED, 200, &out, b""), "ended");
    let out = [field("Set-Cookie", "S=gone; path=/; max-age=-1")];
    assert_eq!(taught(&by_cookie, NAMED, 200, &out, b""), "ended");
    assert_eq!(taught(&by_cookie, 0, 200, &out, b""), "nothing");

    let by_json = rules(json!({ "route": { "query": "sid" }, "learn": { "json": "/session/id" } }));
    assert_eq!(taught(&by_json, 0, 201, &[], br#"{"x":1,"session":{"id":"c-1"}}"#), "c-1");
    assert_eq!(taught(&by_json, 0, 201, &[], br#"{"x":1,"session":{"id":17}}"#), "17");
    assert_eq!(taught(&by_json, 0, 201, &[], br#"{"session":{}}"#), "nothing");
    assert_eq!(taught(&by_json, 0, 201, &[], br#"{"session":{"id":"c"#), "nothing");
    assert_eq!(taught(&by_json, 0, 500, &[], br#"{"session":{"id":"c"}}"#), "nothing");

    let by_client = rules(json!({ "route": { "query": "sid" } }));
    assert_eq!(taught(&by_client, NAMED, 200, &[], b""), ".");
    assert_eq!(taught(&by_client, 0, 200, &[], b""), "nothing");
    assert!(by_client.read(&request("GET", "/?sid=a", &[])).opens && !by_client.read(&request("GET", "/", &[])).opens);
}

#[test]
fn of_several_places_the_first_that_has_an_id_counts() {
    let learn = json!({ "header": "X-Session", "cookie": "S", "json": "/id" });
    let rules = rules(json!({ "route": { "query": "sid" }, "learn": learn }));
    let (header, cookie) = (field("X-Session", "h"), field("Set-Cookie", "S=c"));
    let body = br#"{"id":"j"}"#;
    assert_eq!(taught(&rules, 0, 200, &[cookie, header], body), "h");
    assert_eq!(taught(&rules, 0, 200, &[cookie], body), "c");
    assert_eq!(taught(&rules, 0, 200, &[field("X-Session", "")], body), "j");
    assert_eq!(taught(&rules, NAMED, 200, &[], body), "nothing", "bodies are read where a session may begin");
    assert_eq!(taught(&rules, NAMED, 200, &[field("Set-Cookie", "S=; Max-Age=0")], body), "ended");
    assert_eq!(taught(&rules, 0, 200, &[field("Set-Cookie", "S=; Max-Age=0")], body), "j");
}

#[test]
fn a_session_is_over_by_the_statuses_of_the_rule() {
    let rules = everywhere();
    assert_eq!(taught(&rules, NAMED, 410, &[], b""), "refused, unknown: true");
    assert_eq!(taught(&rules, 0, 410, &[], b""), "nothing");
    assert_eq!(taught(&rules, NAMED, 404, &[], b""), "nothing");
    assert_eq!(rules.over(NAMED).unwrap().status, 410);
}

#[test]
fn the_question_is_as_the_rule_says_and_shows_who_asks() {
    let rules = rules(json!({
        "route": { "cookie": "S", "header": "X-Session" },
        "question": { "method": "HEAD", "path": "/sessions/{id}?full=0", "headers": { "X-Session": "{id}" }, "unknown": [404, 410] },
    }));
    let fields = [field("Authorization", "x"), field("Cookie", "a=b; S=real; c=d"), field("X-Session", "real")];
    let request = request("GET", "/anything", &fields);
    let question = rules.question(0, "made-up", &request).unwrap();
    assert_eq!((question.method, &*question.target), ("HEAD", "/sessions/made-up?full=0"));
    let said: Vec<_> =
        question.fields.iter().map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value))).collect();
    assert_eq!(said, ["x-session: made-up", "authorization: x", "cookie: a=b; c=d; S=made-up"]);
    for odd in ["a/../b", "a b", "a?b", "a\r\nb", "a\"b", "\u{e9}"] {
        assert!(rules.question(0, odd, &request).is_none(), "{odd:?}");
    }
    for (status, known) in
        [(200, Known::Yes), (204, Known::Yes), (404, Known::No), (410, Known::No), (500, Known::Untold)]
    {
        assert_eq!(rules.is_known(0, &question, status, b""), known, "{status}");
    }
    assert!(everywhere().question(0, "a", &request).is_none());
}

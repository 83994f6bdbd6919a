use proptest::prelude::*;

use super::*;
use crate::request::testing::request;

fn holds(text: &str, target: &str, fields: &[(&str, &str)]) -> bool {
    let fields: Vec<_> =
        fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
    let request = request("GET", target, &fields);
    let path = request.path.canonical.clone();
    let request = Request { host: Some("a.example".into()), client: [10, 1, 2, 3].into(), ..request };
    Expression::compile(text).unwrap_or_else(|fault| panic!("{text}: {fault:?}")).holds(&request, &path)
}

#[test]
fn conditions_look_at_what_is_known_of_a_request() {
    let fields = [("X-Tenant", "acme"), ("Cookie", "beta=1; id=x"), ("X-Tenant", "second")];
    for text in [
        r#"request.headers["x-tenant"] == "acme" && client.ip in cidr("10.0.0.0/8")"#,
        r#"request.method == "GET" && request.host.endsWith(".example") && request.scheme == "http""#,
        r#"request.path.startsWith("/a/") && request.query.q == "1" && !request.websocket"#,
        r#"request.cookies["beta"] == "1" && "id" in request.cookies && !("none" in request.cookies)"#,
        r#"has(request.headers.cookie) && !has(request.headers.origin)"#,
        r#"listener.name == "web" && listener.port == 80 && tls.server_name == """#,
        r#"request.path.matches("^/a/[0-9]+$") && size(request.path) == 5"#,
        r#"request.headers.exists(name, name.startsWith("x-") && request.headers[name] == "acme")"#,
        r#"["GET", "HEAD"].exists(method, method == request.method)"#,
        r#"request.method in ["GET", "HEAD"]"#,
        r#"request.headers["none"] == "x" || request.method == "GET""#,
        r#"("none" in request.headers ? request.headers["none"] : "default") == "default""#,
        r#"int(request.query["q"]) < 2 && !(client.ip in cidr("10.2.0.0/16")) && client.ip in cidr("10.1.2.3")"#,
    ] {
        assert!(holds(text, "/a/12?q=1", &fields), "{text}");
        assert!(!holds(&format!("!({text})"), "/a/12?q=1", &fields), "{text}");
    }
}

#[test]
fn what_fails_does_not_hold_and_what_is_not_there_is_no_failure() {
    let before = metrics::expression_failures().get();
    assert!(!holds(r#"request.headers["x"] == "1""#, "/", &[]));
    assert!(!holds(r#"!(request.headers["x"] == "1")"#, "/", &[]));
    assert_eq!(metrics::expression_failures().get(), before);
    assert!(!holds(r#"int(request.query["q"]) < 2"#, "/?q=two", &[]));
    assert_eq!(metrics::expression_failures().get(), before + 1);
}

#[test]
fn values_are_texts_numbers_and_truths_and_what_fails_gives_nothing() {
    let fields = [httparse::Header { name: "X-Plan", value: b"gold" }];
    let request = request("GET", "/a/12?q=two", &fields);
    let path = request.path.canonical.clone();
    let value = |text: &str| Expression::compile_value(text).unwrap().value(&request, &path);
    for (text, expected) in [
        (r#"request.headers["x-plan"] == "gold" ? "fast" : "slow""#, Some("fast")),
        (r#"request.method + ":" + request.path"#, Some("GET:/a/12")),
        ("size(request.path)", Some("5")),
        ("request.websocket", Some("false")),
        (r#"request.headers["x-none"]"#, None),
        (r#""x-none" in request.headers ? request.headers["x-none"] : null"#, None),
    ] {
        assert_eq!(value(text).as_deref(), expected, "{text}");
    }
    let before = metrics::expression_failures().get();
    assert_eq!(value(r#"int(request.query["q"])"#), None);
    assert_eq!(metrics::expression_failures().get(), before + 1);
    for (text, part) in [
        ("[request.path]", "expected a text"),
        ("request.path + 1", "can't give a text"),
        ("request.pth", "unknown variable"),
    ] {
        let fault = Expression::compile_value(text).unwrap_err();
        assert!(fault.what.contains(part), "{text}: {fault:?}");
    }
}

fn fault(text: &str) -> Fault {
    match Expression::compile(text) {
        Ok(_) => panic!("{text} is accepted"),
        Err(fault) => fault,
    }
}

#[test]
fn unknown_names_and_wrong_types_are_refused_with_their_places() {
    for (text, at, part) in [
        (r#"request.header["x"] == "1""#, (1, 8), "unknown variable `request.header`"),
        ("request.method == \"GET\" &&\n  clint.ip == \"x\"", (2, 8), "unknown variable `clint.ip`"),
        ("tenant == 'a'", (1, 1), "unknown variable `tenant`"),
        ("request == 'a'", (1, 1), "expected one of `request.method`"),
        ("request.path.lowerAscii() == 'a'", (1, 24), "unknown function `lowerAscii`"),
        ("client.ip in cidr(request.path)", (1, 18), "takes a text that stands here"),
        ("client.ip in cidr('10.0.0.0/40')", (1, 18), "expected a network"),
        ("request.path.matches(request.host)", (1, 21), "takes a text that stands here"),
        ("request.path.matches('(')", (1, 21), "expected a regular expression"),
    ] {
        let fault = fault(text);
        assert!(fault.what.contains(part), "{text}: {fault:?}");
        assert_eq!(fault.at.map(|(line, _)| line), Some(at.0), "{text}: {fault:?}");
    }
    for (text, part) in [
        ("request.method", "expected true or false"),
        ("request.path + 1 == 'x'", "can't hold"),
        ("client.ip < 5", "can't hold"),
        ("request.method ==", "can't be read"),
        ("", "can't be read"),
    ] {
        let fault = fault(text);
        assert!(fault.what.contains(part), "{text}: {fault:?}");
    }
}

#[test]
fn no_expression_is_too_long_too_deep_or_a_loop_in_a_loop() {
    for (text, part) in [
        (format!("{}1 == 1{}", "(".repeat(300), ")".repeat(300)), "brackets in each other"),
        (format!("1{} == 1", "+1".repeat(300)), "levels"),
        (format!("{}true", "!".repeat(600)), ""),
        (format!("{}1 == 1", "-".repeat(600)), ""),
        (format!("true{}", " && true".repeat(100)), ""),
        (format!("'{}' == ''", "x".repeat(2000)), "at most 1024"),
        ("[1].all(a, [2].all(b, a == b))".to_owned(), "a loop"),
        (format!("request.path{} == ''", ".a".repeat(400)), ""),
        (format!("{}true{}", "true ? ".repeat(120), " : false".repeat(120)), ""),
    ] {
        if let Err(fault) = Expression::compile(&text) {
            assert!(fault.what.contains(part), "{text}: {fault:?}");
        } else {
            assert_eq!(part, "", "{text} is accepted");
        }
    }
}

#[test]
fn only_those_entries_are_told_that_are_looked_at() {
    let uses = |text| Expression::compile(text).unwrap().uses;
    let these = |names: &[&str]| Keys::These(names.iter().map(|&name| name.into()).collect());
    let of_headers = |text| uses(text)[0].fields.clone();
    assert_eq!(
        of_headers(r#"request.headers["a"] == "1" && "b" in request.headers && request.headers.a == """#),
        [Field::Headers(these(&["a", "b"]))]
    );
    assert_eq!(of_headers(r#"request.headers[request.path] == "1""#)[0], Field::Headers(Keys::All));
    assert_eq!(of_headers(r#"request.headers.all(name, name != "x")"#), [Field::Headers(Keys::All)]);
    assert_eq!(uses("client.ip == 'x'"), [Use { root: "client", fields: vec![Field::ClientIp] }]);
}

proptest! {
    #[test]
    fn no_text_ends_the_process(text in "[a-z0-9.()\\[\\]{}'\"!&|=<>?:+ -]{0,80}") {
        let _ = Expression::compile(&text);
    }

    #[test]
    fn nothing_that_repeats_ends_the_process(part in "[a-z0-9.()\\[\\]{}'\"!&|=<>?:+ -]{1,8}", times in 1usize..300) {
        let _ = Expression::compile(&part.repeat(times));
    }
}

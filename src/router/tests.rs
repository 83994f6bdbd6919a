use proptest::prelude::*;

use super::*;
use crate::request::testing::request;

fn routes(json: &str) -> Routes {
    Routes::build(&serde_json::from_str::<Vec<Config>>(json).unwrap())
}

/// A request in a line: `GET host/path?query`, and its header fields.
fn ask(routes: &Routes, line: &str, fields: &[(&str, &str)]) -> String {
    let (method, url) = line.split_once(' ').unwrap();
    let (host, target) = url.split_at(url.find('/').unwrap());
    let fields: Vec<_> =
        fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
    let plain = request(method, target, &fields);
    let request = Request {
        host: (!host.is_empty()).then(|| crate::request::host_name(host)),
        websocket: crate::http::upgrade::opening(method, 1, &plain.headers).is_some(),
        ..plain
    };
    match routes.route(&request) {
        Decision::To(route) => route.name.to_string(),
        Decision::Nowhere => "nowhere".to_owned(),
        Decision::Ambiguous => "ambiguous".to_owned(),
    }
}

const WEBSOCKET: [(&str, &str); 2] = [("Connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket")];

#[test]
fn prefixes_end_at_segments() {
    let routes = routes(
        r#"[{"match": {"path": "/socket.io/"}, "upstream": "sockets"}, {"match": {"path": "/app"}, "upstream": "app"},
            {"match": {"path_exact": "/exact"}, "upstream": "exact"}]"#,
    );
    for (line, name) in [
        ("GET /socket.io/?EIO=4", "sockets"),
        ("GET /socket.io", "sockets"),
        ("GET /socket.io/1/websocket/abc", "sockets"),
        ("GET /socket.iox/", "nowhere"),
        ("GET //socket.io/", "sockets"),
        ("GET /%73ocket.io/", "sockets"),
        ("GET /x/../socket.io/", "sockets"),
        ("GET /app", "app"),
        ("GET /app/", "app"),
        ("GET /apple", "nowhere"),
        ("GET /exact", "exact"),
        ("GET /exact/", "nowhere"),
    ] {
        assert_eq!(ask(&routes, line, &[]), name, "{line}");
    }
}

#[test]
fn hosts_match_exactly_or_under_a_wildcard_and_never_by_port() {
    let routes = routes(
        r#"[{"match": {"host": "*.example.com"}, "upstream": "under"},
            {"match": {"host": ["Api.example.com", "other.org"]}, "upstream": "api"}, {"upstream": "rest"}]"#,
    );
    assert_eq!(ask(&routes, "GET api.example.com:8080/", &[]), "under", "first match wins");
    assert_eq!(ask(&routes, "GET a.b.example.com/", &[]), "under");
    assert_eq!(ask(&routes, "GET example.com/", &[]), "rest");
    assert_eq!(ask(&routes, "GET badexample.com/", &[]), "rest");
    assert_eq!(ask(&routes, "GET Other.ORG./", &[]), "api");
    assert_eq!(ask(&routes, "GET /", &[]), "rest");
}

#[test]
fn upgrade_header_matcher() {
    let listed = routes(
        r#"[{"match": {"headers": {"Upgrade": "websocket"}}, "upstream": "by-header"},
            {"match": {"upgrade": "websocket"}, "upstream": "by-upgrade"}, {"upstream": "rest"}]"#,
    );
    assert_eq!(ask(&listed, "GET /any", &WEBSOCKET), "by-header");
    assert_eq!(ask(&listed, "GET /any", &[("Upgrade", "h2c, websocket")]), "by-header");
    assert_eq!(ask(&listed, "GET /any", &[("Upgrade", "h2c")]), "rest");
    let strict = routes(r#"[{"match": {"upgrade": "websocket"}, "upstream": "sockets"}]"#);
    assert_eq!(ask(&strict, "GET /any", &WEBSOCKET), "sockets");
    assert_eq!(ask(&strict, "GET /any", &WEBSOCKET[1..]), "nowhere", "an Upgrade alone opens nothing");
    assert_eq!(ask(&strict, "POST /any", &WEBSOCKET), "nowhere");
}

#[test]
fn methods_headers_queries_and_listeners_all_have_to_hold() {
    let routes = routes(
        r#"[{"match": {"method": ["GET", "HEAD"], "headers": {"x-v": "2", "x-any": "*"},
                       "query": {"transport": "polling", "t": "*"}, "listener": ["web"]}, "upstream": "all"},
            {"match": {"listener": "other"}, "upstream": "other"}]"#,
    );
    let fields = [("X-V", "1, 2"), ("X-Any", "")];
    assert_eq!(ask(&routes, "GET /?transport=polling&t=1", &fields), "all");
    assert_eq!(ask(&routes, "POST /?transport=polling&t=1", &fields), "nowhere");
    assert_eq!(ask(&routes, "GET /?transport=websocket&t=1", &fields), "nowhere");
    assert_eq!(ask(&routes, "GET /?transport=polling", &fields), "nowhere");
    assert_eq!(ask(&routes, "GET /?transport=polling&t=1", &fields[..1]), "nowhere");
    assert_eq!(ask(&routes, "GET /?transport=polling&t=1", &[("X-V", "3"), ("X-Any", "")]), "nowhere");
}

#[test]
fn regular_expressions_find_paths_and_fields_beside_plain_rules() {
    let routes = routes(
        r#"[{"match": {"path": "/plain", "path_regex": ["^/v[0-9]+/", "\\.php$"]}, "upstream": "paths"},
            {"match": {"headers_regex": {"User-Agent": "(?i)bot", "x-any": "."}}, "upstream": "fields"}]"#,
    );
    for (line, name) in [
        ("GET /v12/x", "paths"),
        ("GET /a/b.php", "paths"),
        ("GET /plain/x", "paths"),
        ("GET /x/../v1/", "paths"),
        ("GET /v/x", "nowhere"),
        ("GET /x%2F..%2Fv1/", "ambiguous"),
    ] {
        assert_eq!(ask(&routes, line, &[]), name, "{line}");
    }
    let bot = ("User-Agent", "GoodBot/1.0");
    assert_eq!(ask(&routes, "GET /", &[bot, ("X-Any", "1")]), "fields");
    assert_eq!(ask(&routes, "GET /", &[bot]), "nowhere");
    assert_eq!(
        ask(&routes, "GET /", &[("User-Agent", "Browser"), ("User-Agent", "a bot"), ("X-Any", "\u{e9}")]),
        "fields"
    );
}

#[test]
fn clients_cookies_ports_and_names_of_tls_are_looked_at() {
    let routes = routes(
        r#"[{"match": {"client": ["10.0.0.0/8", "127.0.0.1"], "cookies": {"beta": "1", "id": "*"}, "port": 80}, "upstream": "all"},
            {"match": {"client": "127.0.0.0/8", "port": [81, 443]}, "upstream": "port"},
            {"match": {"server_name": "*.example.com"}, "upstream": "name"}]"#,
    );
    assert_eq!(ask(&routes, "GET /", &[("Cookie", "beta=1; id=x")]), "all");
    assert_eq!(ask(&routes, "GET /", &[("Cookie", "beta=2; id=x")]), "nowhere");
    assert_eq!(ask(&routes, "GET /", &[("Cookie", "beta=1")]), "nowhere");
    let plain = request("GET", "/", &[]);
    let name = |request: &Request<'_>| match routes.route(request) {
        Decision::To(route) => route.name.to_string(),
        _ => "nowhere".to_owned(),
    };
    assert_eq!(name(&Request { port: 443, ..plain.clone() }), "port");
    assert_eq!(name(&Request { port: 443, client: [192, 0, 2, 1].into(), ..plain.clone() }), "nowhere");
    assert_eq!(name(&Request { server_name: Some("A.Example.com"), ..plain.clone() }), "name");
    assert_eq!(name(&Request { server_name: Some("example.com"), ..plain }), "nowhere");
}

#[test]
fn what_is_not_to_hold_and_what_may_hold_lie_in_each_other() {
    let routes = routes(
        r#"[{"match": {"path": "/api", "not": [{"method": "GET"}, {"headers": {"x-internal": "*"}}]}, "upstream": "writes"},
            {"match": {"any": [{"path": "/a"}, {"host": "b.test", "not": {"query": {"c": "*"}}}]}, "upstream": "any"}]"#,
    );
    for (line, name) in [
        ("POST /api/x", "writes"),
        ("GET /api/x", "nowhere"),
        ("GET /a", "any"),
        ("GET b.test/z", "any"),
        ("GET b.test/z?c=1", "nowhere"),
        ("GET b.test/a?c=1", "any"),
    ] {
        assert_eq!(ask(&routes, line, &[]), name, "{line}");
    }
    assert_eq!(ask(&routes, "POST /api", &[("X-Internal", "")]), "nowhere");
}

#[test]
fn a_path_with_two_readings_is_refused_only_where_they_part() {
    let routes = routes(r#"[{"match": {"path": "/admin"}, "upstream": "admin"}, {"upstream": "rest"}]"#);
    assert_eq!(ask(&routes, "GET /projects/group%2Fname", &[]), "rest");
    assert_eq!(ask(&routes, "GET /x/..%2Fadmin", &[]), "ambiguous");
    assert_eq!(ask(&routes, "GET /admin%2Fx", &[]), "ambiguous");
    assert_eq!(ask(&routes, "GET /admin/a%2Fb", &[]), "admin");
    for around in ["/admin;x", "/;/admin", "/.;/admin", "/x/..;/admin", "/admin%3bx", "/admin%3B/x", "/admin;%2f..%2fx"]
    {
        assert_eq!(ask(&routes, &format!("GET {around}"), &[]), "ambiguous", "{around}");
    }
    assert_eq!(ask(&routes, "GET /shop;jsessionid=1/cart", &[]), "rest");
    assert_eq!(ask(&routes, "GET /admin/x;y", &[]), "admin");
}

#[test]
fn redirects_keep_what_they_do_not_say() {
    let redirect = |json: &str| serde_json::from_str::<Redirect>(json).unwrap();
    let to_https = redirect(r#"{"scheme": "https"}"#);
    assert_eq!(to_https.location(false, Some("a.example:8080"), "/x?y=1"), "https://a.example/x?y=1");
    let port = redirect(r#"{"scheme": "https", "port": 8443}"#);
    assert_eq!(port.location(false, Some("[::1]:80"), "/"), "https://[::1]:8443/");
    let port = redirect(r#"{"port": 443}"#);
    assert_eq!(
        port.location(true, Some("a.example:8443"), "/"),
        "https://a.example/",
        "the scheme's own is not written"
    );
    assert_eq!(port.location(false, Some("a.example"), "/"), "http://a.example:443/");
    let both = redirect(r#"{"scheme": "http", "port": 80}"#);
    assert_eq!(both.location(true, Some("a.example:8443"), "/"), "http://a.example/");
    let host = redirect(r#"{"host": "www.example.com"}"#);
    assert_eq!(host.location(false, Some("example.com:8080"), "/"), "http://www.example.com:8080/");
    assert_eq!(redirect(r#"{"path": "/new"}"#).location(true, Some("a"), "/old?x"), "https://a/new");
    assert_eq!(redirect(r#"{"path": "/new"}"#).location(true, None, "/old"), "/new");
}

proptest! {
    /// The index is only a short cut: it decides as trying every route in order does, and that by the rules.
    #[test]
    fn the_first_match_wins_whatever_the_index_says(
        said in prop::collection::vec(
            (
                prop::option::of("(\\*\\.)?[ab](\\.[ab]){0,2}"),
                prop::option::of("(/[ab]){0,2}/?"),
                prop::option::of("(/[ab]){1,2}/?"),
            ),
            1..12,
        ),
        host in "[ab](\\.[ab]){0,3}",
        path in "(/[abc]){0,3}/?",
    ) {
        let path = if path.is_empty() { "/".to_owned() } else { path };
        let list = |text: &Option<String>| config::OneOrMany(text.iter().filter(|text| !text.is_empty()).cloned().collect());
        let configs: Vec<Config> = said.iter().enumerate().map(|(place, (host, prefix, exact))| Config {
            name: Some(place.to_string()),
            matches: config::Match {
                host: list(host),
                path: list(prefix),
                path_exact: list(exact),
                ..config::Match::default()
            },
            upstream: Some("any".into()),
            ..Config::default()
        }).collect();
        let expected = configs.iter().position(|config| {
            let config::Match { host: hosts, path: prefixes, path_exact, .. } = &config.matches;
            let host_fits = hosts.0.first().is_none_or(|said| match said.strip_prefix("*.") {
                Some(under) => host.ends_with(&format!(".{under}")),
                None => *said == host,
            });
            let begins = |prefix: &String| format!("{path}/").starts_with(&format!("{}/", prefix.trim_end_matches('/')));
            let path_fits = prefixes.0.is_empty() && path_exact.0.is_empty()
                || prefixes.0.iter().any(begins)
                || path_exact.0.contains(&path);
            host_fits && path_fits
        });
        let expected = expected.map_or("nowhere".to_owned(), |place| place.to_string());
        for indexed in [false, true] {
            let got = ask(&Routes::build_indexed(&configs, indexed, |_| Rules::default()), &format!("GET {host}{path}"), &[]);
            prop_assert_eq!(&got, &expected, "indexed: {}", indexed);
        }
    }
}

#[test]
fn a_request_of_many_labels_and_segments_is_found_among_many_routes() {
    let mut configs: Vec<Config> = (0..1000)
        .map(|number| {
            let json = format!(
                r#"{{"match": {{"host": "*.h{number}.example", "path": "/a/{number}"}}, "upstream": "u{number}"}}"#
            );
            serde_json::from_str(&json).unwrap()
        })
        .collect();
    configs.push(serde_json::from_str(r#"{"upstream": "rest"}"#).unwrap());
    let routes = Routes::build(&configs);
    let (labels, segments) = ("x.".repeat(5000), "/y".repeat(5000));
    assert_eq!(ask(&routes, &format!("GET {labels}h700.example/a/700{segments}"), &[]), "u700");
    assert_eq!(ask(&routes, &format!("GET {labels}h700.example{segments}"), &[]), "rest");
    assert_eq!(ask(&routes, "GET h700.example/a/700", &[]), "rest");
}

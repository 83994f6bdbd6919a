//! What routes look at, whatever carries a request.

use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::tls::Authority;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway};

for_each_engine! {
    expressions_clients_cookies_and_ports_decide_for_requests_streams_and_sockets,
    the_name_of_tls_decides,
    expressions_in_cel_decide,
}

async fn expressions_clients_cookies_and_ports_decide_for_requests_streams_and_sockets() {
    let (some, rest) = (Echo::start("some").await, Echo::start("rest").await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match:
      path_regex: \"^/v[0-9]+/\"
      client: 127.0.0.0/8
      not: [{{ cookies: {{ beta: off }} }}, {{ client: 127.0.0.9 }}]
      any: [{{ headers_regex: {{ x-plan: \"^gold\" }} }}, {{ query: {{ plan: gold }} }}]
    upstream: some
  - {{ match: {{ port: 1 }}, respond: {{ status: 404 }} }}
  - {{ upstream: rest }}
upstreams:
  some: {{ servers: [\"{}\"], health: {{ check: none }} }}
  rest: {{ servers: [\"{}\"], health: {{ check: none }} }}
",
        some.address(),
        rest.address()
    ))
    .await;
    let address = gateway.address("web");
    let cases = [
        ("/v1/x?plan=gold", "", "some"),
        ("/v1/x", "X-Plan: golden\r\n", "some"),
        ("/v1/x", "X-Plan: silver\r\n", "rest"),
        ("/v1/x?plan=gold", "Cookie: a=b; beta=off\r\n", "rest"),
        ("/x?plan=gold", "", "rest"),
        ("/a/../v2/x?plan=gold", "", "some"),
    ];
    let http2 = Http2::over(tcp(address).await).await;
    for (path, fields, name) in cases {
        let answer = Client::connect(address).await.get_with(path, fields).await;
        assert_eq!(answer.header("x-server"), Some(name), "{path} {fields}");
        let mut socket = Client::connect(address).await;
        socket.send(upgrade(path).replacen("\r\n", &format!("\r\n{fields}"), 1)).await;
        let opened = socket.answer().await;
        assert_eq!((opened.status, opened.header("x-server")), (101, Some(name)), "{path} {fields}");
        let mut request = http::Request::get(format!("http://a.test{path}"));
        if let Some((field, value)) = fields.trim_end().split_once(": ") {
            request = request.header(field, value);
        }
        let answer = http2.ask(request.body(()).unwrap(), "").await;
        assert_eq!(answer.headers()["x-server"], name, "{path} {fields}");
    }
    let answer = Client::connect_from(9, address).await.get("/v1/x?plan=gold").await;
    assert_eq!(answer.header("x-server"), Some("rest"), "not that client");
}

async fn the_name_of_tls_decides() {
    let authority = Authority::new();
    let issued = authority.sign(&["a.test", "b.test"]);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes:
  - {{ match: {{ server_name: a.test }}, respond: {{ body: a }} }}
  - {{ respond: {{ body: rest }} }}
",
        issued.yaml()
    ))
    .await;
    for (name, body) in [("a.test", "a"), ("b.test", "rest")] {
        let mut client = authority.client(&[]).open(gateway.address("web"), name).await;
        assert_eq!(client.get("/").await.text(), body, "{name}");
    }
}

async fn expressions_in_cel_decide() {
    let (some, rest) = (Echo::start("some").await, Echo::start("rest").await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ when: 'request.headers[\"x-tenant\"] == \"a\" && client.ip in cidr(\"127.0.0.0/8\") && int(request.query.v) > 1' }}
    upstream: some
  - {{ upstream: rest }}
upstreams:
  some: {{ servers: [\"{}\"], health: {{ check: none }} }}
  rest: {{ servers: [\"{}\"], health: {{ check: none }} }}
",
        some.address(),
        rest.address()
    ))
    .await;
    let address = gateway.address("web");
    let http2 = Http2::over(tcp(address).await).await;
    for (path, tenant, name) in [
        ("/?v=2", "a", "some"),
        ("/?v=1", "a", "rest"),
        ("/?v=2", "b", "rest"),
        ("/", "a", "rest"),
        ("/?v=x", "a", "rest"),
    ] {
        let fields = format!("X-Tenant: {tenant}\r\n");
        let answer = Client::connect(address).await.get_with(path, &fields).await;
        assert_eq!(answer.header("x-server"), Some(name), "{path} {tenant}");
        let mut socket = Client::connect(address).await;
        socket.send(upgrade(path).replacen("\r\n", &format!("\r\n{fields}"), 1)).await;
        assert_eq!(socket.answer().await.header("x-server"), Some(name), "{path} {tenant}");
        let request = http::Request::get(format!("http://a.test{path}")).header("x-tenant", tenant);
        let answer = http2.ask(request.body(()).unwrap(), "").await;
        assert_eq!(answer.headers()["x-server"], name, "{path} {tenant}");
    }
    assert!(
        gateway.metric("sockgate_expression_failures_total").await >= 3.0,
        "what is no number is a failure each time"
    );
    let line = gateway.log_line("does not hold, since it fails").await;
    assert!(line.contains("int(request.query.v) > 1"), "{line}");
    assert_eq!(gateway.log_lines("does not hold, since it fails").len(), 1, "it is told once");
}

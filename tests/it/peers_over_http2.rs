//! Sessions at a peer whose clients speak HTTP/2: requests on streams, and WebSockets over them (RFC 8441).

use h2::ext::Protocol;
use http::{Method, Request};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::net::TcpStream;

use crate::support::client::tcp;
use crate::support::eio::{Eio, poll};
use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::http2::{Http2, whole};
use crate::support::node::Node;
use crate::support::pods::Pods;
use crate::support::polling::Polling;
use crate::support::tls::Authority;
use crate::support::websocket::{FIN, GOODBYE, TEXT, close, echoes, frame};
use crate::support::{Client, Gateway, Setup, eventually, within};

for_each_engine! {
    a_session_polls_over_http_2_through_a_gateway_that_does_not_have_it(flavor = "multi_thread"),
}

for_the_relay! {
    a_session_comes_to_its_websocket_over_http_2_through_a_gateway_that_does_not_have_it(flavor = "multi_thread"),
    the_server_sees_the_opening_as_if_it_had_come_to_its_gateway,
    an_opening_for_a_session_that_nobody_has_is_answered_by_a_server,
    an_opening_for_a_session_whose_gateway_is_gone_is_answered_by_another_server_at_once,
    a_goodbye_of_either_gateway_comes_in_the_stream,
}

const OFFERED: &str = "http2_websockets: true";
const ORIGIN: &str = "http://a.test";

/// Two gateways, each before a real server of Socket.IO.
async fn with_workers() -> ([Node; 2], Pods) {
    let workers = [Node::server("v4", &["--id", "a"]).await, Node::server("v4", &["--id", "b"]).await];
    let setup =
        |worker: &Node| Setup::before_nodes(std::slice::from_ref(worker)).upstream("kind: socket.io").listener(OFFERED);
    let pods = Pods::before(workers.iter().map(setup)).await;
    (workers, pods)
}

/// Two gateways, each before a server that the test looks into; the second one has the session `there`.
async fn watched(more: impl Fn(Setup) -> Setup) -> ([Eio; 2], Pods) {
    let servers = [Eio::start("a").await, Eio::start("b").await];
    let setup = |server: &Eio| more(Setup::before(&[server.address()]).upstream("kind: socket.io").listener(OFFERED));
    let pods = Pods::before(servers.iter().map(setup)).await;
    servers[1].knows("there");
    (servers, pods)
}

async fn http2(gateway: &Gateway) -> Http2 {
    Http2::over(tcp(gateway.address("web")).await).await
}

/// The same, once it is known to take WebSockets.
async fn for_websockets(gateway: &Gateway) -> Http2 {
    let client = http2(gateway).await;
    client.get(&format!("{ORIGIN}/")).await;
    assert!(client.takes_websockets());
    client
}

fn opening(origin: &str, sid: &str) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(format!("{origin}/socket.io/?EIO=4&transport=websocket&sid={sid}"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "chat")
        .header("origin", origin)
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(())
        .unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request
}

/// Tries to open a WebSocket: the status of what is answered in its place, and what that says.
async fn refused(client: &Http2, sid: &str) -> (u16, String) {
    let (answer, _sending) = client.open(opening(ORIGIN, sid)).await;
    let answer = whole(answer).await;
    (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
}

/// A session that polls over one connection of HTTP/2.
struct Streams {
    http2: Http2,
    url: String,
}

impl Streams {
    async fn of(session: &Polling, gateway: &Gateway) -> Self {
        Self { http2: http2(gateway).await, url: format!("{ORIGIN}{}", session.path()) }
    }

    /// Sends a packet; with `length` the request says how long it is.
    async fn say(&self, packet: &str, length: bool) {
        let mut request = Request::post(&self.url).header("content-type", "text/plain;charset=UTF-8");
        if length {
            request = request.header("content-length", packet.len());
        }
        let answer = self.http2.ask(request.body(()).unwrap(), packet.to_owned()).await;
        assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (200, &b"ok"[..]));
    }

    async fn poll(&self) -> String {
        let answer = self.http2.get(&self.url).await;
        assert_eq!(answer.status(), 200);
        String::from_utf8(answer.into_body()).unwrap()
    }
}

async fn a_session_polls_over_http_2_through_a_gateway_that_does_not_have_it() {
    let (_workers, pods) = with_workers().await;
    let [here, there] = [&pods.gateways[0], &pods.gateways[1]];
    for length in [true, false] {
        let session = Polling::open(&[there.address("web")]).await;
        let streams = Streams::of(&session, here).await;
        // The first that comes here has a body, and waits until the session is found.
        streams.say("420[\"who\"]", length).await;
        assert_eq!(streams.poll().await, "430[\"b\"]");
        // A poll that waits, and beside it what it waits for.
        let poll = streams.http2.begin(Request::get(&streams.url).body(()).unwrap(), "").await;
        let echo = json!(["echo", "x".repeat(300_000)]).to_string();
        // Both answers are read as they come: the long one may come first, and takes all that the connection may hold.
        let said = format!("421{echo}");
        let (answer, ()) = tokio::join!(within("the poll", whole(poll)), streams.say(&said, length));
        assert_eq!(answer.body().len(), "431[\"\"]".len() + 300_000);
        // Its end is heard of at both: clients say how long that is.
        streams.say("1", true).await;
    }
    // The first that comes here may be the last.
    let session = Polling::open(&[there.address("web")]).await;
    Streams::of(&session, here).await.say("1", true).await;
    for (gateway, upstream) in [(here, "app@peers"), (there, "app")] {
        let ended = format!("sockgate_sessions_ended_total{{upstream=\"{upstream}\",cause=\"client\"}}");
        eventually("all sessions are over", async || gateway.metric(&ended).await == 3.0).await;
    }
    here.access_line(&["protocol=HTTP/2", "search=peer", "app@peers"]).await;
    let searched = "sockgate_session_searches_total{result=\"peer\",upstream=\"app\"}";
    assert_eq!(here.metric(searched).await, 3.0, "each is asked for once");
}

/// The next frame of a server, which is a text of that length.
async fn text(socket: &mut Client, length: usize) -> String {
    let whole = socket.read(2 + length).await;
    assert_eq!(whole[..2], [FIN | TEXT, u8::try_from(length).unwrap()]);
    String::from_utf8(whole[2..].to_vec()).unwrap()
}

async fn say(socket: &mut Client, words: &str) {
    socket.send(frame(FIN | TEXT, words.as_bytes(), true)).await;
}

async fn a_session_comes_to_its_websocket_over_http_2_through_a_gateway_that_does_not_have_it() {
    let (workers, pods) = with_workers().await;
    let [here, there] = [&pods.gateways[0], &pods.gateways[1]];
    let session = Polling::open(&[there.address("web")]).await;
    let client = for_websockets(here).await;
    let mut socket = client.websocket(opening(ORIGIN, &session.sid)).await;
    say(&mut socket, "2probe").await;
    assert_eq!(text(&mut socket, 6).await, "3probe");
    say(&mut socket, "5").await;
    say(&mut socket, "420[\"who\"]").await;
    assert_eq!(text(&mut socket, 8).await, "430[\"b\"]");
    assert_eq!(workers[1].stats().await["upgrades"], 1);
    for (gateway, upstream) in [(here, "app@peers"), (there, "app")] {
        let open = format!("sockgate_tunnels_open{{upstream=\"{upstream}\"}}");
        eventually("it is a tunnel", async || gateway.metric(&open).await == 1.0).await;
    }
    let lives = "sockgate_sessions{upstream=\"app\",server=\"b\"}";
    assert_eq!((here.metric(lives).await, there.metric(lives).await), (0.0, 1.0));
    socket.send(close(1000, true)).await;
    socket.finish().await;
    assert_eq!(socket.read_all().await, close(1000, false));
    here.access_line(&["event=close", "protocol=WebSocket", "status=200", "app@peers", "search=peer"]).await;
    there.access_line(&["event=close", "protocol=WebSocket", "status=101", "close_code=1000"]).await;
    eventually("the session is over", async || there.metric(lives).await == 0.0).await;
    assert_eq!(client.get(&format!("{ORIGIN}/")).await.status(), 200, "the connection goes on");
}

/// The heads of openings that a server got, without what is new in each.
fn openings(server: &Eio) -> Vec<Vec<String>> {
    let heads = server.heard().into_iter().map(|head| head.to_ascii_lowercase());
    let differs = ["sec-websocket-key:", "x-request-id:", "x-forwarded-port:"];
    let lines = |head: String| {
        let kept = head.lines().filter(|line| !line.is_empty() && !differs.iter().any(|name| line.starts_with(name)));
        let mut kept: Vec<String> = kept.map(str::to_owned).collect();
        kept.sort_unstable();
        kept
    };
    heads.filter(|head| head.contains("upgrade: websocket")).map(lines).collect()
}

async fn the_server_sees_the_opening_as_if_it_had_come_to_its_gateway() {
    let authority = Authority::new();
    let certificate = authority.sign(&["a.test"]).yaml();
    let (servers, pods) = watched(|setup| {
        setup
            .another_listener(format!("name: secure, {OFFERED}, tls: {{ certificates: [{certificate}] }}"))
            .route("request_headers: { add: { x-way: one } }, response_headers: { add: { x-back: one } }")
    })
    .await;
    let origin = "https://a.test";
    for gateway in &pods.gateways {
        let stream = authority.client(&["h2"]).connect(gateway.address("secure"), "a.test").await.unwrap();
        let client = Http2::over(stream).await;
        client.get(&format!("{origin}/")).await;
        let (answer, sending) = client.open(opening(origin, "there")).await;
        let (head, body) = within("the answer", answer).await.unwrap().into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.headers.get_all("x-back").iter().count(), 1, "rules are applied once: {:?}", head.headers);
        for name in ["sockgate-peer", "upgrade", "connection", "sec-websocket-accept"] {
            assert!(!head.headers.contains_key(name), "{name}");
        }
        let mut socket = Http2::both_ways(sending, body);
        echoes(&mut socket).await;
        socket.send(close(1000, true)).await;
        socket.finish().await;
        socket.read_all().await;
    }
    let heads = openings(&servers[1]);
    assert_eq!((openings(&servers[0]).len(), heads.len()), (0, 2));
    assert_eq!(heads[0], heads[1]);
    let text = heads[0].join("\n");
    for line in [
        "host: a.test",
        "cookie: a=1; b=2",
        "sec-websocket-protocol: chat",
        "sec-websocket-version: 13",
        "x-forwarded-proto: https",
        "x-forwarded-for: 127.0.0.1",
        "x-way: one",
    ] {
        assert!(heads[0].iter().any(|known| known == line), "{line} in\n{text}");
    }
    assert!(!text.contains("sockgate-peer"), "{text}");
}

async fn an_opening_for_a_session_that_nobody_has_is_answered_by_a_server() {
    let (servers, pods) = watched(|setup| setup).await;
    let client = for_websockets(&pods.gateways[0]).await;
    let (status, said) = refused(&client, "made-up").await;
    assert!(status == 400 && said.contains("\"code\":1"), "{status} {said}");
    // One that has ended at the peer is told so by the server that had it.
    echoes(&mut client.websocket(opening(ORIGIN, "there")).await).await;
    servers[1].forgets("there");
    for _ in 0..2 {
        let (status, said) = refused(&client, "there").await;
        assert!(status == 400 && said.contains("\"code\":1"), "{status} {said}");
    }
    assert_eq!(client.get(&format!("{ORIGIN}/")).await.status(), 200, "the connection goes on");
}

async fn an_opening_for_a_session_whose_gateway_is_gone_is_answered_by_another_server_at_once() {
    let (servers, mut pods) = watched(|setup| setup).await;
    let client = for_websockets(&pods.gateways[0]).await;
    assert_eq!(poll(pods.web()[0], "there").await.text(), "4b");
    let web = pods.web()[1];
    drop(pods.gateways.remove(1));
    eventually("nobody listens there", async || TcpStream::connect(web).await.is_err()).await;
    let heard = servers[0].heard().len();
    let (status, said) = refused(&client, "there").await;
    assert!(status == 400 && said.contains("\"code\":1"), "{status} {said}");
    assert!(servers[0].heard().len() > heard, "by the server that is left");
}

async fn a_goodbye_of_either_gateway_comes_in_the_stream() {
    let stops = "drain: { delay: 0s, over: 0s, deadline: 10s }";
    for stopped in 0..2 {
        let (_servers, mut pods) = watched(|setup| setup.more(stops)).await;
        let client = for_websockets(&pods.gateways[0]).await;
        let mut socket = client.websocket(opening(ORIGIN, "there")).await;
        echoes(&mut socket).await;
        pods.gateways[stopped].signal(Signal::SIGTERM);
        let said = socket.read_all().await;
        assert_eq!(said, GOODBYE, "of gateway {stopped}");
        socket.finish().await;
        assert_eq!(pods.gateways[stopped].ended().await, 0);
        if stopped == 0 {
            client.closed().await.expect("a proper end");
        } else {
            assert_eq!(client.get(&format!("{ORIGIN}/")).await.status(), 200, "the connection goes on");
        }
    }
}

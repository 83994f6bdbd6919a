//! Nobody can hold a place by saying little or nothing, and nobody who makes progress is cut off.
//!
//! Deadlines are coarse, up to half a second late, and machines are busy: bounds below are strict, those above generous.

use std::time::{Duration, Instant};

use tokio::net::TcpSocket;

use crate::support::client::tcp;
use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::http2::Http2;
use crate::support::{Client, Echo, Gateway, Puppet, Setup, eventually, within};

for_each_engine! {
    a_head_that_comes_in_drops_is_cut_off,
    silence_and_drops_share_the_time_of_the_first_head,
    silent_connections_are_closed,
    a_body_that_stalls_is_cut_off,
    a_body_that_comes_in_drops_holds_no_place_on_its_server,
    a_body_that_comes_in_drops_gives_way_to_whoever_waits_for_its_place,
    a_body_has_a_time_in_all_where_that_is_said,
    an_upload_is_not_blamed_for_a_server_that_takes_nothing,
    a_server_that_is_silent_is_given_up,
    a_client_that_does_not_read_is_given_up,
    a_connect_that_takes_too_long_goes_to_another_server,
}

// Pingora has one time for both, and looks at a body only when more of it comes.
for_the_relay! {
    silence_in_an_answer_has_a_time_of_its_own,
    a_client_that_reads_too_slowly_is_given_up,
    a_body_that_has_stopped_gives_way_to_whoever_waits_for_its_place,
}

const SECOND: Duration = Duration::from_secs(1);
/// How late the end of a time may be seen.
const LATE: Duration = Duration::from_secs(4);

/// Sends a byte every so often until the gateway has had enough; gives what it said and how long that took.
async fn drip(client: &mut Client, bytes: &[u8], started: Instant) -> (Vec<u8>, Duration) {
    let mut bytes = bytes.iter().cycle();
    let mut said = Vec::new();
    let dripping = async {
        loop {
            let byte = bytes.next().unwrap();
            if client.try_send([*byte]).await.is_err() {
                break;
            }
            // The pace of the attack, and meanwhile an ear for the answer.
            match tokio::time::timeout(SECOND / 20, client.some()).await {
                Ok(Some(some)) => said.extend(some),
                Ok(None) => break,
                Err(_) => {}
            }
        }
    };
    within("the gateway has enough", dripping).await;
    (said, started.elapsed())
}

fn assert_took(took: Duration, at_least: Duration) {
    assert!((at_least..at_least + LATE).contains(&took), "{took:?} instead of {at_least:?}");
}

async fn a_head_that_comes_in_drops_is_cut_off() {
    let (_server, gateway) = Gateway::before_echo("timeouts: { head: 1s }").await;
    let first = async {
        let started = Instant::now();
        let mut client = gateway.client().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
        drip(&mut client, b"y", started).await
    };
    let second = async {
        let mut client = gateway.client().await;
        assert_eq!(client.get("/").await.status, 200);
        let started = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: a\r\nX: ").await;
        drip(&mut client, b"y", started).await
    };
    let of_nothing = async {
        let started = Instant::now();
        let mut client = gateway.client().await;
        client.send("P").await;
        drip(&mut client, b"O", started).await
    };
    let (first, second, third) = tokio::join!(first, second, of_nothing);
    for (said, took) in [first, second, third] {
        assert_took(took, SECOND);
        let said = String::from_utf8(said).unwrap();
        assert!(said.starts_with("HTTP/1.1 408 ") && said.contains("connection: close\r\n"), "{said}");
    }
    gateway.access_line(&["status=408", "closed_by=head_timeout"]).await;
}

/// The time for the first head runs from the accept: silence does not put it off.
async fn silence_and_drops_share_the_time_of_the_first_head() {
    let (_server, gateway) = Gateway::before_echo("timeouts: { head: 3s }").await;
    let started = Instant::now();
    let mut client = gateway.client().await;
    assert!(client.stays_silent(2 * SECOND).await);
    client.send("GET / HTTP/1.1\r\nX: ").await;
    assert_eq!(client.answer().await.status, 408);
    let took = started.elapsed();
    assert!((3 * SECOND..5 * SECOND).contains(&took), "{took:?}");
}

async fn silent_connections_are_closed() {
    let (_server, gateway) = Gateway::before_echo("timeouts: { head: 1s, keep_alive: 2s }").await;
    let new = async {
        let started = Instant::now();
        let mut client = gateway.client().await;
        assert_eq!(client.ending().await.unwrap(), b"", "there is nothing to answer");
        assert_took(started.elapsed(), SECOND);
    };
    // Blank lines are no beginning.
    let blank = async {
        let started = Instant::now();
        let mut client = gateway.client().await;
        let (said, took) = drip(&mut client, b"\r\n", started).await;
        assert_took(took, SECOND);
        assert_eq!(said, b"");
    };
    let idle = async {
        let mut client = gateway.client().await;
        let started = Instant::now();
        assert_eq!(client.get("/").await.status, 200);
        assert_eq!(client.ending().await.unwrap(), b"");
        assert_took(started.elapsed(), 2 * SECOND);
    };
    // The second head has the time of a head, not what is left of the idle time.
    let stalled = async {
        let mut client = gateway.client().await;
        assert_eq!(client.get("/").await.status, 200);
        let started = Instant::now();
        client.send("GET / HTTP/1.1\r\nHos").await;
        assert_eq!(client.answer().await.status, 408);
        assert_took(started.elapsed(), SECOND);
    };
    // Whoever asks in time is served for as long as he likes.
    let lively = async {
        let mut client = gateway.client().await;
        for _ in 0..3 {
            assert_eq!(client.get("/").await.status, 200);
            assert!(client.stays_silent(SECOND).await);
        }
    };
    tokio::join!(new, blank, idle, stalled, lively);
}

async fn a_body_that_stalls_is_cut_off() {
    let (_server, gateway) = Gateway::before_echo("timeouts: { body: 1s }\nlimits: { body_rate: 0 }").await;
    let heads = ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"];
    let stalled = async |head: &str| {
        let mut client = gateway.client().await;
        let started = Instant::now();
        client.send(format!("POST /stalled HTTP/1.1\r\nHost: a\r\n{head}")).await;
        assert_eq!(client.answer().await.status, 408);
        assert_took(started.elapsed(), SECOND);
        assert_eq!(client.ending().await.unwrap(), b"");
    };
    let slow = async {
        let mut client = gateway.client().await;
        client.send("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
        for byte in "hello".chars() {
            client.send(byte.to_string()).await;
            assert!(byte == 'o' || client.stays_silent(SECOND / 2).await);
        }
        assert!(client.answer().await.text().ends_with("hello"));
    };
    tokio::join!(stalled(heads[0]), stalled(heads[1]), slow);
    gateway.access_line(&["target=/stalled", "status=408", "closed_by=body_timeout"]).await;
}

async fn a_body_that_comes_in_drops_holds_no_place_on_its_server() {
    let server = Puppet::start().await;
    let more = "timeouts: { body: 1s }\nlimits: { body_rate: 1KiB }";
    let upstream = "max_connections: 1";
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes: [{{ upstream: app }}]
upstreams: {{ app: {{ servers: [{{ address: \"{}\", {upstream} }}], health: {{ check: none }} }} }}
{more}
",
        server.address()
    ))
    .await;
    for framing in ["Content-Length: 1000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"] {
        let started = Instant::now();
        let mut client = gateway.client().await;
        client.send(format!("POST /drops HTTP/1.1\r\nHost: a\r\n{framing}")).await;
        let mut inside = server.accept().await;
        let part: &[u8] = if framing.starts_with('C') { b"x" } else { b"1\r\nx\r\n" };
        let dripping = async { while client.try_send(part).await.is_ok() && client.stays_silent(SECOND / 20).await {} };
        within("the gateway has enough", dripping).await;
        assert_eq!(client.answer().await.status, 408, "{framing}");
        assert_took(started.elapsed(), SECOND);
        inside.read_all().await;
        gateway.access_line(&["target=/drops", "status=408", "closed_by=body_timeout"]).await;
    }
    let mut other = gateway.client().await;
    other.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(other.answer().await.status, 200);
}

/// A gateway before a server with one place, and times and rates as they are by default.
async fn before_one_place(server: &Puppet, queue: &str) -> Gateway {
    Setup::default()
        .server(format!("address: \"{}\", max_connections: 1", server.address()))
        .unchecked()
        .upstream(queue)
        .start()
        .await
}

/// Asks until there is a place; the server answers.
async fn asks_until_served(gateway: &Gateway, server: &Puppet) {
    let answering = async {
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        inside
    };
    let asking = eventually("there is a place", async || gateway.client().await.get("/next").await.status == 200);
    tokio::join!(answering, asking);
}

async fn a_body_that_comes_in_drops_gives_way_to_whoever_waits_for_its_place() {
    let part = |framing: &str| if framing.starts_with('C') { "x" } else { "1\r\nx\r\n" };
    for (queue, framing) in [
        ("queue: { timeout: 10s }", "Content-Length: 1000000\r\n\r\n"),
        ("queue: { timeout: 10s }", "Transfer-Encoding: chunked\r\n\r\n"),
        ("queue: { size: 0 }", "Content-Length: 1000000\r\n\r\n"),
    ] {
        let server = Puppet::start().await;
        let gateway = before_one_place(&server, queue).await;
        let mut client = gateway.client().await;
        client.send(format!("POST /drops HTTP/1.1\r\nHost: a\r\n{framing}")).await;
        let mut inside = server.accept().await;
        // Nobody waits yet: it goes on for as long as it likes.
        for _ in 0..10 {
            client.send(part(framing)).await;
            assert!(client.stays_silent(SECOND / 2).await);
        }
        let dripping = tokio::spawn(async move {
            while client.try_send(part(framing)).await.is_ok() && client.stays_silent(SECOND / 2).await {}
            client
        });
        asks_until_served(&gateway, &server).await;
        assert_eq!(within("a refusal", dripping).await.unwrap().answer().await.status, 408, "{framing}");
        inside.read_all().await;
        gateway.access_line(&["target=/drops", "status=408", "closed_by=body_timeout"]).await;
    }
}

async fn a_body_that_has_stopped_gives_way_to_whoever_waits_for_its_place() {
    let server = Puppet::start().await;
    let gateway = before_one_place(&server, "queue: { timeout: 10s }").await;
    let mut client = gateway.client().await;
    client.send("POST /stopped HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nx").await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\nx").await;
    asks_until_served(&gateway, &server).await;
    assert_eq!(client.answer().await.status, 408);
    inside.read_all().await;

    let streams = Http2::over(tcp(gateway.address("web")).await).await;
    let request = http::Request::post("http://a/stream").header("content-length", 1_000_000).body(()).unwrap();
    let (stopped, mut sending) = streams.open(request).await;
    sending.send_data("x".into(), false).unwrap();
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\nx").await;
    asks_until_served(&gateway, &server).await;
    assert_eq!(within("a refusal", stopped).await.unwrap().status(), 408);
    inside.read_all().await;

    // One that comes fast enough stays, however long others wait.
    let mut client = gateway.client().await;
    client.send("POST /fast HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n").await;
    client.send([b'x'; 100_000]).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    let mut other = gateway.client().await;
    other.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(client.stays_silent(6 * SECOND).await);
    client.send(vec![b'x'; 900_000]).await;
    inside.read(1_000_000).await;
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
}

async fn a_body_has_a_time_in_all_where_that_is_said() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "timeouts: { request: 1s }").await;
    let started = Instant::now();
    let mut client = gateway.client().await;
    client.send("POST /long HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n").await;
    let mut inside = server.accept().await;
    let reading = tokio::spawn(async move { while inside.some().await.is_some() {} });
    let part = [b'x'; 10_000];
    let sending = async { while client.try_send(part).await.is_ok() && client.stays_silent(SECOND / 20).await {} };
    within("the gateway has enough", sending).await;
    assert_eq!(client.answer().await.status, 408);
    assert_took(started.elapsed(), SECOND);
    reading.await.unwrap();
}

async fn an_upload_is_not_blamed_for_a_server_that_takes_nothing() {
    const LENGTH: usize = 20_000_000;
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "timeouts: { body: 1s }\nlimits: { body_rate: 1MiB }").await;
    let mut client = gateway.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n")).await;
    let mut inside = server.accept().await;
    inside.read_until(b"\r\n\r\n").await;
    let sending = tokio::spawn(async move {
        client.send(vec![b'x'; LENGTH]).await;
        client
    });
    // In this time the body would have had to bring more than the sockets hold.
    tokio::time::sleep(4 * SECOND).await;
    assert_eq!(inside.read(LENGTH).await.len(), LENGTH);
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(within("the upload", sending).await.unwrap().answer().await.status, 200);
}

async fn silence_in_an_answer_has_a_time_of_its_own() {
    let server = Puppet::start().await;
    let upstream = "timeouts: { first_byte: 500ms, read_idle: 3s }";
    let gateway = Gateway::before(&[server.address()], upstream, "").await;
    let events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let by_http_1 = async {
        let mut client = gateway.client().await;
        client.send("GET /events HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(events).await;
        client.read_until(b"\r\n\r\n").await;
        for _ in 0..2 {
            assert!(client.stays_silent(2 * SECOND).await, "nothing ends it");
            inside.send("3\r\n:\n\n\r\n").await;
            client.read_until(b":\n\n\r\n").await;
        }
        let started = Instant::now();
        assert_eq!(client.read_all().await, b"");
        assert_took(started.elapsed(), 3 * SECOND);
    };
    by_http_1.await;
    gateway.access_line(&["target=/events", "status=200", "closed_by=server"]).await;
    let streams = Http2::over(tcp(gateway.address("web")).await).await;
    let stream = streams.begin(http::Request::get("http://a/stream").body(()).unwrap(), "").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send(events).await;
    let mut answer = within("the head", stream).await.unwrap().into_body();
    assert!(tokio::time::timeout(2 * SECOND, answer.data()).await.is_err(), "nothing ends it");
    let started = Instant::now();
    inside.send("1\r\nx\r\n").await;
    assert_eq!(&within("more of it", answer.data()).await.unwrap().unwrap()[..], b"x");
    assert!(within("the end", answer.data()).await.unwrap().is_err());
    assert_took(started.elapsed(), 3 * SECOND);
}

async fn a_server_that_is_silent_is_given_up() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "timeouts: { first_byte: 500ms, read_idle: 500ms }", "").await;
    let mut client = gateway.client().await;
    let started = Instant::now();
    client.send("GET /late HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    assert_eq!(client.answer().await.status, 504);
    assert_took(started.elapsed(), SECOND / 2);
    assert_eq!(inside.read_all().await, b"", "the server is let go");
    gateway.access_line(&["target=/late", "status=504", "closed_by=answer_timeout"]).await;

    // In the middle of an answer, all that can be done is to cut it.
    let mut client = gateway.client().await;
    client.send("GET /stalled HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    let started = Instant::now();
    inside.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    client.read_until(b"half\r\n").await;
    assert_eq!(client.read_all().await, b"", "no last chunk");
    assert_took(started.elapsed(), SECOND / 2);
    assert_eq!(inside.read_all().await, b"");

    // One that goes on speaking may take as long as it likes.
    let mut client = gateway.client().await;
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await;
    for byte in "hello".chars() {
        assert!(inside.stays_silent(SECOND / 4).await);
        inside.send(byte.to_string()).await;
    }
    assert_eq!(client.answer().await.body, b"hello");
}

async fn a_client_that_does_not_read_is_given_up() {
    let (server, gateway) = Gateway::before_puppet("timeouts: { write: 1s }").await;
    let mut client = gateway.client().await;
    client.send("GET /much HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    let part = vec![b'x'; 100_000];
    let writing = async { while inside.try_send(&part).await.is_ok() {} };
    within("the server is let go", writing).await;
    gateway.access_line(&["target=/much", "closed_by=write_timeout"]).await;
    drop(client);
}

/// Reads a little of an answer without end, again and again, for so long or until there is no more.
async fn sip(client: &mut Client, time: Duration) -> Duration {
    let started = Instant::now();
    while started.elapsed() < time && matches!(tokio::time::timeout(time, client.some()).await, Ok(Some(_))) {
        tokio::time::sleep(SECOND / 100).await;
    }
    started.elapsed()
}

async fn a_client_that_reads_too_slowly_is_given_up() {
    let long = SECOND * 60;
    let (server, gateway) = Gateway::before_puppet("timeouts: { write: 2s }\nlimits: { answer_rate: 1GiB }").await;
    let answer = async |client: &mut Client, path: &str, field: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let mut inside = server.accept().await;
        inside.request().await.unwrap();
        inside.send(format!("HTTP/1.1 200 OK\r\n{field}Content-Length: 100000000000\r\n\r\n")).await;
        inside
    };
    let flood =
        |mut inside: Client| tokio::spawn(async move { while inside.try_send(vec![b'x'; 1_000_000]).await.is_ok() {} });
    let mut client = gateway.client().await;
    let writing = flood(answer(&mut client, "/slow", "").await);
    assert!(sip(&mut client, long).await < long, "it is cut");
    within("the server is let go", writing).await.unwrap();
    gateway.access_line(&["target=/slow", "closed_by=answer_rate"]).await;
    // Who listens to events reads as fast as they are to be told.
    let mut client = gateway.client().await;
    let events = "Content-Type: text/event-stream; charset=utf-8\r\n";
    let writing = flood(answer(&mut client, "/events", events).await);
    assert!(sip(&mut client, SECOND * 5).await >= SECOND * 5 && !writing.is_finished(), "it goes on");
    let streams = Http2::over(tcp(gateway.address("web")).await).await;
    let (head, mut sending) = streams.open(http::Request::get("http://a.test/stream").body(()).unwrap()).await;
    sending.send_data(bytes::Bytes::new(), true).unwrap();
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n").await;
    tokio::spawn(async move { while inside.try_send(vec![b'x'; 1_000_000]).await.is_ok() {} });
    let mut body = within("the answer", head).await.unwrap().into_body();
    let reading = async {
        while let Some(Ok(part)) = body.data().await {
            let _ = body.flow_control().release_capacity(part.len());
            tokio::time::sleep(SECOND / 100).await;
        }
    };
    within("it is cut, too", reading).await;
    gateway.access_line(&["target=/stream", "closed_by=answer_rate"]).await;
}

/// A server whose queue of connections is full answers no SYN: a connect to it goes on and on.
async fn a_connect_that_takes_too_long_goes_to_another_server() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let full = socket.local_addr().unwrap();
    let _listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    loop {
        let connect = tokio::net::TcpStream::connect(full);
        match tokio::time::timeout(SECOND / 2, connect).await {
            Ok(connected) => waiting.push(connected.unwrap()),
            Err(_) => break,
        }
    }
    let server = Echo::start("a").await;
    let upstream = "timeouts: { connect: 500ms, keep_alive: 0s }, ejection: { failures: 0 }";
    let gateway = Gateway::before(&[full, server.address()], upstream, "").await;
    let mut client = gateway.client().await;
    let started = Instant::now();
    for _ in 0..2 {
        assert_eq!(client.get("/").await.header("x-server"), Some("a"));
    }
    assert_took(started.elapsed(), SECOND / 2);
    gateway.access_line(&["status=200", "tries=2"]).await;

    let gateway = Gateway::before(&[full], upstream, "").await;
    let mut client = gateway.client().await;
    assert_eq!(client.get("/").await.status, 502);
}

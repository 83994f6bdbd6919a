//! What one stranger, or one slow machine, can take of the gateway: time, memory, and places on servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::support::client::numbered;
use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::http2::Http2;
use crate::support::tls::Authority;
use crate::support::{A_WHILE, Client, Gateway, Puppet, Scripted, eventually, within};

for_each_engine! {
    a_client_that_reads_slowly_is_not_given_up,
    a_client_is_not_given_up_while_it_takes_anything,
}

// What Pingora makes wait is its own.
for_the_relay! {
    a_connection_of_http_2_is_not_given_up_while_it_takes_anything,
    a_server_is_not_given_up_while_it_takes_anything,
    a_client_that_does_not_read_costs_little,
    a_connection_of_http_2_costs_little_however_many_streams_it_opens,
    whoever_makes_most_wait_goes_when_it_is_too_much,
    whoever_goes_on_reading_stays_when_others_have_stopped,
    a_small_body_that_comes_slowly_over_http_2_takes_no_place,
}

/// A connection whose client has next to no room for what it has not read.
async fn narrow(address: std::net::SocketAddr) -> tokio::net::TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    within("connect", socket.connect(address)).await.unwrap()
}

/// The next request is answered with this body, which goes as fast as it is taken.
async fn answer_next(server: &Puppet, body: Vec<u8>) -> JoinHandle<()> {
    let mut inside = server.accept().await;
    inside.request().await.unwrap();
    inside.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    tokio::spawn(async move {
        let _ = inside.try_send(body).await;
        let _ = inside.some().await;
    })
}

/// How much somebody who reads 128 KiB in a second should have by now.
fn wanted(started: Instant) -> usize {
    usize::try_from(started.elapsed().as_millis()).unwrap() * 128
}

/// A server in the test's hands, behind a plain listener and one with TLS, whose clients may take nothing for `write`.
async fn plain_and_secure(write: Duration) -> (Puppet, Gateway, Authority) {
    let authority = Authority::new();
    let server = Puppet::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes: [{{ upstream: app }}]
upstreams: {{ app: {{ servers: [\"{}\"], health: {{ check: none }} }} }}
timeouts: {{ write: {write:?} }}
",
        authority.sign(&["localhost"]).yaml(),
        server.address()
    ))
    .await;
    (server, gateway, authority)
}

/// The kernel takes megabytes of an answer, and says nothing for as long as its client takes to read them: that client has
/// not stopped reading.
async fn a_client_that_reads_slowly_is_not_given_up() {
    const WRITE: Duration = Duration::from_secs(3);
    let body = numbered(8_000_000);
    let (server, gateway, authority) = plain_and_secure(WRITE).await;
    let mut plain = Client::over(narrow(gateway.address("web")).await);
    plain.send("GET /plain HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let _plain = answer_next(&server, body.clone()).await;
    let tls = narrow(gateway.address("secure")).await;
    let tls = authority.client(&["http/1.1"]).over(tls, "localhost").await.unwrap();
    let mut secure = Client::over(tls);
    secure.send("GET /secure HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let _secure = answer_next(&server, body.clone()).await;
    let streams = Http2::over(narrow(gateway.address("web")).await).await;
    let request = Request::get("http://a/stream").body(()).unwrap();
    let stream = streams.begin(request, "").await;
    let _stream = answer_next(&server, body.clone()).await;

    let slowly = async |mut client: Client| {
        client.read_until(b"\r\n\r\n").await;
        let (started, mut got) = (Instant::now(), Vec::new());
        while started.elapsed() < 3 * WRITE {
            while got.len() < wanted(started) {
                got.extend(client.read(8 * 1024).await);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        got.extend(client.read(body.len() - got.len()).await);
        assert!(got == body);
    };
    let slowly_by_stream = async {
        let mut answer = within("a head", stream).await.unwrap().into_body();
        let (started, mut got) = (Instant::now(), Vec::new());
        while got.len() < body.len() {
            let some = within("more of the body", answer.data()).await.unwrap().unwrap();
            got.extend_from_slice(&some);
            while started.elapsed() < 3 * WRITE && got.len() > wanted(started) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer.flow_control().release_capacity(some.len()).unwrap();
        }
        assert!(got == body);
    };
    tokio::join!(slowly(plain), slowly(secure), slowly_by_stream);
    for target in ["target=/plain", "target=/secure", "target=/stream"] {
        let line = gateway.access_line(&[target, "status=200", "bytes_out=8000000"]).await;
        assert!(!line.contains("closed_by"), "{line}");
    }
}

/// What a client reads in a second that is slower than the kernel says that some of it has gone.
const LITTLE: usize = 16 * 1024;
/// Less than the kernel takes to say so.
const TAKES_LITTLE: Duration = Duration::from_secs(2);

/// Reads a little at a time, for longer than the kernel says nothing; then all that is to come.
async fn little_by_little(client: &mut Client, length: usize) -> Vec<u8> {
    let (started, mut got) = (Instant::now(), Vec::new());
    while started.elapsed() < 4 * TAKES_LITTLE {
        while got.len() * 1000 < usize::try_from(started.elapsed().as_millis()).unwrap() * LITTLE {
            got.extend(client.read(1024).await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    got.extend(client.read(length - got.len()).await);
    got
}

/// The kernel says that there is room when half of what waits in it has gone, which takes this client longer than it has.
async fn a_client_is_not_given_up_while_it_takes_anything() {
    let body = numbered(800_000);
    let (server, gateway, authority) = plain_and_secure(TAKES_LITTLE).await;
    let mut plain = Client::over(narrow(gateway.address("web")).await);
    plain.send("GET /plain HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let _plain = answer_next(&server, body.clone()).await;
    let tls = narrow(gateway.address("secure")).await;
    let mut secure = Client::over(authority.client(&["http/1.1"]).over(tls, "localhost").await.unwrap());
    secure.send("GET /secure HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let _secure = answer_next(&server, body.clone()).await;
    let mut half = Client::over(narrow(gateway.address("web")).await);
    half.send("GET /half HTTP/1.1\r\nHost: a\r\n\r\n").await;
    half.finish().await;
    let _half = answer_next(&server, body.clone()).await;
    let slowly = async |client: &mut Client| {
        client.read_until(b"\r\n\r\n").await;
        assert!(little_by_little(client, body.len()).await == body);
    };
    tokio::join!(slowly(&mut plain), slowly(&mut secure), slowly(&mut half));
    for target in ["target=/plain", "target=/secure", "target=/half"] {
        let line = gateway.access_line(&[target, "status=200", "bytes_out=800000"]).await;
        assert!(!line.contains("closed_by"), "{line}");
    }
}

async fn a_connection_of_http_2_is_not_given_up_while_it_takes_anything() {
    let body = numbered(800_000);
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", &format!("timeouts: {{ write: {TAKES_LITTLE:?} }}")).await;
    let mut client = Client::over(narrow(gateway.address("web")).await);
    client.send(wide_open(&[1])).await;
    let _answer = answer_next(&server, body.clone()).await;
    little_by_little(&mut client, body.len()).await;
    let rest = tokio::spawn(async move { while client.some().await.is_some() {} });
    let line = gateway.access_line(&["protocol=HTTP/2", "status=200", "bytes_out=800000"]).await;
    assert!(!line.contains("closed_by"), "{line}");
    rest.abort();
}

async fn a_server_is_not_given_up_while_it_takes_anything() {
    let body = numbered(800_000);
    let socket = TcpSocket::new_v4().unwrap();
    // What is accepted has no more room either.
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let server = socket.listen(8).unwrap();
    let upstream = format!("timeouts: {{ write: {TAKES_LITTLE:?} }}");
    let gateway = Gateway::before(&[server.local_addr().unwrap()], &upstream, "").await;
    let by_http_1 = async {
        let mut client = gateway.client().await;
        let head = format!("POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        client.try_send([head.as_bytes(), &body].concat()).await.unwrap();
        assert_eq!(client.answer().await.status, 200);
    };
    let by_http_2 = async {
        let streams = Http2::over(gateway.client().await.into_stream()).await;
        let request = Request::post("http://a/slow").header("content-length", body.len()).body(()).unwrap();
        let answer = streams.begin(request, body.clone()).await;
        assert_eq!(tokio::time::timeout(8 * TAKES_LITTLE, answer).await.unwrap().unwrap().status(), 200);
    };
    let slowly = async || {
        let mut inside = Client::over(within("a connection to the server", server.accept()).await.unwrap().0);
        inside.read_until(b"\r\n\r\n").await;
        assert!(little_by_little(&mut inside, body.len()).await == body);
        inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    };
    tokio::join!(by_http_1, by_http_2, slowly(), slowly());
}

/// A client of HTTP/2 with windows without end, and a GET on each of these streams.
fn wide_open(streams: &[u32]) -> Vec<u8> {
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let window = 0x7fff_ffffu32.to_be_bytes();
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    said.extend(frame(4, 0, 0, &[&[0, 4][..], &window].concat()));
    said.extend(frame(8, 0, 0, &(0x7fff_ffffu32 - 65_535).to_be_bytes()));
    for &stream in streams {
        // GET, http, / and an authority, by the static table.
        said.extend(frame(1, 5, stream, b"\x82\x86\x84\x01\x01a"));
    }
    said
}

/// A server that answers each request with far more than anybody's buffers hold.
async fn bountiful() -> Scripted {
    Scripted::start(|mut client, _| async move {
        while client.request().await.is_some() {
            if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n").await.is_err() {
                return;
            }
            if client.try_send(vec![b'x'; 8_000_000]).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Clients that have asked for that, and do not read it.
async fn readers_of_nothing(gateway: &Gateway, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::over(narrow(gateway.address("web")).await);
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        clients.push(client);
    }
    clients
}

/// Waits until nothing more is taken for anybody; gives what waits then.
async fn all_that_waits(gateway: &Gateway) -> f64 {
    let mut last = 0.0;
    eventually("nothing more is taken", async || {
        tokio::time::sleep(2 * A_WHILE).await;
        let now = gateway.metric("sockgate_buffered_bytes").await;
        now > 0.0 && std::mem::replace(&mut last, now) == now
    })
    .await;
    last
}

async fn a_client_that_does_not_read_costs_little() {
    const CLIENTS: usize = 50;
    let server = bountiful().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    drop(readers_of_nothing(&gateway, 2).await);
    let before = gateway.memory();
    let clients = readers_of_nothing(&gateway, CLIENTS).await;
    let waiting = all_that_waits(&gateway).await / CLIENTS as f64 / 1024.0;
    let each = gateway.memory().saturating_sub(before) / CLIENTS;
    eprintln!("a client that does not read: {waiting:.0} KiB wait, {each} KiB of memory");
    assert!(waiting <= 128.0 && each <= 192, "{waiting} KiB wait, {each} KiB");
    drop(clients);
    eventually("all of it is given back", async || gateway.metric("sockgate_buffered_bytes").await == 0.0).await;
}

async fn a_connection_of_http_2_costs_little_however_many_streams_it_opens() {
    const STREAMS: u32 = 100;
    let server = bountiful().await;
    let gateway = Gateway::before(&[server.address()], "", "").await;
    let before = gateway.memory();
    let mut client = Client::over(narrow(gateway.address("web")).await);
    // And then nothing is read.
    client.send(wide_open(&(0..STREAMS).map(|stream| 1 + 2 * stream).collect::<Vec<_>>())).await;
    let waiting = all_that_waits(&gateway).await / 1024.0;
    let memory = gateway.memory().saturating_sub(before);
    eprintln!("{STREAMS} streams that are not read: {waiting:.0} KiB wait, {memory} KiB of memory");
    assert!(waiting <= 1024.0 && memory <= 6 * 1024, "{waiting} KiB wait, {memory} KiB");
    drop(client);
    eventually("all of it is given back", async || gateway.metric("sockgate_buffered_bytes").await == 0.0).await;
}

async fn whoever_makes_most_wait_goes_when_it_is_too_much() {
    let server = bountiful().await;
    let gateway = Gateway::before(&[server.address()], "", "limits: { buffers: 256KiB }").await;
    let mut clients = Vec::new();
    for _ in 0..40 {
        let mut client = gateway.client().await;
        // How much of an answer is left over for who does not read, the kernel decides; of these all waits.
        client
            .send([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n", &[b'x'; 19_000][..]].concat())
            .await;
        clients.push(client);
    }
    gateway.access_line(&["closed_by=buffers_full"]).await;
    gateway.log_line("limits.buffers: more than 262144 bytes wait").await;
    eventually("there is room again", async || {
        let waiting = gateway.metric("sockgate_buffered_bytes").await;
        waiting > 0.0 && waiting <= 262_144.0
    })
    .await;
    assert!(gateway.metric("sockgate_buffers_cut_total").await > 0.0);
    drop(clients);
    eventually("all of it is given back", async || gateway.metric("sockgate_buffered_bytes").await == 0.0).await;
    let mut other = gateway.client().await;
    other.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(other.answer().await.body.len(), 8_000_000);
}

/// Those who have stopped hold less each, but they hold it for long.
async fn whoever_goes_on_reading_stays_when_others_have_stopped() {
    const STOPPED: usize = 15;
    let server = bountiful().await;
    let gateway = Gateway::before(&[server.address()], "", "limits: { buffers: 720KiB }").await;
    let mut reader = Client::over(narrow(gateway.address("web")).await);
    reader.send("GET /read HTTP/1.1\r\nHost: a\r\n\r\n").await;
    reader.read_until(b"\r\n\r\n").await;
    let got = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&got);
    let reading = tokio::spawn(async move {
        while got.load(Ordering::Relaxed) < 8_000_000 {
            got.fetch_add(reader.read(8_000).await.len(), Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut stopped = Vec::new();
    for round in 0..3 {
        for _ in 0..STOPPED {
            let mut client = gateway.client().await;
            let head = format!("POST /stopped?{round} HTTP/1.1\r\nHost: a\r\nContent-Length: 32000\r\n\r\n");
            client.send([head.as_bytes(), &[b'x'; 31_000]].concat()).await;
            stopped.push(client);
        }
        // What waits for the reader has been taken many times by then.
        let before = count.load(Ordering::Relaxed);
        eventually("the reader reads on", async || count.load(Ordering::Relaxed) >= before + 1_000_000).await;
    }
    gateway.access_line(&["target=/stopped?0", "closed_by=buffers_full"]).await;
    within("all of it", reading).await.unwrap();
    let line = gateway.access_line(&["target=/read", "bytes_out=8000000"]).await;
    assert!(!line.contains("closed_by"), "{line}");
}

async fn a_small_body_that_comes_slowly_over_http_2_takes_no_place() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], "", "timeouts: { body: 2s }").await;
    let stream = crate::support::client::tcp(gateway.address("web")).await;
    let (streams, connection) = within("the preface", h2::client::handshake(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut streams: h2::client::SendRequest<Bytes> = streams.ready().await.unwrap();
    let request = || Request::post("http://a/slow").header("content-length", 10).body(()).unwrap();
    let (answer, mut body) = streams.send_request(request(), false).unwrap();
    body.send_data(Bytes::from_static(b"01234"), false).unwrap();
    assert!(server.stays_alone(A_WHILE).await, "the rest is waited for first");
    body.send_data(Bytes::from_static(b"56789"), true).unwrap();
    let mut inside = server.accept().await;
    assert!(String::from_utf8(inside.read_until(b"0123456789").await).unwrap().contains("content-length: 10\r\n"));
    inside.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(within("the answer", answer).await.unwrap().status(), 200);

    let (answer, mut body) = streams.send_request(request(), false).unwrap();
    body.send_data(Bytes::from_static(b"0"), false).unwrap();
    assert_eq!(within("a refusal", answer).await.unwrap().status(), 408);
    gateway.access_line(&["target=/slow", "status=408", "closed_by=body_timeout"]).await;
}

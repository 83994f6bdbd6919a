//! What one stranger, or one slow machine, can take of the gateway: time, memory, and places on servers.

use std::time::{Duration, Instant};

use http::Request;
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use crate::support::client::numbered;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::tls::Authority;
use crate::support::{Client, Gateway, Puppet, within};

for_each_engine! {
    a_client_that_reads_slowly_is_not_given_up,
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

/// The kernel takes megabytes of an answer, and says nothing for as long as its client takes to read them: that client has
/// not stopped reading.
async fn a_client_that_reads_slowly_is_not_given_up() {
    const WRITE: Duration = Duration::from_secs(3);
    let body = numbered(8_000_000);
    let authority = Authority::new();
    let server = Puppet::start().await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes: [{{ upstream: app }}]
upstreams: {{ app: {{ servers: [\"{}\"], health: {{ check: none }} }} }}
timeouts: {{ write: {WRITE:?} }}
",
        authority.sign(&["localhost"]).yaml(),
        server.address()
    ))
    .await;
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

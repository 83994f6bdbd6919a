//! Requests and idle connections when the gateway stops: what it finishes, and when it leaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Request;
use nix::sys::signal::Signal::SIGTERM;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;

use super::{gateway, refuses, stop};
use crate::support::client::tcp;
use crate::support::engine::for_each_engine;
use crate::support::http2::{Http2, whole};
use crate::support::{Echo, Scripted, eventually, within};

for_each_engine! {
    http_2_connections_are_told_to_go_and_finish_their_streams,
    http_2_streams_that_the_deadline_cuts_have_their_line,
}

/// A server that answers each request once it is told to, and counts those that wait.
async fn patient() -> (Scripted, Arc<Notify>, Arc<Notify>) {
    let (asked, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell, wait) = (Arc::clone(&asked), Arc::clone(&go_on));
    let server = Scripted::start(move |mut client, _| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            while client.request().await.is_some() {
                tell.notify_one();
                wait.notified().await;
                if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nat last\n").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (server, asked, go_on)
}

#[tokio::test]
async fn with_nothing_open_it_leaves_at_once() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "").await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    let began = Instant::now();
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}, though there was nothing to wait for", began.elapsed());
}

#[tokio::test]
async fn what_is_in_flight_finishes_and_what_is_idle_ends_at_once() {
    let (server, asked, go_on) = patient().await;
    let mut gateway = gateway(server.address(), "").await;
    let mut idle = gateway.client().await;
    go_on.notify_one();
    assert_eq!(idle.get("/").await.status, 200);
    asked.notified().await;
    let mut busy = gateway.client().await;
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("the request is there", asked.notified()).await;
    stop(&gateway).await;
    refuses(&gateway).await;
    assert!(idle.read_all().await.is_empty(), "the idle connection ends");
    assert_eq!(gateway.admin("/livez").await.status, 200);
    let ready = gateway.admin("/readyz").await;
    assert_eq!((ready.status, ready.text().as_str()), (503, "stopping\n"));
    go_on.notify_one();
    let answer = busy.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "at last\n"));
    assert!(busy.read_all().await.is_empty(), "no further request is taken");
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["target=/slow", "status=200"]).await;
}

#[tokio::test]
async fn a_long_poll_is_allowed_until_the_deadline() {
    let (server, asked, _go_on) = patient().await;
    let mut gateway = gateway(server.address(), "drain: { deadline: 1500ms }").await;
    let mut poll = gateway.client().await;
    poll.send("GET /poll HTTP/1.1\r\nHost: a\r\n\r\n").await;
    within("the poll is there", asked.notified()).await;
    let began = Instant::now();
    stop(&gateway).await;
    assert!(poll.read_all().await.is_empty());
    assert!(began.elapsed() >= Duration::from_millis(1500), "cut after {:?}", began.elapsed());
    assert_eq!(gateway.ended().await, 0);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    gateway.access_line(&["event=request", "target=/poll", "closed_by=stopped"]).await;
}

#[tokio::test]
async fn during_the_delay_it_accepts_though_it_is_not_ready() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { delay: 1500ms, deadline: 10s }").await;
    let mut kept = gateway.client().await;
    assert_eq!(kept.get("/").await.status, 200);
    let began = Instant::now();
    stop(&gateway).await;
    assert_eq!(gateway.admin("/readyz").await.text(), "stopping\n");
    assert_eq!(kept.get("/").await.status, 200);
    assert_eq!(gateway.client().await.get("/").await.status, 200);
    assert!(kept.read_all().await.is_empty(), "an idle connection ends with the delay");
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
    assert_eq!(gateway.ended().await, 0);
}

async fn http_2_connections_are_told_to_go_and_finish_their_streams() {
    let (server, asked, go_on) = patient().await;
    let mut gateway = gateway(server.address(), "").await;
    let (idle, busy) =
        (Http2::over(tcp(gateway.address("web")).await).await, Http2::over(tcp(gateway.address("web")).await).await);
    go_on.notify_one();
    assert_eq!(idle.get("http://a.test/").await.status(), 200);
    asked.notified().await;
    let slow = busy.begin(Request::get("http://a.test/slow").body(()).unwrap(), "").await;
    within("the request is there", asked.notified()).await;
    stop(&gateway).await;
    idle.closed().await.expect("a proper end");
    go_on.notify_one();
    let answer = whole(slow).await;
    assert_eq!((answer.status().as_u16(), answer.body().as_slice()), (200, b"at last\n".as_slice()));
    busy.closed().await.expect("a proper end");
    assert_eq!(gateway.ended().await, 0);
}

async fn http_2_streams_that_the_deadline_cuts_have_their_line() {
    let (server, asked, _go_on) = patient().await;
    let mut gateway = gateway(server.address(), "drain: { deadline: 1s }").await;
    let busy = Http2::over(tcp(gateway.address("web")).await).await;
    let slow = busy.begin(Request::get("http://a.test/slow").body(()).unwrap(), "").await;
    within("the request is there", asked.notified()).await;
    stop(&gateway).await;
    assert!(within("the end", slow).await.is_err());
    assert_eq!(gateway.ended().await, 0);
    gateway.access_line(&["protocol=HTTP/2", "target=/slow", "closed_by=stopped"]).await;
}

#[tokio::test]
async fn clients_that_have_said_nothing_do_not_hold_it_up() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { deadline: 1m }").await;
    let mut silent = tcp(gateway.address("web")).await;
    eventually("it is accepted", async || gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 1.0)
        .await;
    let began = Instant::now();
    stop(&gateway).await;
    assert_eq!(within("the end", silent.read(&mut [0])).await.unwrap(), 0);
    assert_eq!(gateway.ended().await, 0);
    assert!(began.elapsed() < Duration::from_secs(5), "it waited {:?} for a request nobody began", began.elapsed());
}

#[tokio::test]
async fn a_request_that_has_begun_is_finished() {
    let web = Echo::start("web").await;
    let mut gateway = gateway(web.address(), "drain: { deadline: 1m }").await;
    let (mut used, mut fresh) = (gateway.client().await, gateway.client().await);
    let mut late = gateway.client().await;
    assert_eq!(used.get("/").await.status, 200);
    for client in [&mut used, &mut fresh] {
        client.send("GET / HTTP/1.1\r\n").await;
    }
    eventually("all are accepted", async || gateway.metric("sockgate_connections_open{listener=\"web\"}").await == 3.0)
        .await;
    stop(&gateway).await;
    refuses(&gateway).await;
    // What is sent before the news has reached the client is answered, too.
    late.send("GET / HTTP/1.1\r\n").await;
    for client in [&mut used, &mut fresh, &mut late] {
        client.send("Host: a\r\n\r\n").await;
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    }
    assert_eq!(gateway.ended().await, 0);
}

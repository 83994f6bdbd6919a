//! Socket.IO sessions when the gateway stops: each is served until its turn, and told in the words of its transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal::SIGTERM;
use tokio::task::JoinSet;

use crate::support::cluster::{Cluster, NAMES};
use crate::support::engine::for_each_engine;
use crate::support::polling::Polling;
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, Setup, eventually, within};

for_each_engine! {
    sessions_are_served_until_their_turn_and_told_over_the_window,
    a_handshake_on_a_connection_that_stays_is_sent_elsewhere,
}

/// Real servers and a gateway that drains as the text says.
async fn cluster(drain: &str) -> (Cluster, Gateway) {
    let cluster = Cluster::behind(0, "v4", 2, &[]).await;
    let addresses = cluster.servers.iter().map(|node| ([127, 0, 0, 1], node.port()).into());
    let gateway = Setup::before_named(NAMES.into_iter().zip(addresses))
        .unchecked()
        .upstream("kind: socket.io, balance: round_robin")
        .more(drain)
        .start()
        .await;
    (cluster, gateway)
}

/// A session that polls, and posts on another connection, as browsers do, until it is told goodbye.
struct Talker {
    polls: Polling,
    posts: Client,
}

impl Talker {
    async fn open(gateway: &Gateway) -> Self {
        let polls = Polling::open(&[gateway.address("web")]).await;
        let posts = gateway.client().await;
        Self { polls, posts }
    }

    /// Talks until its goodbye; gives when that came, and how many posts were answered before it.
    async fn talk(self, pause: Duration) -> (Instant, usize) {
        let Self { mut polls, mut posts } = self;
        let gone = Arc::new(AtomicBool::new(false));
        let (path, over) = (polls.path(), Arc::clone(&gone));
        let posting = tokio::spawn(async move {
            let mut answered = 0;
            let mut refused = None;
            while !over.load(Ordering::Acquire) {
                // One that was on its way when its session ended comes too late, and is the last.
                assert_eq!(refused, None, "a session that lives is refused");
                posts.try_send(post(&path)).await.expect("the connection is kept");
                match posts.answer().await.status {
                    200 => answered += 1,
                    status => refused = Some(status),
                }
                tokio::time::sleep(pause).await;
            }
            answered
        });
        loop {
            let answer = polls.poll().await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            if answer.text() == "1" {
                assert_eq!(answer.header("connection"), Some("close"));
                gone.store(true, Ordering::Release);
                return (Instant::now(), posting.await.unwrap());
            }
        }
    }
}

/// A pong, which keeps the session alive whether it was asked for or not, and an event.
fn post(path: &str) -> String {
    let body = "3\x1e420[\"echo\",\"hello\"]";
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A session on a WebSocket; gives when it was told goodbye.
async fn socket(gateway: &Gateway) -> impl Future<Output = Instant> + use<> {
    let mut socket = gateway.client().await;
    socket.send(upgrade("/socket.io/?EIO=4&transport=websocket")).await;
    assert_eq!(socket.answer().await.status, 101);
    socket.read_until(b"}").await;
    async move {
        let mut last = Vec::new();
        while let Some(bytes) = socket.some().await {
            if bytes == b"\x81\x012" {
                // A ping wants its pong.
                let _ = socket.try_send(b"\x81\x81\0\0\0\x003").await;
            }
            last = bytes;
        }
        assert!(last.ends_with(b"\x88\x02\x03\xf4"), "{last:?}");
        Instant::now()
    }
}

/// Opens sessions, half of them on WebSockets, stops the gateway, and gives when each was told goodbye, from the signal on,
/// and when the gateway had left.
async fn let_go(sessions: usize, drain: &str, pause: Duration) -> (Vec<Duration>, Duration) {
    let (_cluster, mut gateway) = cluster(drain).await;
    let posts = Arc::new(AtomicUsize::new(0));
    let mut told = JoinSet::new();
    for _ in 0..sessions / 2 {
        let talker = Talker::open(&gateway).await;
        let posts = Arc::clone(&posts);
        told.spawn(async move {
            let (at, answered) = talker.talk(pause).await;
            posts.fetch_add(answered, Ordering::Relaxed);
            at
        });
        told.spawn(socket(&gateway).await);
    }
    let open = async || gateway.metric("sockgate_tunnels_open{upstream=\"app\"}").await;
    eventually("the sockets are open", async || open().await == (sessions / 2) as f64).await;
    let began = Instant::now();
    gateway.signal(SIGTERM);
    let leaving = async {
        assert_eq!(gateway.ended().await, 0);
        began.elapsed()
    };
    let (times, left) = tokio::join!(within("all are told", told.join_all()), leaving);
    let mut times: Vec<_> = times.into_iter().map(|at| at - began).collect();
    times.sort_unstable();
    let lines = gateway.access_lines();
    let polite = |line: &&String| {
        line.contains("closed_by=stopped") && (line.contains("close_code=1012") || line.contains("status=200"))
    };
    assert_eq!(lines.iter().filter(polite).count(), sessions, "each has its line");
    println!("{} posts answered meanwhile", posts.load(Ordering::Relaxed));
    (times, left)
}

async fn sessions_are_served_until_their_turn_and_told_over_the_window() {
    let (times, left) = let_go(40, "drain: { over: 3s, deadline: 5m }", Duration::from_millis(50)).await;
    assert_eq!(times.len(), 40);
    // How much longer it takes, the load of the machine decides.
    let spread = times[39] - times[0];
    assert!(spread >= Duration::from_millis(1500), "all within {spread:?}");
    assert!(left < Duration::from_secs(100), "the last one had gone, and the gateway stayed for {left:?}");
}

/// The figures for the record: `cargo test --test it -- --ignored --nocapture a_thousand_sessions`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a machine of its own"]
async fn a_thousand_sessions_in_ten_seconds() {
    let (times, left) = let_go(1000, "drain: { over: 10s, deadline: 30s }", Duration::from_secs(4)).await;
    for second in 0..=times.last().unwrap().as_secs() {
        println!("second {second:2}: {:4}", times.iter().filter(|time| time.as_secs() == second).count());
    }
    println!("{} told, the last after {:?}; left after {left:?}", times.len(), times.last().unwrap());
    assert_eq!(times.len(), 1000);
    assert!(left < Duration::from_secs(30), "{left:?}");
}

/// The session would have no way to come in by: nobody is let in any more.
async fn a_handshake_on_a_connection_that_stays_is_sent_elsewhere() {
    const OPEN: &str = "/socket.io/?EIO=4&transport=polling";
    let (_cluster, gateway) = cluster("drain: { over: 10h, deadline: 20h }").await;
    let mut client = gateway.client().await;
    let opened = client.get(OPEN).await.text();
    let path = format!("{OPEN}&sid={}", opened.split('"').nth(3).unwrap());
    assert_eq!(client.post(&path, b"40").await.status, 200);
    gateway.signal(SIGTERM);
    let address = gateway.address("web");
    eventually("nobody is let in", async || tokio::net::TcpStream::connect(address).await.is_err()).await;
    let answer = client.get(OPEN).await;
    assert_eq!((answer.status, answer.header("connection")), (503, Some("close")));
    gateway.access_line(&["status=503", "closed_by=stopping"]).await;
}

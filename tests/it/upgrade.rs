//! The upgrade of the binary: a new process takes the ports over, and nobody is refused, failed or dropped on the way.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::signal::Signal::{SIGINT, SIGTERM, SIGUSR2};
use nix::sys::signal::kill;
use serde_json::json;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::support::cluster::Cluster;
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::polling::Polling;
use crate::support::websocket::{echoes, socket};
use crate::support::{Client, Echo, Gateway, Setup, eventually, within};

for_each_engine! {
    two_upgrades_refuse_no_connection_fail_no_request_and_drop_no_websocket,
    the_old_process_lets_go_at_its_pace_and_leaves,
    polling_sessions_go_on_with_the_new_process_and_are_not_told_goodbye,
    a_new_process_that_fails_changes_nothing,
    listeners_come_and_go_with_the_configuration_of_the_new_process,
    the_file_of_a_unix_socket_outlives_the_old_process_and_goes_with_the_last,
    the_file_of_a_unix_socket_goes_with_a_process_that_is_interrupted,
    stopping_ends_the_process_that_is_being_left_too_and_leaves_it_its_time,
    sockets_of_systemd_are_taken_by_their_address,
    the_service_manager_is_told_what_goes_on,
}

/// So slow that no WebSocket of an old process has its turn while the test runs.
const FOR_HOURS: &str = "drain: { over: 10h, deadline: 20h }";

fn yaml(web: &Echo, more: &str) -> String {
    let setup = Setup::before(&[web.address()]).more("admin: { address: 127.0.0.1:0 }\nreload: { watch: false }");
    setup.more(more).yaml()
}

async fn two_upgrades_refuse_no_connection_fail_no_request_and_drop_no_websocket() {
    const SOCKETS: usize = 40;
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&yaml(&web, FOR_HOURS)).await;
    let address = gateway.address("web");
    let over = Arc::new(AtomicBool::new(false));
    let mut asking = JoinSet::new();
    for _ in 0..4 {
        let over = Arc::clone(&over);
        asking.spawn(async move {
            let mut asked = 0;
            while !over.load(Ordering::Relaxed) {
                // `connect` fails the test where it is refused.
                assert_eq!(Client::connect(address).await.get("/").await.status, 200);
                asked += 1;
            }
            asked
        });
    }
    let mut sockets = Vec::new();
    for _ in 0..2 {
        for _ in 0..SOCKETS {
            sockets.push(socket(&gateway).await);
        }
        gateway.upgrade().await;
        for socket in &mut sockets {
            echoes(socket).await;
        }
        let ready = gateway.admin("/readyz").await;
        assert_eq!((ready.status, ready.text().as_str()), (200, "ready\n"));
        let open = gateway.metric("sockgate_tunnels_open{upstream=\"app\"}").await;
        assert_eq!(open, 0.0, "the new process answers, and has none of the old sockets");
    }
    over.store(true, Ordering::Relaxed);
    let asked: usize = asking.join_all().await.into_iter().sum();
    assert!(asked > 0);
}

async fn the_old_process_lets_go_at_its_pace_and_leaves() {
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&yaml(&web, "drain: { delay: 1h, over: 1s, deadline: 2h }")).await;
    let mut idle = gateway.client().await;
    assert_eq!(idle.get("/").await.status, 200);
    let http2 = Http2::over(crate::support::client::tcp(gateway.address("web")).await).await;
    assert_eq!(http2.get("http://a.test/").await.status(), 200);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        sockets.push(socket(&gateway).await);
    }
    gateway.upgrade().await;
    assert!(idle.read_all().await.is_empty());
    http2.closed().await.expect("a proper end");
    for mut socket in sockets {
        assert_eq!(socket.read_all().await, b"\x88\x02\x03\xf4");
    }
    assert_eq!(gateway.ended().await, 0, "the old process");
    echoes(&mut socket(&gateway).await).await;
    assert_eq!(gateway.admin("/readyz").await.status, 200);
}

async fn polling_sessions_go_on_with_the_new_process_and_are_not_told_goodbye() {
    let cluster = Cluster::behind(0, "v4", 2, &[]).await;
    let mut gateway = cluster.gateway_with("127.0.0.1:0", "balance: round_robin").await;
    let here = [gateway.address("web")];
    let mut waiting = Polling::open(&here).await;
    let mut between = Polling::open(&here).await;
    let (home, homes) = (waiting.who().await, between.who().await);
    // What it is told below comes from the same server.
    let mut speaker = Polling::open(&here).await;
    if speaker.who().await != home {
        speaker = Polling::open(&here).await;
        assert_eq!(speaker.who().await, home);
    }
    let poll = tokio::spawn(async move {
        let answer = waiting.poll().await;
        (waiting, answer)
    });
    eventually("the poll is open", async || cluster.counted("polls_open").await == 1).await;
    gateway.upgrade().await;
    between.redirect(&here);
    assert_eq!(between.who().await, homes, "the new process knows its server");
    let counted = async |name: &str| gateway.metric(&format!("sockgate_session_{name}")).await;
    assert!(counted("events_total{upstream=\"app\",event=\"inherited\"}").await >= 3.0);
    assert_eq!(counted("questions_total{upstream=\"app\"}").await, 0.0, "and nobody had to be asked");
    speaker.redirect(&here);
    speaker.emit(1, json!(["broadcast", "hear me"])).await;
    let (mut waiting, answer) = within("the poll is answered", poll).await.unwrap();
    assert!(answer.status == 200 && answer.text().contains("hear me"), "{}", answer.text());
    assert_eq!(answer.header("connection"), Some("close"), "the next one goes to the new process");
    waiting.redirect(&here);
    assert_eq!(waiting.who().await, home);
    assert_eq!(gateway.ended().await, 0, "the old process");
}

async fn a_new_process_that_fails_changes_nothing() {
    let web = Echo::start("web").await;
    let good = yaml(&web, FOR_HOURS);
    let mut gateway = Gateway::start(&good).await;
    let mut open = socket(&gateway).await;
    for (broken, told) in [("listeners: nonsense\n", "exit status: 2"), (&taken(&good, &web), "exit status: 1")] {
        gateway.rewrite(broken);
        gateway.signal(SIGUSR2);
        let line = gateway.log_line(told).await;
        assert!(line.contains("the new process has not taken over, this one goes on"), "{line}");
        echoes(&mut open).await;
        assert_eq!(gateway.client().await.get("/").await.status, 200);
        assert_eq!(gateway.admin("/readyz").await.status, 200);
    }
    gateway.rewrite(&good);
    gateway.upgrade().await;
    echoes(&mut open).await;
}

/// The same with one more listener, whose address is taken.
fn taken(good: &str, by: &Echo) -> String {
    good.replace("routes:", &format!("  - {{ name: more, address: \"{}\" }}\nroutes:", by.address()))
}

async fn listeners_come_and_go_with_the_configuration_of_the_new_process() {
    let web = Echo::start("web").await;
    let one = yaml(&web, FOR_HOURS);
    let two = one.replace("routes:", "  - { name: more, address: 127.0.0.1:0 }\nroutes:");
    let mut gateway = Gateway::start(&two).await;
    let more = gateway.address("more");
    gateway.rewrite(&one);
    gateway.upgrade().await;
    gateway.log_line(&format!("the inherited socket {more} is the address of no listener, and is closed")).await;
    eventually("nobody listens there", async || tokio::net::TcpStream::connect(more).await.is_err()).await;
    assert_eq!(gateway.client().await.get("/").await.status, 200);
}

async fn the_file_of_a_unix_socket_outlives_the_old_process_and_goes_with_the_last() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let unix = format!("  - {{ name: unix, address: \"unix:{}\" }}\nroutes:", path.display());
    let mut gateway = Gateway::start(&yaml(&web, "").replace("routes:", &unix)).await;
    let get = async || Client::over(UnixStream::connect(&path).await.unwrap()).get("/").await.status;
    assert_eq!(get().await, 200);
    gateway.upgrade().await;
    assert_eq!(gateway.ended().await, 0, "the old process");
    assert_eq!(get().await, 200);
    gateway.signal(SIGTERM);
    eventually("the file is gone", async || !path.exists()).await;
}

async fn the_file_of_a_unix_socket_goes_with_a_process_that_is_interrupted() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let unix = format!("  - {{ name: unix, address: \"unix:{}\" }}\nroutes:", path.display());
    let mut gateway = Gateway::start(&yaml(&web, "").replace("routes:", &unix)).await;
    // A connection that is open does not keep it.
    let mut client = Client::over(UnixStream::connect(&path).await.unwrap());
    assert_eq!(client.get("/").await.status, 200);
    gateway.signal(SIGINT);
    assert_eq!(gateway.ended().await, 0);
    assert!(!path.exists());
}

async fn stopping_ends_the_process_that_is_being_left_too_and_leaves_it_its_time() {
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&yaml(&web, FOR_HOURS)).await;
    let mut open = socket(&gateway).await;
    let old = gateway.pid();
    gateway.upgrade().await;
    // As a service manager does, which tells all of them.
    kill(old, SIGTERM).unwrap();
    gateway.log_line("SIGTERM: stopping already").await;
    echoes(&mut open).await;
    kill(old, SIGTERM).unwrap();
    assert_eq!(gateway.ended().await, 0, "the old process");
    assert_eq!(gateway.client().await.get("/").await.status, 200);
}

async fn sockets_of_systemd_are_taken_by_their_address() {
    let web = Echo::start("web").await;
    let ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = ours.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.sock");
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let yaml = yaml(&web, "").replacen("127.0.0.1:0", &address.to_string(), 1);
    let yaml = yaml.replace("routes:", &format!("  - {{ name: unix, address: \"unix:{}\" }}\nroutes:", path.display()));
    // A client that came before the gateway: it waits in the queue.
    let mut early = Client::connect(address).await;
    let mut shell = std::process::Command::new("sh");
    let run = "LISTEN_PID=$$ exec \"$0\" \"$@\"";
    shell.args(["-c", run, env!("CARGO_BIN_EXE_sockgate")]).env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "web:unix");
    let mapping = |(child_fd, parent_fd): (i32, OwnedFd)| FdMapping { parent_fd, child_fd };
    shell.fd_mappings((3..).zip([ours.into(), unix.into()]).map(mapping).collect()).unwrap();
    let mut gateway = Gateway::launch(&yaml, shell.into()).await;
    assert_eq!(gateway.address("web"), address);
    assert_eq!(early.get("/").await.status, 200);
    assert_eq!(Client::over(UnixStream::connect(&path).await.unwrap()).get("/").await.status, 200);
    drop(early);
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    assert!(path.exists(), "the file is systemd's");
}

async fn the_service_manager_is_told_what_goes_on() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let heard = UnixDatagram::bind(&path).unwrap();
    heard.set_nonblocking(true).unwrap();
    let heard = tokio::net::UnixDatagram::from_std(heard).unwrap();
    let next = async || {
        let mut told = [0; 256];
        let length = within("a word", heard.recv(&mut told)).await.unwrap();
        String::from_utf8_lossy(&told[..length]).into_owned()
    };
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_sockgate"));
    program.env("NOTIFY_SOCKET", &path).stdin(Stdio::null());
    let good = yaml(&web, "");
    let mut gateway = Gateway::launch(&good, program.into()).await;
    assert_eq!(next().await, "READY=1\n");
    gateway.rewrite("nonsense");
    gateway.signal(SIGUSR2);
    assert!(next().await.starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert_eq!(next().await, "READY=1\n", "it goes on");
    gateway.rewrite(&good);
    let new = gateway.upgrade().await;
    assert!(next().await.starts_with("RELOADING=1\n"));
    assert_eq!(next().await, format!("MAINPID={new}\nREADY=1\n"));
    assert_eq!(gateway.ended().await, 0, "the old process, which says nothing any more");
    gateway.signal(SIGTERM);
    assert_eq!(next().await, "STOPPING=1\n");
}

/// The figures for the record: `cargo test --test it -- --ignored --nocapture two_upgrades_under_load`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a machine of its own"]
async fn two_upgrades_under_load() {
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&yaml(&web, FOR_HOURS)).await;
    let address = gateway.address("web");
    let mut sockets = Vec::new();
    for _ in 0..200 {
        sockets.push(socket(&gateway).await);
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut asking = JoinSet::new();
    for _ in 0..60 {
        let over = Arc::clone(&over);
        asking.spawn(async move {
            let (mut asked, mut failed) = (0, 0);
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            while !over.load(Ordering::Relaxed) {
                ticks.tick().await;
                let asking = async {
                    let stream = tokio::net::TcpStream::connect(address).await.ok()?;
                    Some(Client::over(stream).get("/").await.status == 200)
                };
                asked += 1;
                failed += usize::from(asking.await != Some(true));
            }
            (asked, failed)
        });
    }
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        gateway.upgrade().await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    over.store(true, Ordering::Relaxed);
    let counts = asking.join_all().await;
    let (asked, failed) = counts.into_iter().fold((0, 0), |sum: (usize, usize), one| (sum.0 + one.0, sum.1 + one.1));
    for socket in &mut sockets {
        echoes(socket).await;
    }
    println!("{asked} requests on new connections, {failed} failed; 200 of 200 WebSockets still echo");
    assert_eq!(failed, 0);
}

//! The access log: no line is lost without need, and no request waits for it.

use std::os::unix::fs::OpenOptionsExt;

use nix::sys::signal::Signal::{SIGTERM, SIGUSR1};
use tokio::task::JoinSet;

use crate::support::engine::for_each_engine;
use crate::support::load::{Load, failed};
use crate::support::websocket::socket;
use crate::support::{Echo, Gateway, eventually};

for_each_engine! {
    a_full_disk_costs_lines_of_the_access_log_and_no_request,
}

async fn a_full_disk_costs_lines_of_the_access_log_and_no_request() {
    const REQUESTS: usize = 400;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let server = Echo::start("a").await;
    let more = format!("access_log: {{ file: {} }}", file.display());
    let gateway = Gateway::before(&[server.address()], "", &more).await;
    let load = Load::start(&gateway, 4);
    load.goes_on(REQUESTS).await;
    let tally = load.stop().await;
    assert_eq!(failed(&tally), 0, "{tally:?}");
    gateway.log_line("access log: lines are lost: No space left on device").await;
    let lost = gateway.metric("sockgate_access_log_lost_total").await;
    assert!(lost >= 1.0, "operators can see it: {lost}");
    // Once there is room again, SIGUSR1 is all that it takes.
    std::fs::remove_file(&file).unwrap();
    gateway.signal(SIGUSR1);
    eventually("lines are written again", async || {
        assert_eq!(gateway.client().await.get("/room").await.status, 200);
        std::fs::read_to_string(&file).is_ok_and(|text| text.contains("target=/room"))
    })
    .await;
    eprintln!("disk full: {tally:?}, {lost} writes of the log lost");
}

#[tokio::test]
async fn an_access_log_that_nobody_reads_does_not_keep_it() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits()).open(&pipe);
    let mut gateway =
        Gateway::before(&[web.address()], "", &format!("access_log: {{ file: {} }}", pipe.display())).await;
    // More than the 64 KiB that a pipe holds.
    let mut client = gateway.client().await;
    for _ in 0..100 {
        assert_eq!(client.get(&format!("/{}", "x".repeat(1000))).await.status, 200, "nobody waits for the log");
    }
    drop(client);
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    drop(opened);
}

#[tokio::test]
async fn the_access_log_is_opened_anew_on_sigusr1() {
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let (file, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut gateway =
        Gateway::before(&[web.address()], "", &format!("access_log: {{ file: {}, format: json }}", file.display()))
            .await;
    let mut client = gateway.client().await;
    let lines = |file: &std::path::Path| std::fs::read_to_string(file).unwrap_or_default().lines().count();
    assert_eq!(client.get("/1").await.status, 200);
    eventually("the first line", async || lines(&file) == 1).await;
    std::fs::rename(&file, &old).unwrap();
    assert_eq!(client.get("/2").await.status, 200);
    eventually("the second line, in the moved file", async || lines(&old) == 2).await;
    gateway.signal(SIGUSR1);
    eventually("a new file", async || file.exists()).await;
    assert_eq!(client.get("/3").await.status, 200);
    eventually("the third line, in the new file", async || lines(&file) == 1).await;
    let line: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!((&line["target"], &line["status"]), (&"/3".into(), &200.into()));
    drop(client);
    gateway.signal(SIGTERM);
    assert_eq!(gateway.ended().await, 0);
    assert_eq!((lines(&old), lines(&file)), (2, 1));
}

#[tokio::test]
async fn no_line_of_the_access_log_is_lost_on_the_way_out() {
    const CLIENTS: usize = 40;
    const REQUESTS: usize = 25;
    let web = Echo::start("web").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.log");
    let mut gateway =
        Gateway::before(&[web.address()], "", &format!("access_log: {{ file: {} }}", file.display())).await;
    let mut sockets = Vec::new();
    for _ in 0..CLIENTS {
        sockets.push(socket(&gateway).await);
    }
    let mut asking = JoinSet::new();
    for number in 0..CLIENTS {
        let mut client = gateway.client().await;
        asking.spawn(async move {
            for request in 0..REQUESTS {
                assert_eq!(client.get(&format!("/{number}/{request}")).await.status, 200);
            }
        });
    }
    asking.join_all().await;
    gateway.signal(SIGTERM);
    // The sockets end within the last moments, too.
    drop(sockets);
    assert_eq!(gateway.ended().await, 0);
    let log = std::fs::read_to_string(&file).unwrap();
    assert!(log.ends_with('\n'), "the last line is whole");
    for number in 0..CLIENTS {
        for request in 0..REQUESTS {
            assert_eq!(log.matches(&format!("target=/{number}/{request} ")).count(), 1, "/{number}/{request}");
        }
    }
    assert_eq!(log.matches("event=close").count(), CLIENTS);
    assert_eq!(log.lines().count(), CLIENTS * REQUESTS + CLIENTS);
}

//! What a client may send through a WebSocket: how long its messages may be, and how many frames may come.

use crate::support::client::numbered;
use crate::support::engine::for_each_engine;
use crate::support::websocket::{BINARY, FIN, PING, TEXT, close, frame, tunnel};
use crate::support::{Gateway, Puppet};

for_each_engine! {
    a_message_that_is_too_long_ends_its_websocket_with_1009,
    too_many_frames_end_it_with_1008,
    what_is_no_websocket_ends_with_1002_where_there_are_bounds,
    bounds_are_for_clients_alone,
}

async fn before(bounds: &str) -> (Puppet, Gateway) {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], &format!("messages: {bounds}"), "").await;
    (server, gateway)
}

async fn a_message_that_is_too_long_ends_its_websocket_with_1009() {
    let (server, gateway) = before("{ size: 1000 }").await;
    for violation in [
        frame(FIN | BINARY, &numbered(1001), true),
        [frame(BINARY, &numbered(600), true), frame(FIN, &numbered(401), true)].concat(),
        // What it says of itself is enough: no more of it has to come.
        b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff\x01\x02\x03\x04x".to_vec(),
    ] {
        let (mut client, mut inside) = tunnel(&gateway, &server).await;
        let fits = [
            frame(FIN | BINARY, &numbered(1000), true),
            frame(TEXT, &numbered(500), true),
            frame(FIN | PING, b"between", true),
            frame(FIN, &numbered(500), true),
        ]
        .concat();
        client.send(&fits).await;
        assert!(inside.read(fits.len()).await == fits);
        client.send(&violation).await;
        assert_eq!(client.read_all().await, close(1009, false));
        assert_eq!(inside.ending().await.unwrap_or_default(), b"", "nothing of it has gone on");
        drop(client);
        let line = gateway.access_line(&["event=close", "closed_by=message_too_large"]).await;
        assert!(line.contains("close_code=1009"), "{line}");
    }
}

async fn too_many_frames_end_it_with_1008() {
    // So slow that nobody gets another one while the test runs.
    let (server, gateway) = before("{ rate: 1, burst: 60 }").await;
    let (mut client, mut inside) = tunnel(&gateway, &server).await;
    let frames = [frame(FIN | TEXT, b"hi", true), frame(FIN | PING, b"", true), frame(TEXT, b"a part", true)];
    let frames = [&frames[..], &[frame(FIN, b"of one", true)]].concat().concat();
    client.send(&frames).await;
    assert_eq!(inside.read(frames.len()).await, frames);
    for _ in 0..50 {
        client.send(&frames).await;
    }
    assert_eq!(client.read_all().await, close(1008, false));
    drop(client);
    let line = gateway.access_line(&["event=close", "closed_by=message_rate"]).await;
    assert!(line.contains("close_code=1008"), "{line}");
}

async fn what_is_no_websocket_ends_with_1002_where_there_are_bounds() {
    let (server, gateway) = before("{ size: 1000 }").await;
    let (mut client, _inside) = tunnel(&gateway, &server).await;
    client.send(b"\x83\x00 is none of its frames").await;
    assert_eq!(client.read_all().await, close(1002, false));
    gateway.access_line(&["event=close", "closed_by=no_websocket", "close_code=1002"]).await;
}

async fn bounds_are_for_clients_alone() {
    let (server, gateway) = before("{ size: 1000, rate: 1 }").await;
    let (mut client, mut inside) = tunnel(&gateway, &server).await;
    let said = [frame(FIN | BINARY, &numbered(100_000), false), frame(FIN | TEXT, b"hi", false).repeat(50)].concat();
    inside.send(&said).await;
    assert!(client.read(said.len()).await == said);
}

//! Peers that are gone without a word: noticed by Pings and by the kernel, and named in the access log.

use std::time::{Duration, Instant};

use crate::support::tls::Authority;
use crate::support::websocket::switched;
use crate::support::{Client, Gateway, Puppet, Setup, within};

const PINGS: &str = "websocket: { ping_interval: 1s, ping_timeout: 3s }";

/// A tunnel whose server resets it where it would close it.
async fn open(client: Client, server: &Puppet) -> (Client, Client) {
    switched(client, "/chat", server.accept_to_reset()).await
}

/// The next short frame that is not a Ping of the gateway's own, as it came; those are answered on the way, masked by
/// clients and plain by servers. `None` at the end.
async fn frame(side: &mut Client) -> Option<Vec<u8>> {
    loop {
        let mut frame = side.some_of(2).await?;
        let mask = if frame[1] & 0x80 != 0 { 4 } else { 0 };
        let rest = side.some_of(mask + usize::from(frame[1] & 0x7f)).await?;
        frame.extend(rest);
        let answer = match frame[..2] {
            [0x89, 8] => [b"\x8a\x88\0\0\0\0", &frame[2..]].concat(),
            [0x89, 0x88] => {
                let (key, payload) = frame[2..].split_at(4);
                let payload: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
                [b"\x8a\x08", payload.as_slice()].concat()
            }
            _ => return Some(frame),
        };
        side.try_send(answer).await.ok()?;
    }
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_gone() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], PINGS, "").await;
    let (mut client, mut inside) = open(gateway.client().await, &server).await;
    // The machine of the client is gone: nobody reads there, and nobody answers.
    let began = Instant::now();
    assert_eq!(within("the end", frame(&mut inside)).await, None);
    assert!(began.elapsed() >= Duration::from_secs(3), "{:?}", began.elapsed());
    gateway.access_line(&["event=close", "closed_by=client_silent", "status=101"]).await;
    assert_eq!(gateway.metric("sockgate_tunnels_closed_total{by=\"client_silent\",upstream=\"app\"}").await, 1.0);
    assert_eq!(client.read(2).await, b"\x89\x08", "it was asked");
}

#[tokio::test]
async fn a_server_that_answers_no_ping_is_gone() {
    let server = Puppet::start().await;
    let gateway = Gateway::before(&[server.address()], PINGS, "").await;
    let (mut client, mut inside) = open(gateway.client().await, &server).await;
    assert_eq!(within("the end", frame(&mut client)).await, None);
    gateway.access_line(&["event=close", "closed_by=server_silent"]).await;
    assert_eq!(inside.read(2).await, b"\x89\x88", "it was asked, with a mask, as servers demand");
}

#[tokio::test]
async fn who_answers_stays_and_nobody_else_sees_the_answers() {
    let authority = Authority::new();
    let certificate = authority.sign(&["localhost"]);
    let server = Puppet::start().await;
    let gateway = Setup::before(&[server.address()])
        .another_listener(format!("name: secure, tls: {{ certificates: [{}] }}", certificate.yaml()))
        .unchecked()
        .upstream(PINGS)
        .start()
        .await;
    let plain = gateway.client().await;
    let tls = authority.client(&[]).connect(gateway.address("secure"), "localhost").await.unwrap();
    for client in [plain, Client::over(tls)] {
        let (mut client, mut inside) = open(client, &server).await;
        let (pong, word, bye) = (b"\x8a\x83\0\0\0\0abc", b"\x81\x85\0\0\0\0hello", b"\x88\x82\0\0\0\0\x03\xe8");
        // Time itself is what is tested: long enough for both to be gone, had they not answered.
        let silence = tokio::time::sleep(Duration::from_secs(5));
        tokio::select! {
            () = silence => {}
            heard = frame(&mut client) => panic!("the client heard {heard:?}"),
            heard = frame(&mut inside) => panic!("the server heard {heard:?}"),
        }
        client.send([pong.as_slice(), word].concat()).await;
        assert_eq!(frame(&mut inside).await.unwrap(), pong, "one that nobody asked for");
        assert_eq!(frame(&mut inside).await.unwrap(), word);
        inside.send(b"\x8a\x00\x81\x02ok").await;
        assert_eq!(frame(&mut client).await.unwrap(), b"\x8a\x00");
        assert_eq!(frame(&mut client).await.unwrap(), b"\x81\x02ok");
        client.send(bye).await;
        client.finish().await;
        assert_eq!(frame(&mut inside).await.unwrap(), bye);
        assert_eq!(frame(&mut inside).await, None);
        inside.finish().await;
        gateway.access_line(&["closed_by=client", "close_code=1000", "bytes_in=28", "bytes_out=6"]).await;
    }
}

#[tokio::test]
async fn without_an_interval_nobody_is_asked() {
    let (server, gateway) = Gateway::before_puppet("").await;
    let (mut client, mut inside) = open(gateway.client().await, &server).await;
    let (one, other) = tokio::join!(
        client.stays_silent(Duration::from_millis(1500)),
        inside.stays_silent(Duration::from_millis(1500))
    );
    assert!(one && other);
}

#[tokio::test]
async fn the_kernel_gives_up_a_peer_that_takes_nothing() {
    let server = Puppet::start().await;
    let limit = "tcp_keepalive: { user_timeout: 1s }";
    let gateway = Setup::before(&[server.address()])
        .listener(limit)
        .another_listener("name: patient")
        .unchecked()
        .upstream(limit)
        .start()
        .await;
    let endless = [7; 65536];

    let (client, mut inside) = open(gateway.client().await, &server).await;
    while inside.try_send(&endless).await.is_ok() {}
    gateway.access_line(&["event=close", "closed_by=client_silent"]).await;
    drop(client);

    let (mut client, inside) = open(Client::connect(gateway.address("patient")).await, &server).await;
    while client.try_send(&endless).await.is_ok() {}
    gateway.access_line(&["event=close", "closed_by=server_silent"]).await;
    drop(inside);
}

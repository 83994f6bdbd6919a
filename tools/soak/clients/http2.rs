//! Answers of several sizes over HTTP/2, some streams at once on a connection.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::future::try_join_all;
use h2::client::SendRequest;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::wire::{Wire, patiently};
use super::{Task, World, draw, wrong};

pub(super) async fn run(world: &World, number: usize, task: &mut Task) -> io::Result<()> {
    let stream = Wire::stream(&world.http2, number).await?;
    let (requests, connection) =
        patiently("the beginning of HTTP/2", async { h2::client::handshake(stream).await.map_err(io::Error::other) })
            .await?;
    // Ends with this.
    let mut running = JoinSet::new();
    running.spawn(connection);
    for _ in 0..100 {
        if world.stops() {
            break;
        }
        sleep(Duration::from_millis(draw(10..100))).await;
        task.begin();
        try_join_all((0..draw(1..4)).map(|_| patiently("an answer over HTTP/2", ask(requests.clone())))).await?;
        task.done(world);
    }
    Ok(())
}

async fn ask(requests: SendRequest<Bytes>) -> io::Result<()> {
    let expected = draw(0..100_000);
    let request =
        http::Request::get(format!("https://soak.test/bytes/{expected}")).body(()).map_err(io::Error::other)?;
    let mut requests = requests.ready().await.map_err(io::Error::other)?;
    let (answer, _) = requests.send_request(request, true).map_err(io::Error::other)?;
    let answer = answer.await.map_err(io::Error::other)?;
    let (status, mut body) = (answer.status(), answer.into_body());
    let mut got = 0;
    while let Some(data) = body.data().await {
        let data = data.map_err(io::Error::other)?;
        got += data.len();
        body.flow_control().release_capacity(data.len()).map_err(io::Error::other)?;
    }
    match status.as_u16() {
        200 if got == expected => Ok(()),
        200 => Err(wrong("too few bytes")),
        status => Err(wrong(format!("status {status}"))),
    }
}

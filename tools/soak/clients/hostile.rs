//! Clients that mean harm or know no better. The gateway owes them an end, and nobody else any harm.

use std::io;
use std::time::Duration;

use rand::Rng;
use tokio::time::{sleep, timeout};

use super::wire::Wire;
use super::{Task, World, draw, frames, wrong};

/// Whatever they do, it is over by then: heads may take 5 s.
const OVER: Duration = Duration::from_secs(20);

pub(super) async fn run(world: &World, number: usize, task: &mut Task) -> io::Result<()> {
    let mut wire = Wire::connect(&world.plain, number).await?;
    let deed = draw(0..7);
    // The gateway may have had enough at any time.
    let ended =
        timeout(OVER, async {
            match deed {
                0 => drip(&mut wire).await,
                1 => say(&mut wire, &(0..200).map(|_| rand::rng().random()).collect::<Vec<u8>>()).await,
                2 => {
                    say(&mut wire, format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(40_000)).as_bytes())
                        .await
                }
                3 => say(
                    &mut wire,
                    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                )
                .await,
                4 => wire.send(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await,
                5 => {
                    frames::open(&mut wire, "/socket").await?;
                    // A frame that promises more than it will ever send.
                    wire.send(b"\x82\xfe\xff\xff\0\0\0\0some").await
                }
                _ => wire.send(b"GET /bytes/3000000 HTTP/1.1\r\nHost: a\r\n\r\n").await,
            }
        })
        .await;
    drop(wire);
    if ended.is_err() {
        return Err(wrong(format!("deed {deed} was let go on")));
    }
    task.done(world);
    sleep(Duration::from_millis(draw(20..300))).await;
    Ok(())
}

/// Sends a head in drops until the gateway has had enough.
async fn drip(wire: &mut Wire) -> io::Result<()> {
    wire.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: ").await?;
    loop {
        wire.send(b"y").await?;
        match timeout(Duration::from_millis(300), wire.some()).await {
            Ok(Ok(said)) if said.is_empty() => return Ok(()),
            Ok(Err(_)) => return Ok(()),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
}

/// Says something and listens to the end.
async fn say(wire: &mut Wire, what: &[u8]) -> io::Result<()> {
    wire.send(what).await?;
    while !wire.some().await?.is_empty() {}
    Ok(())
}

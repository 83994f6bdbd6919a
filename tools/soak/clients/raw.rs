//! A raw connection whose bytes come back; some end it with a FIN and wait for the rest.

use std::io;
use std::time::Duration;

use rand::Rng;
use tokio::time::sleep;

use super::wire::Wire;
use super::{Task, World, draw, wrong};

pub(super) async fn run(world: &World, number: usize, task: &mut Task) -> io::Result<()> {
    let mut wire = Wire::connect(&world.raw, number).await?;
    let greeting = wire.until(b"\n").await?;
    task.server = Some(String::from_utf8_lossy(&greeting).trim().to_owned());
    task.live = true;
    for _ in 0..draw(20..400) {
        let sent: Vec<u8> = (0..draw(1..9000)).map(|_| rand::rng().random()).collect();
        wire.send(&sent).await?;
        if wire.exactly(sent.len()).await? != sent {
            return Err(wrong("other bytes came back"));
        }
        task.done(world);
        if world.stops() {
            break;
        }
        sleep(Duration::from_millis(draw(20..200))).await;
    }
    wire.send(b"last words").await?;
    wire.finish().await;
    let rest = wire.exactly(10).await?;
    if rest == b"last words" && wire.some().await?.is_empty() { Ok(()) } else { Err(wrong("the end was lost")) }
}

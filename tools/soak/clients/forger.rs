//! A stranger who makes up ids of sessions: the servers are asked for each, as far as that is paid for, and he is refused.

use std::io;
use std::time::Duration;

use rand::Rng;
use rand::distr::Alphanumeric;
use tokio::time::sleep;

use super::wire::Wire;
use super::{Task, World, draw, wrong};

pub(super) async fn run(world: &World, number: usize, task: &mut Task) -> io::Result<()> {
    let mut wire = Wire::connect(world.door(number), number).await?;
    for _ in 0..100 {
        if world.stops() {
            break;
        }
        sleep(Duration::from_millis(draw(20..200))).await;
        task.begin();
        let made_up: String = rand::rng().sample_iter(Alphanumeric).take(20).map(char::from).collect();
        let path = format!("/socket.io/?EIO=4&transport=polling&sid={made_up}");
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: soak.test\r\n\r\n").as_bytes()).await?;
        let head = wire.head().await?;
        wire.body(&head).await?;
        if head.status != 400 {
            return Err(wrong(format!("status {} for a session that nobody has", head.status)));
        }
        task.done(world);
        if head.closes() {
            break;
        }
    }
    Ok(())
}

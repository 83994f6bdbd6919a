//! A WebSocket whose messages come back, each as it was.

use std::io;
use std::time::Duration;

use rand::Rng;
use tokio::time::sleep;

use super::wire::Wire;
use super::{Task, World, draw, frames, wrong};

pub(super) async fn run(world: &World, number: usize, task: &mut Task) -> io::Result<()> {
    let mut wire = Wire::connect(world.door(number), number).await?;
    frames::open(&mut wire, "/socket").await?;
    let name = frames::receive(&mut wire).await?;
    task.server = Some(String::from_utf8_lossy(&name).into_owned());
    task.live = true;
    while !world.stops() {
        let size = if draw(0..50) == 0 { 100_000 } else { draw(1..600) };
        let message: Vec<u8> = (0..size).map(|_| rand::rng().random()).collect();
        frames::send(&mut wire, frames::BINARY, &message).await?;
        if frames::receive(&mut wire).await? != message {
            return Err(wrong("another message came back"));
        }
        task.done(world);
        sleep(Duration::from_millis(draw(50..400))).await;
    }
    frames::close(&mut wire).await
}

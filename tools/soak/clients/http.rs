//! Requests of several kinds, whose answers are compared with what they have to be.

use std::io;
use std::time::Duration;

use tokio::time::sleep;

use super::wire::Wire;
use super::{Task, World, draw, wrong};
use crate::tally::Kind;

/// Over one connection until it ends, or over a new one each time.
pub(super) async fn run(world: &World, number: usize, task: &mut Task) -> io::Result<()> {
    let mut wire = Wire::connect(world.door(number), number).await?;
    for _ in 0..200 {
        if world.stops() {
            return Ok(());
        }
        sleep(Duration::from_millis(draw(2..20))).await;
        task.begin();
        let keeps = ask(&mut wire, task).await?;
        task.done(world);
        task.server = None;
        if task.kind == Kind::Fresh || !keeps {
            return Ok(());
        }
    }
    Ok(())
}

/// Asks for something at random; whether the connection can be used again.
async fn ask(wire: &mut Wire, task: &mut Task) -> io::Result<bool> {
    let (method, path, sent) = match draw(0..4) {
        0 => ("POST", "/echo".to_owned(), draw(0..60_000)),
        1 => ("GET", format!("/bytes/{}", draw(0..200_000)), 0),
        _ => ("GET", "/".to_owned(), 0),
    };
    let body: Vec<u8> = (0..sent).map(|at| (at % 251) as u8).collect();
    let length = if method == "POST" { format!("Content-Length: {sent}\r\n") } else { String::new() };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: soak.test\r\n{length}\r\n");
    wire.send(&[head.as_bytes(), &body].concat()).await?;
    let head = wire.head().await?;
    task.server = head.field("x-server").map(str::to_owned);
    let got = wire.body(&head).await?;
    let asked: Option<usize> = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok());
    match head.status {
        200 if method == "POST" && got != body => Err(wrong("another body came back")),
        200 if asked.is_some_and(|asked| got.len() != asked) => Err(wrong("too few bytes")),
        200 => Ok(!head.closes()),
        status => Err(wrong(format!("status {status}"))),
    }
}

/// Takes two megabytes, a little at a time.
pub(super) async fn read_slowly(world: &World, number: usize, task: &mut Task) -> io::Result<()> {
    const SIZE: usize = 2_000_000;
    let mut wire = Wire::connect(world.door(number), number).await?;
    wire.send(format!("GET /bytes/{SIZE} HTTP/1.1\r\nHost: soak.test\r\n\r\n").as_bytes()).await?;
    let head = wire.head().await?;
    task.server = head.field("x-server").map(str::to_owned);
    if head.status != 200 {
        return Err(wrong(format!("status {}", head.status)));
    }
    let mut got = 0;
    while got < SIZE {
        let part = wire.exactly((SIZE - got).min(20_000)).await?;
        got += part.len();
        if !world.stops() {
            sleep(Duration::from_millis(50)).await;
        }
    }
    task.done(world);
    Ok(())
}

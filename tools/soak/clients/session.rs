//! Socket.IO sessions (Engine.IO 4): events that are acknowledged by one and the same server, by polling or on a WebSocket.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep, timeout};

use super::wire::{Head, Wire};
use super::{Task, World, draw, frames, wrong};
use crate::tally::Kind;

/// Separates the packets of a payload.
const SEPARATOR: char = '\x1e';

struct Session<'a> {
    world: &'a World,
    number: usize,
    sid: String,
    wire: Wire,
    /// Packets that have come and were not looked at.
    heard: Vec<String>,
    opened: Instant,
}

pub(super) async fn run(world: &World, number: usize, task: &mut Task) -> io::Result<()> {
    let wire = Wire::connect(world.door(number), number).await?;
    let mut session = Session { world, number, sid: String::new(), wire, heard: Vec::new(), opened: Instant::now() };
    session.open().await?;
    if task.kind == Kind::Upgraded {
        session.upgrade().await?;
        return on_websocket(session, task).await;
    }
    let lives = Instant::now() + Duration::from_secs(draw(20..90));
    let mut number = 0;
    while !world.stops() && Instant::now() < lives {
        number += 1;
        session.post(&format!("42{number}[\"seq\",{number}]")).await?;
        let ack = session.ack().await?;
        check(&ack, number, task)?;
        task.done(world);
        sleep(Duration::from_millis(draw(50..600))).await;
    }
    session.post("41").await?;
    session.post("1").await
}

/// An acknowledgement comes from the server of the session, and is the next one.
fn check(packet: &str, number: u64, task: &mut Task) -> io::Result<()> {
    let text = packet
        .strip_prefix(&format!("43{number}"))
        .ok_or_else(|| wrong(format!("no acknowledgement of {number}: {packet}")))?;
    let said: Value = serde_json::from_str(text).map_err(|_| wrong("an acknowledgement that is no JSON"))?;
    // One value or several, as servers like it.
    let said = if said[0].is_array() { &said[0] } else { &said };
    let server = said[0].as_str().unwrap_or("nobody");
    if said[1].as_u64() != Some(number) {
        return Err(wrong(format!("an acknowledgement of something else: {packet}")));
    }
    match &task.server {
        Some(before) if before != server => Err(wrong(format!("a session moved from {before} to {server}"))),
        Some(_) => Ok(()),
        None => {
            task.server = Some(server.to_owned());
            task.live = true;
            Ok(())
        }
    }
}

async fn on_websocket(mut session: Session<'_>, task: &mut Task) -> io::Result<()> {
    let mut number = 0;
    let lives = Instant::now() + Duration::from_secs(draw(20..200));
    while !session.world.stops() && Instant::now() < lives {
        number += 1;
        frames::send(&mut session.wire, frames::TEXT, format!("42{number}[\"seq\",{number}]").as_bytes()).await?;
        let ack = session.frame().await?;
        check(&ack, number, task)?;
        task.done(session.world);
        // Pings have to be answered meanwhile.
        let quiet = Duration::from_millis(draw(50..1500));
        if let Ok(came) = timeout(quiet, session.frame()).await {
            return Err(wrong(format!("nobody asked for this: {}", came?)));
        }
    }
    frames::send(&mut session.wire, frames::TEXT, b"41").await?;
    frames::close(&mut session.wire).await
}

impl Session<'_> {
    async fn open(&mut self) -> io::Result<()> {
        let handshake = self.get().await?;
        let said: Option<Value> = handshake.strip_prefix('0').and_then(|text| serde_json::from_str(text).ok());
        let sid = said.as_ref().and_then(|said| said["sid"].as_str());
        self.sid = sid.ok_or_else(|| wrong(format!("no handshake: {handshake}")))?.to_owned();
        self.post("40").await?;
        let joined = self.packet().await?;
        if joined.starts_with("40") { Ok(()) } else { Err(wrong(format!("the namespace was not joined: {joined}"))) }
    }

    async fn upgrade(&mut self) -> io::Result<()> {
        // A ping may have come with the last answer.
        if std::mem::take(&mut self.heard).iter().any(|packet| packet == "2") {
            self.post("3").await?;
        }
        let mut socket = Wire::connect(self.world.door(self.number), self.number).await?;
        frames::open(&mut socket, &format!("/socket.io/?EIO=4&transport=websocket&sid={}", self.sid)).await?;
        frames::send(&mut socket, frames::TEXT, b"2probe").await?;
        let probed = frames::receive(&mut socket).await?;
        if probed != b"3probe" {
            return Err(wrong("the probe was not answered"));
        }
        frames::send(&mut socket, frames::TEXT, b"5").await?;
        self.wire = socket;
        Ok(())
    }

    /// The next packet of a WebSocket; pings are answered.
    async fn frame(&mut self) -> io::Result<String> {
        loop {
            let text = String::from_utf8_lossy(&frames::receive(&mut self.wire).await?).into_owned();
            match &*text {
                "2" => frames::send(&mut self.wire, frames::TEXT, b"3").await?,
                "6" => {}
                "1" => return Err(wrong(format!("the server ended the session after {:.1?}", self.opened.elapsed()))),
                _ => return Ok(text),
            }
        }
    }

    /// The next packet by polling; pings are answered.
    async fn packet(&mut self) -> io::Result<String> {
        loop {
            if self.heard.is_empty() {
                let payload = self.get().await?;
                self.heard = payload.split(SEPARATOR).rev().map(str::to_owned).collect();
            }
            match self.heard.pop().as_deref() {
                Some("2") => self.post("3").await?,
                Some("1") => return Err(wrong("told to leave (a close packet)")),
                Some("6") | None => {}
                Some(packet) => return Ok(packet.to_owned()),
            }
        }
    }

    async fn ack(&mut self) -> io::Result<String> {
        self.packet().await
    }

    async fn get(&mut self) -> io::Result<String> {
        self.ask("GET", "").await
    }

    async fn post(&mut self, packets: &str) -> io::Result<()> {
        match &*self.ask("POST", packets).await? {
            "ok" => Ok(()),
            other => Err(wrong(format!("a post was answered {other}"))),
        }
    }

    async fn ask(&mut self, method: &str, body: &str) -> io::Result<String> {
        let sid = if self.sid.is_empty() { String::new() } else { format!("&sid={}", self.sid) };
        let length = if method == "POST" { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        let head = format!(
            "{method} /socket.io/?EIO=4&transport=polling{sid} HTTP/1.1\r\nHost: soak.test\r\n\
             Content-Type: text/plain;charset=UTF-8\r\n{length}\r\n{body}"
        );
        self.wire.send(head.as_bytes()).await?;
        let head = self.wire.head().await?;
        let body = self.wire.body(&head).await?;
        let text = String::from_utf8_lossy(&body).into_owned();
        self.keep(&head).await?;
        match head.status {
            200 => Ok(text),
            status => Err(wrong(format!("{method}: status {status} {}", text.chars().take(60).collect::<String>()))),
        }
    }

    async fn keep(&mut self, head: &Head) -> io::Result<()> {
        if head.closes() {
            self.wire = Wire::connect(self.world.door(self.number), self.number).await?;
        }
        Ok(())
    }
}

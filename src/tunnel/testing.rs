//! A tunnel with both of its ends in a test's hands.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use super::{Closed, Ends, Listening, carry};
use crate::deadline::Deadlines;
use crate::drain::{Origin, Roster};
use crate::transport::{Socket, Transport};

pub(super) struct Running<Side = UnixStream> {
    pub(super) client: Side,
    pub(super) server: Side,
    pub(super) clock: Arc<Deadlines>,
    pub(super) roster: Roster,
    pub(super) closed: JoinHandle<Closed>,
}

/// A tunnel that has read this much early.
pub(super) fn tunnel(idle: Duration, websocket: bool, early: (&[u8], &[u8])) -> Running {
    listening(Listening { frames: websocket, ..Listening::default() }, idle, early)
}

pub(super) fn listening(listening: Listening, idle: Duration, early: (&[u8], &[u8])) -> Running {
    let (client, ours_to_client) = UnixStream::pair().unwrap();
    let (server, ours_to_server) = UnixStream::pair().unwrap();
    let ends = Ends {
        client: Transport::Plain(Socket::Unix(ours_to_client)),
        from_client: early.0.into(),
        server: Transport::Plain(Socket::Unix(ours_to_server)),
        from_server: early.1.into(),
        head: 0,
    };
    let Running { clock, roster, closed, .. } = run(ends, listening, idle);
    Running { client, server, clock, roster, closed }
}

/// A raw tunnel over these two.
pub(super) fn over(client: Transport, server: Transport) -> Running<()> {
    let ends = Ends { client, from_client: BytesMut::new(), server, from_server: BytesMut::new(), head: 0 };
    run(ends, Listening::default(), Duration::ZERO)
}

fn run(ends: Ends, listening: Listening, idle: Duration) -> Running<()> {
    let clock = Deadlines::new();
    tokio::spawn(Arc::clone(&clock).run());
    let deadline = clock.register();
    let roster = Roster::default();
    let leave = roster.add(Origin::default(), true);
    let closed = tokio::spawn(carry(ends, idle, deadline, leave, listening));
    Running { client: (), server: (), clock, roster, closed }
}

pub(super) async fn read_all(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    bytes
}

//! Who has been silent for how long: a side of a WebSocket that says nothing is asked whether it is still there.
//!
//! A peer whose machine or network is gone says nothing ever after, and while nobody speaks to it either, nothing shows
//! that. A Ping does. Whatever the side sends then is an answer; so is that it takes bytes again which it had no room
//! for before.

use std::time::Duration;

use super::copy::End;
use super::direction::Direction;
use crate::deadline::{Moment, Span};

/// When the sides of a tunnel are asked whether they are still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// A side that has been silent for this long is asked.
    pub interval: Duration,
    /// How long it may take to say anything.
    pub timeout: Duration,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Client,
    Server,
}

impl Who {
    /// The directions of a tunnel, as the one to this side and the one from it.
    pub(super) fn directions<'a>(
        self,
        inward: &'a mut Direction,
        outward: &'a mut Direction,
    ) -> (&'a mut Direction, &'a mut Direction) {
        match self {
            Self::Client => (outward, inward),
            Self::Server => (inward, outward),
        }
    }

    /// The end of a tunnel that has lost this side without a word.
    pub(super) fn silent(self) -> End {
        match self {
            Self::Client => End::ClientSilent,
            Self::Server => End::ServerSilent,
        }
    }
}

/// Follows both sides of one tunnel.
pub(super) struct Silence {
    ping: Ping,
    /// The longest silence of both sides together, zero for no limit, and when one of them spoke last.
    idle: Span,
    carried: Moment,
    sides: [Side; 2],
}

/// What is known of one side.
#[derive(Clone, Copy)]
struct Side {
    /// When it gave the last sign of life.
    heard: Moment,
    /// When it was asked for the next one.
    asked: Option<Moment>,
    /// The other side has sent it a Ping since its last sign of life.
    pinged: bool,
}

/// What is to be done about a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing, until then.
    At(Moment),
    /// It has to be asked.
    Ask,
    /// It gave no answer.
    Gone,
}

impl Silence {
    pub(super) fn new(ping: Ping, idle: Span, now: Moment) -> Self {
        let side = Side { heard: now, asked: None, pinged: false };
        Self { ping, idle, carried: now, sides: [side; 2] }
    }

    /// Bytes of either side have been carried.
    pub(super) fn carried(&mut self, now: Moment) {
        self.carried = now;
    }

    /// A side has given a sign of life.
    pub(super) fn heard(&mut self, who: Who, now: Moment) {
        self.sides[who as usize] = Side { heard: now, asked: None, pinged: false };
    }

    /// The other side has sent it a Ping.
    pub(super) fn pinged(&mut self, who: Who) {
        self.sides[who as usize].pinged = true;
    }

    /// Whether there is a Ping that it has not answered. A second one would be in its way: of two Pings, a peer may
    /// answer the later one only (RFC 6455, section 5.5.3), and the other side waits for its own.
    pub(super) fn is_pinged(&self, who: Who) -> bool {
        self.sides[who as usize].pinged
    }

    /// It has been asked; returns when it has to have answered.
    pub(super) fn asked(&mut self, who: Who, now: Moment) -> Moment {
        self.sides[who as usize].asked = Some(now);
        now.after(self.ping.timeout)
    }

    /// What is to be done about a side.
    pub(super) fn due(&self, who: Who, now: Moment) -> Due {
        let side = self.sides[who as usize];
        let (due, then) = match side.asked {
            None => (side.heard.after(self.ping.interval), Due::Ask),
            Some(asked) => (asked.after(self.ping.timeout), Due::Gone),
        };
        if due <= now { then } else { Due::At(due) }
    }

    /// When the tunnel will have been idle for too long, if nothing is carried.
    pub(super) fn idle(&self) -> Option<Moment> {
        self.idle.after(self.carried)
    }

    /// When there may be something to do at the earliest, at the beginning.
    pub(super) fn first_look(&self) -> Moment {
        let ask = self.carried.after(self.ping.interval);
        self.idle().map_or(ask, |idle| idle.min(ask))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::time::{Instant, sleep};

    use super::*;
    use crate::tunnel::testing::{Running, listening, read_all};
    use crate::tunnel::{End, Listening};

    const PING: Ping = Ping { interval: Duration::from_secs(30), timeout: Duration::from_secs(20) };
    const NEVER: Duration = Duration::ZERO;

    /// A WebSocket whose sides are asked after 30 s of silence and have 20 s to answer.
    fn asking(idle: Duration, early: (&[u8], &[u8])) -> Running {
        listening(Listening { frames: true, ping: Some(PING), ..Listening::default() }, idle, early)
    }

    async fn read<const N: usize>(stream: &mut UnixStream) -> [u8; N] {
        let mut bytes = [0; N];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// A client's Pong with the payload of that Ping, not masked to any effect.
    fn pong_of(ping: &[u8; 10]) -> Vec<u8> {
        [b"\x8a\x88\0\0\0\0", &ping[2..]].concat()
    }

    /// What a server answers to a masked Ping.
    fn pong_of_masked(ping: &[u8; 14]) -> Vec<u8> {
        let [_, _, key @ ..] = ping;
        let (key, payload) = key.split_at(4);
        [b"\x8a\x08".as_slice(), &payload.iter().zip(key.iter().cycle()).map(|(a, b)| a ^ b).collect::<Vec<_>>()]
            .concat()
    }

    #[tokio::test(start_paused = true)]
    async fn sides_that_answer_live_on_and_their_answers_go_no_further() {
        let Running { mut client, mut server, closed, .. } = asking(NEVER, (b"", b""));
        for _ in 0..5 {
            let (to_client, to_server) = (read::<10>(&mut client).await, read::<14>(&mut server).await);
            assert_eq!((&to_client[..2], &to_server[..2]), (b"\x89\x08".as_slice(), b"\x89\x88".as_slice()));
            client.write_all(&pong_of(&to_client)).await.unwrap();
            server.write_all(&pong_of_masked(&to_server)).await.unwrap();
        }
        client.write_all(b"\x8a\x80abcd\x81\x81\0\0\0\0x").await.unwrap();
        assert_eq!(read(&mut server).await, *b"\x8a\x80abcd\x81\x81\0\0\0\0x", "what they say besides does");
        server.write_all(b"\x8a\x00\x81\x01y").await.unwrap();
        assert_eq!(read(&mut client).await, *b"\x8a\x00\x81\x01y");
        client.shutdown().await.unwrap();
        assert!(read_all(&mut server).await.is_empty());
        drop(server);
        let closed = closed.await.unwrap();
        assert_eq!((closed.end, closed.bytes_in, closed.bytes_out, closed.seen_in.frames), (End::Client, 13, 5, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_gives_no_answer_is_named() {
        for who in [Who::Client, Who::Server] {
            let Running { mut client, mut server, closed, .. } = asking(NEVER, (b"", b""));
            let began = Instant::now();
            // The other one answers, and goes on talking.
            let talking = tokio::spawn(async move {
                if who == Who::Client {
                    while server.write_all(b"\x81\x01x").await.is_ok() {
                        sleep(Duration::from_secs(3)).await;
                    }
                } else {
                    while client.write_all(b"\x81\x80abcd").await.is_ok() {
                        sleep(Duration::from_secs(3)).await;
                    }
                }
                (client, server)
            });
            assert_eq!(closed.await.unwrap().end, who.silent());
            let took = began.elapsed();
            assert!((Duration::from_secs(50)..Duration::from_secs(53)).contains(&took), "{took:?}");
            drop(talking.await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_waits_for_the_end_of_the_frame_and_not_for_that_of_the_message() {
        let Running { mut client, mut server, closed, .. } = asking(NEVER, (b"", b"\x01\x03he"));
        assert_eq!(read(&mut client).await, *b"\x01\x03he");
        assert_eq!(read::<14>(&mut server).await[0], 0x89, "the server can be asked");
        let mut one = [0];
        let nothing = tokio::time::timeout(Duration::from_secs(15), client.read(&mut one)).await;
        assert!(nothing.is_err(), "the client is in the middle of a frame");
        server.write_all(b"y").await.unwrap();
        assert_eq!(read(&mut client).await, *b"y");
        assert_eq!(read::<10>(&mut client).await[..2], *b"\x89\x08", "and now in the middle of a message");
        server.write_all(b"\x80\x00").await.unwrap();
        assert_eq!(read(&mut client).await, *b"\x80\x00");
        drop((client, server));
        assert_eq!(closed.await.unwrap().seen_out.messages, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ping_of_the_other_side_is_question_enough() {
        let Running { mut client, mut server, closed, .. } = asking(NEVER, (b"", b""));
        let began = Instant::now();
        let answering = tokio::spawn(async move {
            server.write_all(b"\x89\x03abc").await.unwrap();
            loop {
                let ping = read::<14>(&mut server).await;
                server.write_all(&pong_of_masked(&ping)).await.unwrap();
            }
        });
        let heard = tokio::spawn(async move { read_all(&mut client).await });
        assert_eq!(closed.await.unwrap().end, End::ClientSilent);
        assert!(began.elapsed() >= Duration::from_secs(50), "{:?}", began.elapsed());
        assert_eq!(heard.await.unwrap(), b"\x89\x03abc", "no second one");
        answering.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_alive_for_as_long_as_it_takes_something() {
        let Running { mut client, mut server, closed, .. } = asking(NEVER, (b"", b""));
        // One message without an end, of which the client takes some every 40 s, and says nothing.
        let writing = tokio::spawn(async move {
            server.write_all(b"\x82\x7f\0\0\0\0\x40\0\0\0").await.unwrap();
            while server.write_all(&[7; 65536]).await.is_ok() {}
        });
        let mut room = vec![0; 1 << 20];
        for _ in 0..10 {
            sleep(Duration::from_secs(40)).await;
            assert!(!closed.is_finished());
            client.read_exact(&mut room).await.unwrap();
        }
        // Then it takes nothing.
        assert_eq!(closed.await.unwrap().end, End::ClientSilent);
        writing.await.unwrap();
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn behind_a_close_frame_nobody_is_asked() {
        let Running { mut client, server, closed, .. } = asking(Duration::from_secs(300), (b"", b"\x88\x02\x03\xe8"));
        assert_eq!(read_all(&mut client).await, b"\x88\x02\x03\xe8");
        assert_eq!(closed.await.unwrap().end, End::Idle);
        drop(server);
    }

    #[tokio::test(start_paused = true)]
    async fn who_talks_is_not_asked() {
        let Running { mut client, mut server, closed, .. } = asking(NEVER, (b"", b""));
        for _ in 0..20 {
            client.write_all(b"\x81\x80abcd").await.unwrap();
            assert_eq!(read(&mut server).await, *b"\x81\x80abcd");
            server.write_all(b"\x81\x01x").await.unwrap();
            assert_eq!(read(&mut client).await, *b"\x81\x01x");
            sleep(Duration::from_secs(25)).await;
        }
        drop((client, server));
        assert_eq!(closed.await.unwrap().seen_in.frames, 20);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_to_pings_are_nothing_carried() {
        let Running { mut client, mut server, closed, .. } = asking(Duration::from_secs(100), (b"", b""));
        let began = Instant::now();
        let answering = tokio::spawn(async move {
            loop {
                let ping = read(&mut client).await;
                client.write_all(&pong_of(&ping)).await.unwrap();
                let ping = read(&mut server).await;
                server.write_all(&pong_of_masked(&ping)).await.unwrap();
            }
        });
        assert_eq!(closed.await.unwrap().end, End::Idle);
        let took = began.elapsed();
        assert!((Duration::from_secs(100)..Duration::from_secs(102)).contains(&took), "{took:?}");
        assert!(answering.await.is_err());
    }
}

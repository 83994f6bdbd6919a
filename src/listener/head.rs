//! Reads request heads: each in a time, in a size, and not a byte beyond.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;

use super::Connection;

/// Why no whole head could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// The client left, or its connection broke.
    Gone,
    /// The client stayed idle for longer than a connection is kept.
    Idle,
    /// The head began and did not end in time.
    Late,
    /// The head is larger than allowed.
    TooLarge,
}

impl Connection {
    /// Reads the next request head, blank line included, and leaves what follows for later.
    ///
    /// `idle` is how long the client may take to begin, `head` how long from there to the blank line; zero is no limit.
    /// The first head has no `idle`: its time began with the connection, and the listener has set it.
    pub async fn read_head(
        &mut self,
        idle: Option<Duration>,
        head: Duration,
        most: usize,
    ) -> Result<BytesMut, HeadError> {
        let mut searched = 0;
        let mut begun = false;
        if let Some(idle) = idle {
            self.deadline.set(idle);
        }
        loop {
            if !begun {
                // Servers should pass over blank lines before a request (RFC 9112 2.2).
                let blank = self.held.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
                self.held.advance(blank);
                if !self.held.is_empty() {
                    begun = true;
                    if idle.is_some() {
                        self.deadline.set(head);
                    }
                }
            }
            if let Some(end) = head_end(&self.held, searched) {
                self.deadline.clear();
                return if end > most { Err(HeadError::TooLarge) } else { Ok(self.held.split_to(end)) };
            }
            if self.held.len() > most {
                return Err(HeadError::TooLarge);
            }
            searched = self.held.len().saturating_sub(2);
            self.held.reserve(2048);
            let read = tokio::select! {
                biased;
                read = self.transport.read_buf(&mut self.held) => read,
                () = self.deadline.expired() => return Err(if begun { HeadError::Late } else { HeadError::Idle }),
            };
            if !matches!(read, Ok(1..)) {
                return Err(HeadError::Gone);
            }
        }
    }
}

/// Where the head ends that begins at the start of `bytes`, behind its blank line; the search begins at `from`.
pub(crate) fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let from = from.saturating_sub(1);
    bytes[from..].iter().enumerate().filter(|&(_, &byte)| byte == b'\n').find_map(|(at, _)| {
        match bytes[from + at + 1..] {
            [b'\n', ..] => Some(from + at + 2),
            [b'\r', b'\n', ..] => Some(from + at + 3),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::listener::connection::testing::pair;

    const FOREVER: Duration = Duration::ZERO;

    async fn head(connection: &mut Connection) -> Result<String, HeadError> {
        let head = connection.read_head(Some(FOREVER), FOREVER, 64).await?;
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    #[tokio::test]
    async fn heads_are_cut_out_however_they_arrive() {
        let (mut connection, mut client) = pair();
        let sent = b"\r\n\r\nGET / HTTP/1.1\r\na: b\r\n\r\nGET /2 HTTP/1.1\n\nrest";
        let writing = tokio::spawn(async move {
            for byte in sent {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        });
        assert_eq!(head(&mut connection).await.unwrap(), "GET / HTTP/1.1\r\na: b\r\n\r\n");
        assert_eq!(head(&mut connection).await.unwrap(), "GET /2 HTTP/1.1\n\n");
        drop(writing.await.unwrap());
        assert_eq!(head(&mut connection).await, Err(HeadError::Gone));
        assert_eq!(&connection.held[..], b"rest");
    }

    #[tokio::test]
    async fn a_head_is_bounded_in_size_whether_it_ends_or_not() {
        let (mut connection, mut client) = pair();
        client.write_all(&[b'x'; 65]).await.unwrap();
        assert_eq!(head(&mut connection).await, Err(HeadError::TooLarge));
        let (mut connection, mut client) = pair();
        client.write_all(&[[b'x'; 62].as_slice(), b"\r\n\r\n"].concat()).await.unwrap();
        assert_eq!(head(&mut connection).await, Err(HeadError::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_client_and_a_slow_one_are_told_apart() {
        let second = Duration::from_secs(1);
        let (mut connection, mut client) = pair();
        assert_eq!(connection.read_head(Some(second), second, 64).await, Err(HeadError::Idle));
        client.write_all(b"GET").await.unwrap();
        assert_eq!(connection.read_head(Some(second), second, 64).await, Err(HeadError::Late));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_the_first_head_is_not_put_off_by_its_beginning() {
        let second = Duration::from_secs(1);
        let (mut connection, mut client) = pair();
        connection.deadline.set(2 * second);
        let writing = tokio::spawn(async move {
            tokio::time::sleep(second).await;
            client.write_all(b"GET").await.unwrap();
            client
        });
        let started = tokio::time::Instant::now();
        assert_eq!(connection.read_head(None, 2 * second, 64).await, Err(HeadError::Late));
        assert!((2 * second..3 * second).contains(&started.elapsed()), "{:?}", started.elapsed());
        drop(writing.await.unwrap());
    }
}

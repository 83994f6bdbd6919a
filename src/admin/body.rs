//! Reads the bodies of requests: each in a time and a size, and all of them together in a size.

use std::time::Duration;

use ::http::StatusCode;
use bytes::Buf;
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::endpoints::Answer;
use crate::http::framing::{Body, Chunks};
use crate::listener::Connection;

/// Bytes that bodies may take at once, over all connections; so none can be longer.
const MOST: usize = 16 * 1024 * 1024;
/// Bytes of a body that nobody wants, and that is passed over.
const MOST_UNWANTED: usize = 64 * 1024;
/// How long a body may take.
const TIME: Duration = Duration::from_secs(10);
/// Bytes that are read, and room that is made, at a time.
const STEP: usize = 16 * 1024;

/// What all bodies may take.
pub(super) struct Budget(Semaphore);

/// A body that is being read, or that somebody looks at.
pub(super) struct Kept<'a> {
    pub(super) bytes: Vec<u8>,
    budget: &'a Budget,
    /// What it has of the budget: its capacity.
    part: Option<SemaphorePermit<'a>>,
}

impl Default for Budget {
    fn default() -> Self {
        Self(Semaphore::new(MOST))
    }
}

impl<'a> Kept<'a> {
    /// Reads the body of the request whose head was read last.
    ///
    /// # Errors
    /// The answer that says why it can't be used; the connection can't be used any more then, either.
    pub(super) async fn read(connection: &mut Connection, framing: Body, budget: &'a Budget) -> Result<Self, Answer> {
        let mut kept = Self { bytes: Vec::new(), budget, part: None };
        in_time(read(connection, framing, MOST, |data| kept.push(data))).await?;
        Ok(kept)
    }

    fn push(&mut self, data: &[u8]) -> Result<(), Answer> {
        let (length, room) = (self.bytes.len() + data.len(), self.bytes.capacity());
        if length > MOST {
            return Err(too_large(MOST));
        }
        if length > room {
            // As vectors grow, but not a byte beyond the budget.
            let more = length.max(2 * room).clamp(STEP, MOST) - room;
            let part = u32::try_from(more).ok().and_then(|more| self.budget.0.try_acquire_many(more).ok());
            let part = part.ok_or_else(|| {
                Answer::fault(StatusCode::SERVICE_UNAVAILABLE, "others send too much at this moment: try again")
            })?;
            match &mut self.part {
                Some(all) => all.merge(part),
                none => *none = Some(part),
            }
            self.bytes.reserve_exact(room + more - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

/// Reads a body that nobody wants, so that the next request can come.
pub(super) async fn pass_over(connection: &mut Connection, framing: Body) -> Result<(), Answer> {
    let mut passed = 0;
    let count = |data: &[u8]| {
        passed += data.len();
        if passed > MOST_UNWANTED { Err(too_large(MOST_UNWANTED)) } else { Ok(()) }
    };
    in_time(read(connection, framing, MOST_UNWANTED, count)).await
}

async fn in_time(reading: impl Future<Output = Result<(), Answer>>) -> Result<(), Answer> {
    let late = || Answer::fault(StatusCode::REQUEST_TIMEOUT, format!("expected the body within {TIME:?}"));
    timeout(TIME, reading).await.unwrap_or_else(|_| Err(late()))
}

async fn read(
    connection: &mut Connection,
    framing: Body,
    most: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), Answer>,
) -> Result<(), Answer> {
    let mut chunks = Chunks::default();
    let mut left = match framing {
        Body::None => return Ok(()),
        Body::Length(length) => usize::try_from(length).ok().filter(|&length| length <= most).ok_or(too_large(most))?,
        Body::Chunked | Body::UntilClose => 0,
    };
    loop {
        let (taken, over) = if let Body::Length(_) = framing {
            let taken = left.min(connection.held.len());
            take(&connection.held[..taken])?;
            left -= taken;
            (taken, left == 0)
        } else {
            let mut result = Ok(());
            let data = |data: &[u8]| {
                if result.is_ok() {
                    result = take(data);
                }
            };
            let taken = chunks.decode(&connection.held, data);
            result?;
            let taken = taken.ok_or_else(|| bad("expected a body in chunks"))?;
            (taken, chunks.is_done())
        };
        connection.held.advance(taken);
        if over {
            return Ok(());
        }
        connection.held.reserve(STEP);
        if !matches!(connection.transport.read_buf(&mut connection.held).await, Ok(1..)) {
            return Err(bad("the body ended early"));
        }
    }
}

fn bad(fault: &str) -> Answer {
    Answer::fault(StatusCode::BAD_REQUEST, fault)
}

fn too_large(most: usize) -> Answer {
    Answer::fault(StatusCode::PAYLOAD_TOO_LARGE, format!("expected at most {most} bytes"))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::listener::testing::pair;

    async fn sent(bytes: &[u8], framing: Body, budget: &Budget) -> Result<Vec<u8>, u16> {
        let (mut connection, mut client) = pair();
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            let _ = client.write_all(&bytes).await;
        });
        let kept = Kept::read(&mut connection, framing, budget).await;
        writing.abort();
        kept.map(|kept| kept.bytes).map_err(|answer| answer.status.as_u16())
    }

    #[tokio::test]
    async fn bodies_are_read_as_they_are_framed() {
        let budget = Budget::default();
        assert_eq!(sent(b"body and more", Body::Length(4), &budget).await.unwrap(), b"body");
        assert_eq!(sent(b"2\r\nbo\r\n2\r\ndy\r\n0\r\n\r\nmore", Body::Chunked, &budget).await.unwrap(), b"body");
        assert_eq!(sent(b"", Body::None, &budget).await.unwrap(), b"");
        assert_eq!(sent(b"x\r\n", Body::Chunked, &budget).await, Err(400));
        assert_eq!(sent(b"short", Body::Length(9), &budget).await, Err(400));
        assert_eq!(sent(b"", Body::Length(MOST as u64 + 1), &budget).await, Err(413));
        assert_eq!(budget.0.available_permits(), MOST);
    }

    #[test]
    fn all_bodies_together_are_bounded() {
        let budget = Budget::default();
        let empty = || Kept { bytes: Vec::new(), budget: &budget, part: None };
        let step = vec![b'x'; MOST / 4];
        let mut kept: Vec<_> = (0..60).map(|_| empty()).collect();
        let took = kept.iter_mut().filter_map(|kept| kept.push(&step).ok()).count();
        assert_eq!(took, 4);
        assert_eq!(kept.iter().map(|kept| kept.bytes.capacity()).sum::<usize>(), MOST);
        let refused = kept[59].push(b"x").unwrap_err();
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        kept.truncate(1);
        (0..3).for_each(|_| kept[0].push(&step).unwrap());
        assert_eq!(kept[0].bytes.len(), MOST, "one may have it all");
        assert_eq!(kept[0].push(b"x").unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_given_up() {
        let (mut connection, mut client) = pair();
        client.write_all(b"half").await.unwrap();
        let late = Kept::read(&mut connection, Body::Length(8), &Budget::default()).await.err().unwrap();
        assert_eq!(late.status, StatusCode::REQUEST_TIMEOUT);
        let late = pass_over(&mut connection, Body::Length(8)).await.unwrap_err();
        assert_eq!(late.status, StatusCode::REQUEST_TIMEOUT);
    }
}

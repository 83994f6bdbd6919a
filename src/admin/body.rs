//! Reads the bodies of requests: each in a time and a size, and all of them together in a size.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::http::StatusCode;
use bytes::Buf;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::endpoints::Answer;
use crate::http::framing::{Body, Chunks};
use crate::listener::Connection;

/// Bytes that bodies may take at once, over all connections; so none can be longer.
const MOST: usize = 16 * 1024 * 1024;
/// Bytes of a body that nobody wants, and that is passed over.
const MOST_UNWANTED: usize = 64 * 1024;
/// Whoever sends for longer than this gives way to others where room is short.
const SLOW: Duration = Duration::from_secs(1);
/// How long a body may take.
const TIME: Duration = Duration::from_secs(10);
/// Bytes that are read, and room that is made, at a time.
const STEP: usize = 16 * 1024;

/// What all bodies may take, and who has what of it.
#[derive(Default)]
pub(super) struct Budget {
    parts: Mutex<Vec<Part>>,
    next: AtomicU64,
}

/// What one body has of the budget.
struct Part {
    id: u64,
    bytes: usize,
    /// Since when its client has been sending; `None` once it is whole.
    since: Option<Instant>,
    lost: Arc<Notify>,
}

/// A body that is being read, or that somebody looks at.
pub(super) struct Kept<'a> {
    pub(super) bytes: Vec<u8>,
    budget: &'a Budget,
    /// Its part of the budget, which is its capacity.
    id: u64,
    lost: Arc<Notify>,
}

impl Budget {
    /// Adds to what a body has. Where there is too little for that, the slowest of those who have been sending for a while
    /// lose all that they have; false if there is none.
    fn grow(&self, id: u64, more: usize) -> bool {
        let mut parts = self.parts();
        while parts.iter().map(|part| part.bytes).sum::<usize>() + more > MOST {
            let slow = parts.iter().enumerate().filter(|(_, part)| part.id != id);
            let slow = slow.filter_map(|(at, part)| {
                let time = part.since?.elapsed();
                (time >= SLOW).then(|| ((part.bytes as f64 / time.as_secs_f64()) as u64, at))
            });
            let Some((_, slowest)) = slow.min() else { return false };
            parts.swap_remove(slowest).lost.notify_one();
        }
        let part = parts.iter_mut().find(|part| part.id == id);
        part.map(|part| part.bytes += more).is_some()
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Kept<'a> {
    /// Reads the body of the request whose head was read last.
    ///
    /// # Errors
    /// The answer that says why it can't be used; the connection can't be used any more then, either.
    pub(super) async fn read(connection: &mut Connection, framing: Body, budget: &'a Budget) -> Result<Self, Answer> {
        let mut kept = Self::empty(budget);
        let lost = Arc::clone(&kept.lost);
        tokio::select! {
            read = in_time(read(connection, framing, MOST, |data| kept.push(data))) => read?,
            () = lost.notified() => return Err(crowded()),
        }
        if let Some(part) = budget.parts().iter_mut().find(|part| part.id == kept.id) {
            part.since = None;
        }
        Ok(kept)
    }

    fn empty(budget: &'a Budget) -> Self {
        let (id, lost) = (budget.next.fetch_add(1, Relaxed), Arc::<Notify>::default());
        budget.parts().push(Part { id, bytes: 0, since: Some(Instant::now()), lost: Arc::clone(&lost) });
        Self { bytes: Vec::new(), budget, id, lost }
    }

    fn push(&mut self, data: &[u8]) -> Result<(), Answer> {
        let (length, room) = (self.bytes.len() + data.len(), self.bytes.capacity());
        if length > MOST {
            return Err(too_large(MOST));
        }
        if length > room {
            // As vectors grow, but not a byte beyond the budget.
            let more = length.max(2 * room).clamp(STEP, MOST) - room;
            if !self.budget.grow(self.id, more) {
                return Err(crowded());
            }
            self.bytes.reserve_exact(room + more - self.bytes.len());
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.budget.parts().retain(|part| part.id != self.id);
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

fn crowded() -> Answer {
    Answer::fault(StatusCode::SERVICE_UNAVAILABLE, "others send too much at this moment: try again")
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
        kept.map(|mut kept| std::mem::take(&mut kept.bytes)).map_err(|answer| answer.status.as_u16())
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
        assert!(budget.parts().is_empty());
    }

    #[test]
    fn all_bodies_together_are_bounded() {
        let budget = Budget::default();
        let empty = || Kept::empty(&budget);
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
    async fn a_body_that_comes_slowly_gives_way_to_one_that_needs_its_room() {
        let budget = Budget::default();
        let (mut connection, mut client) = pair();
        let slow = async { Kept::read(&mut connection, Body::Length(MOST as u64), &budget).await.err() };
        let others = async {
            client.write_all(&vec![b'x'; MOST / 2 + 1]).await.unwrap();
            while budget.parts().iter().all(|part| part.bytes < MOST) {
                tokio::task::yield_now().await;
            }
            assert_eq!(sent(b"body", Body::Length(4), &budget).await, Err(503), "it may still be quick");
            tokio::time::advance(SLOW).await;
            assert_eq!(sent(b"body", Body::Length(4), &budget).await.unwrap(), b"body");
        };
        let (lost, ()) = tokio::join!(slow, others);
        assert_eq!(lost.unwrap().status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(budget.parts().is_empty());
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

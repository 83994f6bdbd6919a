//! Handshakes in turns: to compute the answer to a client's first message takes as long as many messages do, and a herd that
//! comes all at once should not stand before those who are connected.
//!
//! Whoever has a turn computes, and gives it back only when the runtime has been round once: everybody who had something
//! to do by then has done it. Who waits for a turn is served in order, and has sent its first message by then, so that nobody
//! holds a turn in silence. What follows in a handshake costs less, and waits for no turn.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::yield_now;

/// The turns of one gateway.
#[derive(Debug)]
pub struct Handshakes(Semaphore);

impl Handshakes {
    /// As many turns as there are threads to compute on.
    pub fn new(threads: usize) -> Arc<Self> {
        Arc::new(Self(Semaphore::new(threads.max(1))))
    }

    /// Polls a handshake once within a turn, and to its end outside of one: what costs time comes with the first message.
    pub(super) async fn take_turn<T>(&self, handshake: impl Future<Output = T>) -> T {
        let mut handshake = std::pin::pin!(handshake);
        // Never closed.
        let turn = self.0.acquire().await;
        let first = futures::poll!(&mut handshake);
        yield_now().await;
        drop(turn);
        match first {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => handshake.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn somebody_else_has_a_turn_between_any_two_handshakes() {
        let turns = Handshakes::new(1);
        let (begun, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let herd: Vec<_> = (0..100)
            .map(|_| {
                let (turns, begun) = (Arc::clone(&turns), Arc::clone(&begun));
                tokio::spawn(async move {
                    let computed = async { begun.fetch_add(1, Ordering::Relaxed) };
                    turns.take_turn(computed).await;
                })
            })
            .collect();
        let (looks, seen) = (Arc::clone(&begun), Arc::clone(&most));
        let live = tokio::spawn(async move {
            let mut before = 0;
            while before < 100 {
                yield_now().await;
                let now = looks.load(Ordering::Relaxed);
                seen.fetch_max(now - before, Ordering::Relaxed);
                before = now;
            }
        });
        for one in herd {
            one.await.unwrap();
        }
        live.await.unwrap();
        assert!(most.load(Ordering::Relaxed) <= 2, "{most:?} handshakes in one go");
    }

    #[tokio::test]
    async fn who_has_to_wait_for_its_client_holds_up_nobody() {
        let turns = Handshakes::new(1);
        let slow = turns.take_turn(std::future::pending::<()>());
        let quick = turns.take_turn(std::future::ready(7));
        tokio::select! {
            () = slow => unreachable!(),
            done = quick => assert_eq!(done, 7),
        }
    }
}

//! The way back of a session to its server: past limits, drains and ejections, and, for a while, to a server that is down
//! or can't be connected to. Sessions that move are lost to their clients, who have to begin anew; those that wait out
//! a broken network or a failing check are not. Where connects are refused nobody is there any more, and nothing to wait for.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep};

use crate::upstream::servers::Health;
use crate::upstream::{Lease, Server, ServerId, Tried, Upstream};

/// The first pause before another connect, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How long a server that refuses is waited for: as long as a restart takes, after which its clients may as well come
/// back to where they were.
const REFUSING: Duration = Duration::from_secs(1);

impl Upstream {
    /// A place on the server that a session belongs to. Sessions pass where new work doesn't: a server that is full,
    /// draining, ejected or removed keeps them, and so does one that has been down for less than `sessions.grace`. `None` if it
    /// has been down for longer, or is gone.
    pub fn return_to(self: &Arc<Self>, id: ServerId) -> Option<Lease> {
        let server = self.members.load().find_ever(id);
        let server = server.filter(|server| server.health() != Health::Down || self.is_waited_for(server))?;
        server.acquire();
        Some(Lease::new(self.clone(), server, None))
    }

    /// The same after the server could not be connected to, and after a pause. `None` once it has been failing, or this
    /// has been called, for `sessions.grace`.
    pub async fn return_again(self: &Arc<Self>, id: ServerId, tried: &mut Tried) -> Option<Lease> {
        let grace = self.config.sessions.grace;
        let server = self.members.load().find_ever(id)?;
        let waited = tried.waits_since.get_or_insert_with(Instant::now).elapsed();
        if waited >= grace || !self.is_waited_for(&server) {
            return None;
        }
        let failing = server.faults().failing_for().unwrap_or_default();
        let pause = (failing / 2).clamp(PAUSE.0, PAUSE.1).mul_f64(rand::rng().random_range(0.75..1.25));
        sleep(pause.min(grace - waited)).await;
        let mut lease = self.return_to(id)?;
        lease.has_waited(waited + pause);
        Some(lease)
    }

    /// Whether the server is well, or has not been failing for long.
    pub(super) fn is_waited_for(&self, server: &Server) -> bool {
        let faults = server.faults();
        faults.failing_for().is_none_or(|time| time < self.config.sessions.grace)
            && faults.refusing_for().is_none_or(|time| time < REFUSING)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::time::advance;

    use super::*;
    use crate::upstream::testing::upstream;

    const SECOND: Duration = Duration::from_secs(1);

    fn two(sessions: &serde_json::Value) -> Arc<Upstream> {
        upstream(json!({ "kind": "socket.io", "servers": ["10.0.0.1:1", "10.0.0.2:1"], "sessions": sessions }))
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_wait_for_a_server_that_is_down_and_move_when_its_grace_is_over() {
        let upstream = two(&json!({ "grace": "4s" }));
        let server = upstream.servers()[0].clone();
        // Down and up again: each time is a time of its own.
        for _ in 0..3 {
            server.set_health(Health::Down);
            assert!(upstream.return_to(server.id()).is_some());
            advance(3 * SECOND).await;
            assert!(upstream.return_to(server.id()).is_some());
            server.set_health(Health::Up);
        }
        server.set_health(Health::Down);
        advance(4 * SECOND).await;
        assert!(upstream.return_to(server.id()).is_none());
        server.set_health(Health::Up);
        assert!(upstream.return_to(server.id()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_connect_is_repeated_until_the_grace_is_over() {
        let upstream = two(&json!({ "grace": "10s" }));
        let server = upstream.servers()[0].clone();
        let began = Instant::now();
        let (mut tried, mut attempts) = (Tried::default(), 1);
        upstream.return_to(server.id()).unwrap().connect_failed();
        while let Some(lease) = upstream.return_again(server.id(), &mut tried).await {
            lease.connect_failed();
            attempts += 1;
        }
        assert!((10 * SECOND..12 * SECOND).contains(&began.elapsed()), "{:?}", began.elapsed());
        assert!((10..=20).contains(&attempts), "{attempts}");
        // Who comes later does not wait anew.
        let began = Instant::now();
        upstream.return_to(server.id()).unwrap().connect_failed();
        assert!(upstream.return_again(server.id(), &mut Tried::default()).await.is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_refuses_is_waited_for_as_long_as_a_restart_takes() {
        let upstream = two(&json!({ "grace": "10s" }));
        let server = upstream.servers()[0].clone();
        let began = Instant::now();
        let mut tried = Tried::default();
        upstream.return_to(server.id()).unwrap().connect_refused();
        while let Some(lease) = upstream.return_again(server.id(), &mut tried).await {
            lease.connect_refused();
        }
        assert!((SECOND..2 * SECOND).contains(&began.elapsed()), "{:?}", began.elapsed());
        server.set_health(Health::Down);
        assert!(upstream.return_to(server.id()).is_none(), "nor by those who come later");
        // What fails in another way may be there.
        server.connect_failed(false);
        assert!(upstream.return_to(server.id()).is_some());
        server.connect_failed(true);
        server.connected();
        advance(2 * SECOND).await;
        assert!(upstream.return_to(server.id()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_though_others_get_through() {
        let upstream = two(&json!({ "grace": "2s" }));
        let server = upstream.servers()[0].clone();
        let began = Instant::now();
        let mut tried = Tried::default();
        while let Some(lease) = upstream.return_again(server.id(), &mut tried).await {
            lease.connect_failed();
            lease.connected();
        }
        assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_grace_a_session_moves_at_once() {
        let upstream = two(&json!({ "grace": "0s" }));
        let server = upstream.servers()[0].clone();
        let began = Instant::now();
        upstream.return_to(server.id()).unwrap().connect_failed();
        assert!(upstream.return_again(server.id(), &mut Tried::default()).await.is_none());
        server.set_health(Health::Down);
        assert!(upstream.return_to(server.id()).is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

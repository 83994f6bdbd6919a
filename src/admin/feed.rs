//! The state as server-sent events: made once a second for all who watch, and not at all while nobody does.

use std::sync::Arc;

use ::http::StatusCode;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::endpoints::Answer;
use super::server::{ANSWER_TIME, send};
use super::{Admin, rates, state};
use crate::ending::Stopping;
use crate::listener::Connection;

/// Most who may watch at once.
const MOST: usize = 16;
/// Bytes that a client may send while it watches; it has nothing to say.
const MOST_SAID: usize = 4096;
const EVENTS: &str = "text/event-stream";

/// The latest state, as an event; empty before the first.
pub(super) type Feed = watch::Sender<Arc<str>>;

/// Looks at everything once a second, and tells those who watch.
pub(super) async fn run(admin: Arc<Admin>) {
    let mut looks = interval(rates::EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let snapshot = admin.core.snapshot.load_full();
        // Without an admin address nobody could ask.
        if snapshot.config.admin.is_none() {
            continue;
        }
        admin.rates.look(&snapshot, &admin.core.metrics);
        if admin.feed.receiver_count() > 0 {
            admin.feed.send_replace(event(&admin));
        }
    }
}

fn event(admin: &Admin) -> Arc<str> {
    let state = serde_json::to_string(&state::state(admin)).unwrap_or_default();
    format!("event: state\ndata: {state}\n\n").into()
}

/// The head of the answer to whoever wants to watch, if there is room.
pub(super) fn begin(admin: &Admin) -> Answer {
    if admin.feed.receiver_count() >= MOST {
        let fault = format!("{MOST} watch already");
        return Answer::fault(StatusCode::SERVICE_UNAVAILABLE, fault).hint("close a dashboard that nobody looks at");
    }
    Answer::of(EVENTS, "")
}

/// Sends the state until the client goes, or the gateway does.
pub(super) async fn follow(admin: &Admin, mut connection: Connection, stopping: &Stopping) {
    let (mut states, mut stopping) = (admin.feed.subscribe(), stopping.clone());
    let mut next = Some(format!("retry: 1000\n\n{}", event(admin)).into());
    loop {
        if let Some(event) = next.take() {
            let event: Arc<str> = event;
            if !matches!(timeout(ANSWER_TIME, send(&mut connection, event.as_bytes())).await, Ok(Ok(()))) {
                return;
            }
        }
        tokio::select! {
            changed = states.changed() => match changed {
                Ok(()) => next = Some(Arc::clone(&states.borrow_and_update())),
                Err(_) => return,
            },
            read = connection.transport.read_buf(&mut connection.held) => {
                if !matches!(read, Ok(1..)) || connection.held.len() > MOST_SAID {
                    return;
                }
            }
            () = async { drop(stopping.wait_for(|&stopping| stopping).await) } => return connection.close().await,
        }
    }
}

impl Answer {
    /// Whether it goes on until somebody leaves.
    pub(super) fn is_endless(&self) -> bool {
        self.content_type == EVENTS
    }
}

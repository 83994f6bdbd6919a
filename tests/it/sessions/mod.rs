//! Socket.IO sessions: where they live, how they are found again, and how they end.

mod back;
mod count;
mod home;
mod learn;
mod look_up;
mod search;
mod spread;

use crate::support::Gateway;

/// What Engine.IO says of a session that it does not know.
const UNKNOWN: &str = r#"{"code":1,"message":"Session ID unknown"}"#;

async fn event(gateway: &Gateway, event: &str) -> f64 {
    gateway.metric(&format!("sockgate_session_events_total{{upstream=\"app\",event=\"{event}\"}}")).await
}

/// How often a server has said that it does not know a session.
async fn unknown(gateway: &Gateway) -> f64 {
    gateway.metric("sockgate_engine_io_errors_total{code=\"1\",upstream=\"app\"}").await
}

async fn ended(gateway: &Gateway, cause: &str) -> f64 {
    gateway.metric(&format!("sockgate_sessions_ended_total{{upstream=\"app\",cause=\"{cause}\"}}")).await
}

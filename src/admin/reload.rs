//! `/reload` loads the configuration anew; `/plan` says what another one would change.

use std::sync::Arc;

use ::http::StatusCode;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};

use crate::config::Config;
use crate::reload::Reloader;

/// Bytes of a configuration that are read at most.
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// Answers `POST /reload`.
pub(super) async fn reload(reloader: &Arc<Reloader>) -> (StatusCode, Value) {
    match reloader.reload("POST /reload").await {
        Ok(plan) => (StatusCode::OK, json!(plan)),
        Err(fault) => (StatusCode::UNPROCESSABLE_ENTITY, json!({ "error": fault.to_string() })),
    }
}

/// Answers `POST /plan`, whose body is a configuration as `sockgate check --against` sends it.
pub(super) async fn plan(reloader: &Reloader, session: &mut ServerSession) -> (StatusCode, Value) {
    let bad = |fault: String| (StatusCode::BAD_REQUEST, json!({ "error": fault }));
    let mut body = Vec::new();
    loop {
        match session.read_request_body().await {
            Ok(Some(part)) if body.len() + part.len() <= MOST_BYTES => body.extend_from_slice(&part),
            Ok(Some(_)) => return bad(format!("expected at most {MOST_BYTES} bytes")),
            Ok(None) => break,
            Err(error) => return bad(format!("the body ended early: {error}")),
        }
    }
    match serde_json::from_slice::<Config>(&body) {
        Ok(config) => (StatusCode::OK, json!(reloader.plan(&config))),
        Err(fault) => bad(format!("expected a configuration as JSON, as `sockgate check --against` sends it: {fault}")),
    }
}

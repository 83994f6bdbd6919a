//! `/reload` loads the configuration anew; `/plan` says what another one would change.

use std::sync::Arc;

use ::http::StatusCode;

use super::Admin;
use super::endpoints::Answer;
use crate::config::Config;

/// Loads the configuration anew, because of this.
pub(super) async fn reload(admin: Arc<Admin>, cause: &str) -> Answer {
    match admin.reloader.reload(cause).await {
        Ok(plan) => Answer::json(&plan),
        Err(fault) => Answer::fault(StatusCode::UNPROCESSABLE_ENTITY, fault.to_string()),
    }
}

/// What loading it anew would change now.
pub(super) async fn plan_of_file(admin: Arc<Admin>) -> Answer {
    match admin.reloader.plan_of_file().await {
        Ok(plan) => Answer::json(&plan),
        Err(fault) => Answer::fault(StatusCode::UNPROCESSABLE_ENTITY, fault.to_string()),
    }
}

/// Answers `POST /plan`, whose body is a configuration as `sockgate check --against` sends it. A large one takes a while to
/// read, in which probes want their answers.
pub(super) async fn plan(admin: Arc<Admin>, body: Vec<u8>) -> Answer {
    let planning = tokio::task::spawn_blocking(move || match serde_json::from_slice::<Config>(&body) {
        Ok(config) => Answer::json(&admin.reloader.plan(&config)),
        Err(fault) => Answer::fault(
            StatusCode::BAD_REQUEST,
            format!("expected a configuration as JSON, as `sockgate check --against` sends it: {fault}"),
        ),
    });
    let failed = |error: tokio::task::JoinError| Answer::fault(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    planning.await.unwrap_or_else(failed)
}

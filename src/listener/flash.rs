//! Answers Flash policy requests: the policy, a NUL, and the end; a client that says anything else gets nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::connection::Parts;
use crate::wire::flash::{Policy, PolicyRequest, REQUEST, read};

/// Longest time for a client to take its answer once it has asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves one connection of a `flash_policy` listener; bounded in time, and in bytes by the length of the request.
pub(super) async fn serve(mut parts: Parts, policy: &Policy, limit: Duration) {
    let asked = tokio::time::timeout(limit, async {
        while let PolicyRequest::Incomplete = read(&parts.held) {
            parts.held.reserve(REQUEST.len());
            if !matches!(parts.transport.read_buf(&mut parts.held).await, Ok(1..)) {
                return false;
            }
        }
        matches!(read(&parts.held), PolicyRequest::Complete)
    });
    if asked.await.unwrap_or(false) {
        answer(parts, policy).await;
    }
}

/// Answers a request that has been read already.
pub(super) async fn answer(mut parts: Parts, policy: &Policy) {
    let written = tokio::time::timeout(ANSWER_TIMEOUT, async {
        parts.transport.write_all(policy.answer()).await?;
        parts.transport.flush().await?;
        parts.transport.shutdown().await?;
        // Flash closes once it has read the NUL; waiting for that keeps the kernel from cutting the answer short.
        let mut sink = [0; 64];
        while parts.transport.read(&mut sink).await? > 0 {}
        std::io::Result::Ok(())
    });
    let _ = written.await;
}

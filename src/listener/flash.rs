//! Answers Flash policy requests: the policy, a NUL, and the end; a client that says anything else gets nothing.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::config::{FlashAllow, FlashPolicy};
use super::{BuildError, Connection};
use crate::wire::flash::{AllowRule, Policy, PolicyRequest, REQUEST, read};

/// Longest time for a client to take its answer once it has asked.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves one connection of a `flash_policy` listener; bounded in time, and in bytes by the length of the request.
pub(super) async fn serve(mut connection: Connection, policy: &Policy, limit: Duration) {
    let asked = tokio::time::timeout(limit, async {
        while let PolicyRequest::Incomplete = read(&connection.held) {
            connection.held.reserve(REQUEST.len());
            if !matches!(connection.transport.read_buf(&mut connection.held).await, Ok(1..)) {
                return false;
            }
        }
        matches!(read(&connection.held), PolicyRequest::Complete)
    });
    if asked.await.unwrap_or(false) {
        answer(connection, policy).await;
    }
}

/// Answers a request that has been read already.
pub(super) async fn answer(mut connection: Connection, policy: &Policy) {
    let written = tokio::time::timeout(ANSWER_TIMEOUT, async {
        connection.transport.write_all(policy.answer()).await?;
        connection.transport.flush().await?;
        connection.transport.shutdown().await?;
        // Flash closes once it has read the NUL; waiting for that keeps the kernel from cutting the answer short.
        let mut sink = [0; 64];
        while connection.transport.read(&mut sink).await? > 0 {}
        std::io::Result::Ok(())
    });
    let _ = written.await;
}

/// The policy that the configuration describes.
///
/// # Errors
/// A file that can't be read, or that is no policy; a rule that can't be written as one.
pub fn policy(said: &FlashPolicy) -> Result<Policy, BuildError> {
    let fail = |what: String| BuildError { listener: "flash_policy".to_owned(), what };
    match &said.file {
        Some(file) => {
            let xml = std::fs::read(file)
                .map_err(|error| fail(format!("{}: this file can't be read: {error}", file.display())))?;
            Policy::from_xml(&xml).map_err(|error| fail(format!("{}: {error}", file.display())))
        }
        None => {
            let rule = |allow: &FlashAllow| AllowRule { domain: allow.domain.clone(), ports: allow.ports.clone() };
            let rules: Vec<AllowRule> = said.allow.iter().map(rule).collect();
            Policy::from_rules(&rules).map_err(|error| fail(error.to_string()))
        }
    }
}

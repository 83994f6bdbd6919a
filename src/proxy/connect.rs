//! From an upstream to an open connection of its own: the way that tunnels take to a server.

use std::sync::Arc;

use log::debug;

use super::line::Line;
use super::place::Ask;
use crate::http::Refusal;
use crate::transport::Transport;
use crate::upstream::{Lease, PickError, Tried, Upstream};

/// Connects to the server that the balance picks, and to others if that fails. The line learns who was tried.
pub(super) async fn connect(
    upstream: &Arc<Upstream>,
    ask: &Ask,
    line: &mut Line,
) -> Result<(Lease, Transport), Refusal> {
    let mut tried = Tried::default();
    loop {
        let lease = match ask.place(upstream, &mut tried).await {
            Ok(lease) => lease,
            // Enough others were tried: what failed is the connecting.
            Err(PickError::NoServer) if line.tries > 0 => return Err(Refusal::ConnectFailed),
            Err(error) => return Err(refusal(error)),
        };
        line.tries += 1;
        line.taken(&lease);
        match upstream.connect(lease.server()).await {
            Ok(server) => {
                lease.connected();
                return Ok((lease, server));
            }
            Err(error) => {
                debug!("upstream {}: {} can't be connected to: {error}", upstream.name(), lease.server().name());
                lease.connect_failed();
            }
        }
    }
}

/// Why there is no server, as an answer.
pub(super) fn refusal(error: PickError) -> Refusal {
    match error {
        PickError::NoServer => Refusal::NoServer,
        PickError::QueueFull => Refusal::QueueFull,
        PickError::Admission { retry_after } => Refusal::NewSessions(retry_after.as_secs().max(1)),
        PickError::QueueTimeout => Refusal::QueueTimeout,
    }
}

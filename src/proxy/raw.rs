//! Raw connections: pick a server, connect, and carry every byte both ways.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::BytesMut;

use super::Core;
use super::connect::connect;
use super::line::Line;
use super::place::Ask;
use super::tunnel::{About, Serving, Tunnel};
use crate::listener::Connection;
use crate::tunnel::Listening;
use crate::upstream::Upstream;

/// Serves a raw connection in a task of its own.
pub(super) fn serve(core: &Arc<Core>, connection: Connection, upstream: Option<&str>) {
    let upstream = upstream.and_then(|name| core.snapshot.load().upstreams.get(name).cloned());
    let line = Box::new(Line::new(&connection.info, "TCP", SystemTime::now(), Instant::now()));
    if let Some(upstream) = upstream {
        let opening = open(Arc::clone(core), upstream, line, connection);
        tokio::spawn(core.metrics.contain(Serving::new(opening)));
    }
}

async fn open(core: Arc<Core>, upstream: Arc<Upstream>, mut line: Box<Line>, client: Connection) -> Option<Tunnel> {
    let ask = Ask::silent(client.info.peer.ip());
    let connected = tokio::select! {
        biased;
        connected = connect(&upstream, &ask, &mut line) => Some(connected),
        () = client.deadline.stopping() => None,
    };
    let Some(connected) = connected else {
        line.closed_by = "stopped";
        core.access_log.write(line.finish());
        return None;
    };
    match connected {
        Ok((lease, server)) => {
            upstream.metrics.raw.inc();
            let idle = upstream.config().timeouts.tunnel_idle(None);
            let about = About { core, line, lease, upstream, held: None, unsure: false };
            Some(Tunnel::open(about, client, server, BytesMut::new(), 0, idle, Listening::default()))
        }
        Err(refusal) => {
            core.metrics.refused(refusal.word());
            line.closed_by = refusal.word();
            // A reset says plainly that this was no proper end.
            client.transport.socket().reset_on_close();
            core.access_log.write(line.finish());
            None
        }
    }
}

//! Raw connections: find a server, connect, and carry every byte both ways.

use std::sync::Arc;

use bytes::BytesMut;

use super::connect::connect;
use super::tunnel::{Serving, Tunnel};
use crate::exchange::{Core, Ended, Exchange, RequestHead, Side};
use crate::listener::Connection;
use crate::tunnel::Listening;

/// Serves a raw connection in a task of its own.
pub(super) fn serve(core: &Arc<Core>, connection: Connection, upstream: Option<&str>) {
    let Some(upstream) = upstream else { return };
    let exchange = Exchange::begin_raw(core, &connection.info, upstream);
    let opening = open(Arc::clone(core), exchange, connection);
    tokio::spawn(core.metrics.contain(Serving::new(opening)));
}

async fn open(core: Arc<Core>, mut exchange: Box<Exchange>, client: Connection) -> Option<Tunnel> {
    let ended = Ended { protocol: "TCP", status: 0, bytes_out: 0, cut_by: None };
    if exchange.refusal().is_some() {
        client.transport.socket().reset_on_close();
        exchange.end(&core, ended, || RequestHead::NONE);
        return None;
    }
    let connected = tokio::select! {
        biased;
        connected = connect(&mut exchange) => Some(connected),
        () = client.deadline.stopping() => None,
    };
    match connected {
        Some(Ok(server)) => {
            let mut listening = Listening::default();
            let opened = exchange.open_tunnel(&mut listening)?;
            Some(Tunnel::open(core, opened, client, server, BytesMut::new(), 0, listening))
        }
        Some(Err(refusal)) => {
            exchange.refuse(&core, refusal);
            // A reset says plainly that this was no proper end.
            client.transport.socket().reset_on_close();
            exchange.end(&core, ended, || RequestHead::NONE);
            None
        }
        None => {
            exchange.end(&core, Ended { cut_by: Some(Side::Client), ..ended }, || RequestHead::NONE);
            None
        }
    }
}

//! From an exchange to an open connection of its own: the way that tunnels take to a server.

use crate::exchange::Exchange;
use crate::http::Refusal;
use crate::transport::Transport;

/// Connects to the server that is found for the exchange, and to others if that fails.
pub(super) async fn connect(exchange: &mut Exchange) -> Result<Transport, Refusal> {
    loop {
        if !exchange.place_now() {
            exchange.place().await?;
        }
        let Some(lease) = exchange.lease() else { return Err(Refusal::NoServer) };
        let told = exchange.proxy_header();
        match lease.upstream().connect(lease.server(), told.as_deref()).await {
            Ok(server) => {
                exchange.connected(false);
                return Ok(server);
            }
            Err(error) => {
                exchange.connect_failed(&error, true);
            }
        }
    }
}

//! What the gateway's hooks know of a request, from one hook to the next.

use std::sync::Arc;

use super::mailbox::Mailbox;
use crate::exchange::Exchange;

/// The context of one request on its way through Pingora's hooks: [`Balancer`](super::Balancer)'s `CTX`.
#[derive(Default)]
pub struct Context {
    pub(super) exchange: Option<Box<Exchange>>,
    /// Set for as long as somebody may go on with the exchange where Pingora lets go of it.
    pub(super) mailbox: Option<Arc<Mailbox>>,
}

impl Context {
    /// What has been decided of the request; `None` before the gateway's `request_filter` has been called.
    pub fn exchange(&self) -> Option<&Exchange> {
        self.exchange.as_deref()
    }
}

impl Drop for Context {
    /// Pingora is dropped in the middle of a poll whose session has to go: whoever dropped it says goodbye.
    fn drop(&mut self) {
        if let (Some(exchange), Some(mailbox)) = (self.exchange.take(), self.mailbox.take())
            && exchange.leave().is_some_and(|leave| leave.is_told())
        {
            mailbox.leave(exchange);
        }
    }
}

//! Whether the session has to go whose poll is waiting.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use crate::exchange::{Core, Exchange};

/// Waits for the turn of a poll's session to leave.
#[derive(Default)]
pub(super) struct Told {
    /// Where another process has taken over: when those are told whom it could serve.
    all: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Told {
    /// Ready when this is a poll whose session has to go.
    pub(super) fn poll(&mut self, core: &Core, exchange: &Exchange, cx: &mut Context<'_>) -> Poll<()> {
        let Some(leave) = exchange.leave() else { return Poll::Pending };
        ready!(leave.poll_told(cx));
        if !core.ending.is_handed_over() {
            return Poll::Ready(());
        }
        // With its next poll the session is at the new process: one that is answered in time needs no goodbye.
        let all = self.all.get_or_insert_with(|| {
            let mut told = core.ending.told();
            Box::pin(async move {
                let _ = told.wait_for(|&told| told).await;
            })
        });
        all.as_mut().poll(cx)
    }
}

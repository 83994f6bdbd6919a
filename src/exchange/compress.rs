//! The answer as it is compressed on its way, where its route says so.

use std::borrow::Cow;
use std::io;

use super::request::RequestHead;
use super::{Exchange, Form};
use crate::compression::Offer;
use crate::request::Headers;
use crate::router::Route;

impl Exchange {
    /// Notes what the client gets on this route. Answers to sockets, polls and sessions stay as they are, since each part of
    /// them is due at once.
    pub(super) fn offer_compression(&mut self, route: &Route, head: &RequestHead<'_>) {
        let Some(compression) = &route.compression else { return };
        let of_session = self.ties.as_ref().is_some_and(|ties| ties.session.is_some());
        if self.form == Form::Plain && !self.polls && !of_session {
            self.offer = compression.offer(head.method, head.target, &head.headers);
        }
    }

    /// The head of the answer has come, and is changed where its body will be.
    pub(super) fn begin_compressing(&mut self, status: u16, headers: &Headers<'_>) {
        if self.offer == Offer::Never {
            return;
        }
        if let Some(compression) = self.route.as_ref().and_then(|route| route.compression.as_ref()) {
            let edits = &mut self.changes.to_client;
            self.encoder = compression.begin(self.offer, status, headers, edits).map(Box::new);
        }
    }

    /// Whether the answer's body is compressed: its carrier passes on what [`Self::compress`] gives, and tells no length.
    pub(crate) fn compresses(&self) -> bool {
        self.encoder.is_some()
    }

    /// Takes the next bytes of the answer's body; gives what can go to the client, which is all that is left at the end.
    ///
    /// # Errors
    /// The memory for it can't be had: the answer is cut.
    pub(crate) fn compress<'a>(&mut self, data: &'a [u8], is_end: bool) -> io::Result<Cow<'a, [u8]>> {
        let Some(encoder) = &mut self.encoder else { return Ok(Cow::Borrowed(data)) };
        let part = encoder.take(data, is_end).inspect_err(not_compressed)?;
        if is_end {
            if let Some(upstream) = &self.upstream {
                let (before, behind) = encoder.counts();
                upstream.metrics.compressed(encoder.coding().as_str(), before, behind);
            }
            // Its memory is wanted, however long the client takes for the rest.
            self.encoder = None;
        }
        Ok(Cow::Owned(part))
    }

    /// Lets out what is held to be compressed better: what has come may be meant to be read before more does.
    ///
    /// # Errors
    /// As [`Self::compress`].
    pub(crate) fn let_out(&mut self) -> io::Result<Vec<u8>> {
        self.encoder.as_mut().map_or(Ok(Vec::new()), |encoder| encoder.flush().inspect_err(not_compressed))
    }
}

#[cold]
fn not_compressed(error: &io::Error) {
    log::warn!("an answer could not be compressed, and is cut: {error}");
}

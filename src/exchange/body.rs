//! What passes of bodies: counted, kept to their limits and their pace, and heard for what they say of sessions.

use std::time::Duration;

use super::Exchange;
use crate::config::Config;
use crate::http::Refusal;

impl Exchange {
    /// Takes the next bytes of the request's body; `whole` says that they are all of it.
    pub(crate) fn hear_request(&mut self, bytes: &[u8], whole: bool) -> Result<(), Refusal> {
        self.copy_body(bytes);
        if whole {
            self.hear_whole(bytes);
        }
        self.count_body(bytes.len() as u64)
    }

    /// Hears what the whole body says that had come before the request had a place: only then it is known where its session lives.
    pub(crate) fn hear_whole(&self, body: &[u8]) {
        if let (Some(upstream), Some(ties)) = (&self.upstream, &self.ties) {
            ties.note_client_goodbye(upstream, body);
        }
    }

    /// The same for bytes that nobody has looked at.
    pub(crate) fn count_request(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.drop_copy();
        self.count_body(bytes)
    }

    fn count_body(&mut self, bytes: u64) -> Result<(), Refusal> {
        self.body_in += bytes;
        let most = self.most_body();
        if most != 0 && self.body_in > most { Err(self.fail(Refusal::BodyTooLarge)) } else { Ok(()) }
    }

    /// How long after its beginning the request's body has to have ended, or to have brought more than so many bytes;
    /// and the same for the case that its place on the server is wanted, which may come at any time.
    pub(crate) fn body_due(&self, bytes: u64) -> (Option<Duration>, Option<Duration>) {
        let Config { timeouts, limits, .. } = &self.snapshot.config;
        let due = |wanted| timeouts.body_due(limits, bytes, wanted);
        match &self.lease {
            Some(lease) if lease.is_wanted() => (due(true), None),
            Some(_) => (due(false), due(true)),
            None => (due(false), None),
        }
    }

    /// The request's body does not bring what it has to.
    pub(crate) fn body_is_late(&mut self) -> Refusal {
        self.fail(Refusal::BodyTimeout)
    }

    /// Bytes of the request's body that have come.
    pub(crate) fn body_in(&self) -> u64 {
        self.body_in
    }

    /// Whether [`Self::hear_answer`] has to have the answer's body.
    pub(crate) fn hears_answer(&self) -> bool {
        self.learner.is_some() || self.polls || self.is_endable_stream()
    }

    /// Takes the next bytes of the answer's body, before the client gets them.
    pub(crate) fn hear_answer(&mut self, bytes: &[u8], is_end: bool) {
        if self.learner.as_mut().is_some_and(|learner| !learner.hear(bytes, is_end)) {
            self.learner = None;
        }
        let tells = self.polls || self.is_endable_stream();
        if let (true, Some(upstream), Some(ties)) = (tells, &self.upstream, &self.ties) {
            let tail = self.ruled.get_or_insert_default().tail.get_or_insert_default();
            tail.push(bytes);
            if is_end && self.polls {
                ties.note_server_goodbye(upstream, tail.bytes(), tail.is_whole());
            }
        }
    }
}

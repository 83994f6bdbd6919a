//! What an exchange waits for, and for how long: the slow and the silent on both sides, and the session's turn to leave.

use std::task::{Context, Poll, ready};

use super::super::super::{HALF_CLOSED, LOOK};
use super::download::Download;
use super::upload::Upload;
use super::{Carry, End};
use crate::deadline::{Moment, Span};
use crate::exchange::Side;
use crate::http::Refusal;

/// Times that rule an exchange; zero is no limit.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Times {
    /// Between two reads of the request's body, and for it to bring what it has to.
    pub(in super::super) body: Span,
    /// How long the client may take nothing of what waits for it.
    pub(in super::super) write: Span,
    /// The same for the server.
    pub(in super::super) server_write: Span,
    /// For the answer to begin.
    pub(in super::super) first_byte: Span,
    /// Between two parts of it.
    pub(in super::super) read_idle: Span,
}

impl Carry<'_> {
    /// Whether something else ends the wait: the session's turn to leave, or the time.
    pub(super) fn poll_waits(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.is_unanswered() && self.told.poll(self.core, self.exchange, cx).is_ready() {
            return Poll::Ready(End::Told);
        }
        if self.exchange.is_endable_stream()
            && self.told.poll(self.core, self.exchange, cx).is_ready()
            && self.end_stream()
        {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let slow = self.slow();
        let (due, look, end) = self.due(slow);
        match due.into_iter().chain(look).min() {
            Some(next) => self.client.deadline.set_at(next),
            None => self.client.deadline.clear(),
        }
        ready!(self.client.deadline.poll_expired(cx));
        if due.is_none_or(|due| due > self.client.deadline.now()) || self.takes_on() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let End::Refused(_, Side::Server) | End::Cut(Side::Server) = end {
            self.server.doubt();
        }
        Poll::Ready(end)
    }

    /// Whether who has to take something has taken any: see [`Transport::offer`].
    fn takes_on(&mut self) -> bool {
        let to_client = self.client_has_to_read();
        let Self { client, server, upload, download, .. } = self;
        let (out, sent, bulk, moved) = if to_client {
            let Download { out, sent, bulk, .. } = download;
            (out, sent, bulk, &mut self.client_moved)
        } else {
            let Upload { out, sent, bulk, .. } = &mut **upload;
            (out, sent, bulk, &mut self.server_moved)
        };
        if bulk.waiting() > 0 && out.len() == *sent {
            let socket = if to_client { client.transport.plain_socket() } else { server.plain_socket() };
            if socket.is_none_or(|socket| bulk.offer(socket) == 0) {
                return false;
            }
        } else {
            let rest = &out[*sent..];
            let taken = if to_client { client.transport.offer(rest) } else { server.offer(rest) };
            let Some(taken) = taken else { return false };
            *sent += taken;
        }
        (*moved, self.taken) = (client.deadline.now(), true);
        download.unflushed |= to_client;
        true
    }

    /// When the client has to have taken more of its answer.
    fn slow(&mut self) -> Option<Moment> {
        let waits = self.client_has_to_read();
        let Download { out, sent, bulk, bytes, reading, .. } = &mut self.download;
        let behind = out.len() - *sent + bulk.waiting() + self.client.transport.unsent();
        reading.due(self.exchange, waits, bytes.saturating_sub(behind as u64), self.client.deadline.now())
    }

    /// When it has waited for too long for what it waits for, when that may be so before, and what becomes of it then.
    fn due(&self, slow: Option<Moment>) -> (Option<Moment>, Option<Moment>, End) {
        let Self { upload, times, .. } = self;
        let mut look = None;
        let (due, end) = if self.client_has_to_read() {
            match (times.write.after(self.client_moved), slow) {
                (stalled, Some(slow)) if stalled.is_none_or(|stalled| slow < stalled) => {
                    (Some(slow), End::Cut(Side::SlowClient))
                }
                (stalled, _) => (stalled, End::Cut(Side::StalledClient)),
            }
        } else if upload.body.is_over() && upload.is_sent() || upload.broken {
            let time = if self.is_unanswered() { times.first_byte } else { times.read_idle };
            (time.after(self.server_moved), self.refuse(Refusal::AnswerTimeout, Side::Server))
        } else if upload.waits() {
            (times.server_write.after(self.server_moved), self.refuse(Refusal::AnswerTimeout, Side::Server))
        } else {
            let silence = times.body.after(self.client_moved);
            let (pace, again) = self.body_due();
            look = again;
            (silence.into_iter().chain(pace).min(), self.refuse(Refusal::BodyTimeout, Side::Client))
        };
        match self.half_closed.map(|at| at.max(self.server_moved).after(HALF_CLOSED)) {
            // Who has something to take may still be there.
            Some(left) if due.is_none_or(|due| left < due) && !self.client_has_to_read() => {
                (Some(left), None, End::Cut(Side::Client))
            }
            _ => (due, look, end),
        }
    }

    /// When the body has to have brought more, or to have ended, and when that is to be looked at again. With an answer
    /// that has begun this is a conversation.
    fn body_due(&self) -> (Option<Moment>, Option<Moment>) {
        if !self.is_unanswered() {
            return (None, None);
        }
        let (began, came) = self.paced;
        let (pace, wanted) = self.exchange.body_due(self.exchange.body_in().saturating_sub(came));
        let look = wanted.map(|time| began.after(time).max(self.client.deadline.now().after(LOOK)));
        (pace.map(|time| began.after(time)), look)
    }
}

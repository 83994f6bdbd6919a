//! Whether a client takes its answer as fast as it has to, for as long as there is something to take.

use crate::deadline::Moment;
use crate::exchange::Exchange;
use crate::request::Headers;

/// The pace of one client at one answer. Nothing is kept where none is asked for.
#[derive(Debug, Default)]
pub(super) struct Reading(Option<Box<Pace>>);

#[derive(Debug, Default)]
struct Pace {
    /// Since when it has had something to take all the time, and what it had taken by then.
    since: Option<(Moment, u64)>,
}

impl Reading {
    /// The head of the answer has come. A poll, or one that is an event stream, takes as long as it takes.
    pub(super) fn begins(&mut self, exchange: &Exchange, headers: Headers<'_>) {
        const EVENTS: &[u8] = b"text/event-stream";
        if exchange.snapshot().config.limits.answer_rate.as_u64() > 0 && !exchange.is_poll() {
            let kind = headers.get("content-type").and_then(|kind| kind.get(..EVENTS.len()));
            let is_events = kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS));
            self.0 = (!is_events).then(Box::default);
        }
    }

    /// When the client has to have taken more than it has `taken` so far; `None` for ever, as where nothing `waits`.
    pub(super) fn due(&mut self, exchange: &Exchange, waits: bool, taken: u64, now: Moment) -> Option<Moment> {
        let pace = self.0.as_mut()?;
        if !waits {
            pace.since = None;
            return None;
        }
        let (since, before) = *pace.since.get_or_insert((now, taken));
        let config = &exchange.snapshot().config;
        config.timeouts.answer_due(&config.limits, taken.saturating_sub(before)).map(|time| since.after(time))
    }
}

//! Traces by OpenTelemetry: which requests are recorded, and what is told of them. Off by default, and then a load of one flag.
//!
//! Each recorded request has a span of the gateway's (`SERVER`) and, where a server was asked, one within it (`CLIENT`), whose
//! id is what the server is told in `traceparent`. A tunnel has a further one from its opening to its end, so that the
//! opening is told at once. A TLS handshake is a trace of its own: nothing has been asked for yet.

pub mod config;
mod sending;
mod span;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use opentelemetry::trace::TraceState;

use crate::access_log::Record;
use crate::metrics::Metrics;
use crate::request::Headers;
use crate::wire::trace_context::{RANDOM, SAMPLED, TraceParent};

pub use config::{Config, Parents};
pub use sending::Prepared;
pub use span::{Agreed, Handshake};

use sending::Sending;

/// Who records traces, for all who have something to tell; clones are the same.
#[derive(Clone, Debug)]
pub struct Traces(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    on: AtomicBool,
    sending: ArcSwapOption<Sending>,
    metrics: Arc<Metrics>,
}

/// The trace of a request that is recorded.
#[derive(Clone, Debug)]
pub struct Trace {
    id: u128,
    /// Whether the last bytes of the id are random.
    random: u8,
    state: TraceState,
    /// The span that the request came from.
    parent: Option<u64>,
    /// The request's own.
    span: u64,
    /// That of the question to the server.
    question: u64,
    /// When the server was chosen.
    placed: Option<SystemTime>,
    /// When it was connected to.
    connected: Option<SystemTime>,
    /// When it became a tunnel.
    opened: Option<SystemTime>,
    /// Where the server is.
    server: String,
}

/// What becomes of the `traceparent` that a request came with.
#[derive(Debug, PartialEq)]
pub enum Parent {
    /// It passes as any field.
    Passes,
    /// Nobody is told, nor of the `tracestate` beside it.
    Dropped,
    /// The server is told this. What stands in `tracestate` passes where `keeps_state`.
    Told {
        /// The field's value.
        value: HeaderValue,
        /// Whether the `tracestate` is of the same trace.
        keeps_state: bool,
    },
}

impl Traces {
    /// Nothing is recorded until [`Self::switch`] says so.
    pub fn off(metrics: Arc<Metrics>) -> Self {
        Self(Arc::new(Shared { on: AtomicBool::new(false), sending: ArcSwapOption::empty(), metrics }))
    }

    /// Makes ready to record as the operator says.
    ///
    /// # Errors
    /// The authorities that can't be read.
    pub fn prepare(&self, said: Option<&Config>) -> Result<Prepared, String> {
        Prepared::of(said, &self.0.metrics)
    }

    /// Records so from now on. What has been recorded is still sent where it was to go.
    pub fn switch(&self, to: Prepared) {
        let sending = to.start();
        self.0.on.store(sending.is_some(), Relaxed);
        self.0.sending.store(sending.map(Arc::new));
    }

    /// Records no more, and waits for what has been recorded to be sent: for some seconds at most.
    pub fn finish(&self) {
        self.0.on.store(false, Relaxed);
        if let Some(sending) = self.0.sending.swap(None) {
            sending.finish(LAST_SPANS);
        }
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.on.load(Relaxed)
    }

    /// Begins with a request, `trusted` if a trusted proxy has sent it. Gives its trace where it is recorded, and what the
    /// server is told.
    pub fn begin(&self, headers: Headers<'_>, trusted: bool) -> (Option<Box<Trace>>, Parent) {
        let Some(sending) = &*self.0.sending.load() else { return (None, Parent::Passes) };
        let mut said = headers.all("traceparent");
        let (first, second) = (said.next(), said.next());
        // Two of them are none.
        let parent = first.filter(|_| second.is_none()).and_then(TraceParent::read);
        let believed = match sending.parents {
            Parents::Trusted => trusted,
            Parents::Everybody => true,
            Parents::Nobody => false,
        };
        match parent.filter(|_| believed) {
            Some(parent) if parent.is_sampled() => {
                let state = headers.all("tracestate").filter_map(|state| std::str::from_utf8(state).ok());
                let state = state.collect::<Vec<_>>().join(",").parse().unwrap_or_default();
                Trace::told(parent.trace, parent.flags & RANDOM, Some(parent.span), state)
            }
            Some(_) => (None, Parent::Passes),
            None => {
                let id = some_id::<u128>();
                if sending.takes(id) {
                    Trace::told(id, RANDOM, None, TraceState::default())
                } else {
                    (None, if first.is_some() { Parent::Dropped } else { Parent::Passes })
                }
            }
        }
    }

    /// The same for what has no head that could say anything.
    pub fn begin_raw(&self) -> Option<Box<Trace>> {
        let sending = self.0.sending.load();
        let id = some_id::<u128>();
        let taken = sending.as_ref().is_some_and(|sending| sending.takes(id));
        taken.then(|| Box::new(Trace::new(id, RANDOM, None, TraceState::default())))
    }

    /// Tells of a request that has ended.
    pub fn request(&self, trace: &Trace, record: &Record) {
        self.tell(span::of_request(trace, record));
    }

    /// Tells of the request that has opened a tunnel.
    pub fn opened(&self, trace: &mut Trace, record: &Record) {
        trace.opened = Some(record.began + record.duration);
        self.request(trace, record);
    }

    /// Tells of a tunnel that has ended.
    pub fn tunnel(&self, trace: &Trace, record: &Record) {
        self.tell([span::of_tunnel(trace, record)]);
    }

    /// Tells of a TLS handshake.
    pub fn handshake(&self, handshake: impl FnOnce() -> Handshake) {
        if self.is_on()
            && let Some(trace) = self.begin_raw()
        {
            self.tell([handshake().span(&trace)]);
        }
    }

    fn tell(&self, spans: impl IntoIterator<Item = opentelemetry_sdk::trace::SpanData>) {
        if let Some(sending) = &*self.0.sending.load() {
            spans.into_iter().for_each(|span| sending.take(span));
        }
    }
}

/// Longest time for the last spans to be sent when the gateway ends.
const LAST_SPANS: Duration = Duration::from_secs(5);

impl Trace {
    fn new(id: u128, random: u8, parent: Option<u64>, state: TraceState) -> Self {
        let (span, question) = (some_id(), some_id());
        Self {
            id,
            random,
            state,
            parent,
            span,
            question,
            placed: None,
            connected: None,
            opened: None,
            server: String::new(),
        }
    }

    fn told(id: u128, random: u8, parent: Option<u64>, state: TraceState) -> (Option<Box<Self>>, Parent) {
        let this = Box::new(Self::new(id, random, parent, state));
        let onward = TraceParent { trace: id, span: this.question, flags: SAMPLED | random };
        let value = HeaderValue::from_bytes(&onward.write());
        let told = value.map(|value| Parent::Told { value, keeps_state: parent.is_some() });
        (Some(this), told.unwrap_or(Parent::Passes))
    }

    /// A server was chosen.
    pub fn placed(&mut self, server: impl ToString) {
        self.placed.get_or_insert_with(SystemTime::now);
        self.server = server.to_string();
    }

    /// It was connected to.
    pub fn connected(&mut self) {
        self.connected = Some(SystemTime::now());
    }
}

/// Random, and not zero, which means none.
fn some_id<T: Default + PartialEq>() -> T
where
    rand::distr::StandardUniform: rand::distr::Distribution<T>,
{
    loop {
        let id = rand::random::<T>();
        if id != T::default() {
            return id;
        }
    }
}

//! From spans to a collector: a queue that never waits, and a thread that sends what is in it.
//!
//! What OTLP is, and when a collector is asked again, is the exporter's of OpenTelemetry to know. The queue is ours, so that
//! each span which gets lost is counted.

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use log::warn;
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout_at;

use super::config::{Config, Parents};
use crate::metrics::Metrics;
use crate::service::{Service, Url};

/// Spans that may wait to be sent; more are lost.
const MOST_WAITING: usize = 8192;
/// Spans that are sent at once, and how long a first one waits for others.
const BATCH: (usize, Duration) = (512, Duration::from_secs(1));
/// The largest answer that is read.
const MOST_ANSWER: usize = 64 * 1024;
/// The pause between two warnings.
const QUIET: Duration = Duration::from_secs(60);

/// Where spans go.
pub(super) struct Sending {
    /// Of two numbers of 63 bits the smaller one is taken.
    below: u64,
    pub(super) parents: Parents,
    waiting: mpsc::Sender<SpanData>,
    metrics: Arc<Metrics>,
    /// Ends when all has been sent.
    ended: Mutex<Receiver<()>>,
}

/// A way to send spans that is not in use yet.
pub struct Prepared(Option<Ready>);

struct Ready {
    said: Config,
    exporter: SpanExporter,
    metrics: Arc<Metrics>,
}

impl Prepared {
    pub(super) fn of(said: Option<&Config>, metrics: &Arc<Metrics>) -> Result<Self, String> {
        let ready = said.map(|said| {
            let exporter = exporter(said, metrics)?;
            Ok::<_, String>(Ready { said: said.clone(), exporter, metrics: Arc::clone(metrics) })
        });
        Ok(Self(ready.transpose()?))
    }

    /// Begins; without a thread nothing is recorded.
    pub(super) fn start(self) -> Option<Sending> {
        let Ready { said, exporter, metrics } = self.0?;
        let (waiting, comes) = mpsc::channel(MOST_WAITING);
        let (done, ended) = sync_channel(0);
        let (url, counted) = (said.url(), Arc::clone(&metrics));
        let started = std::thread::Builder::new().name("traces".to_owned()).spawn(move || {
            match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(send_all(comes, &exporter, &url, &counted)),
                Err(error) => warn!("traces: nothing is sent: {error}"),
            }
            drop(done);
        });
        if let Err(error) = started {
            warn!("traces: nothing is recorded: {error}");
            return None;
        }
        Some(Sending::new(&said, waiting, metrics, ended))
    }
}

impl Sending {
    fn new(said: &Config, waiting: mpsc::Sender<SpanData>, metrics: Arc<Metrics>, ended: Receiver<()>) -> Self {
        let below = (said.sample * (1u64 << 63) as f64) as u64;
        Self { below, parents: said.parents, waiting, metrics, ended: Mutex::new(ended) }
    }

    /// Whether a trace that begins here is recorded. By its id, as OpenTelemetry's samplers decide by the same share.
    pub(super) fn takes(&self, trace: u128) -> bool {
        (trace as u64) >> 1 < self.below
    }

    /// Hands a span over; never waits.
    pub(super) fn take(&self, span: SpanData) {
        if self.waiting.try_send(span).is_err() {
            self.metrics.spans.with_label_values(&["dropped"]).inc();
        }
    }

    /// Waits until all has been sent, or for as long.
    pub(super) fn finish(self: Arc<Self>, longest: Duration) {
        // Whoever tells of a span this moment is the last to hold it.
        if let Ok(Self { waiting, ended, .. }) = Arc::try_unwrap(self) {
            drop(waiting);
            let ended = ended.into_inner().unwrap_or_else(PoisonError::into_inner);
            let _ = ended.recv_timeout(longest);
        }
    }
}

impl std::fmt::Debug for Sending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sending").field("parents", &self.parents).finish_non_exhaustive()
    }
}

async fn send_all(mut comes: mpsc::Receiver<SpanData>, exporter: &SpanExporter, url: &str, metrics: &Metrics) {
    let (most, patience) = BATCH;
    let mut warned: Option<Instant> = None;
    while let Some(first) = comes.recv().await {
        let mut batch = vec![first];
        let until = tokio::time::Instant::now() + patience;
        while batch.len() < most {
            let room = most - batch.len();
            match timeout_at(until, comes.recv_many(&mut batch, room)).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
        let spans = batch.len() as u64;
        match exporter.export(batch).await {
            Ok(()) => metrics.spans.with_label_values(&["sent"]).inc_by(spans),
            Err(error) => {
                metrics.spans.with_label_values(&["failed"]).inc_by(spans);
                if warned.is_none_or(|at| at.elapsed() >= QUIET) {
                    warned = Some(Instant::now());
                    warn!("traces: {url} does not take {spans} spans: {error}");
                }
            }
        }
    }
}

fn exporter(said: &Config, metrics: &Arc<Metrics>) -> Result<SpanExporter, String> {
    let client = Collector::new(&said.endpoint, said.ca.as_deref(), said.timeout, metrics)?;
    let headers: HashMap<String, String> = said.headers.clone().into_iter().collect();
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(said.url())
        .with_timeout(said.timeout)
        .with_headers(headers)
        .build()
        .map_err(|error| format!("endpoint: {error}"))?;
    let attributes = said.attributes.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder_empty()
        .with_attributes(attributes.chain([version]))
        .with_service_name(said.service.clone())
        .build();
    exporter.set_resource(&resource);
    Ok(exporter)
}

/// How the exporter asks, and who notices what a collector has not taken of a batch.
#[derive(Debug)]
struct Collector {
    service: Service,
    timeout: Duration,
    metrics: Arc<Metrics>,
}

impl Collector {
    fn new(url: &Url, ca: Option<&Path>, timeout: Duration, metrics: &Arc<Metrics>) -> Result<Self, String> {
        Ok(Self { service: Service::build(url, ca)?, timeout, metrics: Arc::clone(metrics) })
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = tokio::time::timeout(self.timeout, self.service.send(request, MOST_ANSWER)).await??;
        let body = body?;
        if head.status.is_success()
            && let Ok(ExportTraceServiceResponse { partial_success: Some(partial) }) =
                ExportTraceServiceResponse::decode(&body[..])
            && partial.rejected_spans > 0
        {
            let rejected = u64::try_from(partial.rejected_spans).unwrap_or_default();
            self.metrics.spans.with_label_values(&["rejected"]).inc_by(rejected);
            warn!("traces: the collector rejects {rejected} spans: {}", partial.error_message);
        }
        Ok(Response::from_parts(head, body))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::trace::Handshake;
    use crate::trace::Trace;

    /// With nobody who sends.
    fn sending(sample: f64) -> (Sending, mpsc::Receiver<SpanData>, Arc<Metrics>) {
        let said: Config =
            serde_json::from_value(json!({ "endpoint": "http://127.0.0.1:9", "sample": sample })).unwrap();
        let (waiting, comes) = mpsc::channel(MOST_WAITING);
        let metrics = Metrics::new().unwrap();
        (Sending::new(&said, waiting, Arc::clone(&metrics), sync_channel(0).1), comes, metrics)
    }

    #[test]
    fn spans_beyond_those_that_may_wait_are_dropped_and_counted() {
        let (sending, mut comes, metrics) = sending(1.0);
        let span = || {
            let handshake = Handshake {
                began: std::time::SystemTime::now(),
                listener: "web".into(),
                client: [127, 0, 0, 1].into(),
                server_name: None,
                outcome: Err("late".to_owned()),
            };
            handshake.span(&Trace::new(1, 0, None, Default::default()))
        };
        for _ in 0..MOST_WAITING + 3 {
            sending.take(span());
        }
        assert_eq!(metrics.spans.with_label_values(&["dropped"]).get(), 3);
        comes.try_recv().unwrap();
        sending.take(span());
        assert_eq!(metrics.spans.with_label_values(&["dropped"]).get(), 3, "there is room again");
    }

    #[test]
    fn a_share_of_all_ids_is_taken_and_none_and_all_are_exact() {
        for (sample, least, most) in [(0.0, 0, 0), (0.25, 2300, 2700), (1.0, 10_000, 10_000)] {
            let (sending, ..) = sending(sample);
            // Ids that lie evenly, whatever is above the half that tells.
            let taken =
                (0..10_000u64).filter(|at| sending.takes(u128::from(at * (u64::MAX / 10_000)) | 1 << 100)).count();
            assert!((least..=most).contains(&taken), "{sample}: {taken}");
        }
        assert!(sending(1.0).0.takes(u128::MAX), "the last one, too");
    }
}

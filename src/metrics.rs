//! What the gateway counts, in Prometheus' terms. Handles are looked up once, when their owner is built.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use futures::FutureExt;
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// Every family of one gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    names: Mutex<Vec<String>>,
    connections_open: IntGaugeVec,
    connections: IntCounterVec,
    connections_refused: IntCounterVec,
    detected: IntCounterVec,
    tls_handshakes: IntCounterVec,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    refusals: IntCounterVec,
    tunnels_open: IntGaugeVec,
    tunnels: IntCounterVec,
    upgrades_refused: IntCounterVec,
    upgrades_offered: IntCounterVec,
    upgrades_reached: IntCounterVec,
    time_to_websocket: HistogramVec,
    session_fallbacks: IntCounterVec,
    session_errors: IntCounterVec,
    tunnels_closed: IntCounterVec,
    goodbyes: IntCounterVec,
    tunnel_bytes: IntCounterVec,
    reloads: IntCounterVec,
    reload_good: IntGauge,
    reload_time: IntGauge,
    /// Panics that ended one connection or task each.
    pub panics: IntCounter,
    /// Access-log lines that were given up because the log could not keep pace or the disk was full.
    pub access_log_lost: IntCounter,
}

/// What one listener counts.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    /// Connections open now.
    pub open: IntGauge,
    /// Connections accepted.
    pub accepted: IntCounter,
    /// TLS handshakes that succeeded.
    pub tls_ok: IntCounter,
    /// TLS handshakes that failed or took too long.
    pub tls_failed: IntCounter,
    refused: IntCounterVec,
    detected: IntCounterVec,
    panics: IntCounter,
    name: Arc<str>,
}

/// What one upstream counts; `-` stands for the gateway's own answers.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    /// Answers by the first digit of their status, from 1xx to 5xx.
    requests: [IntCounter; 5],
    /// From the whole request head to the last byte of the answer.
    pub seconds: Histogram,
    /// Tunnels open now.
    pub tunnels_open: IntGauge,
    /// WebSocket tunnels opened.
    pub websockets: IntCounter,
    /// Raw TCP tunnels opened.
    pub raw: IntCounter,
    /// Upgrade requests that the server answered with something other than 101.
    pub upgrades_refused: IntCounter,
    /// Sessions whose handshake offered a WebSocket.
    pub upgrades_offered: IntCounter,
    /// Of those, the ones that reached it.
    pub upgrades_reached: IntCounter,
    /// How long that took from the handshake.
    pub time_to_websocket: Histogram,
    session_fallbacks: IntCounterVec,
    /// Bytes that tunnels carried from clients to servers.
    pub bytes_in: IntCounter,
    /// Bytes that tunnels carried from servers to clients.
    pub bytes_out: IntCounter,
    closed: IntCounterVec,
    goodbyes: IntCounterVec,
    session_errors: IntCounterVec,
    name: Arc<str>,
}

impl Metrics {
    /// Fresh families at zero.
    ///
    /// # Errors
    /// Two families of one name: a fault of the program, not of its input.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let registry = Registry::new_custom(Some("sockgate".to_owned()), None)?;
        let names = Mutex::default();
        let register = |family: Box<dyn Collector>| register(&registry, &names, family);
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let family = IntCounterVec::new(Opts::new(name, help), labels)?;
            register(Box::new(family.clone())).map(|()| family)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
            register(Box::new(family.clone())).map(|()| family)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let family = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), &["upstream"])?;
            register(Box::new(family.clone())).map(|()| family)
        };
        let plain = |name: &str, help: &str| {
            let metric = IntCounter::new(name, help)?;
            register(Box::new(metric.clone())).map(|()| metric)
        };
        let level = |name: &str, help: &str| {
            let metric = IntGauge::new(name, help)?;
            register(Box::new(metric.clone())).map(|()| metric)
        };
        const REQUESTS: [f64; 15] =
            [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0];
        const UPGRADES: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
        Ok(Arc::new(Self {
            connections_open: gauge("connections_open", "Client connections open now", &["listener"])?,
            connections: counter("connections_total", "Client connections accepted", &["listener"])?,
            connections_refused: counter("connections_refused_total", "Refused by a limit", &["listener", "limit"])?,
            detected: counter("detected_total", "What connections turned out to speak", &["listener", "protocol"])?,
            tls_handshakes: counter("tls_handshakes_total", "TLS handshakes of clients", &["listener", "result"])?,
            requests: counter("requests_total", "Requests answered", &["upstream", "class"])?,
            request_seconds: histogram("request_seconds", "Time of requests, long polls included", &REQUESTS)?,
            refusals: counter("refusals_total", "Requests that the gateway answered by itself", &["reason"])?,
            tunnels_open: gauge("tunnels_open", "Tunnels open now", &["upstream"])?,
            tunnels: counter("tunnels_total", "Tunnels opened", &["upstream", "kind"])?,
            upgrades_refused: counter("upgrades_refused_total", "Upgrades answered without 101", &["upstream"])?,
            upgrades_offered: counter(
                "upgrades_offered_total",
                "Sessions that were offered a WebSocket",
                &["upstream"],
            )?,
            upgrades_reached: counter("upgrades_reached_total", "Of those, the ones that reached it", &["upstream"])?,
            time_to_websocket: histogram(
                "time_to_websocket_seconds",
                "From the handshake of a session to its WebSocket",
                &UPGRADES,
            )?,
            session_fallbacks: counter(
                "session_fallbacks_total",
                "Requests of sessions that nobody knows, by what placed them",
                &["upstream", "by"],
            )?,
            session_errors: counter("engine_io_errors_total", "Engine.IO errors by code", &["upstream", "code"])?,
            tunnels_closed: counter("tunnels_closed_total", "Tunnels closed, by whom", &["upstream", "by"])?,
            goodbyes: counter(
                "goodbyes_total",
                "Sessions and tunnels told to leave their server",
                &["upstream", "why"],
            )?,
            tunnel_bytes: counter("tunnel_bytes_total", "Bytes that tunnels carried", &["upstream", "direction"])?,
            reloads: counter("reloads_total", "Configurations loaded, the first included", &["result"])?,
            reload_good: level("reload_last_good", "1 when the last configuration that was tried is in force")?,
            reload_time: level("reload_last_good_seconds", "When the one in force was loaded, in seconds since 1970")?,
            panics: plain("panics_total", "Panics, each the end of one connection or task")?,
            access_log_lost: plain("access_log_lost_total", "Access-log lines given up")?,
            names,
            registry,
        }))
    }

    /// The handles of one listener.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics {
            open: self.connections_open.with_label_values(&[name]),
            accepted: self.connections.with_label_values(&[name]),
            tls_ok: self.tls_handshakes.with_label_values(&[name, "ok"]),
            tls_failed: self.tls_handshakes.with_label_values(&[name, "failed"]),
            refused: self.connections_refused.clone(),
            detected: self.detected.clone(),
            panics: self.panics.clone(),
            name: name.into(),
        }
    }

    /// The handles of one upstream.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        let class = |class: &str| self.requests.with_label_values(&[name, class]);
        UpstreamMetrics {
            requests: ["1xx", "2xx", "3xx", "4xx", "5xx"].map(class),
            seconds: self.request_seconds.with_label_values(&[name]),
            tunnels_open: self.tunnels_open.with_label_values(&[name]),
            websockets: self.tunnels.with_label_values(&[name, "websocket"]),
            raw: self.tunnels.with_label_values(&[name, "tcp"]),
            upgrades_refused: self.upgrades_refused.with_label_values(&[name]),
            upgrades_offered: self.upgrades_offered.with_label_values(&[name]),
            upgrades_reached: self.upgrades_reached.with_label_values(&[name]),
            time_to_websocket: self.time_to_websocket.with_label_values(&[name]),
            session_fallbacks: self.session_fallbacks.clone(),
            session_errors: self.session_errors.clone(),
            bytes_in: self.tunnel_bytes.with_label_values(&[name, "in"]),
            bytes_out: self.tunnel_bytes.with_label_values(&[name, "out"]),
            closed: self.tunnels_closed.clone(),
            goodbyes: self.goodbyes.clone(),
            name: name.into(),
        }
    }

    /// Runs a task to its end; a panic in it is its end, is counted, and touches nobody else.
    pub fn contain<T: Future<Output = ()>>(&self, task: T) -> impl Future<Output = ()> + use<T> {
        contain(self.panics.clone(), task)
    }

    /// Counts a configuration that was loaded.
    pub fn loaded(&self, at: SystemTime) {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.reload_time.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        self.reload_good.set(1);
        self.reloads.with_label_values(&["good"]).inc();
    }

    /// Counts a configuration that could not be loaded.
    pub fn not_loaded(&self) {
        self.reload_good.set(0);
        self.reloads.with_label_values(&["failed"]).inc();
    }

    /// Tells no more of the `listener`s or `upstream`s of these names. Whoever still counts for one counts in vain.
    pub fn forget(&self, label: &str, names: &[Arc<str>]) {
        if names.is_empty() {
            return;
        }
        let names: HashSet<&str> = names.iter().map(|name| &**name).collect();
        forget_in(&self.connections_open, label, &names);
        forget_in(&self.tunnels_open, label, &names);
        forget_in(&self.request_seconds, label, &names);
        forget_in(&self.time_to_websocket, label, &names);
        for family in [
            &self.connections,
            &self.connections_refused,
            &self.detected,
            &self.tls_handshakes,
            &self.requests,
            &self.tunnels,
            &self.upgrades_refused,
            &self.upgrades_offered,
            &self.upgrades_reached,
            &self.session_fallbacks,
            &self.session_errors,
            &self.tunnels_closed,
            &self.goodbyes,
            &self.tunnel_bytes,
        ] {
            forget_in(family, label, &names);
        }
    }

    /// Counts an answer of the gateway's own.
    pub fn refused(&self, reason: &str) {
        self.refusals.with_label_values(&[reason]).inc();
    }

    /// Renders with the rest what is read when somebody asks.
    ///
    /// # Errors
    /// A family of a name that there is already.
    pub fn register(&self, families: Box<dyn Collector>) -> Result<(), prometheus::Error> {
        register(&self.registry, &self.names, families)
    }

    /// The names of all families, with those that have nothing to tell yet and so are not rendered.
    pub fn names(&self) -> Vec<String> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything in Prometheus' text format 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory fails only for families without metrics, which are skipped by gather().
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

fn register(
    registry: &Registry,
    names: &Mutex<Vec<String>>,
    families: Box<dyn Collector>,
) -> Result<(), prometheus::Error> {
    let described = families.desc().iter().map(|desc| format!("sockgate_{}", desc.fq_name)).collect::<Vec<_>>();
    registry.register(families)?;
    names.lock().unwrap_or_else(PoisonError::into_inner).extend(described);
    Ok(())
}

/// All names in one go: to look for them is to look at the whole family.
fn forget_in<T: MetricVecBuilder>(family: &MetricVec<T>, label: &str, names: &HashSet<&str>) {
    for collected in family.collect() {
        for metric in collected.get_metric() {
            let labels: HashMap<&str, &str> =
                metric.get_label().iter().map(|pair| (pair.name(), pair.value())).collect();
            if labels.get(label).is_some_and(|name| names.contains(name)) {
                let _ = family.remove(&labels);
            }
        }
    }
}

/// No async block: that would keep the task twice, for as long as it runs.
fn contain(panics: IntCounter, task: impl Future<Output = ()>) -> impl Future<Output = ()> {
    // What the task held is dropped with it; counters and tables are never left half-changed across an await.
    AssertUnwindSafe(task).catch_unwind().map(move |ended| {
        if ended.is_err() {
            panics.inc();
        }
    })
}

impl ListenerMetrics {
    /// As [`Metrics::contain`].
    pub fn contain<T: Future<Output = ()>>(&self, task: T) -> impl Future<Output = ()> + use<T> {
        contain(self.panics.clone(), task)
    }

    /// Counts a connection that a limit refused.
    pub fn refused(&self, limit: &str) {
        self.refused.with_label_values(&[&self.name, limit]).inc();
    }

    /// Counts what a connection turned out to speak.
    pub fn detected(&self, protocol: &str) {
        self.detected.with_label_values(&[&self.name, protocol]).inc();
    }
}

impl UpstreamMetrics {
    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.requests[class].inc();
    }

    /// Counts an Engine.IO error answer, by its code (0 to 5).
    pub fn session_error(&self, code: u8) {
        self.session_errors.with_label_values(&[&*self.name, &code.to_string()]).inc();
    }

    /// Counts a goodbye that was said.
    pub fn goodbye(&self, why: &str) {
        self.goodbyes.with_label_values(&[&self.name, why]).inc();
    }

    /// Counts a request of a session that nobody knows, by what places it instead: `cookie` or `balance`.
    pub fn fell_back(&self, by: &str) {
        self.session_fallbacks.with_label_values(&[&self.name, by]).inc();
    }

    /// Counts the end of a tunnel.
    pub fn closed(&self, by: &str) {
        self.closed.with_label_values(&[&self.name, by]).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_its_task_and_is_counted() {
        let metrics = Metrics::new().unwrap();
        metrics.contain(async { panic!("on purpose, in a test") }).await;
        metrics.contain(async {}).await;
        assert_eq!(metrics.panics.get(), 1);
    }

    #[test]
    fn counts_are_rendered_under_the_names_of_their_owners() {
        let metrics = Metrics::new().unwrap();
        metrics.listener("web").accepted.inc();
        let upstream = metrics.upstream("app");
        upstream.answered(204);
        upstream.answered(599);
        upstream.closed("client");
        metrics.refused("no_route");
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            r#"sockgate_connections_total{listener="web"} 1"#,
            r#"sockgate_requests_total{class="2xx",upstream="app"} 1"#,
            r#"sockgate_requests_total{class="5xx",upstream="app"} 1"#,
            r#"sockgate_tunnels_closed_total{by="client",upstream="app"} 1"#,
            r#"sockgate_refusals_total{reason="no_route"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    /// So many that to look through a family for each would take minutes.
    #[test]
    fn a_thousand_names_are_forgotten_in_one_go() {
        let metrics = Metrics::new().unwrap();
        let names: Vec<Arc<str>> = (0..1000).map(|at| format!("u{at}").into()).collect();
        for name in &names {
            metrics.upstream(name).answered(200);
        }
        metrics.forget("upstream", &names[1..]);
        let text = String::from_utf8(metrics.render()).unwrap();
        assert!(text.contains(r#"upstream="u0""#) && !text.contains(r#"upstream="u1""#) && !text.contains("u999"));
    }
}

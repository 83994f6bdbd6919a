//! What the gateway counts, in Prometheus' terms: one line for each family. Handles are looked up once, when their owner is
//! built.

mod owned;

use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::SystemTime;

use futures::FutureExt;
use prometheus::core::Collector;
use prometheus::{Encoder, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};

use owned::{Owner, Owners, Reader, Set};

/// Families as the fields of a struct: the handles of each family, their type, and how a [`Set`] makes them.
macro_rules! families {
    ($(#[$about:meta])* $name:ident {
        $($($handle:ident),+: $type:ty = $make:ident($family:literal, $help:literal $(, $more:expr)*);)*
    }) => {
        $(#[$about])*
        #[derive(Debug)]
        pub struct $name {
            $($(#[doc = $help] pub $handle: $type,)+)*
        }

        impl $name {
            fn new(set: &mut Set) -> Self {
                $(let [$($handle),+] = set.$make($family, $help $(, $more)*);)*
                Self { $($($handle),+),* }
            }
        }
    };
}

families! {
    /// What one listener counts.
    ListenerFamilies {
        open: IntGauge = gauge("connections_open", "Client connections open now");
        accepted: IntCounter = counter("connections_total", "Client connections accepted");
        refused: IntCounterVec = counter_by("connections_refused_total", "Refused by a limit", "limit");
        detected: IntCounterVec = counter_by("detected_total", "What connections turned out to speak", "protocol");
        proxy_headers: IntCounterVec =
            counter_by("proxy_headers_total", "Connections that had to begin with a PROXY header", "result");
        tls_open: IntGauge = gauge("tls_handshakes_open", "TLS handshakes of clients under way");
        tls_ok, tls_failed: IntCounter =
            counters("tls_handshakes_total", "TLS handshakes of clients", "result", ["ok", "failed"]);
        tls_seconds: Histogram =
            histogram("tls_handshake_seconds", "Time of the TLS handshakes that succeeded", &SHORT_TIMES);
    }
}

families! {
    /// What one upstream counts.
    UpstreamFamilies {
        answered_1xx, answered_2xx, answered_3xx, answered_4xx, answered_5xx: IntCounter =
            counters("requests_total", "Requests answered", "class", ["1xx", "2xx", "3xx", "4xx", "5xx"]);
        seconds: Histogram = histogram("request_seconds", "Time of requests, long polls included", &REQUEST_TIMES);
        first_byte_seconds: Histogram =
            histogram("first_byte_seconds", "Time until servers begin to answer, polls left out", &REQUEST_TIMES);
        connect_seconds: Histogram =
            histogram("server_connect_seconds", "Time until connections to servers are open", &SHORT_TIMES);
        http2_open: IntGauge = gauge("server_http2_connections", "Connections of HTTP/2 to servers open now");
        tunnels_open: IntGauge = gauge("tunnels_open", "Tunnels open now");
        websockets, upgraded, raw: IntCounter =
            counters("tunnels_total", "Tunnels opened", "kind", ["websocket", "upgrade", "tcp"]);
        bytes_in, bytes_out: IntCounter =
            counters("tunnel_bytes_total", "Bytes that tunnels carried", "direction", ["in", "out"]);
        closed: IntCounterVec = counter_by("tunnels_closed_total", "Tunnels closed, by whom", "by");
        tunnel_seconds: Histogram = histogram("tunnel_seconds", "How long tunnels were open", &LONG_TIMES);
        goodbyes: IntCounterVec =
            counter_by("goodbyes_total", "Sessions and tunnels told to leave their server", "why");
        upgrades_refused: IntCounter = counter("upgrades_refused_total", "Upgrades answered without 101");
        upgrades_offered: IntCounter = counter("upgrades_offered_total", "Sessions that were offered a WebSocket");
        upgrades_reached: IntCounter = counter("upgrades_reached_total", "Of those, the ones that reached it");
        time_to_websocket: Histogram =
            histogram("time_to_websocket_seconds", "From the handshake of a session to its WebSocket", &UPGRADE_TIMES);
        session_fallbacks: IntCounterVec =
            counter_by("session_fallbacks_total", "Requests of sessions that nobody knows, by what placed them", "by");
        session_searches: IntCounterVec =
            counter_by("session_searches_total", "Requests that waited for a session to be found, by outcome", "result");
        session_questions: IntCounter =
            counter("session_questions_total", "Requests to servers that asked for a session");
        compressed: IntCounterVec = counter_by("compressed_total", "Answers that were compressed", "encoding");
        plain_bytes, compressed_bytes: IntCounter =
            counters("compression_bytes_total", "Bytes before and behind compression", "side", ["before", "behind"]);
        mirrored: IntCounterVec =
            counter_by("mirrored_total", "Copies of requests for the upstream, by outcome", "result");
        session_errors: IntCounterVec = counter_by("engine_io_errors_total", "Engine.IO errors by code", "code");
    }
}

families! {
    /// What the gateway itself counts.
    GatewayFamilies {
        refusals: IntCounterVec =
            counter_by("refusals_total", "Requests that the gateway answered by itself", "reason");
        reloads: IntCounterVec = counter_by("reloads_total", "Configurations loaded, the first included", "result");
        reload_good: IntGauge =
            gauge("reload_last_good", "1 when the last configuration that was tried is in force");
        reload_time: IntGauge =
            gauge("reload_last_good_seconds", "When the one in force was loaded, in seconds since 1970");
        acme_orders: IntCounterVec =
            counter_by("acme_orders_total", "Certificates ordered from authorities", "result");
        panics: IntCounter = counter("panics_total", "Panics, each the end of one connection or task");
        buffered_bytes: IntGauge = gauge("buffered_bytes", "Bytes that wait for slow clients and servers");
        buffers_cut: IntCounter = counter("buffers_cut_total", "Connections cut since they held most of them");
        spans: IntCounterVec = counter_by("trace_spans_total", "Spans of traces, by what became of them", "result");
        access_log_lost: IntCounter = counter("access_log_lost_total", "Access-log lines given up");
    }
}

const REQUEST_TIMES: [f64; 15] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0];
/// Of what a network and some arithmetic take.
const SHORT_TIMES: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// Of what lasts for as long as people stay, up to a day.
pub(crate) const LONG_TIMES: [f64; 11] =
    [1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 14_400.0, 43_200.0, 86_400.0];
const UPGRADE_TIMES: [f64; 10] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Every family of one gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    names: Mutex<Vec<String>>,
    gateway: GatewayFamilies,
    listeners: Arc<Owners<ListenerFamilies>>,
    upstreams: Arc<Owners<UpstreamFamilies>>,
}

/// Expressions that failed, in this process: whoever runs them knows no gateway.
pub fn expression_failures() -> &'static IntCounter {
    static FAILURES: LazyLock<IntCounter> = LazyLock::new(|| {
        let help = "Expressions of routes that failed, and so did not hold";
        let counter = IntCounter::new("expression_failures_total", help);
        counter.unwrap_or_else(|_| unreachable!("the name is one of Prometheus'"))
    });
    &FAILURES
}

/// What one listener counts; under its name for as long as anybody holds this.
#[derive(Clone, Debug)]
pub struct ListenerMetrics {
    owner: Arc<Owner<ListenerFamilies>>,
    panics: IntCounter,
}

/// What one upstream counts; `-` stands for the gateway's own answers. Under its name for as long as anybody holds this.
#[derive(Clone, Debug)]
pub struct UpstreamMetrics {
    owner: Arc<Owner<UpstreamFamilies>>,
}

/// Counts one that is open, for as long as it is there.
#[derive(Debug)]
pub(crate) struct OpenGauge(IntGauge);

impl OpenGauge {
    /// One more in this gauge.
    pub(crate) fn new(open: &IntGauge) -> Self {
        open.inc();
        Self(open.clone())
    }
}

impl Drop for OpenGauge {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// Fresh families at zero.
    ///
    /// # Errors
    /// Two families of one name: a fault of the program, not of its input.
    pub fn new() -> Result<Arc<Self>, prometheus::Error> {
        let mut set = Set::default();
        let this = Self {
            registry: Registry::new_custom(Some("sockgate".to_owned()), None)?,
            names: Mutex::default(),
            gateway: GatewayFamilies::new(&mut set),
            listeners: Owners::new("listener", ListenerFamilies::new)?,
            upstreams: Owners::new("upstream", UpstreamFamilies::new)?,
        };
        let readers: [Box<dyn Collector>; 2] =
            [Box::new(Reader(Arc::clone(&this.listeners))), Box::new(Reader(Arc::clone(&this.upstreams)))];
        this.register(Box::new(expression_failures().clone()))?;
        set.into_collectors().into_iter().chain(readers).try_for_each(|families| this.register(families))?;
        Ok(Arc::new(this))
    }

    /// What the listener of this name counts.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics { owner: self.listeners.named(name), panics: self.panics.clone() }
    }

    /// What a listener counts that is to have the name of another, which is to be renamed.
    pub fn new_listener(&self, name: &str) -> ListenerMetrics {
        ListenerMetrics { owner: self.listeners.new_one(name), panics: self.panics.clone() }
    }

    /// Tells of a listener by another name from now on.
    pub fn rename_listener(&self, listener: &ListenerMetrics, name: &str) {
        if *listener.owner.name() != *name {
            self.listeners.rename(&listener.owner, name);
        }
    }

    /// What the upstream of this name counts.
    pub fn upstream(&self, name: &str) -> UpstreamMetrics {
        UpstreamMetrics { owner: self.upstreams.named(name) }
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

    /// Counts an order of a certificate.
    pub fn acme(&self, result: &str) {
        self.acme_orders.with_label_values(&[result]).inc();
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
        let described: Vec<_> = families.desc().iter().map(|desc| format!("sockgate_{}", desc.fq_name)).collect();
        self.registry.register(families)?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).extend(described);
        Ok(())
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
        self.refused.with_label_values(&[limit]).inc();
    }

    /// Counts a connection that had to begin with a PROXY header, by what became of that.
    pub fn proxy_header(&self, result: &str) {
        self.proxy_headers.with_label_values(&[result]).inc();
    }

    /// Counts what a connection turned out to speak.
    pub fn detected(&self, protocol: &str) {
        self.detected.with_label_values(&[protocol]).inc();
    }
}

impl UpstreamMetrics {
    /// Counts an answer.
    pub fn answered(&self, status: u16) {
        match status / 100 {
            ..=1 => self.answered_1xx.inc(),
            2 => self.answered_2xx.inc(),
            3 => self.answered_3xx.inc(),
            4 => self.answered_4xx.inc(),
            5.. => self.answered_5xx.inc(),
        }
    }

    /// Counts an Engine.IO error answer, by its code (0 to 5).
    pub fn session_error(&self, code: u8) {
        self.session_errors.with_label_values(&[&code.to_string()]).inc();
    }

    /// Counts an answer that was compressed, by how, and its bytes before and behind that.
    pub fn compressed(&self, encoding: &str, before: u64, behind: u64) {
        self.compressed.with_label_values(&[encoding]).inc();
        self.plain_bytes.inc_by(before);
        self.compressed_bytes.inc_by(behind);
    }

    /// Counts a goodbye that was said.
    pub fn goodbye(&self, why: &str) {
        self.goodbyes.with_label_values(&[why]).inc();
    }

    /// Counts a request that waited for its session to be found, by what came of it.
    pub fn session_search(&self, result: &str) {
        self.session_searches.with_label_values(&[result]).inc();
    }

    /// Counts a request of a session that nobody knows, by what places it instead: `cookie` or `balance`.
    pub fn fell_back(&self, by: &str) {
        self.session_fallbacks.with_label_values(&[by]).inc();
    }

    /// Counts the end of a tunnel.
    pub fn closed(&self, by: &str) {
        self.closed.with_label_values(&[by]).inc();
    }
}

impl Deref for Metrics {
    type Target = GatewayFamilies;

    fn deref(&self) -> &GatewayFamilies {
        &self.gateway
    }
}

impl Deref for ListenerMetrics {
    type Target = ListenerFamilies;

    fn deref(&self) -> &ListenerFamilies {
        self.owner.values()
    }
}

impl Deref for UpstreamMetrics {
    type Target = UpstreamFamilies;

    fn deref(&self) -> &UpstreamFamilies {
        self.owner.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

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
        let (listener, upstream) = (metrics.listener("web"), metrics.upstream("app"));
        listener.accepted.inc();
        upstream.answered(204);
        upstream.answered(599);
        upstream.closed("client");
        metrics.upstream("app").closed("client");
        metrics.refused("no_route");
        let text = text(&metrics);
        for line in [
            r#"sockgate_connections_total{listener="web"} 1"#,
            r#"sockgate_requests_total{class="2xx",upstream="app"} 1"#,
            r#"sockgate_requests_total{class="5xx",upstream="app"} 1"#,
            r#"sockgate_tunnels_closed_total{by="client",upstream="app"} 2"#,
            r#"sockgate_refusals_total{reason="no_route"} 1"#,
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }

    #[test]
    fn who_is_gone_is_told_of_no_more() {
        let metrics = Metrics::new().unwrap();
        let (web, app) = (metrics.listener("web"), metrics.upstream("app"));
        app.seconds.observe(1.0);
        let elsewhere = app.clone();
        drop((web, app));
        assert!(!text(&metrics).contains(r#"="web""#));
        assert!(text(&metrics).contains(r#"sockgate_request_seconds_count{upstream="app"} 1"#));
        drop(elsewhere);
        assert!(!text(&metrics).contains(r#"="app""#));
        let app = metrics.upstream("app");
        assert_eq!(app.seconds.get_sample_count(), 0);
    }

    #[test]
    fn a_renamed_listener_keeps_its_count_and_each_name_is_told_once() {
        let metrics = Metrics::new().unwrap();
        let (one, two) = (metrics.listener("one"), metrics.listener("two"));
        one.accepted.inc_by(1);
        two.accepted.inc_by(2);
        let told = |name: &str| {
            let prefix = format!("sockgate_connections_total{{listener=\"{name}\"}} ");
            let text = text(&metrics);
            let values: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(&*prefix)).collect();
            values.join(" and ")
        };
        let heir = metrics.new_listener("one");
        heir.accepted.inc_by(3);
        assert_eq!(told("one"), "1", "it is still the name of the other");
        metrics.rename_listener(&one, "two");
        assert_eq!((told("one"), told("two")), ("3".to_owned(), "1".to_owned()));
        metrics.rename_listener(&two, "three");
        assert_eq!((told("two"), told("three")), ("1".to_owned(), "2".to_owned()));
        assert_eq!(metrics.listener("two").accepted.get(), 1);
    }

    /// So many that to look through all of them for each would take minutes.
    #[test]
    fn thousands_of_names_come_and_go() {
        let metrics = Metrics::new().unwrap();
        let mut upstreams: Vec<_> = (0..3000).map(|at| metrics.upstream(&format!("u{at}"))).collect();
        upstreams.truncate(1);
        let text = text(&metrics);
        assert!(text.contains(r#"upstream="u0""#) && !text.contains(r#"upstream="u1""#) && !text.contains("u2999"));
    }
}

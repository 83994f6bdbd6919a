//! What upstreams and servers know of themselves, as metrics that are read when somebody asks, rather than kept.

mod families;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

use crate::exchange::Core;
use crate::listener::ConnectionLimits;
use crate::session::{Home, Lives};
use crate::snapshot::Snapshot;
use crate::upstream::{Server, Upstream};
use families::{FAMILIES, Family, Read};

/// Reads the snapshot in force.
pub(super) struct StateCollector {
    core: Weak<Core>,
    stays: Arc<AtomicBool>,
    limits: Arc<ConnectionLimits>,
    started: SystemTime,
    descriptions: Vec<Desc>,
}

/// What is read.
struct Seen<'a> {
    snapshot: &'a Snapshot,
    /// Until the gateway begins to stop.
    stays: &'a AtomicBool,
    limits: &'a ConnectionLimits,
    /// When it started.
    started: SystemTime,
}

impl StateCollector {
    /// Holds no gateway alive; `stays` is cleared when it begins to stop.
    pub(super) fn new(
        core: &Arc<Core>,
        stays: Arc<AtomicBool>,
        limits: Arc<ConnectionLimits>,
    ) -> Result<Self, prometheus::Error> {
        let describe = |name: &str, help: &str, labels: &[&str]| {
            let labels = labels.iter().map(|&label| label.to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let families = FAMILIES.iter().map(|family| describe(family.name, family.help, &family.read.labels()));
        let descriptions = families.chain([describe(LIVES.0, LIVES.1, &["upstream"])]).collect::<Result<_, _>>()?;
        Ok(Self { core: Arc::downgrade(core), stays, limits, started: SystemTime::now(), descriptions })
    }
}

impl Collector for StateCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(core) = self.core.upgrade() else { return Vec::new() };
        let snapshot = core.snapshot.load();
        let seen = Seen { snapshot: &snapshot, stays: &self.stays, limits: &self.limits, started: self.started };
        let written =
            FAMILIES.iter().map(|family| family_of(family.name, family.help, family.kind, family.samples(&seen)));
        written.chain([lives(&snapshot)]).collect()
    }
}

fn family_of(name: &str, help: &str, kind: MetricType, samples: Vec<Metric>) -> MetricFamily {
    let mut written = MetricFamily::default();
    written.set_name(name.to_owned());
    written.set_help(help.to_owned());
    written.set_field_type(kind);
    written.set_metric(samples);
    written
}

/// The family of how long sessions last: its name and what it means.
const LIVES: (&str, &str) = ("session_seconds", "How long sessions were known that have ended");

fn lives(snapshot: &Snapshot) -> MetricFamily {
    let sample = |upstream: &Arc<Upstream>| {
        let totals = upstream.sessions()?.totals();
        let mut metric = Metric::from_label(vec![pair("upstream", upstream.name())]);
        metric.set_histogram(histogram(totals.lives()));
        Some(metric)
    };
    let samples = snapshot.upstreams.values().filter_map(sample).collect();
    family_of(LIVES.0, LIVES.1, MetricType::HISTOGRAM, samples)
}

fn histogram(lives: &Lives) -> Histogram {
    let bucket = |(bound, count)| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound);
        bucket.set_cumulative_count(count);
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(lives.cumulative().map(bucket).collect());
    histogram.set_sample_count(lives.count());
    histogram.set_sample_sum(lives.seconds());
    histogram
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}

impl Family {
    fn samples(&self, seen: &Seen<'_>) -> Vec<Metric> {
        let mut samples = Vec::new();
        match self.read {
            Read::Gateway(read) => samples.push(self.sample(&[], read(seen))),
            Read::Parts(_, read) => read(seen, &mut |labels, value| samples.push(self.sample(labels, value))),
            _ => {
                for upstream in seen.snapshot.upstreams.values() {
                    self.of_upstream(upstream, &mut samples);
                }
            }
        }
        samples
    }

    fn of_upstream(&self, upstream: &Upstream, samples: &mut Vec<Metric>) {
        let name = &**upstream.name();
        let mut add = |labels: &[&str], value: f64| samples.push(self.sample(&[&[name], labels].concat(), value));
        match self.read {
            Read::Gateway(_) | Read::Parts(..) => {}
            Read::Server(read) => {
                for server in &upstream.all_servers() {
                    add(&[server.name()], read(server) as f64);
                }
            }
            Read::ServerOf(read) => {
                for server in &upstream.all_servers() {
                    if let Some(value) = read(upstream, server) {
                        add(&[server.name()], value);
                    }
                }
            }
            Read::Home(read) => {
                for (server, home) in homes(upstream) {
                    add(&[server.name()], read(&home) as f64);
                }
            }
            Read::HomeBy(_, read) => {
                for (server, home) in homes(upstream) {
                    for (word, count) in read(&home) {
                        add(&[server.name(), word], count as f64);
                    }
                }
            }
            Read::Upstream(read) => {
                if let Some(value) = read(upstream) {
                    add(&[], value);
                }
            }
            Read::SessionsBy(_, read) => {
                if let Some(table) = upstream.sessions() {
                    for (word, count) in read(upstream, table) {
                        add(&[word], count as f64);
                    }
                }
            }
        }
    }

    /// `values` are those of its labels, in their order.
    fn sample(&self, values: &[&str], value: f64) -> Metric {
        let labels = self.read.labels().into_iter().zip(values).map(|(name, value)| pair(name, value));
        let mut metric = Metric::from_label(labels.collect());
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

/// What the session table knows of each server; nothing, where there are no sessions.
fn homes(upstream: &Upstream) -> Vec<(Arc<Server>, Arc<Home>)> {
    let Some(table) = upstream.sessions() else { return Vec::new() };
    let with_home = |server: Arc<Server>| (Arc::clone(&server), table.home(server.id().to_bits()));
    upstream.all_servers().into_iter().map(with_home).collect()
}

#[cfg(test)]
mod tests;

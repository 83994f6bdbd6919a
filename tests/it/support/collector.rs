//! A collector of traces, and an app that reads `traceparent`: `tests/python/collector.py`, on OpenTelemetry's own messages.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::within;

/// A collector on loopback; it ends when this is dropped.
pub struct Collector {
    address: SocketAddr,
    told: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
    _child: Child,
}

impl Collector {
    /// Starts one that answers its first batches so: see the script. `None`, said aloud, where OpenTelemetry is not installed.
    pub async fn start(answers: &[&str]) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/collector.py");
        let python = script.with_file_name(".venv/bin/python");
        if !python.exists() {
            eprintln!("skipped: OpenTelemetry's messages are not installed, see scripts/node-deps");
            return None;
        }
        let mut command = Command::new(python);
        command.arg("-B").arg(script).args(answers).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = within("the collector is ready", lines.next_line()).await.unwrap().unwrap();
        let first: Value = serde_json::from_str(&first).unwrap();
        let address = ([127, 0, 0, 1], u16::try_from(first["port"].as_u64().unwrap()).unwrap()).into();
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (counting, count) = watch::channel(0);
        let written = Arc::clone(&told);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                written.lock().unwrap().push(serde_json::from_str(&line).unwrap());
                counting.send_modify(|count| *count += 1);
            }
        });
        Some(Self { address, told, count, _child: child })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has told so far: spans, and what else it says.
    pub fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap().clone()
    }

    /// Waits for the first thing that is so.
    pub async fn first(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut count = self.count.clone();
        let find = || self.told().into_iter().find(|told| is_so(told));
        within(what, count.wait_for(|_| find().is_some())).await.expect("it lives");
        find().unwrap()
    }

    /// Waits for the span of this name and kind.
    pub async fn span(&self, kind: &str, name: &str) -> Value {
        let told = self.told();
        let what = format!("a span `{name}` of kind {kind}, beside {told:?}");
        self.first(&what, |told| told["name"] == name && told["kind"] == kind).await
    }
}

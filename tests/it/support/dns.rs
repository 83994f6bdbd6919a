//! A name server that answers as the test says: `tests/python/name_server.py`, on dnslib.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::watch;

use super::within;

/// A name server on loopback; it ends when this is dropped.
pub struct NameServer {
    address: SocketAddr,
    stdin: ChildStdin,
    told: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
    _child: Child,
}

impl NameServer {
    /// Starts one that knows no name. `None`, said aloud, where dnslib is not installed.
    pub async fn start() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/name_server.py");
        let python = script.with_file_name(".venv/bin/python");
        if !python.exists() {
            eprintln!("skipped: dnslib is not installed, see scripts/node-deps");
            return None;
        }
        let mut command = Command::new(python);
        command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let told: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (counting, mut count) = watch::channel(0);
        let written = Arc::clone(&told);
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                written.lock().unwrap().push(serde_json::from_str(&line).unwrap());
                counting.send_modify(|count| *count += 1);
            }
        });
        within("the name server is ready", count.wait_for(|&count| count > 0)).await.expect("it has begun");
        let port = told.lock().unwrap()[0]["port"].as_u64().unwrap();
        let address = ([127, 0, 0, 1], u16::try_from(port).unwrap()).into();
        Some(Self { address, stdin, told, count, _child: child })
    }

    /// Where it is asked.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on a name has these records, such as `A 1 127.0.0.1`: type, TTL and data.
    pub async fn set(&mut self, name: &str, records: &[&str]) {
        self.say(name, json!({ "records": read(records) })).await;
    }

    /// From now on questions for a name meet this fault: see the script for which there are.
    pub async fn fail(&mut self, name: &str, fault: &str, records: &[&str]) {
        self.say(name, json!({ "fault": fault, "records": read(records) })).await;
    }

    /// From now on nobody has this name.
    pub async fn remove(&mut self, name: &str) {
        self.say(name, Value::Null).await;
    }

    /// How often a name was asked for so far, whatever it was of it.
    pub fn asked(&self, name: &str) -> usize {
        self.questions(name).len()
    }

    /// The questions for a name so far.
    pub fn questions(&self, name: &str) -> Vec<Value> {
        let told = self.told.lock().unwrap();
        told.iter().filter(|told| told["name"] == format!("{name}.")).cloned().collect()
    }

    /// Waits until a name is asked for so many times more.
    pub async fn is_asked_again(&self, name: &str, times: usize) {
        let before = self.asked(name);
        let mut count = self.count.clone();
        let again = count.wait_for(|_| self.asked(name) >= before + times);
        within("a name is asked for again", again).await.expect("it lives");
    }

    async fn say(&mut self, name: &str, said: Value) {
        let set = |told: &[Value]| told.iter().filter(|told| told["set"] == 1).count();
        let before = set(&self.told.lock().unwrap());
        let line = format!("{}\n", json!({ format!("{name}."): said }));
        self.stdin.write_all(line.as_bytes()).await.unwrap();
        let done = self.count.wait_for(|_| set(&self.told.lock().unwrap()) > before);
        within("the name server has heard it", done).await.expect("it lives");
    }
}

fn read(records: &[&str]) -> Vec<Value> {
    let value = |word: &str| word.parse::<u64>().map_or_else(|_| json!(word), |number| json!(number));
    records.iter().map(|record| record.split(' ').map(value).collect()).collect()
}

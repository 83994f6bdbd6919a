//! Real Socket.IO peers: servers and clients of `tests/node`, installed by `scripts/node-deps`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Client, within};

/// Every transport, alone and on the way from one to the other.
pub const TRANSPORTS: [&str; 3] = ["polling", "websocket", "polling,websocket"];

/// A Node.js program that prints one line of JSON when it is ready, and ends when its standard input does.
pub struct Node {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    /// The first line.
    pub ready: Value,
}

impl Node {
    /// Starts a Socket.IO server of a version: `v4`, `v2`, `v0.9`.
    pub async fn server(version: &str, arguments: &[&str]) -> Self {
        Self::start("server.js", &[&[version], arguments].concat()).await
    }

    /// Starts a program of `tests/node` that says when it is ready.
    pub async fn start(program: &str, arguments: &[&str]) -> Self {
        Self::launch(command(program).args(arguments)).await
    }

    /// The same for a program of any kind.
    pub async fn launch(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the program is installed");
        let stdin = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = within("the program is ready", lines.next_line()).await.unwrap();
        let first = first.unwrap_or_else(|| panic!("{command:?} ended before it was ready"));
        Self { child, stdin, lines, ready: serde_json::from_str(&first).expect("a line of JSON") }
    }

    /// Has it do something, and gives what it says of that.
    pub async fn ask(&mut self, what: &str) -> Value {
        let stdin = self.stdin.as_mut().expect("the program listens");
        stdin.write_all(format!("{what}\n").as_bytes()).await.unwrap();
        let line = tokio::time::timeout(Duration::from_secs(60), self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{what}: no answer within a minute")).unwrap();
        serde_json::from_str(&line.unwrap_or_else(|| panic!("{what}: the program ended"))).unwrap()
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port()).into()
    }

    /// What it has counted by now: what it answers to `/__stats`.
    pub async fn stats(&self) -> Value {
        let answer = Client::connect(self.address()).await.get("/__stats").await;
        serde_json::from_slice(&answer.body).unwrap()
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        u16::try_from(self.ready["port"].as_u64().unwrap()).unwrap()
    }

    /// The process that was started.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("the program runs")).unwrap()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Ends it the hard way.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// A server of this program for each name.
pub async fn servers(program: &str, names: &[&str]) -> Vec<Node> {
    let mut servers = Vec::new();
    for name in names {
        servers.push(Node::start(program, &["--id", name]).await);
    }
    servers
}

/// What all of these have counted of something.
pub async fn counted(servers: &[Node], what: &str) -> u64 {
    let mut sum = 0;
    for server in servers {
        sum += server.stats().await[what].as_u64().unwrap();
    }
    sum
}

/// Runs a client of a version to its end; gives its summary. `patience` is in seconds.
pub async fn client(version: &str, arguments: &[&str], patience: u64) -> Value {
    run("client.js", &[&[version], arguments].concat(), patience).await
}

/// Runs a program of `tests/node` to its end; gives the JSON of its last line. `patience` is in seconds.
pub async fn run(program: &str, arguments: &[&str], patience: u64) -> Value {
    let run = command(program).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(patience), run).await;
    let output = output.unwrap_or_else(|_| panic!("{program} {arguments:?}: not within {patience} s")).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().last().unwrap_or("");
    serde_json::from_str(summary)
        .unwrap_or_else(|_| panic!("{program} {arguments:?}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// The folder of the Node.js programs.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node")
}

fn command(program: &str) -> Command {
    let folder = folder();
    assert!(
        folder.join("v4/node_modules").exists(),
        "the Socket.IO peers are not installed: run ./scripts/node-deps (or ./scripts/test, which does)"
    );
    let mut command = Command::new("node");
    command.arg(folder.join(program));
    command
}

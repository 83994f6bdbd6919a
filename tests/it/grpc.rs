//! gRPC beside everything else: a real client and a real server of it (grpcio) through the gateway.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::support::engine::for_the_relay;
use crate::support::node::{self, Node};
use crate::support::{Echo, Gateway, Setup, within};

for_the_relay! {
    calls_and_streams_pass_with_metadata_statuses_and_large_messages,
    the_interoperability_cases_of_grpc_go_well,
    deadlines_and_cancellations_reach_the_server,
    a_thousand_calls_go_at_once_over_few_connections,
    a_quiet_stream_outlives_the_times_of_requests,
    refusals_are_statuses_of_grpc,
    calls_go_beside_a_web_app_and_sockets_on_one_port,
}

/// The program, and what runs it; `None`, said aloud, where it is not installed.
fn program() -> Option<(PathBuf, PathBuf)> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/calls.py");
    let python = script.with_file_name(".venv/bin/python");
    if !python.exists() {
        eprintln!("skipped: grpcio is not installed, see scripts/node-deps");
        return None;
    }
    Some((python, script))
}

/// A server of gRPC that runs until it is dropped.
struct Calls {
    _child: Child,
    port: u16,
}

impl Calls {
    async fn start() -> Option<Self> {
        let (python, script) = program()?;
        let mut command = Command::new(python);
        command.arg(script).arg("server").stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = within("the server of gRPC listens", lines.next_line()).await.unwrap().unwrap();
        let ready: Value = serde_json::from_str(&ready).unwrap();
        Some(Self { _child: child, port: u16::try_from(ready["port"].as_u64().unwrap()).unwrap() })
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    /// A gateway before it.
    fn setup(&self) -> Setup {
        Setup::before(&[self.address()]).upstream("http2: true")
    }
}

/// Runs these scenarios of the client, each of which has to go well.
async fn client(gateway: &Gateway, scenarios: &[&str]) {
    let Some((python, script)) = program() else { return };
    let mut command = Command::new(python);
    command.arg(script).arg("client").arg(gateway.address("web").to_string()).args(scenarios).kill_on_drop(true);
    let output = within("the client of gRPC ends", command.output()).await.unwrap();
    let (said, faults) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{faults}");
}

async fn calls_and_streams_pass_with_metadata_statuses_and_large_messages() {
    let Some(calls) = Calls::start().await else { return };
    let gateway = calls.setup().start().await;
    client(&gateway, &["unary", "statuses", "streams", "large"]).await;
    gateway.access_line(&["protocol=HTTP/2", "target=/test.Calls/Echo", "status=200", "upstream=app"]).await;
}

/// By the names that gRPC gives them; those about compression, credentials of clouds and load reports are left out.
async fn the_interoperability_cases_of_grpc_go_well() {
    let Some(calls) = Calls::start().await else { return };
    let gateway = calls.setup().start().await;
    let cases = [
        "empty_unary",
        "large_unary",
        "client_streaming",
        "server_streaming",
        "ping_pong",
        "empty_stream",
        "custom_metadata",
        "status_code_and_message",
        "special_status_message",
        "unimplemented_method",
        "unimplemented_service",
        "cancel_after_begin",
        "cancel_after_first_response",
        "timeout_on_sleeping_server",
        "many_small_messages",
    ];
    client(&gateway, &cases).await;
}

async fn deadlines_and_cancellations_reach_the_server() {
    for scenario in ["deadlines", "cancellations"] {
        let Some(calls) = Calls::start().await else { return };
        let gateway = calls.setup().start().await;
        client(&gateway, &[scenario]).await;
        gateway.access_line(&["target=/test.Calls/Hang", "closed_by=client"]).await;
    }
}

async fn a_thousand_calls_go_at_once_over_few_connections() {
    let Some(calls) = Calls::start().await else { return };
    let gateway = calls.setup().start().await;
    client(&gateway, &["crowd"]).await;
}

async fn a_quiet_stream_outlives_the_times_of_requests() {
    let Some(calls) = Calls::start().await else { return };
    let upstream = "timeouts: { read_idle: 1s, first_byte: 1s }";
    let gateway = calls.setup().upstream(upstream).more("timeouts: { body: 1s }").start().await;
    client(&gateway, &["quiet"]).await;
}

async fn refusals_are_statuses_of_grpc() {
    let gone = Echo::start("gone").await.address();
    let gateway = Gateway::start_unready(&format!(
        "
listeners:
  - {{ name: web, address: \"127.0.0.1:0\" }}
routes:
  - {{ match: {{ path: /test.Calls/Echo }}, upstream: gone }}
upstreams:
  gone: {{ servers: [\"{gone}\"], http2: true, health: {{ check: none }} }}
"
    ))
    .await;
    client(&gateway, &["refused:UNAVAILABLE:No server could be reached."]).await;
    gateway.access_line(&["target=/test.Calls/Echo", "status=200", "closed_by=connect_failed"]).await;
    let told = |respond: &str| {
        let yaml = format!(
            "
listeners:
  - {{ name: web, address: \"127.0.0.1:0\" }}
routes:
  - respond: {{ {respond} }}
"
        );
        async move { Gateway::start(&yaml).await }
    };
    client(&told("status: 403, body: \"100% no\"").await, &["refused:PERMISSION_DENIED:100% no"]).await;
    client(&told("status: 429").await, &["refused:UNAVAILABLE"]).await;
    client(&told("status: 413, body: \"large\"").await, &["refused:UNKNOWN:large"]).await;
}

async fn calls_go_beside_a_web_app_and_sockets_on_one_port() {
    let Some(calls) = Calls::start().await else { return };
    let (web, chat) = (Echo::start("web").await, Node::server("v4", &[]).await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: \"127.0.0.1:0\" }}
routes:
  - {{ match: {{ path: /test.Calls/ }}, upstream: calls }}
  - {{ match: {{ path: /socket.io/ }}, upstream: chat }}
  - upstream: web
upstreams:
  calls: {{ servers: [\"{}\"], http2: true }}
  chat: {{ kind: socket.io, servers: [\"127.0.0.1:{}\"] }}
  web: {{ servers: [\"{}\"] }}
",
        calls.address(),
        chat.port(),
        web.address()
    ))
    .await;
    let url = format!("http://{}", gateway.address("web"));
    let arguments = ["--url", &url, "--transports", "polling,websocket", "--sessions", "5"];
    let (summary, ()) = tokio::join!(node::client("v4", &arguments, 30), client(&gateway, &["unary", "streams"]));
    assert_eq!(summary["ok"], true, "{summary}");
    assert_eq!(gateway.client().await.get("/").await.header("x-server"), Some("web"));
}

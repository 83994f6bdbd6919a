//! Clients of TLS that are odd: a library in pure Python (tlslite-ng) sends what others never do; and who only makes noise.

use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal::SIGHUP;
use tokio::process::Command;

use super::{certificates, over};
use crate::support::tls::Authority;
use crate::support::{Echo, Gateway, Scripted, peers, within};

/// Runs scenarios of the client against bytes that come back through the gateway.
async fn odd_client(scenarios: &[&str]) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/tls_peer.py");
    let python = script.with_file_name(".venv/bin/python");
    if !python.exists() {
        eprintln!("skipped: tlslite-ng is not installed, see scripts/node-deps");
        return;
    }
    let authority = Authority::new();
    let shown = certificates(&[&authority.sign(&["a.test"])]);
    let server = Scripted::start(|mut client, _| async move {
        while let Some(bytes) = client.some().await {
            if client.try_send(bytes).await.is_err() {
                return;
            }
        }
        let _ = client.try_finish().await;
    })
    .await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: \"127.0.0.1:0\", protocol: tcp, upstream: app, tls: {{ {shown} }} }}
upstreams:
  app: {{ servers: [\"{}\"], health: {{ check: none }} }}
",
        server.address()
    ))
    .await;
    let mut client = Command::new(python);
    client.arg("-B").arg(script).arg(gateway.address("web").port().to_string()).args(scenarios);
    let output = client.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within("the odd client is done", output).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&[output.stdout, output.stderr].concat()));
}

#[tokio::test]
async fn records_of_every_form_are_read() {
    odd_client(&["tiny_records", "records_of_every_size", "padded_records", "empty_records", "half_close"]).await;
}

#[tokio::test]
async fn keys_change_as_often_as_something_is_said_with_them() {
    odd_client(&["new_keys", "new_keys_without_end"]).await;
}

#[tokio::test]
async fn who_breaks_the_rules_is_told_and_others_go_on() {
    odd_client(&["renegotiation", "unknown_records", "records_of_nobody", "too_long_records", "cut"]).await;
}

#[tokio::test]
async fn much_arrives_whole_both_ways() {
    odd_client(&["bulk"]).await;
}

#[tokio::test]
async fn handshakes_of_strangers_write_no_lines_into_the_log() {
    let authority = Authority::new();
    let web = Echo::start("web").await;
    let yaml = over(&certificates(&[&authority.sign(&["a.test"])]), web.address()).yaml();
    // As it is started where nobody chooses what the log tells.
    let mut program = Command::new("env");
    program.args(["-u", "RUST_LOG", env!("CARGO_BIN_EXE_sockgate")]);
    let gateway = Gateway::launch(&yaml, program).await;
    let address = gateway.address("web").to_string();
    // An address is no name, which the library below would tell of each time.
    let arguments = ["s_client", "-connect", &address, "-servername", "127.0.0.1"];
    if peers::run("openssl", &arguments, "").await.is_none() {
        return;
    }
    gateway.signal(SIGHUP);
    gateway.log_line("SIGHUP: loading").await;
    assert_eq!(gateway.log_lines("rustls"), [""; 0]);
}

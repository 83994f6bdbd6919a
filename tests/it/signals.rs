//! Signals that come before a gateway can obey them: they end nothing, and are obeyed once it runs.

use nix::sys::signal::Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::support::{Echo, Gateway};

async fn yaml(more: &str) -> String {
    let echo = Echo::start("a").await;
    let web = "{ name: web, address: 127.0.0.1:0 }";
    format!(
        "listeners:\n  - {web}\nroutes:\n  - upstream: a\nupstreams:\n  a: {{ servers: [\"{}\"] }}\n{more}",
        echo.address()
    )
}

#[tokio::test]
async fn a_reload_that_is_asked_for_before_the_file_is_read_is_done_once_the_gateway_runs() {
    let yaml = yaml("reload: { watch: false }\n").await;
    let gateway = Gateway::start_with_signals(&yaml, &[SIGHUP, SIGUSR1]).await;
    gateway.log_line("SIGHUP: loading").await;
    gateway.log_line("reloaded: nothing changes").await;
}

#[tokio::test]
async fn an_upgrade_that_is_asked_for_before_the_file_is_read_is_done_once_the_gateway_runs() {
    let yaml = yaml("drain: { over: 1ms, deadline: 1s }\n").await;
    let mut gateway = Gateway::start_with_signals(&yaml, &[SIGUSR2]).await;
    gateway.taken_over().await;
}

#[tokio::test]
async fn a_stop_that_is_asked_for_before_the_file_is_read_is_in_order() {
    let yaml = yaml("drain: { deadline: 1s }\n").await;
    for (signal, line) in [(SIGTERM, "stopped: every connection has ended"), (SIGINT, "interrupted: stopping at once")]
    {
        let mut gateway = Gateway::start_with_signals(&yaml, &[signal]).await;
        gateway.log_line(line).await;
        assert_eq!(gateway.ended().await, 0, "{signal}");
    }
}

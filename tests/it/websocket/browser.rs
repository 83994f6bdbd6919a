//! A real browser, which puts its WebSockets on the HTTP/2 connection of their page where that is offered.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::support::node::Node;
use crate::support::tls::Authority;
use crate::support::{Gateway, within};

/// Opens ten sockets, says something in each and leaves; then says how often it was answered right.
const PAGE: &str = "<!doctype html><script>
  const one = (number) => new Promise((resolve) => {
    const socket = new WebSocket(`wss://${location.host}/echo/${number}`);
    socket.onopen = () => socket.send('hello '.repeat(1000) + number);
    socket.onmessage = (event) => { resolve(event.data.endsWith(` ${number}`) ? 1 : 0); socket.close(1000); };
    socket.onclose = () => resolve(0);
  });
  Promise.all(Array.from({ length: 10 }, (_, number) => one(number)))
    .then((all) => fetch(`/right/${all.reduce((sum, right) => sum + right)}`));
</script>";

/// Starts Chromium at this address; `None` where there is none.
pub fn chromium(url: &str, profile: &TempDir) -> Option<Child> {
    let switches = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--ignore-certificate-errors",
        "--remote-debugging-port=0",
    ];
    let mut command = Command::new("chromium");
    command.args(switches).arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().ok()
}

#[tokio::test]
async fn a_browser_puts_its_sockets_on_the_connection_of_their_page() {
    let server = Node::start("ws_server.js", &[]).await;
    let authority = Authority::new();
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0, http2_websockets: true, tls: {{ certificates: [{}] }} }}
routes:
  - {{ match: {{ path: /echo/ }}, upstream: app }}
  - {{ match: {{ path: /right/ }}, respond: {{ status: 204 }} }}
  - {{ match: {{ path: / }}, respond: {{ status: 200, headers: {{ content-type: text/html }}, body: {} }} }}
upstreams:
  app: {{ servers: [\"127.0.0.1:{}\"] }}
",
        authority.sign(&["localhost"]).yaml(),
        serde_json::to_string(&PAGE.replace('$', "$$")).unwrap(),
        server.port()
    ))
    .await;
    let profile = TempDir::new().unwrap();
    let url = format!("https://localhost:{}/", gateway.address("web").port());
    let Some(mut browser) = chromium(&url, &profile) else {
        eprintln!("skipped: there is no `chromium` here");
        return;
    };
    gateway.access_line(&["target=/right/10", "protocol=HTTP/2"]).await;
    // 200 and not 101: by HTTP/2.
    let line =
        ["event=close", "protocol=WebSocket", "status=200", "messages_in=1", "messages_out=1", "close_code=1000"];
    for number in 0..10 {
        gateway.access_line(&[&line[..], &[&format!("target=/echo/{number}")]].concat()).await;
    }
    browser.start_kill().unwrap();
    within("the end of the browser", browser.wait()).await.unwrap();
}

//! A real browser, whose pages ask another site: what they may read of it, and what it is spared.

use tempfile::TempDir;

use crate::support::{Gateway, Scripted, within};
use crate::websocket::browser::chromium;

/// Asks the site at the port in the query, and says what came of it.
const PAGE: &str = "<!doctype html><script>
  const site = `localhost:${location.search.slice(1)}`;
  const status = (path, more) => fetch(`http://${site}${path}`, more).then((answer) => answer.status, () => 'error');
  const socket = (path) => new Promise((resolve) => {
    const socket = new WebSocket(`ws://${site}${path}`);
    socket.onopen = () => resolve('open');
    socket.onerror = () => resolve('refused');
  });
  (async () => {
    const told = [
      await status('/down'),
      await status('/open', { method: 'PUT', headers: { 'X-Custom': '1' }, body: 'x' }),
      await status('/closed'),
      await socket('/socket'),
    ];
    await fetch(`/told/${told.join('-')}`);
  })();
</script>";

#[tokio::test]
async fn pages_read_refusals_preflights_stop_at_the_gateway_and_foreign_sockets_are_refused() {
    let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
    let server = Scripted::start(move |mut client, _| {
        let tell = tell.clone();
        async move {
            while let Some(request) = client.request().await {
                let _ = tell.send(String::from_utf8_lossy(&request.head).lines().next().unwrap().to_owned());
                if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: page, address: 127.0.0.1:0 }}
  - {{ name: site, address: 127.0.0.1:0 }}
routes:
  - {{ match: {{ listener: page, path: /told/ }}, respond: {{ status: 204 }} }}
  - {{ match: {{ listener: page }}, respond: {{ status: 200, headers: {{ content-type: text/html }}, body: {} }} }}
  - {{ match: {{ path: /down }}, upstream: down, access: {{ cors: {{ origins: \"http://localhost:*\" }} }} }}
  - {{ match: {{ path: /open }}, upstream: up, access: {{ cors: {{ origins: \"http://localhost:*\" }} }} }}
  - {{ match: {{ path: /closed }}, upstream: up, access: {{ cors: {{ origins: \"https://other.test\" }} }} }}
  - {{ match: {{ path: /socket }}, upstream: up, access: {{ origins: [same, \"https://other.test\"] }} }}
upstreams:
  up: {{ servers: [\"{}\"], health: {{ check: none }} }}
  down: {{ servers: [\"127.0.0.1:1\"], optional: true, health: {{ check: tcp }} }}
",
        serde_json::to_string(&PAGE.replace('$', "$$")).unwrap(),
        server.address(),
    ))
    .await;
    let profile = TempDir::new().unwrap();
    let [page, site] = ["page", "site"].map(|name| gateway.address(name).port());
    let Some(mut browser) = chromium(&format!("http://localhost:{page}/?{site}"), &profile) else {
        eprintln!("skipped: there is no `chromium` here");
        return;
    };
    gateway.access_line(&["target=/told/503-200-error-refused"]).await;
    gateway.access_line(&["method=OPTIONS", "target=/open", "status=204", "closed_by=preflight"]).await;
    gateway.access_line(&["target=/socket", "status=403", "closed_by=origin"]).await;
    let asked: Vec<String> = std::iter::from_fn(|| asked.try_recv().ok()).collect();
    assert_eq!(asked, ["PUT /open HTTP/1.1", "GET /closed HTTP/1.1"], "what the server has heard");
    browser.start_kill().unwrap();
    within("the end of the browser", browser.wait()).await.unwrap();
}

//! What is counted over reloads: a renamed listener keeps its counts, and what a failed one built leaves none.

use tokio::net::{TcpListener, UnixStream};

use super::yaml;
use crate::support::{Client, Echo, Gateway, eventually};

#[tokio::test]
async fn a_renamed_listener_keeps_its_count_and_its_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("web.sock");
    let yaml = |name: &str| {
        let path = path.display();
        format!(
            "
listeners:
  - {{ name: {name}, address: \"unix:{path}\", max_connections: 2 }}
routes:
  - respond: {{ body: here }}
reload: {{ watch: false }}
"
        )
    };
    let mut gateway = Gateway::start(&yaml("one")).await;
    let connect = async || Client::over(UnixStream::connect(&path).await.unwrap());
    let mut open = [connect().await, connect().await];
    for client in &mut open {
        assert_eq!(client.get("/").await.status, 200);
    }
    let answer = gateway.reload(&yaml("two")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(connect().await.read_all().await, b"", "the two that are open count");
    for (name, value) in [("connections_open", 2.0), ("connections_total", 2.0)] {
        assert_eq!(gateway.metric(&format!("sockgate_{name}{{listener=\"two\"}}")).await, value, "{name}");
    }
    let refused = "sockgate_connections_refused_total{limit=\"listener\",listener=\"two\"}";
    assert_eq!(gateway.metric(refused).await, 1.0);
    assert!(!gateway.admin("/metrics").await.text().contains("\"one\""), "nobody has the old name");
    drop(open);
    eventually("there is room", async || connect().await.try_ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.is_some())
        .await;
}

#[tokio::test]
async fn a_reload_that_fails_leaves_no_metrics_behind() {
    let (web, taken) = (Echo::start("web").await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let mut gateway = Gateway::start(&yaml(web.address(), "")).await;
    let more = yaml(web.address(), "").replace(
        "routes:",
        &format!(
            "  - {{ name: more, address: 127.0.0.1:0 }}\n  - {{ name: taken, address: \"{}\" }}\nroutes:\n  - {{ match: {{ path: /extra }}, upstream: extra }}",
            taken.local_addr().unwrap()
        ),
    );
    let more = more.replace("upstreams:", "upstreams:\n  extra: { servers: [\"127.0.0.1:1\"] }");
    let answer = gateway.reload(&more).await;
    assert_eq!(answer.status, 422, "{}", answer.text());
    assert!(answer.text().contains("can't be bound"), "{}", answer.text());
    let told = gateway.admin("/metrics").await.text();
    assert!(told.contains("listener=\"web\"") && told.contains("upstream=\"web\""));
    for name in ["more", "taken", "extra"] {
        assert!(!told.contains(&format!("=\"{name}\"")), "{name} in\n{told}");
    }
}

//! Servers in the gateway's own zone come first; others help out, and whoever is there stays.

use serde_json::Value;

use crate::support::websocket::upgrade;
use crate::support::{Echo, Gateway, eventually, within};

async fn server_of(gateway: &Gateway) -> String {
    gateway.client().await.get("/").await.header("x-server").unwrap_or_default().to_owned()
}

#[tokio::test]
async fn new_work_stays_in_the_zone_while_that_has_room_and_sockets_stay_where_they_are() {
    let (near, far) = (Echo::start("near").await, Echo::start("far").await);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("servers.yaml");
    let put = |most: usize| {
        let (near, far) = (near.address(), far.address());
        let text = format!(
            "- {{ address: '{far}', zone: b }}\n- {{ address: '{near}', name: near, zone: a, max_connections: {most} }}\n"
        );
        std::fs::write(folder.path().join("new"), text).unwrap();
        std::fs::rename(folder.path().join("new"), &file).unwrap();
    };
    put(2);
    let yaml = format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app: {{ servers: {{ file: {} }}, health: {{ check: none }}, balance: round_robin }}
zone: ${{SOCKGATE_TEST_ZONE:-a}}
",
        file.display()
    );
    let mut gateway = Gateway::start(&yaml).await;
    for _ in 0..5 {
        assert_eq!(server_of(&gateway).await, "near");
    }
    let mut sockets = Vec::new();
    for expected in ["near", "near", "far"] {
        let mut socket = gateway.client().await;
        socket.send(upgrade("/chat")).await;
        assert_eq!(socket.answer().await.header("x-server"), Some(expected));
        sockets.push(socket);
    }
    assert_eq!(server_of(&gateway).await, "far", "the own zone is full");
    put(3);
    eventually("the own zone has room again", async || server_of(&gateway).await == "near").await;

    // The gateway is in the other zone now: nobody who is there is moved.
    assert_eq!(gateway.reload(&yaml.replace(":-a}", ":-b}")).await.status, 200);
    for _ in 0..5 {
        assert_eq!(server_of(&gateway).await, "far");
    }
    for socket in &mut sockets {
        socket.send("ping").await;
        assert_eq!(within("the socket lives", socket.read(4)).await, b"ping");
    }
    let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    let zones: Vec<_> =
        status["upstreams"][0]["servers"].as_array().unwrap().iter().map(|server| &server["zone"]).collect();
    assert_eq!((&status["zone"], zones), (&Value::from("b"), vec![&Value::from("b"), &Value::from("a")]));
}

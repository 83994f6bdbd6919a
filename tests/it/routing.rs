//! Requests find their way, and arrive as they should.

use crate::support::client::upgrade;
use crate::support::{Client, Echo, Gateway};

#[tokio::test]
async fn seed_one_port() {
    let (web, sockets) = (Echo::start("web").await, Echo::start("sockets").await);
    let gateway = Gateway::start(&format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - match: {{ path: [/socket.io, /node] }}
    upstream: sockets
  - upstream: web
upstreams:
  web: {{ servers: [\"{}\"] }}
  sockets: {{ servers: [\"{}\"] }}
",
        web.address(),
        sockets.address()
    ))
    .await;
    let mut client = Client::connect(gateway.address("web")).await;
    for round in 0..50 {
        for (path, server) in [
            ("/", "web"),
            ("/socket.io/?EIO=4&transport=polling", "sockets"),
            ("/nodes", "web"),
            ("/node/1", "sockets"),
            ("/socket.iox", "web"),
            ("//socket.io/", "sockets"),
            ("/x/../node", "sockets"),
        ] {
            let answer = client.get(path).await;
            assert_eq!((answer.status, answer.header("x-server")), (200, Some(server)), "{path} in round {round}");
            assert!(answer.text().contains(&format!("GET {path} HTTP/1.1")), "the original path is forwarded");
        }
    }
    let mut socket = Client::connect(gateway.address("web")).await;
    socket.send(upgrade("/socket.io/")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("sockets"));
}

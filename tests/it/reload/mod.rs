//! Loading a configuration into a running gateway.

mod change;
mod counts;
mod file;
mod include;
mod many;

use std::net::SocketAddr;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::client::Answer;
use crate::support::eventually;

fn yaml(web: SocketAddr, rest: &str) -> String {
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - {{ name: web, upstream: web }}
upstreams:
  web: {{ servers: [\"{web}\"] }}
reload: {{ watch: false }}
{rest}"
    )
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

/// The lines of a plan, as `subject name verb`.
fn changes(plan: &Value) -> Vec<String> {
    let text = |change: &Value, key: &str| change[key].as_str().unwrap().to_owned();
    let line = |change| ["subject", "name", "verb"].map(|key| text(change, key)).join(" ");
    plan["changes"].as_array().unwrap().iter().map(line).collect()
}

async fn refused(address: SocketAddr) {
    eventually("connections are refused", async || TcpStream::connect(address).await.is_err()).await;
}

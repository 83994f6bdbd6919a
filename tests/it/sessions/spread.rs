//! New sessions of a crowd behind one address are spread over the servers.

use futures::future::join_all;

use crate::support::Gateway;
use crate::support::cluster::{Cluster, NAMES, sessions_on};

/// Opens so many sessions from one address through the gateways in turn, ten at once, and closes them; gives how many
/// there were on each server.
async fn crowd(gateways: &[Gateway], servers: &[&str], sessions: usize) -> Vec<f64> {
    const LANES: usize = 10;
    const OPEN: &str = "/socket.io/?EIO=4&transport=polling";
    let lanes = (0..LANES).map(async |lane| {
        let mut ways = Vec::new();
        for gateway in gateways {
            ways.push(gateway.client().await);
        }
        let mut opened = Vec::new();
        for number in (lane..sessions).step_by(LANES) {
            let way = number / LANES % ways.len();
            let answer = ways[way].get(OPEN).await;
            opened.push((way, answer.text().split('"').nth(3).unwrap().to_owned()));
        }
        (ways, opened)
    });
    let lanes = join_all(lanes).await;
    let there = async || {
        let counts = servers.iter().map(async |server| {
            let each = join_all(gateways.iter().map(|gateway| sessions_on(gateway, server))).await;
            each.into_iter().sum::<f64>()
        });
        join_all(counts).await
    };
    let homes = there().await;
    let leaving = lanes.into_iter().map(async |(mut ways, opened)| {
        for (way, sid) in opened {
            assert_eq!(ways[way].post(&format!("{OPEN}&sid={sid}"), b"1").await.status, 200);
        }
    });
    join_all(leaving).await;
    assert_eq!(there().await.iter().sum::<f64>(), 0.0, "who has said goodbye counts no more");
    homes
}

/// Where a crowd shares an address, the hash of the address may not lead all of it to one server.
#[tokio::test]
async fn one_address() {
    const SERVERS: usize = 4;
    let cluster = Cluster::start("v4", SERVERS, &[]).await;
    for returning in ["0s", "2m"] {
        let more = format!("balance: client_ip, sessions: {{ returning: {returning}, bounded_from: 0 }}");
        let gateways =
            [cluster.gateway_with("127.0.0.1:0", &more).await, cluster.gateway_with("127.0.0.1:0", &more).await];
        for several in [&gateways[..1], &gateways] {
            for sessions in [50, 200, 400] {
                let homes = crowd(several, &NAMES[..SERVERS], sessions).await;
                let what = format!("{sessions} sessions, {} gateways, returning {returning}: {homes:?}", several.len());
                assert_eq!(homes.iter().sum::<f64>(), sessions as f64, "{what}");
                // Each gateway spreads its own part, and rounds up: of twelve and a half, that shows.
                let rounding = if sessions == 50 { several.len() as f64 } else { 0.0 };
                let most = 1.3 * sessions as f64 / SERVERS as f64 + rounding;
                assert!(homes.iter().all(|&there| there <= most), "{what}: no more than {most} on one server");
            }
        }
    }
}

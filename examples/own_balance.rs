//! A balance of one's own, tested without a gateway: whoever does least for its share, among two that the client's address
//! names. One crowd can't fill more than those two.
//!
//! `cargo run --example own_balance` tests it, and builds a gateway with it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use sockgate::{Balance, Candidates, Config, Gateway, PickKey, Server, ServerConfig};

/// Two neighbours of a list belong to each client.
struct TwoOfMine {
    servers: usize,
}

impl TwoOfMine {
    fn among(servers: &[Arc<Server>]) -> Self {
        Self { servers: servers.len() }
    }
}

impl Balance for TwoOfMine {
    fn choose(&self, key: &PickKey, candidates: &Candidates<'_>) -> Option<usize> {
        let IpAddr::V4(address) = key.placement() else { return candidates.open().next() };
        let first = usize::try_from(address.to_bits()).unwrap_or(0) % self.servers.max(1);
        let second = (first + 1) % self.servers.max(1);
        let least = |&position: &usize| candidates.load(position) * 1000 / candidates.share(position).max(1);
        let own = [first, second].into_iter().filter(|&position| candidates.is_open(position)).min_by_key(least);
        // Where both are down, or full, anybody will do.
        own.or_else(|| candidates.open().next())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let list = |drains: usize| -> Result<Vec<Arc<Server>>, String> {
        let said = |number: usize| ServerConfig::at(&format!("10.0.0.{number}:80"));
        (0..4).map(|number| Ok(Server::idle(&said(number)?.with_drain(number == drains)))).collect()
    };
    let client = |last: u8| PickKey::from(IpAddr::from(Ipv4Addr::new(192, 0, 2, last)));
    let all = list(usize::MAX)?;
    let balance = TwoOfMine::among(&all);
    let first = (0..8).map(|last| balance.choose(&client(last), &Candidates::of(&all)));
    let first: Vec<_> = first.flatten().collect();
    println!("clients 0 to 7 are placed on {first:?}");
    assert_eq!(first, [0, 1, 2, 3, 0, 1, 2, 3]);
    let without_the_first = list(0)?;
    assert_eq!(balance.choose(&client(0), &Candidates::of(&without_the_first)), Some(1), "its neighbour stands in");

    let yaml = "
listeners: [{ address: 127.0.0.1:0 }]
routes: [{ upstream: app }]
upstreams: { app: { servers: [10.0.0.1:80, 10.0.0.2:80] } }
";
    let config = || Config::read("example.yaml", yaml, &|_| None).map(|loaded| loaded.config);
    Gateway::builder(config()?).balance("app", TwoOfMine::among).build()?;
    let fault =
        Gateway::builder(config()?).balance("ap", TwoOfMine::among).build().err().ok_or("nobody is called so")?;
    println!("with a slip of the pen: {fault}");
    Ok(())
}

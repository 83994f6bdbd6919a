//! Keeps the addresses of servers that are known by a host name.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::server::Server;

/// From one look-up to the next.
const REFRESH: Duration = Duration::from_secs(10);
/// The same where failed connects ask for it.
const LEAST_GAP: Duration = Duration::from_secs(1);
/// A resolver that is silent for longer than this is taken for dead.
const PATIENCE: Duration = Duration::from_secs(5);
/// Look-ups at once, over all upstreams. The runtime has some 500 threads for what blocks, and reloads need one of them.
const MOST_LOOKUPS: usize = 128;

static PLACES: Semaphore = Semaphore::const_new(MOST_LOOKUPS);

/// Looks the name up once. The last good answer stays where the new one is none. After `failed` connects another of
/// its addresses comes first.
pub(crate) async fn look_up(server: &Server, host: &str, port: u16, failed: bool) -> Result<(), String> {
    let name = host.to_owned();
    let found = match timeout(PATIENCE, ask(move || (name, port).to_socket_addrs().map(Iterator::collect))).await {
        Ok(Ok(found)) => found,
        Ok(Err(fault)) => return Err(format!("`{host}` does not resolve: {fault}")),
        Err(_) => return Err(format!("`{host}` does not resolve: no answer within {PATIENCE:?}")),
    };
    let known = server.addresses();
    let addresses = merge(&known, found, failed);
    if addresses.is_empty() {
        return Err(format!("`{host}` does not resolve: no address"));
    }
    if addresses != *known {
        log::info!("server {}: {host} is at {addresses:?}", server.name());
        server.set_addresses(addresses);
    }
    Ok(())
}

/// Asks the system, which holds a thread until the resolver has answered or is given up, however long anybody waits here.
async fn ask<F>(question: F) -> io::Result<Vec<SocketAddr>>
where
    F: FnOnce() -> io::Result<Vec<SocketAddr>> + Send + 'static,
{
    let place = PLACES.acquire().await.map_err(io::Error::other)?;
    let asking = spawn_blocking(move || {
        let _place = place;
        question()
    });
    asking.await.map_err(io::Error::other)?
}

/// Waits until it is time for another look-up: after a while, or sooner when connects fail, which is what it tells.
pub(crate) async fn next_turn(server: &Server) -> bool {
    sleep(LEAST_GAP).await;
    tokio::select! {
        () = sleep(REFRESH - LEAST_GAP) => false,
        () = server.lookup_wanted() => true,
    }
}

/// The new addresses in the order that has proven itself: those known first, as they stood, but for a first one that
/// `failed`.
fn merge(known: &[SocketAddr], mut found: Vec<SocketAddr>, failed: bool) -> Vec<SocketAddr> {
    let mut seen = std::collections::HashSet::new();
    found.retain(|address| seen.insert(*address));
    found.sort_by_key(|address| known.iter().position(|known| known == address).unwrap_or(usize::MAX));
    if failed && !found.is_empty() && found.first() == known.first() {
        found.rotate_left(1);
    }
    found
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::upstream::testing::upstream;

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|&port| ([127, 0, 0, 1], port).into()).collect()
    }

    #[test]
    fn an_address_that_served_well_stays_first_while_the_name_has_it() {
        let merged = merge(&addresses(&[2, 1]), addresses(&[1, 2, 2, 3]), false);
        assert_eq!(merged, addresses(&[2, 1, 3]));
        assert_eq!(merge(&addresses(&[2]), addresses(&[3, 1]), false), addresses(&[3, 1]));
        assert_eq!(merge(&[], addresses(&[3, 1]), false), addresses(&[3, 1]));
    }

    #[tokio::test]
    async fn a_name_that_no_longer_resolves_leaves_the_server_where_it_was() {
        let upstream = upstream(serde_json::json!({ "servers": ["localhost:7"] }));
        let server = &upstream.servers()[0];
        look_up(server, "localhost", 7, false).await.unwrap();
        let known = server.addresses();
        assert!(!known.is_empty());
        // Nobody will ever have this name (RFC 6761 6.4).
        for failed in [false, true] {
            let fault = look_up(server, "gone.invalid", 7, failed).await.unwrap_err();
            assert!(fault.starts_with("`gone.invalid` does not resolve: "), "{fault}");
            assert_eq!(server.addresses(), known);
            assert!(server.endpoint().is_some());
        }
    }

    #[test]
    fn an_address_that_failed_lets_another_go_first() {
        assert_eq!(merge(&addresses(&[2, 1]), addresses(&[1, 2, 3]), true), addresses(&[1, 3, 2]));
        assert_eq!(merge(&addresses(&[2]), addresses(&[2]), true), addresses(&[2]));
        assert_eq!(merge(&addresses(&[2]), addresses(&[1, 3]), true), addresses(&[1, 3]));
        assert_eq!(merge(&addresses(&[2]), addresses(&[]), true), addresses(&[]));
    }

    #[tokio::test]
    async fn a_silent_resolver_leaves_threads_to_others() {
        let (answer, silence) = std::sync::mpsc::channel::<()>();
        let silence = Arc::new(Mutex::new(silence));
        let asked: Vec<_> = (0..1000)
            .map(|_| {
                let silence = Arc::clone(&silence);
                // Nobody answers until the other end is dropped.
                tokio::spawn(ask(move || {
                    let _ = silence.lock().unwrap().recv();
                    Ok(addresses(&[7]))
                }))
            })
            .collect();
        while PLACES.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        spawn_blocking(|| ()).await.unwrap();
        assert!(!asked.iter().any(|asked| asked.is_finished()));
        drop(answer);
        for asked in asked {
            assert_eq!(asked.await.unwrap().unwrap(), addresses(&[7]));
        }
    }
}

//! Clients that are tied to a server by a cookie, or by what their requests say.

use crate::support::engine::for_each_engine;
use crate::support::websocket::upgrade;
use crate::support::{Client, Echo, Gateway, eventually};

for_each_engine! {
    a_cookie_keeps_its_client_on_one_server_and_is_set_on_101_too,
    a_cookie_whose_server_is_gone_gives_way_to_another,
    requests_that_say_the_same_go_to_the_same_server,
}

async fn three() -> Vec<Echo> {
    vec![Echo::start("a").await, Echo::start("b").await, Echo::start("c").await]
}

async fn gateway(servers: &[Echo], upstream: &str) -> Gateway {
    let addresses: Vec<_> = servers.iter().map(Echo::address).collect();
    Gateway::before(&addresses, upstream, "").await
}

async fn a_cookie_keeps_its_client_on_one_server_and_is_set_on_101_too() {
    let servers = three().await;
    let gateway = gateway(&servers, "affinity: { cookie: { name: lb, secret: sixteen bytes or more } }").await;
    let mut client = gateway.client().await;
    let first = client.get("/").await;
    let set = first.header("set-cookie").expect("the first answer sets the cookie").to_owned();
    let cookie = set.split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("lb=") && set.contains("HttpOnly") && set.contains("SameSite=Lax"), "{set}");
    for _ in 0..10 {
        let answer = client.get_with("/", &format!("Cookie: other=1; {cookie}\r\n")).await;
        assert_eq!(answer.header("x-server"), first.header("x-server"));
        assert_eq!(answer.header("set-cookie"), None, "it is set once");
    }
    let mut seen: Vec<String> = Vec::new();
    for _ in 0..6 {
        seen.push(client.get("/").await.header("x-server").unwrap().to_owned());
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 3, "clients without the cookie take turns");
    let forged = client.get_with("/", "Cookie: lb=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\r\n").await;
    assert!(forged.header("set-cookie").is_some(), "a forged cookie is replaced");

    let mut socket = gateway.client().await;
    socket.send(upgrade("/")).await;
    let switched = socket.answer().await;
    assert_eq!(switched.status, 101);
    assert!(switched.header("set-cookie").is_some_and(|set| set.starts_with("lb=")), "{}", switched.head);
    socket.send(b"\x81\x00").await;
    assert_eq!(socket.read(2).await, b"\x81\x00", "frames begin right behind the head");
    let mut tied = gateway.client().await;
    tied.send(upgrade("/").replace("\r\n\r\n", &format!("\r\nCookie: {cookie}\r\n\r\n"))).await;
    let switched = tied.answer().await;
    assert_eq!((switched.header("x-server"), switched.header("set-cookie")), (first.header("x-server"), None));
}

async fn a_cookie_whose_server_is_gone_gives_way_to_another() {
    let mut servers = three().await;
    let gateway = gateway(&servers, "affinity: { cookie: {} }").await;
    let mut client = gateway.client().await;
    let first = client.get("/").await;
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    assert!(cookie.starts_with("sockgate_app="), "{cookie}");
    let home = ["a", "b", "c"].iter().position(|&name| first.header("x-server") == Some(name)).unwrap();
    drop(servers.remove(home));
    eventually("another server takes over, and the cookie follows", async || {
        let mut client = gateway.client().await;
        let answer = client.get_with("/", &format!("Cookie: {cookie}\r\n")).await;
        answer.status == 200
            && answer.header("x-server") != first.header("x-server")
            && answer.header("set-cookie").is_some()
    })
    .await;
}

async fn requests_that_say_the_same_go_to_the_same_server() {
    let servers = three().await;
    let gateway = gateway(&servers, "affinity: { header: X-Tenant, query: room }").await;
    let mut client = gateway.client().await;
    let mut used = std::collections::HashSet::new();
    for tenant in 0..12 {
        let field = format!("X-Tenant: tenant-{tenant}\r\n");
        let server = client.get_with("/", &field).await.header("x-server").unwrap().to_owned();
        for path in ["/", "/other", "/?room=7"] {
            assert_eq!(client.get_with(path, &field).await.header("x-server"), Some(&*server), "the header goes first");
        }
        used.insert(server);
    }
    assert_eq!(used.len(), 3, "tenants spread over the servers");
    let room = client.get("/?room=7").await.header("x-server").unwrap().to_owned();
    let mut elsewhere = Client::connect_from(77, gateway.address("web")).await;
    assert_eq!(elsewhere.get("/x?room=7").await.header("x-server"), Some(&*room), "whatever the address");
}

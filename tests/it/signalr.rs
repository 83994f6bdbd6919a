//! Real clients of SignalR, before servers of our own that keep to the protocol's public description: each connection meets the
//! server that negotiated it, over gateways that share nothing, restarts and drains.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::engine::{for_each_engine, for_the_relay};
use crate::support::node::{self, Node, counted};
use crate::support::websocket::upgrade;
use crate::support::{Client, Gateway, Setup, eventually};

for_each_engine! {
    connections_by_every_transport_meet_the_server_that_negotiated_them,
    connections_that_another_gateway_has_seen_negotiated_are_found,
    both_versions_name_their_connection_and_what_sends_elsewhere_names_none,
    a_websocket_that_was_cut_is_taken_up_again_where_it_was,
    clients_without_a_negotiation_are_spread,
    a_server_that_is_killed_is_left_and_others_keep_their_connections,
    no_client_is_lost_by_a_gateway_that_is_killed_and_started_again,
    a_connection_that_was_told_to_leave_is_taken_up_again_by_no_other_gateway,
    a_server_that_is_added_gets_new_connections_and_nobody_is_moved,
    ids_of_an_app_are_no_connections,
}

for_the_relay! {
    a_drained_server_is_left_by_every_transport_and_no_connection_is_lost,
    the_file_that_comes_along_serves_hubs,
}

const WAYS: [&[&str]; 6] = [
    &["--transport", "websocket"],
    &["--transport", "sse"],
    &["--transport", "polling"],
    &["--transport", "websocket", "--packed"],
    &["--transport", "polling", "--packed"],
    &["--transport", "websocket", "--stateful"],
];

async fn servers(names: &[&str]) -> Vec<Node> {
    node::servers("signalr_server.js", names).await
}

fn before(servers: &[Node]) -> Setup {
    Setup::before_nodes(servers).unchecked().upstream("kind: signalr, balance: round_robin")
}

async fn clients(gateways: &[SocketAddr], way: &[&str], connections: usize) -> Node {
    let urls: Vec<String> = gateways.iter().map(|gateway| format!("http://{gateway}/chat")).collect();
    let (urls, number) = (urls.join(","), connections.to_string());
    let arguments = [&["--url", &urls, "--connections", &number], way].concat();
    let client = Node::start("signalr_client.js", &arguments).await;
    assert_eq!((&client.ready["opened"], &client.ready["faults"]), (&json!(connections), &json!({})), "{way:?}");
    client
}

/// Each calls its hub, which is where it was.
async fn call(client: &mut Node, connections: usize) -> Value {
    let said = client.ask("call").await;
    let outcome = (&said["called"], &said["moved"], &said["faults"]);
    assert_eq!(outcome, (&json!(connections), &json!(0), &json!({})), "{said}");
    said["homes"].clone()
}

async fn negotiated(client: &mut Client, query: &str) -> Value {
    let answer = client.post(&format!("/chat/negotiate{query}"), b"").await;
    assert_eq!(answer.status, 200);
    serde_json::from_slice(&answer.body).unwrap()
}

async fn connections_by_every_transport_meet_the_server_that_negotiated_them() {
    for way in WAYS {
        // Its own servers each time: what a client says when it stops may come when its connection has ended already.
        let servers = servers(&["a", "b", "c"]).await;
        let gateway = before(&servers).start().await;
        let mut some = clients(&[gateway.address("web")], way, 18).await;
        for _ in 0..2 {
            let homes = call(&mut some, 18).await;
            assert_eq!(homes, json!({ "a": 6, "b": 6, "c": 6 }), "{way:?}");
        }
        assert_eq!((counted(&servers, "unknown").await, counted(&servers, "questions").await), (0, 0), "{way:?}");
        assert_eq!(some.ask("stop").await, json!({ "stopped": 18 }));
    }
}

async fn connections_that_another_gateway_has_seen_negotiated_are_found() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateways = [before(&servers).start().await, before(&servers).start().await];
    let web: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.address("web")).collect();
    // Either has seen that there is a hub.
    for gateway in &gateways {
        negotiated(&mut gateway.client().await, "").await;
    }
    for way in WAYS {
        let asked = counted(&servers, "questions").await;
        let mut both = clients(&web, way, 18).await;
        for _ in 0..3 {
            call(&mut both, 18).await;
        }
        let asked = counted(&servers, "questions").await - asked;
        assert!((1..=18 * 3 + 10).contains(&asked), "{way:?}: {asked} questions for 18 connections");
    }
    assert_eq!(counted(&servers, "unknown").await, 0);
}

async fn both_versions_name_their_connection_and_what_sends_elsewhere_names_none() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).start().await;
    let mut client = gateway.client().await;
    for _ in 0..4 {
        let none = negotiated(&mut client, "?negotiateVersion=0").await;
        let one = negotiated(&mut client, "?negotiateVersion=1").await;
        assert_eq!((&none["connectionToken"], &none["negotiateVersion"]), (&Value::Null, &Value::Null));
        for id in [&none["connectionId"], &one["connectionToken"]] {
            let path = format!("/chat?id={}", id.as_str().unwrap());
            assert_eq!(client.post(&path, b"{\"protocol\":\"json\",\"version\":1}\x1e").await.status, 200);
            let deleted = format!("DELETE {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            client.send(deleted).await;
            assert_eq!(client.answer().await.status, 202);
            assert_eq!(client.post(&path, b"x").await.status, 404, "it is over");
        }
        let elsewhere = negotiated(&mut client, "?elsewhere=http%3A%2F%2Fother.example%2Fchat").await;
        assert_eq!(elsewhere["url"], "http://other.example/chat");
    }
    let event = |event: &str| format!("sockgate_session_events_total{{upstream=\"app\",event=\"{event}\"}}");
    assert_eq!(gateway.metric(&event("learned")).await, 8.0);
    let two = "/chat?id=AAAAAAAAAAAAAAAAAAAAAA&id=BBBBBBBBBBBBBBBBBBBBBB";
    assert_eq!(client.get(two).await.status, 400);
}

async fn a_websocket_that_was_cut_is_taken_up_again_where_it_was() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).start().await;
    let mut all = clients(&[gateway.address("web")], &["--transport", "websocket", "--stateful"], 12).await;
    let homes = call(&mut all, 12).await;
    for round in 1..=2 {
        all.ask("cut").await;
        let resumed = async || counted(&servers, "resumed").await >= 12 * round;
        eventually("they have been taken up again", resumed).await;
        assert_eq!(call(&mut all, 12).await, homes);
    }
    assert_eq!(counted(&servers, "negotiated").await, 12, "nobody has begun anew");
    // The same by a gateway that has seen no negotiation, and is told where hubs are.
    let other = before(&servers).upstream("sessions: { paths: [/chat] }").start().await;
    for _ in 0..4 {
        let one = negotiated(&mut gateway.client().await, "?negotiateVersion=1&useStatefulReconnect=true").await;
        let mut socket = other.client().await;
        socket.send(upgrade(&format!("/chat?id={}", one["connectionToken"].as_str().unwrap()))).await;
        assert_eq!(socket.answer().await.status, 101);
    }
    assert_eq!(counted(&servers, "unknown").await, 0);
}

async fn clients_without_a_negotiation_are_spread() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).start().await;
    let mut all = clients(&[gateway.address("web")], &["--transport", "websocket", "--skip"], 18).await;
    assert_eq!(call(&mut all, 18).await, json!({ "a": 6, "b": 6, "c": 6 }));
    assert_eq!(counted(&servers, "negotiated").await, 0);
}

async fn a_server_that_is_killed_is_left_and_others_keep_their_connections() {
    let mut servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).upstream("sessions: { grace: 1s }").start().await;
    let web = [gateway.address("web")];
    let mut all = Vec::new();
    for way in WAYS {
        let mut some = clients(&web, way, 12).await;
        assert_eq!(call(&mut some, 12).await["a"], 4, "{way:?}");
        all.push((way, some));
    }
    servers[0].kill().await;
    for (way, client) in &mut all {
        let left = client.ask("left a").await;
        assert_eq!((&left["closed"], &left["homes"]["a"]), (&json!(0), &Value::Null), "{way:?} {left}");
        assert_eq!(left["reconnected"], 4, "{way:?}: the others stay {left}");
        call(client, 12).await;
    }
}

/// Their clients reconnect by themselves.
async fn no_client_is_lost_by_a_gateway_that_is_killed_and_started_again() {
    let servers = servers(&["a", "b", "c"]).await;
    let setup = before(&servers).upstream("sessions: { paths: [/chat] }");
    let first = setup.start().await;
    let web = first.address("web");
    let mut all = Vec::new();
    for way in WAYS {
        let mut some = clients(&[web], way, 12).await;
        call(&mut some, 12).await;
        all.push((way, some));
    }
    let negotiated = counted(&servers, "negotiated").await;
    drop(first);
    let _second = setup.at(web).start().await;
    for (way, client) in &mut all {
        let back = async || client.ask("call").await["called"] == 12;
        eventually("they are back", back).await;
        call(client, 12).await;
        assert_eq!(client.ask("left nobody").await["closed"], 0, "{way:?}");
    }
    let again = counted(&servers, "negotiated").await - negotiated;
    assert!(again <= 12 * 6, "{again} negotiations");
}

async fn a_server_that_is_added_gets_new_connections_and_nobody_is_moved() {
    let mut servers = servers(&["a", "b", "c"]).await;
    let added = servers.pop().unwrap();
    let mut gateway = before(&servers).start().await;
    let web = [gateway.address("web")];
    let mut all = Vec::new();
    for way in WAYS {
        let mut some = clients(&web, way, 6).await;
        let homes = call(&mut some, 6).await;
        all.push((some, homes));
    }
    servers.push(added);
    assert_eq!(gateway.reload(&before(&servers).yaml()).await.status, 200);
    for way in WAYS {
        let mut new = clients(&web, way, 6).await;
        assert_eq!(call(&mut new, 6).await["c"], 2, "{way:?}");
    }
    for (old, homes) in &mut all {
        assert_eq!(call(old, 6).await, *homes);
    }
}

async fn ids_of_an_app_are_no_connections() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).start().await;
    let mut client = gateway.client().await;
    negotiated(&mut client, "").await;
    let mut seen = std::collections::HashSet::new();
    for id in ["5", "6", "807809a5-31bf-470d-9e23-afaee35d8a0d", "7", "8", "9"] {
        let answer = client.get(&format!("/items?id={id}")).await;
        let said: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(said["items"], id);
        seen.insert(said["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen.len(), 3, "they go to any server");
    assert_eq!(counted(&servers, "questions").await, 0, "and nobody is asked about them");
}

async fn a_drained_server_is_left_by_every_transport_and_no_connection_is_lost() {
    let servers = servers(&["a", "b", "c"]).await;
    let gateway = before(&servers).start().await;
    let web = [gateway.address("web")];
    let mut all = Vec::new();
    for way in WAYS {
        let mut some = clients(&web, way, 12).await;
        let of_a = call(&mut some, 12).await["a"].as_u64().unwrap();
        all.push((way, some, of_a));
    }
    let mut admin = Client::connect(gateway.address("admin")).await;
    assert_eq!(admin.post("/drain?upstream=app&server=a&rate=50", b"").await.status, 200);
    for (way, client, of_a) in &mut all {
        let left = client.ask("left a").await;
        assert_eq!((&left["closed"], &left["homes"]["a"]), (&json!(0), &Value::Null), "{way:?} {left}");
        assert!(left["reconnected"].as_u64().unwrap() >= *of_a, "{way:?} {left}");
        call(client, 12).await;
    }
    // What a client takes up again after that is unknown, whatever its server says.
    let mut client = gateway.client().await;
    let one = negotiated(&mut client, "?negotiateVersion=1&useStatefulReconnect=true").await;
    let path = format!("/chat?id={}", one["connectionToken"].as_str().unwrap());
    let mut socket = gateway.client().await;
    socket.send(upgrade(&path)).await;
    assert_eq!(socket.answer().await.status, 101);
    for server in ["b", "c"] {
        assert_eq!(admin.post(&format!("/drain?upstream=app&server={server}&rate=50"), b"").await.status, 200);
    }
    assert_eq!(socket.read(4).await, [0x88, 2, 3, 0xf4], "1012");
    drop(socket);
    let gone = async || {
        let mut again = gateway.client().await;
        again.send(upgrade(&path)).await;
        again.answer().await.status == 404
    };
    eventually("it is told that nobody knows it", gone).await;
}

/// A server keeps a connection for a while that was cut, so that it can be taken up again; it is told that this one was not. Another
/// gateway has heard of no goodbye, and finds the server whatever that is about to do.
async fn a_connection_that_was_told_to_leave_is_taken_up_again_by_no_other_gateway() {
    let servers = servers(&["a", "b"]).await;
    let setup = before(&servers).upstream("sessions: { paths: [/chat] }");
    let (one, other) = (setup.start().await, setup.start().await);
    let mut sockets = Vec::new();
    for _ in 0..2 {
        let said = negotiated(&mut one.client().await, "?negotiateVersion=1&useStatefulReconnect=true").await;
        let path = format!("/chat?id={}", said["connectionToken"].as_str().unwrap());
        let mut socket = one.client().await;
        socket.send(upgrade(&path)).await;
        assert_eq!(socket.answer().await.status, 101);
        // `{"protocol":"json","version":1}` and its end, masked with zeros.
        socket.send([b"\x81\xa0\0\0\0\0".as_slice(), b"{\"protocol\":\"json\",\"version\":1}\x1e"].concat()).await;
        assert_eq!(socket.read(5).await, b"\x81\x03{}\x1e");
        sockets.push((path, socket));
    }
    let mut admin = Client::connect(one.address("admin")).await;
    for server in ["a", "b"] {
        assert_eq!(admin.post(&format!("/drain?upstream=app&server={server}&rate=100"), b"").await.status, 200);
    }
    for (_, socket) in &mut sockets {
        assert_eq!(socket.read(4).await, [0x88, 2, 3, 0xf4], "1012");
    }
    eventually("their servers have forgotten them", async || counted(&servers, "open").await == 0).await;
    for (path, socket) in sockets {
        drop(socket);
        let mut again = other.client().await;
        again.send(upgrade(&path)).await;
        assert_eq!(again.answer().await.status, 404);
    }
    assert_eq!(counted(&servers, "resumed").await, 0);
}

async fn the_file_that_comes_along_serves_hubs() {
    let servers = servers(&["a", "b", "c"]).await;
    let mut yaml = include_str!("../../conf/signalr.yaml").replace("0.0.0.0:8080", "127.0.0.1:0\n    name: web");
    for (server, port) in servers.iter().zip(["3001", "3002", "3003"]) {
        yaml = yaml.replace(&format!("127.0.0.1:{port}"), &format!("127.0.0.1:{}", server.port()));
    }
    let gateway = Gateway::start(&yaml.replace("127.0.0.1:9901", "127.0.0.1:0")).await;
    for way in WAYS {
        let mut some = clients(&[gateway.address("web")], way, 15).await;
        let homes = call(&mut some, 15).await;
        assert_eq!(homes.as_object().unwrap().len(), 3, "{way:?} {homes}");
    }
}

//! Pods behind a Service come and go as its EndpointSlices tell; no word of the API server, and no silence, takes anybody
//! away. The API server is a fake (`support/kubernetes.rs`), the sessions are real.

mod namespaces;
mod transcript;

use std::process::{Command as Run, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;

use super::serving;
use crate::support::crowd::{By, Crowd};
use crate::support::kubernetes::{FakeApi, Pod, TOKEN, Trouble, pod};
use crate::support::node::Node;
use crate::support::polling::Polling;
use crate::support::websocket::upgrade;
use crate::support::{Echo, Gateway, eventually, within};

const UNCHECKED: &str = "health: { check: none }\n    balance: round_robin\n    drain: { goodbye: false }";
const SESSIONS: &str = "kind: socket.io\n    balance: round_robin\n    sessions: { returning: 0s }";

/// A gateway's file; `upstream` holds more of the upstream, `more` more of the file.
fn yaml(api: &FakeApi, upstream: &str, more: &str) -> String {
    let kubeconfig = api.kubeconfig(TOKEN);
    format!(
        "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app:
    servers: {{ kubernetes: {{ namespace: chat, service: app, port: web, kubeconfig: {} }} }}
    {upstream}
{more}
",
        kubeconfig.display()
    )
}

/// A slice for each pod, since each has a port of its own here.
fn put(api: &FakeApi, name: &str, uid: &str, port: u16, stands: Pod) {
    api.put(&format!("app-{name}"), port, &[pod(name, uid, "127.0.0.1", stands)]);
}

fn put_echo(api: &FakeApi, name: &str, server: &Echo, stands: Pod) {
    put(api, name, &format!("{name}-uid"), server.address().port(), stands);
}

async fn is_served_by(gateway: &Gateway, names: &[&str]) {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    eventually("these serve", async || serving(gateway.address("web")).await == names).await;
}

async fn discovery(gateway: &Gateway) -> Value {
    let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    status["upstreams"][0]["discovery"].clone()
}

async fn fault(gateway: &Gateway) -> String {
    discovery(gateway).await["fault"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn pods_come_and_go_as_the_slices_tell_and_sockets_stay() {
    let api = FakeApi::start().await;
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    put_echo(&api, "a", &a, Pod::Ready);
    let gateway = Gateway::start(&yaml(&api, UNCHECKED, "")).await;
    is_served_by(&gateway, &["a"]).await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("a"));

    put_echo(&api, "b", &b, Pod::Ready);
    is_served_by(&gateway, &["a", "b"]).await;
    gateway.log_line("kubernetes chat/app:web finds 2 servers; new: b.buid at 127.0.0.1:").await;
    api.remove("app-a");
    is_served_by(&gateway, &["b"]).await;
    gateway.log_line("finds 1 servers; gone: a.auid at").await;
    socket.send("ping").await;
    assert_eq!(within("the old server", socket.read(4)).await, b"ping");

    // Another Service's slices are none of ours, and what can't be a server is left out by name.
    api.put("app-wrong", 80, &[pod("w", "w", "0.0.0.0", Pod::Ready)]);
    eventually("it is left out", async || discovery(&gateway).await["left_out"][0]["name"] == "pod w").await;
    let told = discovery(&gateway).await;
    assert_eq!(
        (told["source"].as_str(), told["servers"].as_u64()),
        (Some("kubernetes chat/app:web"), Some(1)),
        "{told}"
    );
    assert!(gateway.metric("sockgate_discovery_answers_total{upstream=\"app\"}").await >= 3.0);
    assert!(gateway.metric("sockgate_discovery_changes_total{upstream=\"app\"}").await >= 3.0);
    assert_eq!(api.asked("watch=true"), 1, "one watch tells all of it");
}

/// Upstreams of one Service hear of it by one watch, and one that a reload brings need not wait for a list.
#[tokio::test]
async fn upstreams_of_one_service_share_its_watch_over_reloads() {
    let api = FakeApi::start().await;
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    put_echo(&api, "a", &a, Pod::Ready);
    let first = yaml(&api, UNCHECKED, "");
    let said = first.lines().find(|line| line.contains("kubernetes:")).unwrap();
    let again = first.replace("routes:\n", "routes:\n  - { match: { path: /again }, upstream: again }\n")
        + &format!("  again:\n{said}\n    {UNCHECKED}\n");
    let mut gateway = Gateway::start(&first).await;
    is_served_by(&gateway, &["a"]).await;
    assert_eq!((api.asked("limit="), api.asked("watch=true")), (1, 1));
    // Not even an API server that says nothing holds it up.
    api.trouble(Trouble::Refuses(500));
    eventually("the fault is told", async || fault(&gateway).await.contains("500")).await;
    gateway.reload(&again).await;
    let who = async |path: &str| gateway.client().await.get(path).await.header("x-server").map(str::to_owned);
    eventually("it serves", async || who("/again").await.as_deref() == Some("a")).await;
    let faults = async || {
        let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
        let upstreams = status["upstreams"].as_array().unwrap().iter();
        upstreams.filter(|upstream| upstream["discovery"]["fault"].is_string()).count()
    };
    eventually("both tell the fault", async || faults().await == 2).await;
    api.trouble(Trouble::None);
    eventually("neither does", async || faults().await == 0).await;
    assert_eq!(api.asked("limit="), 1);
    put_echo(&api, "b", &b, Pod::Ready);
    api.remove("app-a");
    eventually("both have the other pod", async || {
        who("/again").await.as_deref() == Some("b") && who("/").await.as_deref() == Some("b")
    })
    .await;
    // The one that was first goes, and the other one goes on.
    let alone =
        again.replace("\n  - upstream: app\n", "\n").replace(&format!("  app:\n{said}\n    {UNCHECKED}\n\n"), "");
    gateway.reload(&alone).await;
    put_echo(&api, "a", &a, Pod::Ready);
    api.remove("app-b");
    let who = async |path: &str| gateway.client().await.get(path).await.header("x-server").map(str::to_owned);
    eventually("it is heard", async || who("/again").await.as_deref() == Some("a")).await;
    assert_eq!(api.asked("limit="), 1, "all by one list");
}

#[tokio::test]
async fn the_gateway_is_not_ready_before_the_first_list_and_says_why() {
    let mut api = FakeApi::start().await;
    let (a, other) = (Echo::start("a").await, Echo::start("other").await);
    put_echo(&api, "a", &a, Pod::Ready);
    api.trouble(Trouble::Refuses(403));
    // Another upstream is well; that is not enough.
    let more = format!("  other: {{ servers: [\"{}\"] }}", other.address());
    let two = yaml(&api, UNCHECKED, &more)
        .replace("routes:\n", "routes:\n  - { match: { path: /other }, upstream: other }\n");
    let gateway = Gateway::start_unready(&two).await;
    let ready = async || {
        let answer = gateway.admin("/readyz").await;
        (answer.status, answer.text())
    };
    for (trouble, expected) in [
        (Trouble::Refuses(403), "the API server refuses (403): endpointslices.discovery.k8s.io is forbidden: User"),
        (Trouble::Refuses(401), "the API server does not know who asks (401): Unauthorized"),
        (Trouble::Refuses(500), "the API server answers 500: etcdserver: leader changed"),
    ] {
        api.trouble(trouble);
        eventually(expected, async || {
            let (status, text) = ready().await;
            status == 503
                && text.contains("upstream app: no server is known by kubernetes chat/app:web: ")
                && text.contains(expected)
        })
        .await;
    }
    api.die().await;
    eventually("it says so", async || ready().await.1.contains("the API server can't be reached: Connection refused"))
        .await;
    assert_eq!(gateway.client().await.get("/other").await.header("x-server"), Some("other"));
    api.trouble(Trouble::None);
    api.revive().await;
    eventually("it is ready without a restart", async || ready().await.0 == 200).await;
    is_served_by(&gateway, &["a"]).await;

    // Once it is, no later trouble makes it unready.
    api.trouble(Trouble::Refuses(403));
    eventually("the fault is told", async || fault(&gateway).await.contains("refuses (403)")).await;
    assert_eq!(ready().await.0, 200);
    assert_eq!(gateway.client().await.get("/").await.header("x-server"), Some("a"));
}

/// A4: the sockets of a gateway that can't reach the API server stay, and what it has missed it learns afterwards.
#[tokio::test]
async fn an_outage_and_a_history_that_is_gone_take_nobody_away() {
    let mut api = FakeApi::start().await;
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    put_echo(&api, "a", &a, Pod::Ready);
    let gateway = Gateway::start(&yaml(&api, UNCHECKED, "")).await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.status, 101);
    for (round, gone_as_event) in [(0, false), (1, true)] {
        api.die().await;
        eventually("it is missed", async || fault(&gateway).await.contains("can't be reached")).await;
        for _ in 0..3 {
            assert_eq!(gateway.client().await.get("/").await.status, 200);
        }
        assert_eq!(gateway.admin("/readyz").await.status, 200);
        if round == 0 {
            put_echo(&api, "b", &b, Pod::Ready)
        } else {
            api.remove("app-b")
        }
        api.compact(gone_as_event);
        let lists = api.asked("limit=");
        api.revive().await;
        is_served_by(&gateway, if round == 0 { &["a", "b"] } else { &["a"] }).await;
        eventually("the fault is over", async || fault(&gateway).await.is_empty()).await;
        assert_eq!(api.asked("limit="), lists + 1, "the slices were listed anew");
    }
    // A watch that breaks off goes on where it was, and nothing is listed.
    let (lists, watches) = (api.asked("limit="), api.asked("watch=true"));
    api.break_watches();
    put_echo(&api, "b", &b, Pod::Ready);
    is_served_by(&gateway, &["a", "b"]).await;
    assert_eq!(api.asked("limit="), lists);
    assert!(api.asked("watch=true") > watches);
    socket.send("ping").await;
    assert_eq!(within("the socket", socket.read(4)).await, b"ping");
}

#[tokio::test]
async fn an_api_server_that_ends_each_watch_at_once_is_not_asked_as_fast_as_it_answers() {
    let api = FakeApi::start().await;
    let a = Echo::start("a").await;
    put_echo(&api, "a", &a, Pod::Ready);
    api.trouble(Trouble::EndsWatches);
    let gateway = Gateway::start(&yaml(&api, UNCHECKED, "")).await;
    eventually("it asks again", async || api.asked("watch=true") >= 2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(api.asked("watch=true") <= 6, "{}", api.asked("watch=true"));
    is_served_by(&gateway, &["a"]).await;
    assert_eq!(fault(&gateway).await, "");
}

/// A2 and A3.
#[tokio::test]
async fn a_pod_that_ends_keeps_its_sessions_and_gets_no_new_ones_until_it_is_the_last() {
    let api = FakeApi::start().await;
    let (a, b) = (Node::server("v4", &["--id", "a"]).await, Node::server("v4", &["--id", "b"]).await);
    let stand = |name: &str, server: &Node, stands| put(&api, name, name, server.port(), stands);
    stand("a", &a, Pod::Ready);
    stand("b", &b, Pod::Ready);
    let gateway = Gateway::start(&yaml(&api, &format!("{SESSIONS}\n    drain: {{ goodbye: false }}"), "")).await;
    let web = [gateway.address("web")];
    eventually("both are up", async || {
        gateway.metric("sockgate_server_up{upstream=\"app\",server=\"a.a\"}").await
            + gateway.metric("sockgate_server_up{upstream=\"app\",server=\"b.b\"}").await
            == 2.0
    })
    .await;
    let mut session = Polling::open(&web).await;
    while session.who().await != "a" {
        session = Polling::open(&web).await;
    }
    stand("a", &a, Pod::Ending);
    eventually("it drains", async || {
        let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
        let servers = status["upstreams"][0]["servers"].as_array().unwrap();
        servers.iter().any(|server| server["name"] == "a.a" && server["state"] == "draining")
    })
    .await;
    assert_eq!(session.who().await, "a", "the session stays");
    for _ in 0..6 {
        assert_eq!(Polling::open(&web).await.who().await, "b");
    }
    // All of them end: they serve new ones, too.
    stand("b", &b, Pod::Ending);
    eventually("the last ones serve", async || Polling::open(&web).await.who().await == "a").await;
    assert_eq!(session.who().await, "a");
    assert_eq!(gateway.admin("/readyz").await.status, 200);
    // It is not listed any more: it has ended, and its session with it.
    stand("b", &b, Pod::Ready);
    api.remove("app-a");
    gateway.log_line("server a.a is gone").await;
    assert_eq!(session.poll().await.status, 400);
    assert_eq!(Polling::open(&web).await.who().await, "b");
}

/// A1, and the second half of A2: who is told goodbye moves once, and nobody else does.
#[tokio::test]
async fn sessions_follow_a_scale_up_and_down_and_nobody_else_moves() {
    let api = FakeApi::start().await;
    let names = ["a", "b", "c", "d"];
    let servers = futures::future::join_all(names.map(async |name| Node::server("v4", &["--id", name]).await)).await;
    let stand = |at: usize, stands| put(&api, names[at], names[at], servers[at].port(), stands);
    (0..2).for_each(|at| stand(at, Pod::Ready));
    let gateway = Gateway::start(&yaml(&api, &format!("{SESSIONS}\n    drain: {{ rate: 200 }}"), "")).await;
    let is_up = async |name: &str| {
        let up = format!("sockgate_server_up{{upstream=\"app\",server=\"{name}.{name}\"}}");
        eventually("it is up", async || gateway.metric(&up).await == 1.0).await;
    };
    is_up("a").await;
    is_up("b").await;
    let mut crowd = Crowd::come(gateway.address("web"), &[(By::Polling, 40), (By::WebSocket, 40)]).await;
    (2..4).for_each(|at| stand(at, Pod::Ready));
    is_up("c").await;
    is_up("d").await;
    let mut later = Crowd::come(gateway.address("web"), &[(By::Polling, 20), (By::WebSocket, 20)]).await;
    assert!(later.homes().contains_key("c") && later.homes().contains_key("d"), "{:?}", later.homes());
    assert_eq!(crowd.moves(), 0);
    // Two of them end, as a scale-down has it: first they are about to, then they are not ready, then they are gone.
    let leaving: usize = [&crowd, &later].iter().map(|crowd| crowd.homes().get("d").copied().unwrap_or_default()).sum();
    stand(3, Pod::Ending);
    crowd.leave("d").await;
    later.leave("d").await;
    api.remove("app-d");
    // One stops being ready, without a word before.
    let unready: usize = [&crowd, &later].iter().map(|crowd| crowd.homes().get("c").copied().unwrap_or_default()).sum();
    stand(2, Pod::Unready);
    crowd.leave("c").await;
    later.leave("c").await;
    crowd.is_well();
    later.is_well();
    assert_eq!(crowd.moves() + later.moves(), leaving + unready, "who was elsewhere has not moved, and nobody twice");
}

/// A6: who has the address of a pod that is gone is not that pod, for cookies and sessions alike.
#[tokio::test]
async fn a_pod_at_the_address_of_another_is_another_server() {
    let api = FakeApi::start().await;
    let a = Echo::start("a").await;
    put(&api, "app-0", "11111111-aaaa", a.address().port(), Pod::Ready);
    let gateway = Gateway::start(&yaml(&api, &format!("{UNCHECKED}\n    affinity: {{ cookie: {{}} }}"), "")).await;
    let mut client = gateway.client().await;
    let first = client.get("/").await;
    let cookie = first.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    let with = format!("Cookie: {cookie}\r\n");
    assert_eq!(client.get_with("/", &with).await.header("set-cookie"), None);
    put(&api, "app-0", "22222222-aaaa", a.address().port(), Pod::Ready);
    gateway.log_line("new: app-0.22222222 at").await;
    let set = client.get_with("/", &with).await.header("set-cookie").map(str::to_owned);
    assert!(set.is_some_and(|set| !set.starts_with(&cookie)), "the old cookie means nothing, and another one is set");

    // Sessions: the new pod is never asked for those of the old one.
    let mut old = Node::server("v4", &["--id", "old"]).await;
    let port = old.port();
    put(&api, "app-0", "33333333-aaaa", port, Pod::Ready);
    let mut gateway = gateway;
    gateway.reload(&yaml(&api, SESSIONS, "")).await;
    eventually("it serves sessions", async || {
        gateway.metric("sockgate_server_up{upstream=\"app\",server=\"app-0.33333333\"}").await == 1.0
    })
    .await;
    let mut session = Polling::open(&[gateway.address("web")]).await;
    assert_eq!(session.who().await, "old");
    old.kill().await;
    let new = Node::server("v4", &["--id", "new", "--port", &port.to_string()]).await;
    put(&api, "app-0", "44444444-aaaa", new.port(), Pod::Ready);
    gateway.log_line("server app-0.33333333 is gone").await;
    assert_eq!(session.poll().await.status, 400, "it is not known any more");
    assert_eq!(Polling::open(&[gateway.address("web")]).await.who().await, "new");
}

#[tokio::test]
async fn hints_of_zones_lead_new_requests_and_move_no_socket() {
    let api = FakeApi::start().await;
    let (a, b) = (Echo::start("a").await, Echo::start("b").await);
    let hinted = |name: &str, server: &Echo, zone: &str| {
        let mut pod = pod(name, name, "127.0.0.1", Pod::Ready);
        pod["zone"] = json!("eu-1a");
        pod["hints"] = json!({ "forZones": [{ "name": zone }] });
        api.put(&format!("app-{name}"), server.address().port(), &[pod]);
    };
    hinted("a", &a, "eu-1a");
    let gateway = Gateway::start(&yaml(&api, UNCHECKED, "zone: eu-1b")).await;
    let mut socket = gateway.client().await;
    socket.send(upgrade("/chat")).await;
    assert_eq!(socket.answer().await.header("x-server"), Some("a"));
    hinted("b", &b, "eu-1b");
    is_served_by(&gateway, &["b"]).await;
    socket.send("ping").await;
    assert_eq!(within("the socket", socket.read(4)).await, b"ping");
    hinted("a", &a, "eu-1b");
    is_served_by(&gateway, &["a", "b"]).await;
}

#[tokio::test]
async fn in_a_pod_the_service_account_is_enough() {
    let private = Run::new("unshare").args(["-rm", "true"]).stderr(Stdio::null()).status();
    if !private.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no mounts of one's own can be made here (unshare -rm), so no pod can be played");
        return;
    }
    let api = FakeApi::start().await;
    let a = Echo::start("a").await;
    put_echo(&api, "a", &a, Pod::Ready);
    let account = tempfile::tempdir().unwrap();
    std::fs::write(account.path().join("token"), TOKEN).unwrap();
    std::fs::write(account.path().join("namespace"), "chat\n").unwrap();
    std::fs::copy(api.ca(), account.path().join("ca.crt")).unwrap();
    let script = "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io && \
                  cp -r \"$ACCOUNT\" /run/secrets/kubernetes.io/serviceaccount && exec \"$0\" \"$@\"";
    let mut program = Command::new("unshare");
    program.args(["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_sockgate")]).env("ACCOUNT", account.path());
    let (host, port) =
        api.url().strip_prefix("https://").unwrap().split_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).unwrap();
    program.env("KUBERNETES_SERVICE_HOST", host).env("KUBERNETES_SERVICE_PORT", port);
    let yaml = yaml(&api, UNCHECKED, "");
    let said = yaml.lines().find(|line| line.contains("kubernetes:")).unwrap();
    let yaml = yaml.replace(said, "    servers: { kubernetes: { service: app } }");
    let gateway = Gateway::launch(&yaml, program).await;
    is_served_by(&gateway, &["a"]).await;
    assert_eq!(discovery(&gateway).await["source"], "kubernetes app");
}

#[tokio::test]
async fn a_kubeconfig_that_is_no_good_is_told_and_read_again_when_it_is() {
    let api = FakeApi::start().await;
    let a = Echo::start("a").await;
    put_echo(&api, "a", &a, Pod::Ready);
    let yaml = yaml(&api, UNCHECKED, "");
    let file = api.kubeconfig(TOKEN);
    std::fs::remove_file(&file).unwrap();
    let gateway = Gateway::start_unready(&yaml).await;
    eventually("the file is missed", async || fault(&gateway).await.contains("No such file or directory")).await;
    std::fs::write(&file, "clusters: [").unwrap();
    eventually("it is no kubeconfig", async || {
        let fault = fault(&gateway).await;
        fault.contains("/kubeconfig: ") && !fault.contains("No such file")
    })
    .await;
    api.kubeconfig("somebody else's");
    eventually("nobody knows the token", async || fault(&gateway).await.contains("(401)")).await;
    api.kubeconfig(TOKEN);
    is_served_by(&gateway, &["a"]).await;
}

/// A9: 500 endpoints in 5 slices, 50 changes a second; `seconds` of it.
async fn storm(seconds: usize) {
    const SLICES: usize = 5;
    const EACH: usize = 100;
    let api = FakeApi::start().await;
    let mut pods: Vec<Vec<(usize, Pod)>> = vec![vec![(0, Pod::Ready); EACH]; SLICES];
    let put = |slice: usize, pods: &[(usize, Pod)]| {
        let endpoints = pods.iter().enumerate().map(|(at, &(life, stands))| {
            let (name, uid) = (format!("app-{slice}-{at}"), format!("{life:08x}"));
            pod(&name, &uid, &format!("127.1.{slice}.{}", at + 1), stands)
        });
        api.put(&format!("app-{slice}"), 80, &endpoints.collect::<Vec<_>>());
    };
    (0..SLICES).for_each(|slice| put(slice, &pods[slice]));
    // One that is there all the time, with a socket that must not notice.
    let calm = Echo::start("calm").await;
    put_echo(&api, "calm", &calm, Pod::Ready);
    let gateway = Gateway::start(&yaml(&api, UNCHECKED, "")).await;
    let known = async || discovery(&gateway).await["servers"].as_u64();
    eventually("all are known", async || known().await == Some((SLICES * EACH + 1) as u64)).await;
    let mut socket = loop {
        let mut socket = gateway.client().await;
        socket.send(upgrade("/chat")).await;
        if socket.answer().await.header("x-server") == Some("calm") {
            break socket;
        }
    };
    let (before, memory, changes) = (cpu(&gateway), gateway.memory(), 50 * seconds);
    let began = std::time::Instant::now();
    let mut turns = tokio::time::interval(Duration::from_millis(20));
    for change in 0..changes {
        turns.tick().await;
        let (slice, at) = (change % SLICES, change * 7 % EACH);
        let (life, stands) = &mut pods[slice][at];
        *stands = match *stands {
            Pod::Ready => Pod::Ending,
            Pod::Ending => Pod::Unready,
            Pod::Unready => Pod::Ready,
        };
        *life += usize::from(*stands == Pod::Ready);
        put(slice, &pods[slice]);
    }
    let took = began.elapsed();
    let expected = 1 + pods.iter().flatten().filter(|(_, stands)| *stands != Pod::Unready).count() as u64;
    eventually("the final set is exact", async || known().await == Some(expected)).await;
    let status: Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
    let told = status["upstreams"][0]["servers"].as_array().unwrap().iter();
    let told: std::collections::BTreeSet<_> = told.map(|server| server["name"].as_str().unwrap().to_owned()).collect();
    for (slice, pods) in pods.iter().enumerate() {
        for (at, (life, stands)) in pods.iter().enumerate() {
            let name = format!("app-{slice}-{at}.{life:08x}");
            assert_eq!(told.contains(&name), *stands != Pod::Unready, "{name}");
        }
    }
    let (used, grown) = (cpu(&gateway) - before, gateway.memory().saturating_sub(memory));
    eprintln!(
        "{changes} changes of {SLICES} slices with {} endpoints in {took:?}: {used:?} of CPU, {grown} KiB more",
        SLICES * EACH
    );
    assert!(used < took, "{used:?} of CPU in {took:?}");
    assert!(grown < 64 * 1024, "{grown} KiB");
    socket.send("ping").await;
    assert_eq!(within("the socket", socket.read(4)).await, b"ping");
}

/// The time that the gateway has computed.
fn cpu(gateway: &Gateway) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", gateway.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().unwrap();
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

#[tokio::test]
async fn a_storm_of_endpoints_ends_with_the_exact_set() {
    storm(4).await;
}

#[tokio::test]
#[ignore = "takes half a minute"]
async fn a_long_storm_of_endpoints_ends_with_the_exact_set() {
    storm(30).await;
}

/// A deploy as Kubernetes rolls it: a new pod is ready, an old one is about to end, its sessions leave, it is gone.
async fn rolling_deploy(each: usize) {
    let api = FakeApi::start().await;
    let start = async |name: &'static str| (name, Node::server("v4", &["--id", name]).await);
    let stand = |(name, server): &(&str, Node), stands| put(&api, name, name, server.port(), stands);
    let mut pods = vec![start("a1").await, start("b1").await, start("c1").await];
    pods.iter().for_each(|pod| stand(pod, Pod::Ready));
    let gateway = Gateway::start(&yaml(&api, &format!("{SESSIONS}\n    drain: {{ rate: 100 }}"), "")).await;
    let is_up = async |name: &str| {
        let up = format!("sockgate_server_up{{upstream=\"app\",server=\"{name}.{name}\"}}");
        eventually("it is up", async || gateway.metric(&up).await == 1.0).await;
    };
    for (name, _) in &pods {
        is_up(name).await;
    }
    let mut crowd = Crowd::come(gateway.address("web"), &[(By::Polling, each), (By::WebSocket, each)]).await;
    let began = std::time::Instant::now();
    for name in ["a2", "b2", "c2"] {
        let new = start(name).await;
        stand(&new, Pod::Ready);
        is_up(name).await;
        let mut old = pods.remove(0);
        stand(&old, Pod::Ending);
        crowd.leave(old.0).await;
        api.remove(&format!("app-{}", old.0));
        old.1.kill().await;
        pods.push(new);
    }
    let (took, moves) = (began.elapsed(), crowd.moves());
    // Whoever failed, or was told that its session is unknown, has ended the test.
    crowd.is_well();
    crowd.settle().await;
    let homes = crowd.homes();
    eprintln!("{} sessions on 3 pods, all replaced in {took:?}: {moves} moved, none lost; now {homes:?}", 2 * each);
    assert!(homes.keys().all(|home| home.ends_with('2')), "{homes:?}");
    assert!(moves >= 2 * each, "everybody has moved at least once");
}

#[tokio::test]
async fn a_rolling_deploy_moves_sessions_and_loses_none() {
    rolling_deploy(20).await;
}

#[tokio::test]
#[ignore = "takes half a minute"]
async fn a_rolling_deploy_under_three_hundred_sessions_loses_none() {
    rolling_deploy(150).await;
}

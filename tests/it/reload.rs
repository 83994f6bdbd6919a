//! Loading a configuration into a running gateway: what changes, what is carried over, and what a bad file does: nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::client::{Answer, upgrade};
use crate::support::cluster::Cluster;
use crate::support::polling::Polling;
use crate::support::tls::Authority;
use crate::support::{Client, Echo, Gateway, eventually, within};

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

async fn websocket(gateway: &Gateway, listener: &str) -> Client {
    let mut socket = Client::connect(gateway.address(listener)).await;
    socket.send(upgrade("/socket")).await;
    assert_eq!(socket.answer().await.status, 101);
    echoes(&mut socket).await;
    socket
}

async fn echoes(socket: &mut Client) {
    socket.send(b"\x81\x02hi").await;
    assert_eq!(socket.read(4).await, b"\x81\x02hi");
}

async fn refused(address: SocketAddr) {
    eventually("connections are refused", async || TcpStream::connect(address).await.is_err()).await;
}

#[tokio::test]
async fn routes_listeners_and_upstreams_come_and_go_and_nothing_else_is_touched() {
    let (first, second) = (Echo::start("first").await, Echo::start("second").await);
    let mut gateway = Gateway::start(&yaml(first.address(), "")).await;
    let mut socket = websocket(&gateway, "web").await;
    let mut kept = Client::connect(gateway.address("web")).await;
    assert!(kept.get("/new").await.text().starts_with("first"));

    let second = second.address();
    let more = yaml(first.address(), "")
        .replace("routes:", "  - { name: more, address: 127.0.0.1:0 }\nroutes:\n  - { name: new, match: { path: /new }, upstream: new }")
        .replace("upstreams:", &format!("upstreams:\n  new: {{ servers: [\"{second}\"] }}"));
    let before = gateway.address("web");
    let plan = json(&gateway.reload(&more).await);
    assert_eq!(changes(&plan), ["listener more added", "route new added", "upstream new added"]);
    assert_eq!(gateway.address("web"), before);
    assert!(kept.get("/new").await.text().starts_with("second"), "the connection is kept and knows the new route");
    assert!(kept.get("/old").await.text().starts_with("first"));
    assert!(Client::connect(gateway.address("more")).await.get("/new").await.text().starts_with("second"));
    echoes(&mut socket).await;

    let mut on_more = websocket(&gateway, "more").await;
    let (mut idle, more_at) = (Client::connect(gateway.address("more")).await, gateway.address("more"));
    assert_eq!(idle.get("/").await.status, 200);
    let plan = json(&gateway.reload(&yaml(first.address(), "")).await);
    assert_eq!(changes(&plan), ["listener more removed", "route new removed", "upstream new removed"]);
    assert_eq!((&plan["changes"][0]["sockets"], &plan["sockets"]["kept"]), (&1.into(), &2.into()), "{plan}");
    refused(more_at).await;
    assert!(idle.read_all().await.is_empty(), "an idle connection of a listener that is gone ends");
    assert!(kept.get("/new").await.text().starts_with("first"));
    echoes(&mut socket).await;
    // Kept, as the default is, though its listener is gone.
    echoes(&mut on_more).await;
    assert!(changes(&json(&gateway.reload(&yaml(first.address(), "")).await)).is_empty());
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_told_in_full() {
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&yaml(web.address(), "")).await;
    let good = "sockgate_reload_last_good";
    assert_eq!(gateway.metric(good).await, 1.0);
    let mut socket = websocket(&gateway, "web").await;
    let answer = gateway.reload(&yaml(web.address(), "threds: 1\ntimeouts: { head: soon }")).await;
    let told = answer.text();
    assert_eq!(answer.status, 422);
    for part in ["sockgate.yaml:9:1", "threds", "did you mean `threads`", "sockgate.yaml:10:19", "2 faults"] {
        assert!(told.contains(part), "{part} in {told}");
    }
    gateway.log_line("not reloaded, everything stays as it was").await;
    assert_eq!(gateway.metric(good).await, 0.0);
    assert_eq!(gateway.metric("sockgate_reloads_total{result=\"failed\"}").await, 1.0);
    let status = json(&gateway.admin("/status").await);
    assert!(status["configuration"]["error"].as_str().unwrap().contains("threds"), "{status}");

    // What the file names is tried before anything changes, too: here a new listener would have been bound already.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let listeners = format!("  - {{ name: fresh, address: 127.0.0.1:0 }}\n  - {{ address: \"{taken}\" }}\nroutes:");
    let answer = gateway.reload(&yaml(web.address(), "").replace("routes:", &listeners)).await;
    assert_eq!(answer.status, 422);
    assert!(answer.text().contains("can't be bound"), "{}", answer.text());

    echoes(&mut socket).await;
    assert_eq!(Client::connect(gateway.address("web")).await.get("/").await.status, 200);
    assert_eq!(gateway.reload(&yaml(web.address(), "")).await.status, 200);
    assert_eq!(gateway.metric(good).await, 1.0);
}

#[tokio::test]
async fn a_sighup_loads_the_file() {
    let web = Echo::start("web").await;
    let gateway = Gateway::start(&yaml(web.address(), "")).await;
    let mut socket = websocket(&gateway, "web").await;
    let route = "routes:\n  - { name: new, match: { path: /new }, respond: { body: new } }";
    gateway.rewrite(&yaml(web.address(), "").replace("routes:", route));
    gateway.signal(SIGHUP);
    gateway.log_line("reloaded: route new added").await;
    assert_eq!(Client::connect(gateway.address("web")).await.get("/new").await.text(), "new");
    echoes(&mut socket).await;
}

#[tokio::test]
async fn a_file_that_changes_is_loaded_and_a_bad_one_waits_for_its_correction() {
    let (first, second) = (Echo::start("first").await, Echo::start("second").await);
    let watched = |web| yaml(web, "").replace("watch: false", "watch: true");
    let gateway = Gateway::start(&watched(first.address())).await;
    gateway.rewrite("listeners: nonsense");
    gateway.log_line("not reloaded").await;
    assert!(Client::connect(gateway.address("web")).await.get("/").await.text().starts_with("first"));
    gateway.rewrite(&watched(second.address()));
    gateway.log_line("reloaded: upstream web changed").await;
    let moved = async || Client::connect(gateway.address("web")).await.get("/").await.text().starts_with("second");
    eventually("the new server answers", moved).await;
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_to_new_clients_and_garbage_to_nobody() {
    let (web, old, new) = (Echo::start("web").await, Authority::new(), Authority::new());
    let issued = old.sign(&["localhost"]);
    let tls =
        format!("address: 127.0.0.1:0, tls: {{ certificates: [{{ cert: {0}, key: {1} }}] }}", issued.cert, issued.key);
    let yaml = yaml(web.address(), "").replace("address: 127.0.0.1:0", &tls).replace("watch: false", "watch: true");
    let gateway = Gateway::start(&yaml).await;
    let address = gateway.address("web");
    let mut before = old.client(&[]).open(address, "localhost").await;
    assert_eq!(before.get("/").await.status, 200);

    std::fs::write(&issued.cert, "garbage").unwrap();
    gateway.log_line("not reloaded, everything stays as it was: listener web").await;
    assert_eq!(old.client(&[]).open(address, "localhost").await.get("/").await.status, 200);

    let renewed = new.sign(&["localhost"]);
    std::fs::copy(&renewed.key, &issued.key).unwrap();
    std::fs::copy(&renewed.cert, &issued.cert).unwrap();
    gateway.log_line("reloaded: listener web changed: certificates").await;
    assert_eq!(new.client(&[]).open(address, "localhost").await.get("/").await.status, 200);
    assert_eq!(before.get("/").await.status, 200, "who was there stays");
}

#[tokio::test]
async fn what_has_lost_its_place_is_closed_or_drained_as_the_file_says() {
    for (orphans, word) in [("close", "closed"), ("drain", "drained")] {
        let (web, other) = (Echo::start("web").await, Echo::start("other").await);
        let two = |web: SocketAddr, other: SocketAddr| {
            yaml(web, "")
                .replace("routes:", "routes:\n  - { name: other, match: { path: /other }, upstream: other }")
                .replace("upstreams:", &format!("upstreams:\n  other: {{ servers: [\"{other}\"] }}"))
        };
        let mut gateway = Gateway::start(&two(web.address(), other.address())).await;
        let mut stays = websocket(&gateway, "web").await;
        let mut goes = Client::connect(gateway.address("web")).await;
        goes.send(upgrade("/other")).await;
        assert_eq!(goes.answer().await.status, 101);
        echoes(&mut goes).await;
        let without = yaml(web.address(), "").replace("watch: false", &format!("orphans: {orphans}"));
        let plan = json(&gateway.reload(&without).await);
        assert_eq!((&plan["sockets"][word], &plan["sockets"]["kept"]), (&1.into(), &1.into()), "{plan}");
        assert_eq!(goes.read_all().await, b"\x88\x02\x03\xf4", "a goodbye");
        echoes(&mut stays).await;
    }
}

#[tokio::test]
async fn limits_and_the_access_log_are_as_the_last_file_says() {
    let (web, folder) = (Echo::start("web").await, tempfile::tempdir().unwrap());
    let mut gateway = Gateway::start(&yaml(web.address(), "")).await;
    let mut held = Client::connect(gateway.address("web")).await;
    assert_eq!(held.get("/before").await.status, 200);
    gateway.access_line(&["target=/before"]).await;
    let log = folder.path().join("access.log");
    let rest = format!("limits: {{ connections: 1 }}\naccess_log: {{ format: json, file: {} }}", log.display());
    let plan = json(&gateway.reload(&yaml(web.address(), &rest)).await);
    assert_eq!(changes(&plan), ["setting limits changed", "setting access_log changed"]);
    assert_eq!(held.get("/after").await.status, 200);
    let written = async || std::fs::read_to_string(&log).unwrap_or_default().contains("\"target\":\"/after\"");
    eventually("the line is in the file", written).await;
    assert_eq!(Client::connect(gateway.address("web")).await.answer().await.status, 503, "one is open already");
    let plan = json(&gateway.reload(&yaml(web.address(), "threads: 1")).await);
    assert_eq!(plan["at_next_start"][0], "threads", "{plan}");
    assert_eq!(Client::connect(gateway.address("web")).await.get("/").await.status, 200);
}

#[tokio::test]
async fn sessions_stay_where_they_are_when_their_upstream_changes() {
    let servers = Cluster::start("v4", 3, &[]).await;
    let entry = |name: &str, index: usize| {
        format!("{{ address: \"127.0.0.1:{}\", name: {name} }}", servers.servers[index].port())
    };
    let said = |entries: &[String], more: &str| {
        format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
routes:
  - upstream: app
upstreams:
  app: {{ kind: socket.io, sessions: {{ returning: 0s }}, servers: [{}]{more} }}
reload: {{ watch: false }}
",
            entries.join(", ")
        )
    };
    let [a, b, c] = [entry("a", 0), entry("b", 1), entry("c", 2)];
    let mut gateway = Gateway::start(&said(&[a.clone(), b.clone()], ", balance: round_robin")).await;
    let mut sessions = Vec::new();
    for _ in 0..4 {
        let mut session = Polling::open(&[gateway.address("web")]).await;
        let home = session.who().await;
        sessions.push((session, home));
    }
    // Another server, another order, another balance, other limits: none of which is a reason to move.
    let more = ", balance: least_connections, timeouts: { connect: 3s }";
    assert_eq!(gateway.reload(&said(&[c, b, a.clone()], more)).await.status, 200);
    for (session, home) in &mut sessions {
        assert_eq!(session.who().await, *home);
    }
    assert_eq!(gateway.metric("sockgate_session_events_total{upstream=\"app\",event=\"learned\"}").await, 4.0);
    assert_eq!(gateway.metric("sockgate_session_events_total{upstream=\"app\",event=\"unknown\"}").await, 0.0);
}

#[tokio::test]
async fn twenty_reloads_under_load_fail_no_request_and_drop_no_socket() {
    const SOCKETS: usize = 100;
    let (web, extra, authority) = (Echo::start("web").await, Echo::start("extra").await, Authority::new());
    let certificates = [authority.sign(&["localhost"]), authority.sign(&["other.example"])];
    let said = |round: usize| {
        let odd = round % 2 == 1;
        let shown: Vec<String> = certificates[..if odd { 2 } else { 1 }].iter().map(|issued| issued.yaml()).collect();
        let server = if odd { format!(", \"{}\"", extra.address()) } else { String::new() };
        let route = if odd { "  - { name: more, match: { path: /more }, upstream: more }\n" } else { "" };
        let upstream = if odd { format!("  more: {{ servers: [\"{}\"] }}\n", extra.address()) } else { String::new() };
        format!(
            "
listeners:
  - {{ name: web, address: 127.0.0.1:0 }}
  - {{ name: secure, address: 127.0.0.1:0, tls: {{ certificates: [{}] }} }}
routes:
{route}  - {{ name: sockets, match: {{ path: /socket }}, upstream: sockets }}
  - {{ name: web, upstream: web }}
upstreams:
{upstream}  sockets: {{ servers: [\"{}\"] }}
  web: {{ servers: [\"{}\"{server}] }}
reload: {{ watch: false }}
",
            shown.join(", "),
            web.address(),
            web.address(),
        )
    };
    let mut gateway = Gateway::start(&said(0)).await;
    let (plain, secure) = (gateway.address("web"), gateway.address("secure"));
    let mut sockets = Vec::new();
    for _ in 0..SOCKETS {
        sockets.push(websocket(&gateway, "web").await);
    }
    let (go_on, answered) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let trusting = authority.client(&[]);
    let asking = (0..4).map(|number: usize| {
        let (go_on, answered, trusting) = (Arc::clone(&go_on), Arc::clone(&answered), trusting.clone());
        tokio::spawn(async move {
            let mut kept = Client::connect(plain).await;
            while go_on.load(Ordering::Relaxed) {
                // One connection is kept over all reloads, the others are new each time, half of them over TLS.
                assert_eq!(kept.get("/").await.status, 200);
                let mut fresh = match number % 2 {
                    0 => Client::connect(plain).await,
                    _ => trusting.open(secure, "localhost").await,
                };
                assert_eq!(fresh.get("/").await.status, 200);
                answered.fetch_add(2, Ordering::Relaxed);
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    for round in 1..=20 {
        let before = answered.load(Ordering::Relaxed);
        let plan = json(&gateway.reload(&said(round)).await);
        assert_eq!(plan["sockets"]["kept"], SOCKETS, "{plan}");
        let some = async || answered.load(Ordering::Relaxed) > before + 8;
        eventually("requests are answered after the reload", some).await;
    }
    go_on.store(false, Ordering::Relaxed);
    for asking in asking {
        within("the requests end", asking).await.unwrap();
    }
    for socket in &mut sockets {
        echoes(socket).await;
    }
    assert_eq!(gateway.metric("sockgate_requests_total{class=\"5xx\",upstream=\"web\"}").await, 0.0);
}

#[tokio::test]
async fn a_thousand_reloads_leak_nothing() {
    let (web, extra) = (Echo::start("web").await, Echo::start("extra").await);
    let said = |round: usize| match round % 2 {
        0 => yaml(web.address(), ""),
        // Names that were not there before, since whoever is gone is not to be counted for ever.
        _ => yaml(web.address(), "")
            .replace(
                "routes:",
                &format!(
                    "  - {{ name: more{round}, address: 127.0.0.1:0 }}
routes:
  - {{ match: {{ path: /x }}, upstream: extra{round} }}"
                ),
            )
            .replace("upstreams:", &format!("upstreams:\n  extra{round}: {{ servers: [\"{}\"] }}", extra.address())),
    };
    let mut gateway = Gateway::start(&said(0)).await;
    let mut admin = Client::connect(gateway.address("admin")).await;
    let mut socket = websocket(&gateway, "web").await;
    let mut load = async |rounds: std::ops::Range<usize>| {
        for round in rounds {
            gateway.rewrite(&said(round));
            assert_eq!(admin.post("/reload", b"").await.status, 200);
            if round % 100 == 0 {
                assert_eq!(Client::connect(gateway.address("web")).await.get("/").await.status, 200);
            }
        }
    };
    let process = gateway_process(gateway.pid());
    load(0..200).await;
    let (files, memory) = process();
    load(200..1000).await;
    echoes(&mut socket).await;
    drop(admin);
    let back = async || process().0 <= files;
    eventually("as many descriptors are open as before", back).await;
    let grown = process().1.saturating_sub(memory);
    assert!(grown < 4096, "{grown} KiB more than after 200 reloads");
    let told = gateway.admin("/metrics").await.text();
    for name in ["sockgate_requests_total{class=\"2xx\",upstream=\"extra", "sockgate_connections_total{listener=\"more"]
    {
        let names = told.lines().filter(|line| line.starts_with(name)).count();
        assert!(names <= 2, "{names} names are told of that were gone long ago");
    }
    gateway.signal(SIGTERM);
    drop(socket);
    assert_eq!(gateway.ended().await, 0);
}

/// Tells how many descriptors a process has open, and how many KiB of memory it uses.
fn gateway_process(pid: nix::unistd::Pid) -> impl Fn() -> (usize, u64) {
    move || {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        (files, memory.trim().trim_end_matches(" kB").parse().unwrap())
    }
}

#[tokio::test]
async fn check_says_beforehand_what_a_running_gateway_would_change() {
    let (web, other) = (Echo::start("web").await, Echo::start("other").await);
    let gateway = Gateway::start(&yaml(web.address(), "")).await;
    let _socket = websocket(&gateway, "web").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("new.yaml");
    let check = async |text: &str, admin: &str| {
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sockgate"));
        command.args(["check", "-c"]).arg(&file).args(["--against", admin]);
        let output = within("check ends", command.output()).await.unwrap();
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code().unwrap(), told)
    };
    let admin = format!("http://{}", gateway.address("admin"));
    let with_admin = |text: String| format!("{text}\nadmin: {{ address: 127.0.0.1:0 }}\n");
    let (code, told) = check(&with_admin(yaml(web.address(), "")), &admin).await;
    assert!(code == 0 && told.contains("nothing changes"), "{told}");
    let renamed = yaml(other.address(), "limits: { headers: 50 }")
        .replace("web: { servers", "app: { servers")
        .replace("upstream: web", "upstream: app")
        .replace("watch: false", "orphans: close");
    let (code, told) = check(&with_admin(renamed), &admin).await;
    assert_eq!(code, 0, "{told}");
    for line in [
        "route web changed: upstream (1 sockets",
        "upstream web removed (1 sockets",
        "upstream app added",
        "setting limits changed: headers",
        "sockets: 0 kept, 0 drained, 1 closed",
    ] {
        assert!(told.contains(line), "{line} in {told}");
    }
    let (code, told) = check("listeners: 1", &admin).await;
    assert!(code == 2 && told.contains("expected a list"), "{told}");
    let (code, _) = check(&yaml(web.address(), ""), "127.0.0.1:1").await;
    assert_eq!(code, 1);
    assert_eq!(gateway.metric("sockgate_reloads_total{result=\"good\"}").await, 1.0, "nothing was loaded");
}

#[tokio::test]
async fn a_gateway_that_stops_loads_nothing_any_more() {
    let web = Echo::start("web").await;
    let mut gateway = Gateway::start(&yaml(web.address(), "")).await;
    let socket = websocket(&gateway, "web").await;
    gateway.signal(SIGTERM);
    gateway.log_line("stopping: ").await;
    let answer = gateway.reload(&yaml(web.address(), "threads: 2")).await;
    assert!(answer.status == 422 && answer.text().contains("is stopping"), "{}", answer.text());
    drop(socket);
    assert_eq!(gateway.ended().await, 0);
}

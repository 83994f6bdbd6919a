//! Pods with addresses of their own, as real ones have and no slice of a real API server goes without: each is a process in a
//! network namespace, behind a bridge that nothing leaves. The test begins itself anew within a namespace where all of that may be made.

use std::process::{Command as Run, Stdio};

use tokio::process::Command;

use super::{SESSIONS, yaml};
use crate::support::crowd::{By, Crowd};
use crate::support::kubernetes::{FakeApi, Pod, pod};
use crate::support::node::{Node, folder};
use crate::support::polling::Polling;
use crate::support::{Gateway, eventually};

/// Says that the test is within its namespace.
const WITHIN: &str = "SOCKGATE_TEST_IN_NAMESPACE";
/// The port that every pod listens on.
const PORT: u16 = 3000;
/// Where the bridge is, and what it takes to have one.
const BRIDGE: &str = "ip link set lo up && ip link add bridge0 type bridge && ip addr add 10.77.0.1/24 dev bridge0 && \
                      ip link set bridge0 up";

#[tokio::test]
async fn pods_with_addresses_of_their_own_come_and_go() {
    if std::env::var_os(WITHIN).is_some() {
        return play().await;
    }
    let try_pair = format!("{BRIDGE} && ip link add left type veth peer name right");
    let tried = Run::new("unshare").args(["-rn", "sh", "-c", &try_pair]).stderr(Stdio::null()).status();
    if !tried.is_ok_and(|status| status.success()) {
        eprintln!(
            "skipped: no network namespace with a bridge can be made here (unshare -rn, ip link add type bridge)"
        );
        return;
    }
    let (_, module) = module_path!().split_once("::").unwrap();
    let name = format!("{module}::pods_with_addresses_of_their_own_come_and_go");
    let run = Command::new("unshare")
        .args(["-rn", "sh", "-c", &format!("{BRIDGE} && exec \"$0\" \"$@\"")])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture"])
        .env(WITHIN, "yes")
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(std::time::Duration::from_secs(120), run).await.expect("within two minutes").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success() && said.contains("played in a namespace"), "{said}");
}

/// A place for a pod: a namespace with an address, for as long as somebody is there.
struct Place {
    address: String,
    holder: Node,
}

impl Place {
    async fn new(number: u8) -> Self {
        // Its namespace lives for as long as it reads.
        let mut holder = Command::new("unshare");
        holder.args(["--net", "sh", "-c", "ip link set lo up && echo '{}' && read _"]);
        let holder = Node::launch(&mut holder).await;
        let (address, pid, link) = (format!("10.77.0.{number}"), holder.pid(), format!("pod{number}"));
        ip(&format!("link add {link} type veth peer name eth0 netns {pid}"));
        ip(&format!("link set {link} master bridge0 up"));
        let place = Self { address, holder };
        let inside = format!("ip addr add {}/24 dev eth0 && ip link set eth0 up", place.address);
        let made = Run::new("nsenter").args([&place.net(), "sh", "-c", &inside]).status().unwrap();
        assert!(made.success(), "{inside}");
        place
    }

    fn net(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.holder.pid())
    }

    /// A real Socket.IO server there.
    async fn server(&self, name: &str) -> Node {
        let mut command = Command::new("nsenter");
        let program = folder().join("server.js");
        command.arg(self.net()).arg("node").arg(program);
        command.args(["v4", "--id", name, "--host", "0.0.0.0", "--port", &PORT.to_string()]);
        Node::launch(&mut command).await
    }
}

fn ip(words: &str) {
    let status = Run::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

/// A1, A3 and A6, all pods in one slice, at one port.
async fn play() {
    let api = FakeApi::start().await;
    let names = ["a", "b", "c", "d"];
    let mut places = Vec::new();
    for number in 11..15 {
        places.push(Place::new(number).await);
    }
    let mut servers = Vec::new();
    for (place, name) in places.iter().zip(names) {
        servers.push(place.server(name).await);
    }
    let put = |pods: &[(usize, &str, Pod)]| {
        let endpoints: Vec<_> =
            pods.iter().map(|(place, name, stands)| pod(name, name, &places[*place].address, *stands)).collect();
        api.put("app-1", PORT, &endpoints);
    };
    use Pod::{Ending, Ready};
    put(&[(0, "a", Ready), (1, "b", Ready)]);
    let gateway = Gateway::start(&yaml(&api, &format!("{SESSIONS}\n    drain: {{ rate: 200 }}"), "")).await;
    let is_up = async |name: &str| {
        let up = format!("sockgate_server_up{{upstream=\"app\",server=\"{name}.{name}\"}}");
        eventually("it is up", async || gateway.metric(&up).await == 1.0).await;
    };
    is_up("a").await;
    is_up("b").await;
    let web = gateway.address("web");
    let mut crowd = Crowd::come(web, &[(By::Polling, 20), (By::WebSocket, 20)]).await;

    // More of them, and nobody moves; then one fewer, and its own move once.
    put(&[(0, "a", Ready), (1, "b", Ready), (2, "c", Ready), (3, "d", Ready)]);
    is_up("c").await;
    is_up("d").await;
    let mut later = Crowd::come(web, &[(By::Polling, 10), (By::WebSocket, 10)]).await;
    assert_eq!(crowd.moves(), 0);
    let of_d: usize = [&crowd, &later].iter().map(|crowd| crowd.homes().get("d").copied().unwrap_or_default()).sum();
    assert!(of_d > 0, "new sessions come to new pods");
    put(&[(0, "a", Ready), (1, "b", Ready), (2, "c", Ready), (3, "d", Ending)]);
    crowd.leave("d").await;
    later.leave("d").await;
    servers.pop().unwrap().kill().await;

    // Another pod at its address is another server.
    let mut another = places[3].server("e").await;
    put(&[(0, "a", Ready), (1, "b", Ready), (2, "c", Ready), (3, "e", Ready)]);
    is_up("e").await;
    let newest = Crowd::come(web, &[(By::Polling, 10)]).await;
    assert!(newest.homes().contains_key("e"), "{:?}", newest.homes());
    assert_eq!(crowd.moves() + later.moves(), of_d, "who was elsewhere has not moved, and nobody twice");

    crowd.is_well();
    later.is_well();
    drop((crowd, later, newest));

    // All of them are about to end, and serve until then.
    put(&[(0, "a", Ending), (1, "b", Ending), (2, "c", Ending), (3, "e", Ending)]);
    eventually("all of them are about to end", async || {
        let status: serde_json::Value = serde_json::from_slice(&gateway.admin("/status").await.body).unwrap();
        let servers = status["upstreams"][0]["servers"].as_array().unwrap();
        servers.len() == 4 && servers.iter().all(|server| server["state"] == "draining")
    })
    .await;
    let home = Polling::open(&[web]).await.who().await;
    assert!(["a", "b", "c", "e"].contains(&home.as_str()), "{home}");
    another.kill().await;
    eprintln!("played in a namespace: {of_d} moved, none lost");
}

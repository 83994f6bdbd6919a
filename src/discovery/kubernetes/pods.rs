//! All slices of a Service together: which servers they make, and what to believe where they make none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::follows::Slices;
use super::slices::{Listed, Standing, Who};
use crate::address::ServerAddress;
use crate::upstream::ServerList;
use crate::upstream::config::{KubernetesService, ServerConfig};

/// For how long nothing has to be listed before that is believed: whoever installs an app anew takes its Service away, and
/// brings it back a moment later. After that addresses may be others' already.
const BELIEVED: Duration = Duration::from_secs(30);

/// The slices as they are known, and whom they made servers last.
#[derive(Default)]
pub(super) struct Pods {
    slices: Option<Arc<Slices>>,
    /// Whom the gateway knows of; `None` where it has never been told.
    told: Option<BTreeMap<Who, ServerConfig>>,
    /// Since when nothing has been listed at all.
    nothing_since: Option<Instant>,
}

/// What is to be told, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) list: Option<ServerList>,
    pub(super) fault: Option<String>,
}

/// What the slices hold.
struct Found {
    servers: BTreeMap<Who, ServerConfig>,
    left_out: BTreeMap<String, String>,
    /// Everybody who is in a slice, in whatever state.
    listed: BTreeSet<Who>,
}

impl Pods {
    /// Takes all slices in place of those that were known.
    pub(super) fn hear(&mut self, slices: Arc<Slices>) {
        self.slices = Some(slices);
    }

    /// Whether all slices have been heard of once.
    pub(super) fn are_known(&self) -> bool {
        self.slices.is_some()
    }

    /// When to ask again though nothing has changed.
    pub(super) fn look_again_at(&self) -> Option<Instant> {
        self.nothing_since.map(|since| since + BELIEVED)
    }

    /// Whom they make servers, and what is wrong with that. A set is never taken away by accident: where nobody is ready, those
    /// of before stay that are still listed, since a pod that is not ready is likelier to serve than nobody is. One that is
    /// listed no more is gone, and its address may be another's: it is not asked for the sake of that.
    pub(super) fn tell(&mut self, said: &KubernetesService, now: Instant) -> Told {
        let Some(slices) = &self.slices else { return Told::default() };
        let Found { servers, left_out, listed } = found(slices, said);
        let since = listed.is_empty().then(|| self.nothing_since.unwrap_or(now));
        self.nothing_since = None;
        if !servers.is_empty() {
            let list = list(&servers, &left_out);
            self.told = Some(servers);
            return Told { list: Some(list), fault: None };
        }
        let why = why_nobody(slices, &left_out, &listed);
        let Some(before) = &self.told else { return Told { list: None, fault: Some(why) } };
        if before.is_empty() {
            return Told { list: Some(list(before, &left_out)), fault: None };
        }
        if let Some(since) = since.filter(|&since| now < since + BELIEVED) {
            self.nothing_since = Some(since);
            return Told { list: None, fault: Some(why) };
        }
        let still = |(who, _): &(&Who, &ServerConfig)| listed.contains(*who);
        let kept: BTreeMap<_, _> = before.iter().filter(still).map(|(who, said)| (who.clone(), said.clone())).collect();
        let news = (kept.len() < before.len()).then(|| list(&kept, &left_out));
        let fault = (!kept.is_empty()).then_some(why);
        self.told = Some(kept);
        Told { list: news, fault }
    }
}

fn list(servers: &BTreeMap<Who, ServerConfig>, left_out: &BTreeMap<String, String>) -> ServerList {
    let mut list: ServerList = servers.values().cloned().collect();
    (list.are_lives, list.holds_empty) = (true, true);
    left_out.iter().fold(list, |list, (name, why)| list.without(name, why))
}

fn found(slices: &Slices, said: &KubernetesService) -> Found {
    let mut listed = BTreeSet::new();
    let mut left_out = BTreeMap::new();
    let mut best: BTreeMap<&Who, (&Listed, SocketAddr)> = BTreeMap::new();
    // A pod is in two slices while it moves from one to the other, and where it has addresses of both kinds.
    let rank = |(listed, address): &(&Listed, SocketAddr)| (listed.state, address.is_ipv6(), *address);
    for (name, slice) in slices {
        listed.extend(slice.endpoints.iter().map(|endpoint| endpoint.who.clone()));
        let serving = slice.endpoints.iter().filter(|endpoint| endpoint.state != Standing::Down);
        let port = match slice.port(said.port.as_ref()) {
            Ok(port) => port,
            Err(_) if slice.endpoints.is_empty() => continue,
            Err(why) => {
                left_out.insert(format!("slice {name}"), why);
                continue;
            }
        };
        for endpoint in serving {
            match endpoint.at(port) {
                Ok(address) => {
                    let candidate = (endpoint, address);
                    let known = best.entry(&endpoint.who).or_insert(candidate);
                    if rank(&candidate) < rank(known) {
                        *known = candidate;
                    }
                }
                Err(why) => drop(left_out.insert(who_told(&endpoint.who), why)),
            }
        }
    }
    // Who has an address that another one has, too, is on the way out: the one that stands better is there now.
    let mut at: HashMap<SocketAddr, &Who> = HashMap::new();
    for (&who, &(endpoint, address)) in &best {
        let holder = at.entry(address).or_insert(who);
        if endpoint.state < best[*holder].0.state {
            *holder = who;
        }
    }
    best.retain(|who, (_, address)| at[address] == *who);
    // Hints are a plan for all: where some have none there is no plan, and everybody takes from everybody.
    let hinted = best.values().filter(|(endpoint, _)| endpoint.state == Standing::Ready);
    let hinted = hinted.clone().count() > 0 && hinted.into_iter().all(|(endpoint, _)| endpoint.for_zones.is_some());
    let server = |(&who, &(endpoint, address)): (&&Who, &(&Listed, SocketAddr))| {
        let server = ServerConfig::of(ServerAddress::Inet(address)).with_name(who.name(address));
        let server = endpoint.zone.iter().fold(server, |server, zone| server.with_zone(zone.as_str()));
        let server = server.with_for_zones(endpoint.for_zones.clone().filter(|_| hinted));
        (who.clone(), server.with_drain(endpoint.state == Standing::Draining))
    };
    Found { servers: best.iter().map(server).collect(), left_out, listed }
}

fn who_told(who: &Who) -> String {
    match who {
        Who::Pod { name, .. } => format!("pod {name}"),
        Who::Address(address) => address.clone(),
    }
}

/// Why the slices make no server.
fn why_nobody(slices: &Slices, left_out: &BTreeMap<String, String>, listed: &BTreeSet<Who>) -> String {
    if let Some((name, why)) = left_out.iter().next() {
        return format!("no server can be used: {name}: {why}");
    }
    match (slices.len(), listed.len()) {
        (0, _) => "the Service has no EndpointSlices, or is not there".to_owned(),
        (_, 0) => "the Service has no pods".to_owned(),
        (_, 1) => "the one pod of the Service is not ready".to_owned(),
        (_, pods) => format!("none of the {pods} pods of the Service is ready"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::{Value, json};

    use super::super::slices::Slice;
    use super::*;

    fn said(port: &str) -> KubernetesService {
        serde_json::from_value(json!({ "service": "chat", "port": (!port.is_empty()).then_some(port) })).unwrap()
    }

    fn slice(value: Value) -> (String, Slice) {
        let mut all = json!({ "metadata": { "name": "chat-1" }, "addressType": "IPv4",
            "ports": [{ "name": "web", "port": 3000, "protocol": "TCP" }], "endpoints": [] });
        for (key, value) in value.as_object().unwrap() {
            all[key] = value.clone();
        }
        let slice: EndpointSlice = serde_json::from_value(all).unwrap();
        Slice::of(slice).unwrap()
    }

    /// A pod whose UID is its name, in a state that three letters tell: ready, serving, terminating; `-` says nothing of it.
    fn pod(name: &str, address: &str, state: &str) -> Value {
        let said = |at: usize| match state.as_bytes()[at] {
            b'-' => Value::Null,
            letter => Value::Bool(letter == b'y'),
        };
        json!({ "addresses": [address], "targetRef": { "kind": "Pod", "name": name, "uid": format!("{name}-uid") },
            "conditions": { "ready": said(0), "serving": said(1), "terminating": said(2) } })
    }

    fn pods(slices: &[Value]) -> Pods {
        let mut pods = Pods::default();
        let named = |(at, value): (usize, &Value)| (format!("chat-{at}"), slice(value.clone()).1);
        pods.replace(slices.iter().enumerate().map(named).collect());
        pods
    }

    impl Pods {
        fn replace(&mut self, slices: Vec<(String, Slice)>) {
            self.hear(Arc::new(slices.into_iter().map(|(name, slice)| (name, Arc::new(slice))).collect()));
        }
    }

    /// `name@address`, with `!` where it drains.
    fn names(list: &ServerList) -> Vec<String> {
        let told = |server: &ServerConfig| {
            format!("{}@{}{}", server.name(), server.address, if server.drain { "!" } else { "" })
        };
        list.servers().iter().map(told).collect()
    }

    fn told(slices: &[Value], port: &str) -> Vec<String> {
        pods(slices).tell(&said(port), Instant::now()).list.as_ref().map(names).unwrap_or_default()
    }

    fn fault(slices: &[Value], port: &str) -> String {
        pods(slices).tell(&said(port), Instant::now()).fault.unwrap_or_default()
    }

    #[test]
    fn what_a_condition_leaves_out_has_the_meaning_of_the_api() {
        for (state, expected) in [
            ("---", "a.auid@10.0.0.1:3000"),
            ("y--", "a.auid@10.0.0.1:3000"),
            ("yyn", "a.auid@10.0.0.1:3000"),
            ("ny-", ""),
            ("n--", ""),
            ("nyy", "a.auid@10.0.0.1:3000!"),
            ("nny", ""),
            ("n-y", ""),
            // A Service that publishes those that are not ready says so even of those that end.
            ("y-y", "a.auid@10.0.0.1:3000!"),
            ("yyy", "a.auid@10.0.0.1:3000!"),
        ] {
            let slices = [json!({ "endpoints": [pod("a", "10.0.0.1", state)] })];
            assert_eq!(told(&slices, "").join(" "), expected, "{state}");
        }
        let none = [json!({ "endpoints": [{ "addresses": ["10.0.0.1"] }] })];
        assert_eq!(told(&none, ""), ["10.0.0.1:3000@10.0.0.1:3000"], "neither conditions nor a pod");
    }

    #[test]
    fn a_pod_in_many_slices_is_one_server() {
        let six = json!({ "addressType": "IPv6", "endpoints": [pod("a", "2001:db8::1", "y--"), pod("c", "2001:db8::3", "y--")] });
        let four = json!({ "endpoints": [pod("a", "10.0.0.1", "y--"), pod("b", "10.0.0.2", "nyy")] });
        let moving = json!({ "endpoints": [pod("b", "10.0.0.2", "y--"), pod("a", "10.0.0.1", "n--")] });
        let expected = ["a.auid@10.0.0.1:3000", "b.buid@10.0.0.2:3000", "c.cuid@[2001:db8::3]:3000"];
        for order in [[&six, &four, &moving], [&moving, &six, &four], [&four, &moving, &six]] {
            assert_eq!(told(&order.map(Clone::clone), ""), expected);
        }
    }

    #[test]
    fn who_has_the_address_of_another_pod_has_taken_its_place() {
        let endpoints = [pod("old", "10.0.0.1", "nyy"), pod("new", "10.0.0.1", "y--")];
        assert_eq!(told(&[json!({ "endpoints": endpoints })], ""), ["new.newuid@10.0.0.1:3000"]);
        let again = |uid: &str| {
            let mut pod = pod("chat-0", "10.0.0.1", "y--");
            pod["targetRef"]["uid"] = json!(uid);
            told(&[json!({ "endpoints": [pod] })], "")
        };
        assert_eq!(again("0f3a-1111-2222"), ["chat-0.0f3a1111@10.0.0.1:3000"]);
        assert_eq!(again("77aa-1111-2222"), ["chat-0.77aa1111@10.0.0.1:3000"], "the same name is not the same pod");
    }

    #[test]
    fn ports_are_found_by_name_and_by_number_and_a_slice_without_is_left_out() {
        let ports = json!([{ "name": "web", "port": 3000 }, { "name": "admin", "port": 9000 },
            { "name": "voice", "port": 5000, "protocol": "UDP" }]);
        let slices = [json!({ "ports": ports, "endpoints": [pod("a", "10.0.0.1", "y--")] })];
        for (port, expected) in [("web", "3000"), ("admin", "9000"), ("9000", "9000")] {
            assert_eq!(told(&slices, port), [format!("a.auid@10.0.0.1:{expected}")]);
        }
        assert_eq!(
            fault(&slices, "voice"),
            "no server can be used: slice chat-0: it has no port `voice`: it has `web` (3000), `admin` (9000)"
        );
        assert!(fault(&slices, "").contains("not one port, so that `port` has to say which"));
        let unnamed = [json!({ "ports": [{ "port": null }], "endpoints": [pod("a", "10.0.0.1", "y--")] })];
        assert_eq!(told(&unnamed, "7000"), ["a.auid@10.0.0.1:7000"], "every port");
        let slices = [slices[0].clone(), json!({ "ports": [], "endpoints": [pod("b", "10.0.0.2", "y--")] })];
        let list = pods(&slices).tell(&said("web"), Instant::now()).list.unwrap();
        assert_eq!(names(&list), ["a.auid@10.0.0.1:3000"]);
        let left_out: Vec<_> = list.left_out().collect();
        assert_eq!(left_out, [("slice chat-1", "it has no port `web`: it has none of TCP")]);
    }

    #[test]
    fn what_can_be_no_server_is_left_out_by_itself() {
        let bad = [pod("b", "0.0.0.0", "y--"), pod("c", "224.0.0.1", "y--"), pod("d", "nowhere", "y--")];
        let good = pod("a", "10.0.0.1", "y--");
        let slices = [json!({ "endpoints": [bad[0], bad[1], good, bad[2]] })];
        let list = pods(&slices).tell(&said(""), Instant::now()).list.unwrap();
        assert_eq!((names(&list).len(), list.left_out().count()), (1, 3));
        let foreign = [json!({ "addressType": "FQDN", "endpoints": [{ "addresses": ["app.example.com"] }] })];
        assert!(fault(&foreign, "").contains("its addresses are of the kind `FQDN`"));
        // As a Service that was scaled to nothing has it.
        let empty = [json!({ "endpoints": null, "ports": null })];
        assert_eq!(fault(&empty, "web"), "the Service has no pods");
        assert_eq!(fault(&[], ""), "the Service has no EndpointSlices, or is not there");
    }

    #[test]
    fn hints_hold_where_every_ready_pod_has_one() {
        let hinted = |name: &str, address: &str, state: &str, zones: &[&str]| {
            let mut pod = pod(name, address, state);
            pod["zone"] = json!("eu-1a");
            let zones: Vec<_> = zones.iter().map(|zone| json!({ "name": zone })).collect();
            pod["hints"] = json!({ "forZones": zones });
            pod
        };
        let away = |endpoints: &[Value]| -> Vec<bool> {
            let list = pods(&[json!({ "endpoints": endpoints })]).tell(&said(""), Instant::now()).list.unwrap();
            list.servers().iter().map(|server| server.is_away_from("eu-1b")).collect()
        };
        let (a, b) = (hinted("a", "10.0.0.1", "y--", &["eu-1b"]), hinted("b", "10.0.0.2", "y--", &["eu-1a"]));
        let (c, d) = (hinted("c", "10.0.0.3", "nyy", &[]), hinted("d", "10.0.0.4", "y--", &[]));
        assert_eq!(away(&[a.clone(), b.clone(), c]), [false, true, true], "it stands elsewhere, and is for this zone");
        assert_eq!(away(&[a, b, d]), [true; 3], "some have none: where they stand decides");
    }

    #[test]
    fn a_set_is_not_taken_away_by_accident_and_nobody_is_asked_who_has_gone() {
        let (now, service) = (Instant::now(), said(""));
        let endpoints = |list: &[Value]| slice(json!({ "endpoints": list }));
        let (a, b) = (pod("a", "10.0.0.1", "y--"), pod("b", "10.0.0.2", "y--"));
        let down = |name: &str, address: &str| pod(name, address, "n--");
        let mut pods = pods(&[json!({ "endpoints": [a, b] })]);
        assert_eq!(pods.tell(&service, now).list.unwrap().servers().len(), 2);

        pods.replace(vec![endpoints(&[down("a", "10.0.0.1"), down("b", "10.0.0.2")])]);
        let fault = "none of the 2 pods of the Service is ready".to_owned();
        assert_eq!(pods.tell(&service, now), Told { list: None, fault: Some(fault) }, "they stay");

        pods.replace(vec![endpoints(&[down("a", "10.0.0.1"), down("c", "10.0.0.2")])]);
        let told = pods.tell(&service, now);
        assert_eq!(names(&told.list.unwrap()), ["a.auid@10.0.0.1:3000"], "b has gone, and its address is c's");
        assert!(told.fault.unwrap().contains("none of the 2 pods"));

        // Nothing at all is believed after half a minute.
        pods.replace(Vec::new());
        let told = pods.tell(&service, now);
        assert_eq!((told.list, pods.look_again_at()), (None, Some(now + BELIEVED)));
        assert!(told.fault.unwrap().contains("no EndpointSlices"));
        let nobody = pods.tell(&service, now + BELIEVED).list.unwrap();
        assert!(nobody.servers().is_empty() && nobody.holds_empty);
        assert_eq!(pods.look_again_at(), None);
        assert_eq!(pods.tell(&service, now + BELIEVED), Told { list: Some(nobody), fault: None });

        // Others are there, and none of before: that is no accident.
        pods.replace(vec![endpoints(&[pod("d", "10.0.0.4", "y--")])]);
        assert_eq!(pods.tell(&service, now).list.unwrap().servers().len(), 1);
        pods.replace(vec![endpoints(&[down("e", "10.0.0.5")])]);
        assert!(pods.tell(&service, now).list.unwrap().servers().is_empty());
    }
}

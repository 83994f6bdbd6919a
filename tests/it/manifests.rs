//! What `conf/kubernetes` makes, by kubectl and Helm themselves: valid, without privileges, and with configurations that run.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::within;

/// The documents that each overlay and the chart make; `None`, aloud, where the tools are missing.
async fn made() -> Option<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/manifests.py");
    let python = script.with_file_name("kubernetes/.venv/bin/python");
    if !python.exists() {
        eprintln!("skipped: kubectl and Helm are not installed here: run scripts/node-deps");
        return None;
    }
    let scratch = tempfile::tempdir().unwrap();
    let run = Command::new(python).arg(script).arg(scratch.path()).kill_on_drop(true).output();
    let output = within("the manifests are made", run).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    Some(serde_json::from_slice(&output.stdout).unwrap_or_else(|fault| panic!("{fault}: {said}")))
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

/// Whether labels have all that a selector asks for.
fn selects(selector: &Value, labels: &Value) -> bool {
    let asked = selector.as_object().expect("a selector of labels");
    !asked.is_empty() && asked.iter().all(|(label, value)| labels[label] == *value)
}

/// A configuration as the program reads it, without a fault and without a warning that matters.
async fn checked(name: &str, text: &str, is_controllers: bool) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("sockgate.yaml");
    std::fs::write(&file, text).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_sockgate"));
    check.args(["check", "--offline", "--print", "-c"]).arg(&file).args(is_controllers.then_some("--controller"));
    // As the downward API says it.
    check.env("POD_NAMESPACE", "scratch");
    let output = within("the configuration is checked", check.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {said}");
    // The kubelet's probes come without a certificate, so the admin address is in plain; the network policy says who may
    // come there.
    let warned: Vec<_> = said.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert!(warned.iter().all(|line| line.contains("tokens pass in plain")), "{name}: {said}");
    serde_yaml::from_slice(&output.stdout).unwrap()
}

fn seconds(time: &Value) -> u64 {
    time.as_str().and_then(|time| time.strip_suffix('s')).unwrap_or_else(|| panic!("{time}")).parse().unwrap()
}

#[tokio::test]
async fn overlays_and_chart_are_valid_and_need_no_privilege() {
    let Some(all) = made().await else { return };
    assert_eq!(all["lint"]["errors"], json!([]), "{}", all["lint"]);
    let made: BTreeMap<String, Vec<Value>> = serde_json::from_value(all["made"].clone()).unwrap();
    assert_eq!(made.len(), 9);
    for (name, documents) in &made {
        let [deployment] = of_kind(documents, "Deployment")[..] else { panic!("{name}: one Deployment") };
        let (pod, labels) =
            (&deployment["spec"]["template"]["spec"], &deployment["spec"]["template"]["metadata"]["labels"]);
        let containers = pod["containers"].as_array().unwrap();
        let gateway = containers.iter().find(|container| container["name"] == "sockgate").unwrap();
        let rights = &gateway["securityContext"];
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(rights["readOnlyRootFilesystem"], true, "{name}");
        assert_eq!(rights["allowPrivilegeEscalation"], false, "{name}");
        assert_eq!(rights["capabilities"]["drop"], json!(["ALL"]), "{name}");

        // The configuration is one that runs without a warning, listens where the ports say, and ends before it is ended.
        let mounted = pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == "config").unwrap();
        let maps = of_kind(documents, "ConfigMap");
        let map = maps.iter().find(|map| map["metadata"]["name"] == mounted["configMap"]["name"]);
        let text = map.unwrap_or_else(|| panic!("{name}: {mounted}"))["data"]["sockgate.yaml"].as_str().unwrap();
        let config = checked(name, text, name.contains("controller")).await;
        let ports: Vec<u64> =
            gateway["ports"].as_array().unwrap().iter().map(|port| port["containerPort"].as_u64().unwrap()).collect();
        let listens = [&config["listeners"][0]["address"], &config["admin"]["address"]];
        for (address, port) in listens.into_iter().zip(ports) {
            assert_eq!(address.as_str().unwrap(), format!("0.0.0.0:{port}"), "{name}");
        }
        let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
        assert!(grace > seconds(&config["drain"]["deadline"]), "{name}");

        // Whatever selects pods selects these, and nobody else's.
        let selectors = documents.iter().filter_map(|document| match document["kind"].as_str().unwrap() {
            "Service" => Some(&document["spec"]["selector"]),
            "PodDisruptionBudget" | "Deployment" => Some(&document["spec"]["selector"]["matchLabels"]),
            "NetworkPolicy" => Some(&document["spec"]["podSelector"]["matchLabels"]),
            _ => None,
        });
        for selector in selectors {
            assert!(selects(selector, labels), "{name}: {selector} {labels}");
        }

        // All that it may do is to look at slices, and only in namespaces; a controller looks at what it serves, and writes
        // what becomes of that.
        let everywhere = of_kind(documents, "ClusterRole");
        assert_eq!(
            everywhere.len(),
            usize::from(["controller", "controller for gateways", "chart with controller"].contains(&name.as_str())),
            "{name}"
        );
        for rule in
            of_kind(documents, "Role").into_iter().chain(everywhere).flat_map(|role| role["rules"].as_array().unwrap())
        {
            let looks = json!(["get", "list", "watch"]);
            let verbs = match rule["resources"].to_string().as_str() {
                r#"["endpointslices"]"# => looks,
                _ if !name.contains("controller") => panic!("{name}: {rule}"),
                r#"["ingresses","ingressclasses"]"# | r#"["ingresses"]"# | r#"["services"]"# | r#"["secrets"]"# => {
                    looks
                }
                r#"["namespaces"]"# => looks,
                resources if resources.contains("httproutes\"") => looks,
                resources if resources.contains("httproutes/status") => json!(["patch"]),
                r#"["ingresses/status"]"# => json!(["patch"]),
                r#"["events"]"# => json!(["create"]),
                r#"["leases"]"# => json!(["get", "create", "update"]),
                _ => panic!("{name}: {rule}"),
            };
            assert_eq!(rule["verbs"], verbs, "{name}: {rule}");
        }
        let account = &pod["serviceAccountName"];
        assert_eq!(account.is_null(), name == "sidecar", "{name}");
        for binding in of_kind(documents, "RoleBinding") {
            assert_eq!(&binding["subjects"][0]["name"], account, "{name}");
        }
        for monitor in of_kind(documents, "ServiceMonitor") {
            let watched = &monitor["spec"]["selector"]["matchLabels"];
            let services = of_kind(documents, "Service");
            let those: Vec<_> =
                services.iter().filter(|service| selects(watched, &service["metadata"]["labels"])).collect();
            assert_eq!(those.len(), 1, "{name}");
            assert_eq!(those[0]["spec"]["ports"][0]["name"], monitor["spec"]["endpoints"][0]["port"], "{name}");
        }
        let metrics = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
        for scaler in of_kind(documents, "HorizontalPodAutoscaler") {
            let metric = scaler["spec"]["metrics"][0]["pods"]["metric"]["name"].as_str().unwrap();
            assert!(metrics.contains(&format!("`{metric}`")), "{name}: {metric}");
        }
    }
    for (name, class) in [("controller for gateways", "sockgate"), ("chart with controller", "edge")] {
        let [found] = of_kind(&made[name], "GatewayClass")[..] else { panic!("{name}: one class") };
        assert_eq!(found["metadata"]["name"], class, "{name}");
        assert_eq!(found["spec"]["controllerName"], "sockgate.io/gateway-controller", "{name}");
    }
    assert_eq!(of_kind(&made["chart with all"], "Role").len(), 2, "one for each namespace");
    for name in ["components", "chart with all"] {
        for kind in ["HorizontalPodAutoscaler", "ServiceMonitor"] {
            assert_eq!(of_kind(&made[name], kind).len(), 1, "{name}: {kind}");
        }
    }
}

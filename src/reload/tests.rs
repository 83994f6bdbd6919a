//! What `check` calls good can be built: only what the system alone knows may still be wrong.

use std::collections::HashSet;
use std::fs;

use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::*;
use crate::snapshot::Extensions;

/// Keys whose values name what only the system knows.
const OF_THE_SYSTEM: [&str; 9] = ["address", "cert", "key", "keys", "ca", "file", "jwks", "public_key", "token_file"];

/// The configuration with every key, on ports of the kernel's choice and with certificates that there are.
fn everything(folder: &Path) -> Value {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/full.yaml")).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(folder.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
    let mut all = serde_json::to_value(Config::read("full", &text, &|_| None).unwrap().config).unwrap();
    for (place, listener) in all["listeners"].as_array_mut().unwrap().iter_mut().enumerate() {
        listener["address"] = json!("127.0.0.1:0");
        listener["name"] = json!(format!("l{place}"));
        if listener["tls"].is_object() {
            listener["tls"]["certificates"] =
                json!([{ "cert": folder.join("cert.pem"), "key": folder.join("key.pem") }]);
        }
    }
    all["routes"][0]["match"]["listener"] = json!(["l0"]);
    all["admin"]["address"] = json!("127.0.0.1:0");
    fs::write(folder.join("token"), "0123456789abcdef\n").unwrap();
    all["admin"]["token_file"] = json!(folder.join("token"));
    fs::write(folder.join("blocked.txt"), "192.0.2.0/24\n").unwrap();
    all["access"]["deny"][1]["file"] = json!(folder.join("blocked.txt"));
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/access/vectors/keys.json");
    all["routes"][1]["access"]["jwt"]["jwks"] = json!(keys);
    let users = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/access/vectors/users.htpasswd");
    all["routes"][1]["access"]["basic"]["users"][0]["file"] = json!(users);
    // The authorities of the system take their time to load.
    all["upstreams"]["socket_io"]["tls"]["verify"] = json!(false);
    all
}

/// The places of all values that have no parts.
fn leaves(value: &Value, place: &str, found: &mut Vec<String>) {
    let at = |key: &str| format!("{place}/{}", key.replace('~', "~0").replace('/', "~1"));
    match value {
        Value::Object(parts) => parts.iter().for_each(|(key, part)| leaves(part, &at(key), found)),
        Value::Array(parts) if !parts.is_empty() => {
            parts.iter().enumerate().for_each(|(index, part)| leaves(part, &at(&index.to_string()), found));
        }
        _ => found.push(place.to_owned()),
    }
}

/// Values that somebody may write in the place of another one.
fn others(value: &Value) -> Vec<Value> {
    let texts = ["", "0", "0s", "1ns", "1000000000d", "*", "/", "é", "0-0"];
    match value {
        Value::Bool(is) => vec![json!(!is)],
        Value::Number(_) => [0, 1, 65_536, u64::MAX].map(|number| json!(number)).into(),
        Value::String(_) => texts.map(|text| json!(text)).into(),
        Value::Null => texts.map(|text| json!(text)).into_iter().chain([json!({}), json!([]), json!(0)]).collect(),
        _ => vec![json!([""]), json!([0]), json!(["a"]), json!({ "a": "b" })],
    }
}

fn build(config: Config) -> Result<(), ReloadError> {
    let (metrics, (sockets, _)) = (Metrics::new().unwrap(), Sockets::from_env());
    Reloader::first(config, (None, None), Extensions::default(), &metrics, &sockets).map(drop)
}

/// Parts that it is tried in, side by side: all of it takes minutes.
const PARTS: usize = 4;

/// Tries every value of a part of the places.
fn try_part(part: usize) {
    let folder = tempfile::tempdir().unwrap();
    let all = everything(folder.path());
    let mut places = Vec::new();
    leaves(&all, "", &mut places);
    // Of what there are several of, one stands for all.
    let mut kinds = HashSet::new();
    places
        .retain(|place| kinds.insert(place.split('/').filter(|key| key.parse::<usize>().is_err()).collect::<String>()));
    assert!(places.len() > 150, "{}", places.len());
    let (mut accepted, mut refused, mut faults) = (0, 0, Vec::new());
    for place in places.into_iter().skip(part).step_by(PARTS) {
        let system = place.rsplit('/').next().is_some_and(|key| OF_THE_SYSTEM.contains(&key));
        for other in others(all.pointer(&place).unwrap()).into_iter().filter(|_| !system) {
            let mut changed = all.clone();
            *changed.pointer_mut(&place).unwrap() = other.clone();
            // JSON is YAML, and written faster.
            let text = serde_json::to_string(&changed).unwrap();
            let Ok(Loaded { config, .. }) = Config::read("test", &text, &|_| None) else {
                refused += 1;
                continue;
            };
            accepted += 1;
            if let Err(fault) = build(config) {
                faults.push(format!("{place}: {other}: {fault}"));
            }
        }
    }
    assert!(accepted > 300 / PARTS && refused > 300 / PARTS, "{accepted} accepted, {refused} refused");
    assert!(faults.is_empty(), "check accepts what can't be built:\n{}", faults.join("\n"));
}

mod whatever_check_accepts_can_be_built {
    use super::try_part;

    #[tokio::test]
    async fn first_part() {
        try_part(0);
    }

    #[tokio::test]
    async fn second_part() {
        try_part(1);
    }

    #[tokio::test]
    async fn third_part() {
        try_part(2);
    }

    #[tokio::test]
    async fn last_part() {
        try_part(3);
    }
}

//! Keys of tokens that an issuer publishes: fetched, rotated, and kept while the issuer is down or lies.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::{gateway, yaml};
use crate::support::client::{Answer, tcp};
use crate::support::engine::for_each_engine;
use crate::support::http2::Http2;
use crate::support::tls::Authority;
use crate::support::websocket::upgrade;
use crate::support::{Echo, Gateway, Puppet, Scripted, eventually};

for_each_engine! {
    an_issuer_rotates_its_keys_and_no_request_is_refused_for_it,
    before_the_first_keys_nobody_can_tell_and_nobody_is_called_a_liar,
    an_issuer_that_is_down_or_lies_changes_nothing,
    made_up_keys_are_asked_for_at_a_bounded_pace,
    an_issuer_by_https_has_to_show_who_it_is,
}

fn vectors(name: &str) -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/access/vectors").join(name);
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

/// The set that has only the keys of these names.
fn set(names: &[&str]) -> String {
    let all = vectors("keys.json");
    let is_named = |key: &&Value| names.iter().any(|name| key["kid"] == *name);
    json!({ "keys": all["keys"].as_array().unwrap().iter().filter(is_named).collect::<Vec<_>>() }).to_string()
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An issuer that says what it is told to; nothing: it hangs up.
struct Issuer {
    server: Scripted,
    says: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    async fn start(says: &str) -> Self {
        let says = Arc::new(Mutex::new(says.to_owned()));
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (telling, noted) = (Arc::clone(&says), Arc::clone(&asked));
        let server = Scripted::start(move |mut client, _| {
            let (says, asked) = (Arc::clone(&telling), Arc::clone(&noted));
            async move {
                while let Some(request) = client.request().await {
                    asked.lock().unwrap().push(String::from_utf8_lossy(&request.head).to_ascii_lowercase());
                    let answer = says.lock().unwrap().clone();
                    if answer.is_empty() || client.try_send(answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { server, says, asked }
    }

    fn say(&self, answer: String) {
        *self.says.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn access(&self, more: &str) -> String {
        format!("{{ jwt: {{ jwks: {{ url: \"http://{}/keys?a=b\", {more} }} }} }}", self.server.address())
    }
}

/// With the token of this name.
async fn asked(gateway: &Gateway, name: &str) -> Answer {
    let token = vectors("tokens.json")[name].as_str().unwrap().to_owned();
    gateway.client().await.get_with("/x", &format!("Authorization: Bearer {token}\r\n")).await
}

async fn ask(gateway: &Gateway, name: &str) -> u16 {
    asked(gateway, name).await.status
}

const AT_ONCE: &str = "min_refresh: 1ms";

async fn an_issuer_rotates_its_keys_and_no_request_is_refused_for_it() {
    let (server, issuer) = (Echo::start("a").await, Issuer::start(&ok(&set(&["ES256"]))).await);
    let gateway = gateway(server.address(), &issuer.access(AT_ONCE), "").await;
    // The first request waits for the first keys.
    assert_eq!(ask(&gateway, "ES256").await, 200);
    assert_eq!(ask(&gateway, "EdDSA").await, 401);
    let head = issuer.asked.lock().unwrap()[0].clone();
    assert!(head.starts_with("get /keys?a=b http/1.1\r\n") && head.contains("\r\naccept: application/jwk-set+json"));
    // Both stand side by side, and the first token of the new key waits for it.
    issuer.say(ok(&set(&["ES256", "EdDSA"])));
    assert_eq!((ask(&gateway, "EdDSA").await, ask(&gateway, "ES256").await), (200, 200));
    // One that is taken back lets nobody in any more, whose token was known, too.
    issuer.say(ok(&set(&["EdDSA", "RS256"])));
    assert_eq!((ask(&gateway, "RS256").await, ask(&gateway, "ES256").await), (200, 401));
    let mut client = gateway.client().await;
    client.send(upgrade("/chat")).await;
    assert_eq!(client.answer().await.status, 401, "upgrades show one, too");
    let streams = Http2::over(tcp(gateway.address("web")).await).await;
    assert_eq!(streams.get("http://a.test/x").await.status(), 401);
}

async fn before_the_first_keys_nobody_can_tell_and_nobody_is_called_a_liar() {
    let (server, issuer) = (Echo::start("a").await, Issuer::start("").await);
    let running = gateway(server.address(), &issuer.access(AT_ONCE), "").await;
    let refused = asked(&running, "ES256").await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(refused.header("www-authenticate"), None);
    running.access_line(&["status=503", "closed_by=no_keys"]).await;
    running.log_line("there are none yet").await;
    assert_eq!(running.client().await.get("/x").await.status, 401, "who shows nothing is told to");
    assert_eq!(server.accepted(), 0);
    issuer.say(ok(&set(&["ES256"])));
    eventually("the keys have come", async || ask(&running, "ES256").await == 200).await;
    let nobody = Puppet::start().await.address();
    let access = format!("{{ jwt: {{ jwks: \"http://{nobody}/\" }} }}");
    let down = gateway(server.address(), &access, "").await;
    assert_eq!(ask(&down, "ES256").await, 503);
}

async fn an_issuer_that_is_down_or_lies_changes_nothing() {
    let (server, issuer) = (Echo::start("a").await, Issuer::start(&ok(&set(&["ES256"]))).await);
    let access = issuer.access("min_refresh: 1ms, refresh: 50ms");
    let mut gateway = gateway(server.address(), &access, "").await;
    assert_eq!(ask(&gateway, "ES256").await, 200);
    let megabytes = ok(&format!("{{ \"keys\": [], \"x\": \"{}\" }}", "y".repeat(3 << 20)));
    for (lie, told) in [
        (String::new(), "those of before go on"),
        (ok("{ \"keys\": ["), "found no set of keys"),
        (ok("{ \"keys\": [] }"), "found no key for a signature"),
        (ok(&set(&["EdDSA"])).replace("200 OK", "500 Internal Server Error"), "answered 500"),
        ("HTTP/1.1 302 Found\r\nLocation: http://a.test/\r\nContent-Length: 0\r\n\r\n".to_owned(), "answered 302"),
        (megabytes, "is larger than 262144 bytes"),
        ("nonsense\r\n\r\n".to_owned(), "those of before go on"),
    ] {
        issuer.say(lie);
        let so_far = issuer.asked();
        gateway.log_line(told).await;
        eventually("it has been asked", async || issuer.asked() > so_far).await;
        assert_eq!(ask(&gateway, "ES256").await, 200, "{told}");
    }
    // A reload that changes something else asks nobody for what is there.
    let other = yaml(server.address(), &access.replacen("{ jwt", "{ deny: 192.0.2.1, jwt", 1), "");
    assert_eq!(gateway.reload(&other).await.status, 200);
    assert_eq!(ask(&gateway, "ES256").await, 200);
}

async fn made_up_keys_are_asked_for_at_a_bounded_pace() {
    let (server, issuer) = (Echo::start("a").await, Issuer::start(&ok(&set(&["ES256"]))).await);
    let gateway = gateway(server.address(), &issuer.access("min_refresh: 1h, refresh: 1h"), "").await;
    assert_eq!(ask(&gateway, "ES256").await, 200);
    for name in ["EdDSA", "RS256", "PS256", "ES384", "EdDSA"] {
        assert_eq!(ask(&gateway, name).await, 401, "{name}");
    }
    assert_eq!(issuer.asked(), 1);
}

async fn an_issuer_by_https_has_to_show_who_it_is() {
    let (server, authority, other) = (Echo::start("a").await, Authority::new(), Authority::new());
    let config = authority.server(&authority.sign(&["localhost", "127.0.0.1"]), false);
    let issuer = Scripted::start_tls(config, |mut client, _| async move {
        while client.request().await.is_some() {
            if client.try_send(ok(&set(&["ES256"]))).await.is_err() {
                return;
            }
        }
    })
    .await;
    for (ca, status) in [(authority.ca(), 200), (other.ca(), 503)] {
        let url = format!("https://{}/keys", issuer.address());
        let gateway =
            gateway(server.address(), &format!("{{ jwt: {{ jwks: {{ url: \"{url}\", ca: {ca} }} }} }}"), "").await;
        assert_eq!(ask(&gateway, "ES256").await, status);
    }
}

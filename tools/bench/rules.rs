//! What each kind of rule costs a request: the same request counted with the rule and without, in user instructions.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::json;

use crate::count;
use crate::load::http::Http;
use crate::load::{Failure, Pace, Target, Until, Work, drive, open};
use crate::peers::{Peer, Running, World};
use crate::scenarios::Bracket;
use crate::{Error, report};

/// Clients at once, each on one connection.
const CLIENTS: usize = 32;
/// Requests that are counted.
const REQUESTS: u64 = 2000;
/// Requests of each client before that.
const AHEAD: usize = 2;
/// Shared by who signs and who checks tokens.
const SECRET: &str = "a secret of thirty-two bytes or so";

/// `hunter2`, in SHA-crypt.
const USERS: &str = "alice:$5$saltsaltsalt$g1jS0B6yOBBZqrJEhPEM5XNnoxWIh2QfY2N0iDi9s73\n";

/// One rule: what the configuration says, and what is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    title: &'static str,
    /// What stands in place of the one route to `app`, where it is not that.
    routes: &'static str,
    /// What stands among the keys of the upstream `app`.
    upstream: &'static str,
    /// What stands at the top level besides.
    besides: &'static str,
    path: &'static str,
    /// What a `POST` says; nothing where it is a `GET`.
    post: Option<&'static str>,
    /// The method and path that open a session first.
    opens: Option<(&'static str, &'static str)>,
    asks: Asks,
}

/// What a request says besides its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    Fields(&'static str),
    /// A token; with `fresh`, one that nobody has shown before.
    Token {
        fresh: bool,
    },
}

const PLAIN: Rule = Rule {
    title: "no rule",
    routes: "  - { upstream: app }",
    upstream: "",
    besides: "",
    path: "/bytes/100",
    post: None,
    opens: None,
    asks: Asks::Fields(""),
};

const fn route(title: &'static str, routes: &'static str) -> Rule {
    Rule { title, routes, ..PLAIN }
}

const fn asking(title: &'static str, routes: &'static str, fields: &'static str) -> Rule {
    Rule { title, routes, asks: Asks::Fields(fields), ..PLAIN }
}

const fn besides(title: &'static str, besides: &'static str, fields: &'static str) -> Rule {
    Rule { title, besides, asks: Asks::Fields(fields), ..PLAIN }
}

const fn token(title: &'static str, besides: &'static str, fresh: bool) -> Rule {
    Rule { title, besides, asks: Asks::Token { fresh }, ..PLAIN }
}

/// A request that says something, to servers of this kind.
const fn saying(title: &'static str, upstream: &'static str, path: &'static str) -> Rule {
    Rule { title, upstream, path, post: Some("x"), ..PLAIN }
}

const fn in_session(
    title: &'static str,
    upstream: &'static str,
    opens: (&'static str, &'static str),
    path: &'static str,
    fields: &'static str,
) -> Rule {
    Rule { opens: Some(opens), asks: Asks::Fields(fields), ..saying(title, upstream, path) }
}

const BY_RULE: &str = ", sessions: { rule: { route: { header: Mcp-Session-Id }, learn: { header: Mcp-Session-Id } } }";

const BY_SECRET: &str = "access: { jwt: { secret: \"@SECRET@\", claims: { X-User: sub } } }\n";

/// The first is what others are held against.
const RULES: &[Rule] = &[
    PLAIN,
    route(
        "behind ten routes of other paths",
        "  - { match: { path: [/a, /b, /c, /d, /e, /f, /g, /h, /i, /j] }, respond: { status: 204 } }
  - { upstream: app }",
    ),
    asking("`match.headers`", "  - { match: { headers: { x-tenant: acme } }, upstream: app }", "X-Tenant: acme\r\n"),
    asking(
        "the same in CEL",
        "  - { match: { when: 'request.headers[\"x-tenant\"] == \"acme\"' }, upstream: app }",
        "X-Tenant: acme\r\n",
    ),
    asking("a field that nobody looks at", "  - { upstream: app }", "X-Tenant: acme\r\n"),
    route("`match.client`", "  - { match: { client: 127.0.0.0/8 }, upstream: app }"),
    route("the same in CEL", "  - { match: { when: 'client.ip in cidr(\"127.0.0.0/8\")' }, upstream: app }"),
    route("`match.path_regex`", "  - { match: { path_regex: '^/bytes/[0-9]+$' }, upstream: app }"),
    asking(
        "`match.cookies`",
        "  - { match: { cookies: { side: a } }, upstream: app }",
        "Cookie: theme=dark; side=a\r\n",
    ),
    asking("a cookie that nobody looks at", "  - { upstream: app }", "Cookie: theme=dark; side=a\r\n"),
    route(
        "`match.not`, `match.any`",
        "  - { match: { not: { path: /admin }, any: [{ host: localhost }, { port: 1 }] }, upstream: app }",
    ),
    route("`request_headers.set`, a text", "  - { upstream: app, request_headers: { set: { X-Site: blue } } }"),
    route(
        "`request_headers.set`, a variable",
        "  - { upstream: app, request_headers: { set: { X-Client: \"${client.ip}\" } } }",
    ),
    route(
        "`request_headers.set`, CEL",
        "  - { upstream: app, request_headers: { set: { X-Tier: { cel: 'client.ip in cidr(\"10.0.0.0/8\") ? \"fast\" : \"slow\"' } } } }",
    ),
    route(
        "`response_headers`: one set, one removed",
        "  - { upstream: app, response_headers: { set: { X-Frame-Options: DENY }, remove: Server } }",
    ),
    Rule {
        path: "/app1/bytes/100",
        ..route("`rewrite.strip_prefix`", "  - { upstream: app, rewrite: { strip_prefix: /app1 } }")
    },
    Rule {
        path: "/b/100",
        ..route("`rewrite.regex`", "  - { upstream: app, rewrite: { regex: '^/b/([0-9]+)$', to: '/bytes/$1' } }")
    },
    route("`host`", "  - { upstream: app, host: app.internal }"),
    route(
        "two upstreams by weight and address",
        "  - { upstream: [{ name: app, weight: 95 }, { name: socket_io, weight: 5 }] }",
    ),
    asking(
        "two upstreams by weight and cookie",
        "  - { upstream: [{ name: app, weight: 95 }, { name: socket_io, weight: 5 }], split: { cookie: side } }",
        "Cookie: side=app\r\n",
    ),
    route("`mirror`, each request", "  - { upstream: app, mirror: { upstream: app, max_open: 1000 } }"),
    Rule { upstream: ", affinity: { cookie: {} }", ..route("`affinity.cookie`, a new one each", PLAIN.routes) },
    Rule {
        upstream: ", affinity: { cel: 'request.host + request.path' }, balance: client_ip",
        ..route("`affinity.cel`", PLAIN.routes)
    },
    Rule { upstream: ", balance: client_ip", ..route("`balance: client_ip`", PLAIN.routes) },
    Rule { upstream: ", balance: peak_ewma", ..route("`balance: peak_ewma`", PLAIN.routes) },
    besides("`limits.rate`, by address", "limits: { rate: { requests: 1000000, per: 1s } }\n", ""),
    besides("`limits.requests_per_address`", "limits: { requests_per_address: 1000 }\n", ""),
    besides("`access.deny`, two networks", "access: { deny: [10.0.0.0/8, \"2001:db8::/32\"] }\n", ""),
    besides(
        "`access.origins`",
        "access: { origins: [\"https://*.example.com\"] }\n",
        "Origin: https://app.example.com\r\n",
    ),
    besides(
        "`access.cors`",
        "access: { cors: { origins: [\"https://*.example.com\"] } }\n",
        "Origin: https://app.example.com\r\n",
    ),
    besides("a field `Origin` that nobody looks at", "", "Origin: https://app.example.com\r\n"),
    token("a token that nobody looks at", "", false),
    token("`access.jwt` by a secret, known again", BY_SECRET, false),
    token("`access.jwt` by a secret, a new one each", BY_SECRET, true),
    besides(
        "`access.basic`, known again",
        "access: { basic: { users: { file: @FOLDER@/users } } }\n",
        "Authorization: Basic YWxpY2U6aHVudGVyMg==\r\n",
    ),
    besides(
        "`access.forward_auth`, the connection kept",
        "access: { forward_auth: { url: \"http://@SERVER@/bytes/0\" } }\n",
        "",
    ),
    saying("a POST of one byte", "", "/bytes/100"),
    saying("`kind: socket.io`, a POST of no session", ", kind: socket.io", "/bytes/100"),
    in_session(
        "`kind: socket.io`, a POST of a session",
        ", kind: socket.io",
        ("GET", "/opens/?EIO=4&transport=polling"),
        "/bytes/100?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAAAA",
        "",
    ),
    saying("`kind: mcp`, a POST of no session", ", kind: mcp", "/bytes/100"),
    in_session(
        "`kind: mcp`, a POST of a session",
        ", kind: mcp",
        ("POST", "/opens"),
        "/bytes/100",
        "Mcp-Session-Id: AAAAAAAAAAAAAAAAAAAAAA\r\n",
    ),
    saying("`kind: signalr`, a POST of no session", ", kind: signalr", "/bytes/100"),
    in_session(
        "`kind: signalr`, a POST of a session",
        ", kind: signalr",
        ("POST", "/opens/negotiate"),
        "/bytes/100?id=AAAAAAAAAAAAAAAAAAAAAA",
        "",
    ),
    saying("`kind: sockjs`, a POST of no session", ", kind: sockjs", "/bytes/100"),
    in_session(
        "`kind: sockjs`, a POST of a session",
        ", kind: sockjs",
        ("POST", "/bytes/100/aaaaaaaa/xhr"),
        "/bytes/100/aaaaaaaa/xhr_send",
        "",
    ),
    saying("`sessions.rule`, a POST of no session", BY_RULE, "/bytes/100"),
    in_session(
        "`sessions.rule`, a POST of a session",
        BY_RULE,
        ("POST", "/opens"),
        "/bytes/100",
        "Mcp-Session-Id: AAAAAAAAAAAAAAAAAAAAAA\r\n",
    ),
    besides("`traces`, none recorded", "traces: { endpoint: \"http://127.0.0.1:9\", sample: 0 }\n", ""),
    besides("`traces`, each recorded and sent", "traces: { endpoint: \"http://@SERVER@/bytes/0\", sample: 1 }\n", ""),
    Rule {
        path: "/page.txt",
        ..route("`files`, 100 B, in place of a server", "  - { files: { root: @FOLDER@/site } }")
    },
];

impl Rule {
    /// What stands under `routes`.
    pub(crate) fn routes(&self, world: &World) -> String {
        fill(self.routes, world)
    }

    /// What stands at the end of the keys of `app`.
    pub(crate) fn upstream(&self) -> &'static str {
        self.upstream
    }

    /// What stands at the top level.
    pub(crate) fn besides(&self, world: &World) -> String {
        fill(self.besides, world)
    }

    /// Asks the gateway for what the rule is about; how often that was done, and how often it failed.
    pub(crate) async fn run(&self, gateway: &Running, bracket: &mut impl Bracket) -> Result<(u64, u64), Error> {
        let requests: Arc<[Vec<u8>]> = self.requests()?.into();
        let next = Arc::<AtomicUsize>::default();
        let target = Target { address: gateway.doors.http, host: "localhost".into(), tls: None };
        let asker = |source| Asker {
            target: target.clone(),
            source,
            requests: Arc::clone(&requests),
            next: Arc::clone(&next),
            connection: None,
        };
        if let Some((method, path)) = self.opens {
            let mut connection = Http::new(target.connect(0).await?);
            let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
            connection.send(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n").as_bytes()).await?;
            connection.answer(None).await?;
        }
        let (askers, opened) = open((0..CLIENTS).map(asker).collect()).await;
        let (askers, ahead) = drive(askers, Pace::Closed, Until::Count((CLIENTS * AHEAD) as u64)).await;
        bracket.begin(gateway).await?;
        let (askers, outcome) = drive(askers, Pace::Closed, Until::Count(REQUESTS)).await;
        bracket.end(gateway).await?;
        drop(askers);
        for (word, count) in ahead.failures.iter().chain(&outcome.failures) {
            eprintln!("  {count} x {word}");
        }
        Ok((outcome.done, opened.failed() + ahead.failed() + outcome.failed()))
    }

    /// The requests, of which each is sent in its turn.
    fn requests(&self) -> Result<Vec<Vec<u8>>, Error> {
        let request = |fields: &str| {
            let path = self.path;
            let (method, length) = match self.post {
                Some(body) => ("POST", format!("Content-Length: {}\r\n", body.len())),
                None => ("GET", String::new()),
            };
            let body = self.post.unwrap_or_default();
            let usual = "Host: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n";
            format!("{method} {path} HTTP/1.1\r\n{usual}{fields}{length}\r\n{body}").into_bytes()
        };
        match self.asks {
            Asks::Fields(fields) => Ok(vec![request(fields)]),
            Asks::Token { fresh } => {
                let many = if fresh { REQUESTS + (CLIENTS * AHEAD) as u64 } else { 1 };
                let key = EncodingKey::from_secret(SECRET.as_bytes())?;
                let expires = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
                let token = |number: u64| {
                    let claims = json!({ "sub": format!("user{number}"), "exp": expires });
                    encode(&Header::new(Algorithm::HS256), &claims, &key)
                };
                (0..many).map(|number| Ok(request(&format!("Authorization: Bearer {}\r\n", token(number)?)))).collect()
            }
        }
    }
}

/// Sends what is next of all requests, over a connection of its own.
struct Asker {
    target: Target,
    source: usize,
    requests: Arc<[Vec<u8>]>,
    next: Arc<AtomicUsize>,
    connection: Option<Http>,
}

impl Work for Asker {
    async fn ready(&mut self) -> Result<(), Failure> {
        self.connection = Some(Http::new(self.target.connect(self.source).await?));
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        let connection = self.connection.as_mut().ok_or("the connection is gone")?;
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.requests.len();
        connection.send(&self.requests[next]).await?;
        match connection.answer(None).await? {
            answer if answer.status != 200 => Err(Failure(format!("status {}", answer.status).into())),
            answer if answer.length != 100 => Err(Failure(format!("a body of {} bytes", answer.length).into())),
            answer => Ok(answer.length),
        }
    }
}

fn fill(text: &str, world: &World) -> String {
    let folder = world.folder.display().to_string();
    let server = world.backend.http[0].to_string();
    text.replace("@FOLDER@", &folder).replace("@SERVER@", &server).replace("@SECRET@", SECRET)
}

/// Counts each rule whose title has one of these words in it, or all, and says what it adds to a request.
pub(crate) async fn run(peer: &Peer, world: &World, only: &[String]) -> Result<String, Error> {
    // What some of them read.
    fs::write(world.folder.join("users"), USERS)?;
    fs::create_dir_all(world.folder.join("site"))?;
    fs::write(world.folder.join("site/page.txt"), [b'x'; 100])?;
    let mut table =
        format!("| rule ({}) | instructions of a request | beyond none |\n|---|---:|---:|\n", peer.version());
    let mut plain = None;
    let is_meant = |rule: &&Rule| only.is_empty() || only.iter().any(|word| rule.title.contains(word.as_str()));
    for rule in RULES[..1].iter().chain(RULES[1..].iter().filter(is_meant)) {
        let (instructions, failed) = count::rule(rule, peer, world).await?;
        let instructions = instructions.filter(|_| failed == 0);
        let instructions = instructions.ok_or_else(|| format!("{}: {failed} of its requests failed", rule.title))?;
        let plain = *plain.get_or_insert(instructions);
        let line = format!("| {} | {} | {:+.0} |\n", rule.title, report::short(instructions), instructions - plain);
        eprint!("{line}");
        table += &line;
    }
    Ok(table)
}

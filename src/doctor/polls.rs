//! Socket.IO as its clients speak it: handshakes, polls that stay with their server, the WebSocket, what idles, and who may ask.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::connection::{Answer, Fault, USUAL};
use super::socket::{Heard, Socket, frame};
use super::{Findings, Target};

/// What a handshake tells.
struct Session {
    id: String,
    interval: Duration,
    upgrades: bool,
    cookies: Vec<String>,
}

/// What may be slower than its heartbeat.
const SLACK: Duration = Duration::from_secs(3);

pub(super) fn examine(target: &Target, findings: &mut Findings, progress: &dyn Fn(&str)) {
    progress("shaking hands");
    let Some(session) = handshake(target, findings) else { return };
    progress(&format!("opening {} sessions, each request on a connection of its own", target.sessions));
    let sticks = stickiness(target, findings);
    progress("opening WebSockets");
    let upgrades = websocket(target, findings, sticks);
    cors(target, findings);
    let wait = (session.interval + SLACK).min(target.patience);
    progress(&format!("watching a poll and a socket that say nothing, for up to {} s", wait.as_secs().max(1)));
    thread::scope(|scope| {
        let poll = scope.spawn(|| sticks.then(|| held_poll(target, wait)).flatten());
        let socket = scope.spawn(|| upgrades.then(|| idle_socket(target, wait)).flatten());
        let long_enough = wait >= session.interval;
        match poll.join().ok().flatten() {
            Some(Ok(after)) => findings.good(
                "held_poll",
                format!("A poll is held until there is something to say ({:.0} s).", after.as_secs_f64()),
            ),
            Some(Err((what, after))) => findings.fault(
                "held_poll",
                format!(
                    "A poll that waits is cut after {:.1} s ({what}), before the server would answer it.",
                    after.as_secs_f64()
                ),
            ),
            None => {}
        }
        match socket.join().ok().flatten() {
            Some(Ok(())) if long_enough => {
                findings.good(
                    "idle_socket",
                    format!("A socket that says nothing lives until its heartbeat ({} s).", session.interval.as_secs()),
                );
            }
            Some(Ok(())) => findings
                .good("idle_socket", format!("A socket that says nothing lives for {} s at least.", wait.as_secs())),
            Some(Err(after)) => findings.fault(
                "idle_socket",
                format!(
                    "A socket that says nothing is cut after {:.1} s, before its heartbeat of {} s.",
                    after.as_secs_f64(),
                    session.interval.as_secs()
                ),
            ),
            None => {}
        }
    });
}

impl Target {
    /// The path with its query.
    fn to(&self, query: &str) -> String {
        format!("{}?{query}&t={:08x}", self.path, rand::random::<u32>())
    }

    fn poll(&self, query: &str, cookies: &[String], patience: Duration) -> Result<Answer, Fault> {
        self.ask("GET", &self.to(query), &cookie(&cookies.join("; ")), b"", patience)
    }

    fn post(&self, query: &str, cookies: &[String], body: &[u8]) -> Result<Answer, Fault> {
        let cookies = cookies.join("; ");
        let fields = [&[("Content-Type", "text/plain;charset=UTF-8")], cookie(&cookies).as_slice()].concat();
        self.ask("POST", &self.to(query), &fields, body, USUAL)
    }
}

fn cookie(cookies: &str) -> Vec<(&str, &str)> {
    if cookies.is_empty() { Vec::new() } else { vec![("Cookie", cookies)] }
}

/// The handshake in an answer to a poll.
fn read_handshake(answer: &Answer) -> Option<Session> {
    let text = answer.text();
    let at = text.find("0{")?;
    // Of Engine.IO 3, a length and a colon come before it; both may have packets behind.
    let mut values = serde_json::Deserializer::from_str(&text[at + 1..]).into_iter::<Value>();
    let told = values.next()?.ok()?;
    let milliseconds = told["pingInterval"].as_u64()?;
    Some(Session {
        id: told["sid"].as_str()?.to_owned(),
        interval: Duration::from_millis(milliseconds),
        upgrades: told["upgrades"].as_array().is_some_and(|all| all.iter().any(|one| one == "websocket")),
        cookies: answer.cookies(),
    })
}

fn handshake(target: &Target, findings: &mut Findings) -> Option<Session> {
    let answer = match target.poll("EIO=4&transport=polling", &[], USUAL) {
        Ok(answer) => answer,
        Err(fault) => {
            findings.fault("no_answer", format!("A handshake is not answered: {fault}."));
            return None;
        }
    };
    let four = (answer.status == 200).then(|| read_handshake(&answer)).flatten();
    let three = target.poll("EIO=3&transport=polling", &[], USUAL).ok().filter(|answer| answer.status == 200);
    let three = three.and_then(|answer| read_handshake(&answer));
    let spoken = match (&four, &three) {
        (Some(_), Some(_)) => "Engine.IO 3 and 4 are",
        (Some(_), None) => "Engine.IO 4 is",
        (None, Some(_)) => "Engine.IO 3 is",
        (None, None) => {
            let path = &target.path;
            let (name, what) = match answer.status {
                301 | 302 | 303 | 307 | 308 => (
                    "redirect",
                    format!(
                        "A handshake is sent elsewhere ({}), and clients do not go there.",
                        answer.field("location").unwrap_or("-")
                    ),
                ),
                404 => {
                    ("no_route", format!("{path} leads to nothing that speaks Socket.IO: 404 ({}).", answer.words()))
                }
                502..=504 => (
                    "no_server",
                    format!("No server of Socket.IO is behind it: {} ({}).", answer.status, answer.words()),
                ),
                200 => {
                    ("no_route", format!("{path} leads to something else than Socket.IO: 200 ({}).", answer.words()))
                }
                401 | 403 => ("refused", format!("A handshake is refused: {} ({}).", answer.status, answer.words())),
                status => ("refused", format!("A handshake is answered {status} ({}).", answer.words())),
            };
            findings.fault(name, what);
            return None;
        }
    };
    findings.good("handshake", format!("{spoken} spoken at {}.", target.path));
    if four.is_none() {
        findings
            .care("old_engine", "Only Engine.IO 3 is spoken: the rest is looked at with Socket.IO 3 or newer only.");
        return None;
    }
    if four.as_ref().is_some_and(|session| !session.upgrades) {
        findings.care("no_upgrades", "The server offers no WebSocket: its `transports` leave it out.");
    }
    four
}

/// Opens a session, and asks for it on other connections; what was said in place of an answer.
fn one_session(target: &Target, keeps_cookies: bool) -> Result<(), String> {
    let opened = target.poll("EIO=4&transport=polling", &[], USUAL).map_err(|fault| fault.to_string())?;
    let session = read_handshake(&opened)
        .ok_or_else(|| format!("a handshake was answered {} ({})", opened.status, opened.words()))?;
    let cookies = if keeps_cookies { session.cookies.as_slice() } else { &[] };
    let query = format!("EIO=4&transport=polling&sid={}", session.id);
    let said = |answer: &Answer| format!("{} ({})", answer.status, answer.words());
    let posted = target.post(&query, cookies, b"40").map_err(|fault| format!("a post: {fault}"))?;
    if posted.status != 200 {
        return Err(said(&posted));
    }
    let polled = target.poll(&query, cookies, USUAL).map_err(|fault| format!("a poll: {fault}"))?;
    if polled.status != 200 || !polled.text().starts_with('4') {
        return Err(said(&polled));
    }
    // Goodbye, so that nothing is left behind.
    let _ = target.post(&query, cookies, b"1");
    Ok(())
}

fn stickiness(target: &Target, findings: &mut Findings) -> bool {
    let count = target.sessions.max(1);
    let run = |keeps_cookies: bool| {
        let faults: Vec<String> = (0..count).filter_map(|_| one_session(target, keeps_cookies).err()).collect();
        (faults.len(), faults.into_iter().next().unwrap_or_default())
    };
    match run(false) {
        (0, _) => {
            findings.good("sticky", format!("Each of {count} sessions stays with its server, without a cookie."));
            true
        }
        (lost, first) => match run(true) {
            (0, _) => {
                findings.care(
                    "cookie_needed",
                    format!("Without the cookie that is set, {lost} of {count} sessions are lost ({first}): only browsers keep it, and not on other sites."),
                );
                false
            }
            (lost, first) => {
                findings.fault("sticky", format!("{lost} of {count} sessions are lost between servers: {first}."));
                false
            }
        },
    }
}

/// Sixteen bytes in base64 (RFC 6455 4.1); nothing has to be random about them here.
const KEY: &str = "c29ja2dhdGUtZG9jdG9yIQ==";

fn open_socket(target: &Target, query: &str, cookies: &[String], early: &[u8]) -> Result<Socket, String> {
    let cookies = cookies.join("; ");
    let fields = [
        &[
            ("Connection", "Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", KEY),
        ],
        cookie(&cookies).as_slice(),
    ]
    .concat();
    let answer = target.ask("GET", &target.to(query), &fields, early, USUAL).map_err(|fault| fault.to_string())?;
    if answer.status == 101 { Ok(Socket::new(answer)) } else { Err(format!("{} ({})", answer.status, answer.words())) }
}

fn websocket(target: &Target, findings: &mut Findings, sticks: bool) -> bool {
    // By itself, with its first word in one piece with the head.
    let direct = open_socket(target, "EIO=4&transport=websocket", &[], b"");
    match direct {
        Err(what) => {
            findings.fault(
                "no_websocket",
                format!("A WebSocket is not opened: {what}. Clients stay on polling without a word, which costs many times as much."),
            );
            return false;
        }
        Ok(mut socket) => match socket.hear(USUAL) {
            Heard::Text(text) if text.starts_with("0{") => {
                socket.say("40");
                match socket.hear(USUAL) {
                    Heard::Text(text) if text.starts_with("40") => {
                        findings.good("websocket", "WebSockets open, and carry messages both ways.")
                    }
                    other => findings.fault(
                        "no_websocket",
                        format!("A WebSocket opens, and carries nothing to the server: {other:?}."),
                    ),
                }
                socket.say("1");
            }
            other => {
                findings
                    .fault("no_websocket", format!("A WebSocket opens, and nothing comes from the server: {other:?}."));
                return false;
            }
        },
    }
    if let Ok(mut socket) = open_socket(target, "EIO=4&transport=websocket", &[], &frame("40")) {
        let connected = (0..2).any(|_| matches!(socket.hear(USUAL), Heard::Text(text) if text.starts_with("40")));
        if !connected {
            findings.care(
                "early_bytes",
                "What a client sends right behind its upgrade, before the 101, is lost on the way.",
            );
        }
        socket.say("1");
    }
    if sticks && let Some(what) = upgraded(target) {
        findings.fault("no_upgrade", format!("A session that polls can't move to its WebSocket: {what}."));
    } else if sticks {
        findings.good("upgrade", "Sessions that begin with polling move to a WebSocket.");
    }
    true
}

/// Moves a session from polling to a WebSocket; what went wrong.
fn upgraded(target: &Target) -> Option<String> {
    let opened = target.poll("EIO=4&transport=polling", &[], USUAL).ok()?;
    let session = read_handshake(&opened)?;
    let query = format!("EIO=4&transport=websocket&sid={}", session.id);
    match open_socket(target, &query, &session.cookies, b"") {
        Err(what) => Some(what),
        Ok(mut socket) => {
            socket.say("2probe");
            match socket.hear(USUAL) {
                Heard::Text(text) if text == "3probe" => {
                    socket.say("5");
                    socket.say("1");
                    None
                }
                other => Some(format!("its probe is answered by {other:?}")),
            }
        }
    }
}

/// Holds a poll; how long it was held, or what cut it and when. `None` where there is no session to ask for.
fn held_poll(target: &Target, wait: Duration) -> Option<Result<Duration, (String, Duration)>> {
    let session = read_handshake(&target.poll("EIO=4&transport=polling", &[], USUAL).ok()?)?;
    let query = format!("EIO=4&transport=polling&sid={}", session.id);
    target.post(&query, &session.cookies, b"40").ok().filter(|answer| answer.status == 200)?;
    target.poll(&query, &session.cookies, USUAL).ok()?;
    let held = target.poll(&query, &session.cookies, wait + SLACK);
    let _ = target.post(&query, &session.cookies, b"1");
    Some(match held {
        Ok(answer) if answer.status == 200 => Ok(answer.after),
        Ok(answer) => Err((format!("{} {}", answer.status, answer.words()), answer.after)),
        // The heartbeat is longer than anybody here waits.
        Err(Fault::Lost(_, after)) if after >= wait => Ok(after),
        Err(Fault::Lost(what, after)) => Err((what, after)),
        Err(_) => return None,
    })
}

/// Leaves a socket alone; when it was cut, if it was.
fn idle_socket(target: &Target, wait: Duration) -> Option<Result<(), Duration>> {
    let mut socket = open_socket(target, "EIO=4&transport=websocket", &[], b"").ok()?;
    socket.hear(USUAL);
    socket.say("40");
    socket.hear(USUAL);
    match socket.hear(wait) {
        Heard::Closed(_) => Some(Err(socket.age())),
        Heard::Text(_) | Heard::Nothing => {
            socket.say("1");
            Some(Ok(()))
        }
    }
}

/// Whether pages of any site may read what is answered, with the cookies of their user.
fn cors(target: &Target, findings: &mut Findings) {
    let stranger = "https://stranger.example";
    let fields = [
        ("Origin", stranger),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "content-type"),
    ];
    let Ok(answer) = target.ask("OPTIONS", &target.to("EIO=4&transport=polling"), &fields, b"", USUAL) else { return };
    let (origin, credentials) =
        (answer.field("access-control-allow-origin"), answer.field("access-control-allow-credentials"));
    match origin {
        Some(origin) if origin == stranger && credentials == Some("true") => findings.fault(
            "cors",
            "Pages of every site may read what is answered, with the cookies of their user: whatever asks is allowed.",
        ),
        Some(origin) if origin == "*" || origin == stranger => {
            findings.care("cors", "Pages of every site may read what is answered, without cookies.");
        }
        _ => findings.good("cors", "Pages of strange sites may read nothing."),
    }
}

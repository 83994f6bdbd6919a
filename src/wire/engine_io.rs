//! What Engine.IO (Socket.IO 0.9 to 4.x) says about sessions: who asks, how a session opens, fails and ends.
//!
//! Sources: the Engine.IO protocol, revisions 3 and 4 (<https://socket.io/docs/v4/engine-io-protocol/>), and the source of
//! Socket.IO 0.9.19, whose protocol was never written down in one place.

mod handshake;
mod request;

pub use handshake::{Handshake, HandshakeReader, LONGEST_SILENCE, Progress};
pub use request::{LONGEST_SID, RequestInfo, Transport};

use percent_encoding::percent_decode;
use serde::Deserialize;
use std::borrow::Cow;

/// Which of the three wire formats a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Revision {
    /// Socket.IO 0.9, before there was Engine.IO: the session is in the path.
    SocketIo09,
    /// Engine.IO 2 and 3 (Socket.IO 1 and 2).
    Eio3,
    /// Engine.IO 4 (Socket.IO 3 and 4).
    Eio4,
}

/// The code of an Engine.IO error answer, such as `{"code":1,"message":"Session ID unknown"}`: 0 to 5.
///
/// Code 1 says that nothing happened on that server: the session may live on another one. Socket.IO 0.9 says the same
/// as `7:::1+0`, "client not handshaken, please reconnect", with status 200.
pub fn error_code(body: &[u8]) -> Option<u8> {
    #[derive(Deserialize)]
    struct ErrorAnswer {
        code: Code,
    }
    // engineioxide writes it as a text.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Code {
        Number(u8),
        Text(String),
    }
    if body == RECONNECT_09.as_bytes() || body.starts_with(b"io.j[") && body.ends_with(b"](\"7:::1+0\");") {
        return Some(SESSION_UNKNOWN);
    }
    let body = body.get(..LONGEST_ERROR).map_or(body, |_| &[]);
    let answer: ErrorAnswer = serde_json::from_slice(body).ok()?;
    let code = match answer.code {
        Code::Number(code) => code,
        Code::Text(digit) => digit.parse().ok().filter(|_| digit.len() == 1)?,
    };
    (code <= 5).then_some(code)
}

/// The [`error_code`] of a transport that this server does not allow, whatever the session.
pub const TRANSPORT_UNKNOWN: u8 = 0;

/// The [`error_code`] of a session that this server does not know.
pub const SESSION_UNKNOWN: u8 = 1;

/// The [`error_code`] of a session that this server knows, and that goes by another transport.
pub const BAD_REQUEST: u8 = 3;

/// The answer to a pending poll that ends the session so that the client opens a new one by itself: `1` for Engine.IO 4,
/// `1:1` for 3, and for Socket.IO 0.9 an error that advises to reconnect. `jsonp` is the index of the callback that
/// the client polls for ([`RequestInfo::jsonp`]); such an answer is `text/javascript`, any other `text/plain`.
///
/// Never a Socket.IO disconnect packet (`41`, or `0::` in 0.9): on that clients stay away for good.
pub fn goodbye(revision: Revision, jsonp: Option<u32>) -> Cow<'static, [u8]> {
    let packet = match revision {
        Revision::SocketIo09 => RECONNECT_09,
        Revision::Eio3 | Revision::Eio4 => close_packet(revision),
    };
    match (jsonp, revision) {
        (None, _) => packet.as_bytes().into(),
        (Some(index), Revision::SocketIo09) => format!("io.j[{index}](\"{packet}\");").into_bytes().into(),
        (Some(index), _) => format!("___eio[{index}](\"{packet}\");").into_bytes().into(),
    }
}

/// The body of the POST with which a client, or a health check, ends the session that it has opened.
pub fn close_packet(revision: Revision) -> &'static str {
    match revision {
        Revision::SocketIo09 => "0::",
        Revision::Eio3 => "1:1",
        Revision::Eio4 => "1",
    }
}

/// Whether this is the whole body of a POST with which a client ends its session. `jsonp` says that it was sent by a form.
pub fn is_client_goodbye(body: &[u8], revision: Revision, jsonp: bool) -> bool {
    let packet = close_packet(revision).as_bytes();
    if !jsonp {
        return body == packet || revision == Revision::Eio4 && closes_payload(body);
    }
    let Some(sent) = body.strip_prefix(b"d=").filter(|sent| sent.len() <= LONGEST_FORM) else { return false };
    let sent: Vec<u8> = percent_decode(sent).collect();
    // 0.9 sends a text of JSON, and browsers add a line end to what a form holds.
    let text = sent.trim_ascii();
    let unquoted = text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\""));
    unquoted.unwrap_or(text) == packet
}

/// Whether an answer to a poll that ends so is one with which a server ends the session; `whole`: this is all of it.
pub fn is_server_goodbye(end: &[u8], whole: bool, revision: Revision, jsonp: Option<u32>) -> bool {
    let alone = match (revision, jsonp) {
        (Revision::SocketIo09, Some(index)) => end == format!("io.j[{index}](\"0::\");").as_bytes(),
        (Revision::SocketIo09, None) => end == close_packet(revision).as_bytes(),
        _ => end == &*goodbye(revision, jsonp),
    };
    whole && alone || revision == Revision::Eio4 && closes_payload(end)
}

/// Whether the last packet of several in Engine.IO 4 is the one that closes.
fn closes_payload(payload: &[u8]) -> bool {
    payload.ends_with(b"\x1e1")
}

/// A close packet in a form is a dozen bytes long.
const LONGEST_FORM: usize = 64;

/// Error 1, "client not handshaken", with advice 0, "reconnect".
const RECONNECT_09: &str = "7:::1+0";

/// Error answers are some fifty bytes long; an application may put a message of its own into one.
const LONGEST_ERROR: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_six_errors_of_the_server_are_told_apart() {
        for (body, code) in [
            (r#"{"code":0,"message":"Transport unknown"}"#, 0),
            (r#"{"code":1,"message":"Session ID unknown"}"#, 1),
            (r#"{"code":2,"message":"Bad handshake method"}"#, 2),
            (r#"{"code":3,"message":"Bad request"}"#, 3),
            (r#"{"code":"1","message":"Session ID unknown"}"#, 1),
            (r#"{"code":4,"message":"Forbidden"}"#, 4),
            (r#"{"code":5,"message":"Unsupported protocol version"}"#, 5),
            (r#"{"message":{"of":["the", "application"]},"code":4}"#, 4),
            ("7:::1+0", 1),
            (r#"io.j[0]("7:::1+0");"#, 1),
        ] {
            assert_eq!(error_code(body.as_bytes()), Some(code), "{body}");
        }
    }

    #[test]
    fn other_bodies_are_no_errors() {
        for body in [
            "",
            "ok",
            "1",
            "{}",
            r#"{"code":6}"#,
            r#"{"code":256}"#,
            r#"{"code":-1}"#,
            r#"{"code":"+1"}"#,
            r#"{"code":"01"}"#,
            r#"{"code":""}"#,
            r#"{"code":1"#,
            r#"[{"code":1}]"#,
            "7:::2+0",
            "<h1>Bad Request</h1>",
        ] {
            assert_eq!(error_code(body.as_bytes()), None, "{body}");
        }
        let long = format!(r#"{{"code":1,"message":"{}"}}"#, "a".repeat(LONGEST_ERROR));
        assert_eq!(error_code(long.as_bytes()), None);
        assert_eq!(error_code("[".repeat(LONGEST_ERROR).as_bytes()), None);
    }

    #[test]
    fn goodbyes_are_in_the_words_of_the_client() {
        assert_eq!(goodbye(Revision::Eio4, None), &b"1"[..]);
        assert_eq!(goodbye(Revision::Eio3, None), &b"1:1"[..]);
        assert_eq!(goodbye(Revision::Eio3, Some(7)), &br#"___eio[7]("1:1");"#[..]);
        assert_eq!(goodbye(Revision::SocketIo09, None), &b"7:::1+0"[..]);
        assert_eq!(goodbye(Revision::SocketIo09, Some(0)), &br#"io.j[0]("7:::1+0");"#[..]);
    }

    #[test]
    fn a_client_says_goodbye_in_its_own_way() {
        use Revision::{Eio3, Eio4, SocketIo09};
        for (body, revision, jsonp) in [
            ("1", Eio4, false),
            ("41\x1e1", Eio4, false),
            ("1:1", Eio3, false),
            ("0::", SocketIo09, false),
            ("d=1%3A1", Eio3, true),
            ("d=1:1\r\n", Eio3, true),
            ("d=1", Eio4, true),
            ("d=%220%3A%3A%22", SocketIo09, true),
            ("d=0%3A%3A", SocketIo09, true),
        ] {
            assert!(is_client_goodbye(body.as_bytes(), revision, jsonp), "{body}");
        }
        for (body, revision, jsonp) in [
            ("", Eio4, false),
            ("41", Eio4, false),
            ("1", Eio3, false),
            ("6:42:1:1", Eio3, false),
            ("1:1", Eio3, true),
            ("d=2%3A41", Eio3, true),
            ("0::/chat", SocketIo09, false),
        ] {
            assert!(!is_client_goodbye(body.as_bytes(), revision, jsonp), "{body}");
        }
    }

    #[test]
    fn a_server_says_goodbye_in_the_answer_to_a_poll() {
        use Revision::{Eio3, Eio4, SocketIo09};
        for (answer, revision, jsonp) in [
            ("1", Eio4, None),
            ("42[\"last\"]\x1e1", Eio4, None),
            ("1:1", Eio3, None),
            ("___eio[3](\"1:1\");", Eio3, Some(3)),
            ("0::", SocketIo09, None),
            ("io.j[0](\"0::\");", SocketIo09, Some(0)),
        ] {
            assert!(is_server_goodbye(answer.as_bytes(), true, revision, jsonp), "{answer}");
        }
        for (answer, revision) in [("6", Eio4), ("2:41", Eio3), ("7:::1+0", SocketIo09), ("", Eio4)] {
            assert!(!is_server_goodbye(answer.as_bytes(), true, revision, None), "{answer}");
        }
        assert!(!is_server_goodbye(b"1", false, Eio4, None), "the end of a message");
        assert!(is_server_goodbye(b"last\"]\x1e1", false, Eio4, None));
    }

    proptest! {
        #[test]
        fn hostile_error_bodies_are_harmless(body in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(error_code(&body).is_none_or(|code| code <= 5));
        }
    }
}

//! Whether a server knows a session: a question that changes nothing on the server, whatever the answer.
//!
//! It is a plain `GET` with the session's id and `transport=websocket`, but without an upgrade. A server that has
//! never heard of the session says so (400, code 1); one that holds it, on polling, objects to the transport (400,
//! code 3, in Engine.IO 3 and 4) and leaves the session alone. A session that is on its WebSocket already gets no
//! answer at all; nobody asks for one, since its requests are over.

use std::time::Duration;

use tokio::time::timeout;

use crate::http::client::{Answer, ask};
use crate::http::write::HeadWriter;
use crate::upstream::{Server, Upstream};
use crate::wire::engine_io::{Revision, SESSION_UNKNOWN, error_code};

/// Longest time that one server is asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// How much of an answer is looked at: the objection is a short text.
const MOST_BODY: usize = 64 * 1024;

impl Upstream {
    /// Asks a server whether it knows a session. Only a clear yes is one: silence and faults are not.
    ///
    /// `path` is the path of the client's request, where the server listens for Engine.IO.
    pub async fn knows(&self, server: &Server, path: &str, sid: &str, revision: Revision) -> bool {
        let eio = match revision {
            Revision::Eio4 => 4,
            Revision::Eio3 => 3,
            // There is no harmless question in 0.9: its polls take messages with them.
            Revision::SocketIo09 => return false,
        };
        let mut request = HeadWriter::request("GET", &format!("{path}?EIO={eio}&transport=websocket&sid={sid}"), 1);
        request.field("host", self.own_host(server));
        request.field("connection", "close");
        let request = request.end();
        let asking = async {
            let mut stream = self.connect(server).await.ok()?;
            ask(&mut stream, &request, false, MOST_BODY).await.ok()
        };
        timeout(PATIENCE, asking).await.ok().flatten().is_some_and(|answer| says_yes(&answer))
    }
}

fn says_yes(answer: &Answer) -> bool {
    if answer.status != 400 {
        return false;
    }
    match error_code(&answer.body) {
        Some(code) => code != SESSION_UNKNOWN,
        // python-engineio answers in words.
        None => answer.body.windows(TRANSPORT.len()).any(|words| words.eq_ignore_ascii_case(TRANSPORT)),
    }
}

const TRANSPORT: &[u8] = b"invalid transport";

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, body: &str) -> bool {
        says_yes(&Answer { status, body: body.into(), reusable: false })
    }

    #[test]
    fn only_an_objection_to_the_transport_is_a_yes() {
        assert!(told(400, r#"{"code":3,"message":"Bad request"}"#));
        assert!(told(400, r#""Invalid transport""#));
        assert!(!told(400, r#"{"code":1,"message":"Session ID unknown"}"#));
        assert!(!told(400, r#""Invalid session abc""#));
        assert!(!told(200, r#"{"code":3}"#));
        assert!(!told(404, "Cannot GET /socket.io/"));
    }
}

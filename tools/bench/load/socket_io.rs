//! Socket.IO sessions (Engine.IO 4) as browsers have them: a handshake by polling, a namespace, the upgrade with a poll
//! under way, events that are acknowledged, a goodbye.

use super::Work;
use super::http::Http;
use super::stream::{Failure, Target};
use super::websocket::WebSocket;

/// A session that has been upgraded.
pub(crate) struct Session {
    socket: WebSocket,
    next_ack: u64,
}

impl Session {
    /// Handshake, namespace and upgrade: four requests over one connection, the poll that ends with the upgrade among
    /// them, and a WebSocket.
    pub(crate) async fn open(target: &Target, source: usize) -> Result<Self, Failure> {
        let mut polling = Polling { http: Http::new(target.connect(source).await?), target, sid: String::new() };
        let handshake = polling.get().await?;
        polling.sid = sid(&handshake).ok_or(Failure::from("no session was given"))?;
        polling.post("40").await?;
        if !polling.get().await?.starts_with("40") {
            return Err("the namespace was not joined".into());
        }
        let path = format!("/socket.io/?EIO=4&transport=websocket&sid={}", polling.sid);
        polling.ask().await?;
        let mut socket = WebSocket::open(target, source, &path).await?;
        socket.send_text("2probe").await?;
        if socket.receive().await? != b"3probe" {
            return Err("the probe was not answered".into());
        }
        if polling.answer().await? != "6" {
            return Err("the last poll was not ended".into());
        }
        socket.send_text("5").await?;
        Ok(Self { socket, next_ack: 0 })
    }

    /// An event, and its acknowledgement.
    pub(crate) async fn emit(&mut self) -> Result<(), Failure> {
        let number = self.next_ack;
        self.next_ack += 1;
        self.socket.send_text(&format!("42{number}[\"message\",\"a few words for the others\"]")).await?;
        let wanted = format!("43{number}[");
        loop {
            let packet = self.socket.receive().await?;
            if packet == b"2" {
                self.socket.send_text("3").await?;
            } else if packet.starts_with(wanted.as_bytes()) {
                return Ok(());
            } else {
                return Err("another packet than the acknowledgement".into());
            }
        }
    }

    /// Leaves the namespace and closes.
    pub(crate) async fn close(mut self) -> Result<(), Failure> {
        self.socket.send_text("41").await?;
        self.socket.close().await
    }
}

struct Polling<'a> {
    http: Http,
    target: &'a Target,
    sid: String,
}

impl Polling<'_> {
    async fn get(&mut self) -> Result<String, Failure> {
        self.ask().await?;
        self.answer().await
    }

    async fn ask(&mut self) -> Result<(), Failure> {
        let head = self.head("GET");
        self.http.send(format!("{head}\r\n").as_bytes()).await
    }

    async fn post(&mut self, packets: &str) -> Result<String, Failure> {
        let head = self.head("POST");
        let length = packets.len();
        let request =
            format!("{head}Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {length}\r\n\r\n{packets}");
        self.http.send(request.as_bytes()).await?;
        self.answer().await
    }

    fn head(&self, method: &str) -> String {
        let Self { target, sid, .. } = self;
        let sid = if sid.is_empty() { String::new() } else { format!("&sid={sid}") };
        format!(
            "{method} /socket.io/?EIO=4&transport=polling{sid} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\n",
            target.host
        )
    }

    async fn answer(&mut self) -> Result<String, Failure> {
        let mut body = Vec::new();
        let answer = self.http.answer(Some(&mut body)).await?;
        if answer.status != 200 {
            return Err(Failure(format!("poll: status {}", answer.status).into()));
        }
        String::from_utf8(body).map_err(|_| "a poll that is no text".into())
    }
}

/// The session of a handshake, `0{"sid":"...",...}`.
pub(crate) fn sid(handshake: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(handshake.strip_prefix('0')?).ok()?;
    Some(json.get("sid")?.as_str()?.to_owned())
}

/// Whole sessions, one after the other.
pub(crate) struct Lives {
    pub target: Target,
    pub source: usize,
    /// Events in each.
    pub events: u64,
}

impl Work for Lives {
    async fn once(&mut self) -> Result<u64, Failure> {
        let mut session = Session::open(&self.target, self.source).await?;
        for _ in 0..self.events {
            session.emit().await?;
        }
        session.close().await?;
        Ok(0)
    }
}

/// A session that is cut and comes back: each time is a lost connection, and all that it takes to be there again.
pub(crate) struct Returns {
    pub target: Target,
    pub source: usize,
    session: Option<Session>,
}

impl Returns {
    pub(crate) fn new(target: &Target, source: usize) -> Self {
        Self { target: target.clone(), source, session: None }
    }
}

impl Work for Returns {
    async fn ready(&mut self) -> Result<(), Failure> {
        self.session = Some(Session::open(&self.target, self.source).await?);
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        self.session = None;
        let mut session = Session::open(&self.target, self.source).await?;
        session.emit().await?;
        self.session = Some(session);
        Ok(0)
    }
}

/// A session that stays, and sends events.
pub(crate) struct Events {
    pub target: Target,
    pub source: usize,
    session: Option<Session>,
}

impl Events {
    pub(crate) fn new(target: &Target, source: usize) -> Self {
        Self { target: target.clone(), source, session: None }
    }
}

impl Work for Events {
    async fn ready(&mut self) -> Result<(), Failure> {
        if self.session.is_none() {
            self.session = Some(Session::open(&self.target, self.source).await?);
        }
        Ok(())
    }

    async fn once(&mut self) -> Result<u64, Failure> {
        self.ready().await?;
        let mut session = self.session.take().ok_or(Failure::from("no session"))?;
        session.emit().await?;
        self.session = Some(session);
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::sid;

    #[test]
    fn the_session_stands_in_the_handshake() {
        assert_eq!(sid(r#"0{"sid":"abc","upgrades":["websocket"]}"#).as_deref(), Some("abc"));
        assert_eq!(sid("6"), None);
    }
}

//! Malformed input, as tables: each is refused, or passed on as one message that nobody can read in two ways.

mod advisories;
mod answers;
mod differential;
mod frames;
mod requests;

use std::sync::{Arc, Mutex};

use crate::support::{Client, Gateway, Scripted, Setup};

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// No server sees anything whole of it, and its client gets this status; 0 is none, since the connection ends.
    Refused(u16),
    /// A server reads just this: the first line, the host and the body.
    Passes(&'static str),
}

/// A server that notes the messages that it reads, by the letter of RFC 9112, on each of its connections.
struct Recorder {
    server: Scripted,
    read: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    async fn start() -> Self {
        let read = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&read);
        let server = Scripted::start(move |client, _| serve(client, Arc::clone(&noted))).await;
        Self { server, read }
    }

    async fn gateway(&self, listener: &str, more: &str) -> Gateway {
        let setup = Setup::before(&[self.server.address()]).unchecked().more(more);
        if listener.is_empty() { setup.start().await } else { setup.listener(listener).start().await }
    }

    fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// What has been read since the last time.
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.read.lock().unwrap())
    }
}

async fn serve(mut client: Client, read: Arc<Mutex<Vec<String>>>) {
    while let Some(head) = client.some_until(b"\r\n\r\n").await {
        let head = String::from_utf8_lossy(&head).into_owned();
        let Some(body) = body(&mut client, &head.to_lowercase()).await else { return };
        let first = head.lines().next().unwrap_or_default().trim_end_matches(" HTTP/1.1").to_owned();
        let host = head.lines().find_map(|line| line.to_lowercase().strip_prefix("host: ").map(str::to_owned));
        let body = String::from_utf8_lossy(&body).into_owned();
        read.lock()
            .unwrap()
            .push(format!("{first} {} {}", host.unwrap_or_default(), body.escape_default()).trim_end().to_owned());
        if client.try_send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

/// The body behind a head, which says how long it is in one way at most.
async fn body(client: &mut Client, head: &str) -> Option<Vec<u8>> {
    let values = |name: &str| -> Vec<String> {
        let fields = head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| *key == name).map(|(_, value)| value.trim().to_owned()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    assert!(lengths.len() + codings.len() <= 1 && codings.iter().all(|coding| coding == "chunked"), "{head}");
    if let Some(length) = lengths.first() {
        return client.some_of(length.parse().expect("a length of ours")).await;
    }
    let mut body = Vec::new();
    while !codings.is_empty() {
        let line = client.some_until(b"\r\n").await?;
        let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim_end(), 16).expect("a size of ours");
        if size == 0 {
            // Trailers, if any, and the blank line.
            while client.some_until(b"\r\n").await? != b"\r\n" {}
            break;
        }
        body.extend(client.some_of(size).await?);
        assert_eq!(client.some_of(2).await?, b"\r\n");
    }
    Some(body)
}

//! Copies of requests for another upstream, whose answers nobody waits for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::{Exchange, Form, RequestHead};
use crate::http::client;
use crate::http::write::HeadWriter;
use crate::router::{Mirror, Route};
use crate::upstream::{PickKey, Tried, Upstream};

/// A copy that waits for the rest of its body.
pub(super) struct Copying {
    copy: Copy,
    /// What is still to come.
    missing: usize,
}

/// One copy.
struct Copy {
    upstream: Arc<Upstream>,
    client: PickKey,
    /// The request without the blank line that ends its head.
    head: Vec<u8>,
    body: Vec<u8>,
    is_head: bool,
    /// Its place among those that may be open at once.
    place: OwnedSemaphorePermit,
}

impl Exchange {
    /// Begins a copy, where the route asks for one and the request is of a kind that is copied: neither a socket nor a
    /// request of a session, and with a body that says its length.
    pub(super) fn begin_copy(&self, head: &RequestHead<'_>, route: &Route) -> Option<Copying> {
        let mirror = route.policy.as_ref()?.mirror.as_ref()?;
        let plain = self.form == Form::Plain && !self.ties.as_ref().is_some_and(|ties| ties.is_of_sessions());
        if !plain || self.answers_itself() || !mirror.draws() {
            return None;
        }
        let upstream = self.snapshot.upstreams.get(&*mirror.upstream)?;
        let said = head.headers.get("content-length");
        let length = match said {
            Some(length) => std::str::from_utf8(length).ok()?.parse().ok()?,
            None => 0,
        };
        // Whether there is a body that does not say its length can't be told of others.
        let bodiless = matches!(head.method, "GET" | "HEAD" | "OPTIONS" | "DELETE");
        let is_told = said.is_some() || bodiless && head.headers.get("transfer-encoding").is_none();
        let fits = is_told && length <= mirror.most_body;
        let copy = if fits { self.copy(head, mirror, upstream) } else { None };
        match copy {
            Some(copy) => Some(Copying { copy, missing: length }),
            None => {
                upstream.metrics.mirrored.with_label_values(&["skipped"]).inc();
                None
            }
        }
    }

    fn copy(&self, head: &RequestHead<'_>, mirror: &Mirror, upstream: &Arc<Upstream>) -> Option<Copy> {
        let place = Arc::clone(&mirror.places).try_acquire_owned().ok()?;
        let fields = self.to_server(head);
        let mut written = HeadWriter::request(head.method, self.target(head), 1);
        written.field("host", self.host(head).unwrap_or(&b"localhost"[..]));
        head.headers.each(|name, value| {
            let ours = ["host", "content-length", "expect"].iter().any(|ours| name.eq_ignore_ascii_case(ours));
            if !ours && fields.pass(name) {
                written.field(name, value);
            }
        });
        fields.add(|name, value| written.field(name, value));
        if let Some(length) = head.headers.get("content-length") {
            written.field("content-length", length);
        }
        written.field("connection", "close");
        let client = self.client.into();
        let (upstream, is_head) = (Arc::clone(upstream), head.method == "HEAD");
        Some(Copy { upstream, client, head: written.end(), body: Vec::new(), is_head, place })
    }

    /// Sends the copy, if it is whole.
    pub(super) fn send_copy(&mut self) {
        let copying = self.ruled.as_mut().and_then(|ruled| ruled.copying.take_if(|copying| copying.missing == 0));
        if let Some(copying) = copying {
            tokio::spawn(copying.copy.send());
        }
    }

    /// Takes the next bytes of the body for the copy.
    pub(super) fn copy_body(&mut self, bytes: &[u8]) {
        let Some(copying) = self.ruled.as_mut().and_then(|ruled| ruled.copying.as_mut()) else { return };
        if bytes.len() > copying.missing {
            // The request was begun again.
            return self.drop_copy();
        }
        copying.missing -= bytes.len();
        copying.copy.body.extend_from_slice(bytes);
        self.send_copy();
    }

    /// There is no copy of a request whose body nobody has looked at.
    pub(super) fn drop_copy(&mut self) {
        if let Some(copying) = self.ruled.as_mut().and_then(|ruled| ruled.copying.take()) {
            copying.copy.upstream.metrics.mirrored.with_label_values(&["skipped"]).inc();
        }
    }
}

impl Copy {
    /// Asks a server, and forgets what it says.
    async fn send(self) {
        let upstream = Arc::clone(&self.upstream);
        let time = upstream.config().timeouts.first_byte(None).min(LONGEST);
        let asked = timeout(if time.is_zero() { LONGEST } else { time }, self.ask()).await;
        let result = if asked.is_ok_and(|answered| answered) { "answered" } else { "failed" };
        upstream.metrics.mirrored.with_label_values(&[result]).inc();
    }

    async fn ask(self) -> bool {
        let Self { upstream, client, head, body, is_head, place } = self;
        let mut tried = Tried::default();
        let Ok(lease) = upstream.pick(&client, &mut tried).await else { return false };
        let Ok(mut stream) = upstream.connect(lease.server(), None).await else {
            lease.connect_failed();
            return false;
        };
        lease.connected();
        let answer = client::ask(&mut stream, &[head, body].concat(), is_head, 0).await;
        match &answer {
            Ok(answer) => lease.answered(answer.status),
            Err(_) => lease.gave_no_answer(),
        }
        drop(place);
        answer.is_ok()
    }
}

/// How long a copy may take at most.
const LONGEST: Duration = Duration::from_secs(30);

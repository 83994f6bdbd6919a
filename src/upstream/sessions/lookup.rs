//! Whether a server knows a session, found out by a question that changes nothing there, whatever the answer.

use std::time::Duration;

use tokio::time::timeout;

use crate::http::client::ask;
use crate::http::write::HeadWriter;
use crate::session::Question;
use crate::text::Text;
use crate::upstream::{Server, Upstream};

/// Longest time that one server is asked.
const PATIENCE: Duration = Duration::from_secs(1);
/// How much of an answer is looked at: the objection is a short text.
const MOST_BODY: usize = 64 * 1024;

impl Upstream {
    /// Asks a server whether it knows a session. Only a clear yes is one: silence and faults are not.
    pub(crate) async fn knows(&self, server: &Server, dialect: u64, question: &Question) -> bool {
        let Some(protocol) = self.session_protocol() else { return false };
        let mut request = HeadWriter::request(question.method, &question.target, 1);
        if !question.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request.field("host", self.own_host(server));
        }
        for (name, value) in &question.fields {
            request.field(name, value);
        }
        if let Some(body) = &question.body {
            request.field("content-length", &*Text::number(body.len() as u64));
        }
        request.field("connection", "close");
        let request = request.end_with(question.body.as_deref().unwrap_or_default());
        let asking = async {
            let mut stream = self.connect(server).await.ok()?;
            ask(&mut stream, &request, false, MOST_BODY).await.ok()
        };
        let answer = timeout(PATIENCE, asking).await.ok().flatten();
        answer.is_some_and(|answer| protocol.is_known(dialect, answer.status, &answer.body) == Some(true))
    }
}

//! Which fields of a head go on, and which come in: the gateway's rules and the changes of filters in one.

use crate::http::edits::HeaderEdits;
use crate::http::head::MOST_FIELDS;
use crate::http::onward::Onward;
use crate::http::write::HeadWriter;
use crate::listener::ClientCertificate;
use crate::wire::peer::FIELD;

/// The fields of a request on its way to a server.
pub(crate) struct ServerFields<'a> {
    onward: Onward<'a>,
    edits: &'a HeaderEdits,
    /// Whether the answer has to be one that can be read as it passes: not compressed.
    plain: bool,
    /// Whether servers believe what is said of clients' certificates, on whatever listener they come in.
    asks_clients: bool,
    /// The certificate of this one.
    client: Option<&'a ClientCertificate>,
    /// Another gateway gets the request as the client has sent it, with this mark.
    mark: Option<String>,
}

impl<'a> ServerFields<'a> {
    pub(super) fn new(
        onward: Onward<'a>,
        edits: &'a HeaderEdits,
        plain: bool,
        (asks_clients, client): (bool, Option<&'a ClientCertificate>),
    ) -> Self {
        Self { onward, edits, plain, asks_clients, client, mark: None }
    }

    /// The same for another gateway, which applies the rules by itself.
    pub(super) fn for_peer(self, mark: String) -> Self {
        Self { mark: Some(mark), ..self }
    }

    /// Whether a field that the client sent goes on as it is; `Host` is [`super::Exchange::host`].
    pub(crate) fn pass(&self, name: &str) -> bool {
        if self.mark.is_some() {
            return self.onward.passes_to_peer(name) && self.edits.keeps(name);
        }
        // What a filter sets or removes comes in by no other spelling.
        self.onward
            .passes(name, |name| self.edits.keeps(name) && !(self.asks_clients && ClientCertificate::is_field(name)))
            && !(self.plain && name.eq_ignore_ascii_case("accept-encoding"))
    }

    /// Hands out the fields that come in, name and value, `Host` left out: first those that say who asks, which a filter
    /// may replace.
    pub(crate) fn add(&self, mut field: impl FnMut(&str, &[u8])) {
        if let Some(mark) = &self.mark {
            field(FIELD, mark.as_bytes());
            return self.edits.added().for_each(|(name, value)| field(name.as_str(), value.as_bytes()));
        }
        self.onward.add(|name, value| {
            if self.edits.keeps(&name) {
                field(&name, value);
            }
        });
        if let Some(client) = self.client {
            client.tell(|name, value| {
                if self.edits.keeps(name) {
                    field(name, value.as_bytes());
                }
            });
        }
        for (name, value) in self.edits.added().filter(|(name, _)| *name != ::http::header::HOST) {
            field(name.as_str(), value.as_bytes());
        }
    }
}

/// The head of an HTTP/1 answer with these changes; `None` where it is no head.
pub(crate) fn with_edits(head: &[u8], edits: &HeaderEdits) -> Option<Vec<u8>> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    if !answer.parse(head).is_ok_and(|parsed| parsed.is_complete()) {
        return None;
    }
    let mut written = HeadWriter::answer_with(answer.code?, answer.reason.unwrap_or(""));
    for field in answer.headers.iter().filter(|field| edits.keeps(field.name)) {
        written.field(field.name, field.value);
    }
    for (name, value) in edits.added() {
        written.field(name.as_str(), value.as_bytes());
    }
    Some(written.end())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn an_answer_keeps_order_and_spelling_of_what_is_not_changed() {
        let mut edits = HeaderEdits::default();
        edits.set(HeaderName::from_static("server"), HeaderValue::from_static("x"));
        edits.append(HeaderName::from_static("set-cookie"), HeaderValue::from_static("b=2"));
        let head = b"HTTP/1.1 101 Switch\r\nUpgrade: WebSocket\r\nServer: a\r\nSet-Cookie: a=1\r\n\r\n";
        let expected =
            "HTTP/1.1 101 Switch\r\nUpgrade: WebSocket\r\nSet-Cookie: a=1\r\nserver: x\r\nset-cookie: b=2\r\n\r\n";
        assert_eq!(with_edits(head, &edits).map(|head| String::from_utf8(head).unwrap()).as_deref(), Some(expected));
        assert_eq!(with_edits(b"nonsense", &edits), None);
    }
}

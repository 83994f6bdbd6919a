//! Which fields pass the gateway, and which it adds: one rule for every engine, and for upgrades.

use super::config::Forwarding;
use super::forwarding::{Name, Seen};
use super::hop_by_hop::{Nominated, is_hop_by_hop};
use super::origin::taken_for;
use super::request_id::RequestId;

/// Fields that servers take for a message's length, where an underscore would lead around the rules of framing.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// The fields of a request on its way to a server.
#[derive(Clone, Copy, Debug)]
pub struct Onward<'a> {
    forwarding: &'a Forwarding,
    seen: Seen<'a>,
    trusted: bool,
    nominated: Nominated<'a>,
    request_id: &'a RequestId,
}

impl<'a> Onward<'a> {
    /// The rules for one request.
    pub fn new(forwarding: &'a Forwarding, seen: Seen<'a>, request_id: &'a RequestId) -> Self {
        let (trusted, nominated) = (forwarding.trusts(seen.peer), Nominated::by(seen.headers));
        Self { forwarding, seen, trusted, nominated, request_id }
    }

    /// Whether a field that the client sent goes on as it is; `Host` is the caller's. `keeps` says whether nobody else has
    /// anything against a name: it is asked for each that the field may be taken for.
    pub fn passes(&self, name: &str, keeps: impl Fn(&str) -> bool) -> bool {
        if !keeps(name) {
            return false;
        }
        let Some(taken_for) = taken_for(name) else { return self.goes(name) };
        let frames = FRAMING.iter().any(|framing| taken_for.eq_ignore_ascii_case(framing));
        let goes = self.goes(&taken_for) && keeps(&taken_for);
        self.forwarding.underscores && !frames && goes && !self.nominated.contains(name)
    }

    /// Whether a field goes on to another gateway, which looks at all that clients say as this one would.
    pub fn passes_to_peer(&self, name: &str) -> bool {
        let may_be_mark = taken_for(name).is_some_and(|taken_for| is_hop_by_hop(&taken_for));
        !is_hop_by_hop(name) && !may_be_mark && !self.nominated.contains(name)
    }

    fn goes(&self, name: &str) -> bool {
        !is_hop_by_hop(name) && !self.forwarding.replaces(name, self.trusted) && !self.nominated.contains(name)
    }

    /// Hands out the fields that say who asks, name and value.
    pub fn add(&self, field: impl FnMut(Name<'_>, &[u8])) {
        self.forwarding.tell(&self.seen, self.trusted, self.request_id, field);
    }
}

/// Whether a field of a server's answer goes on to the client as it is; `Connection` is the engine's, which has to know
/// of it.
pub fn passes_back(name: &str, nominated: &Nominated<'_>) -> bool {
    (!is_hop_by_hop(name) || name == "connection") && !nominated.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Headers;

    #[test]
    fn fields_with_underscores_pass_only_where_they_may_and_say_nothing_that_hyphens_may_not() {
        let passed = |underscores| {
            let forwarding = Forwarding { underscores, ..Forwarding::default() };
            let peer = [127, 0, 0, 1].into();
            let headers = Headers::Fields(&[]);
            let seen = Seen { peer, client: peer, local_port: 80, secure: false, authority: None, headers };
            let id = RequestId::Given("id".into());
            let onward = Onward::new(&forwarding, seen, &id);
            let names =
                ["X_Forwarded_For", "x-real_ip", "Content_Length", "Proxy_Connection", "X_Request_Id", "My_Own"];
            names.into_iter().filter(|name| onward.passes(name, |_| true)).collect::<Vec<_>>()
        };
        assert_eq!(passed(false), [""; 0]);
        assert_eq!(passed(true), ["My_Own"]);
    }

    #[test]
    fn what_is_the_connections_and_what_strangers_say_of_themselves_does_not_pass() {
        let forwarding = Forwarding::default();
        let fields =
            [("Connection", "close, X-Mine"), ("X-Mine", "1"), ("X-Forwarded-For", "6.6.6.6"), ("Cookie", "a")]
                .map(|(name, value)| httparse::Header { name, value: value.as_bytes() });
        let headers = Headers::Fields(&fields);
        let peer = [127, 0, 0, 1].into();
        let seen = Seen { peer, client: peer, local_port: 80, secure: false, authority: Some("a"), headers };
        let id = RequestId::Given("id".into());
        let onward = Onward::new(&forwarding, seen, &id);
        let passed: Vec<_> =
            fields.iter().map(|field| field.name).filter(|name| onward.passes(name, |_| true)).collect();
        assert_eq!(passed, ["Cookie"]);
        let mut added = Vec::new();
        onward.add(|name, value| added.push(format!("{}: {}", &*name, String::from_utf8_lossy(value))));
        assert_eq!(
            added,
            [
                "X-Forwarded-For: 127.0.0.1",
                "X-Forwarded-Proto: http",
                "X-Forwarded-Host: a",
                "X-Forwarded-Port: 80",
                "X-Real-IP: 127.0.0.1",
                "X-Request-Id: id",
            ]
        );
    }
}

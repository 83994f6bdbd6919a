//! What a route does with the requests that go there, beside leading them somewhere.

use super::config::Timeouts;
use super::{Config, Mirror, Rewrite, Split};
use crate::filter::MessageRules;
use crate::http::config::HostHeader;
use crate::http::pages::Pages;

/// Built from the configuration, and kept apart from the route: most have none.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Changes to fields.
    pub(crate) fields: MessageRules,
    /// The path that servers get.
    pub(crate) rewrite: Option<Rewrite>,
    /// The host that they are asked for; `None` for what the upstream says.
    pub(crate) host: Option<HostHeader>,
    /// The goals that share what comes, where there are several.
    pub(crate) split: Option<Split>,
    /// Who gets copies.
    pub(crate) mirror: Option<Mirror>,
    /// Times in place of the upstream's.
    pub(crate) timeouts: Timeouts,
    /// Servers that are tried after the first.
    pub(crate) connect_retries: Option<usize>,
    /// The longest body of a request, in bytes; `None` for what holds everywhere.
    pub(crate) most_body: Option<u64>,
    /// Pages in place of the gateway's words.
    pub(crate) pages: Option<Pages>,
}

impl Policy {
    /// Compiles what has been checked already; `None` where the route says nothing.
    pub(super) fn build(name: &str, said: &Config, pages: Option<Pages>) -> Option<Self> {
        let fields = MessageRules::build(&said.request_headers, &said.response_headers);
        let upstreams = said.upstream.as_ref();
        let split = upstreams.and_then(|upstreams| Split::build(name, upstreams, &said.split));
        let says_nothing = fields.is_none()
            && said.rewrite.is_none()
            && said.host.is_none()
            && split.is_none()
            && said.mirror.is_none()
            && said.timeouts == Timeouts::default()
            && said.connect_retries.is_none()
            && said.limits.body.is_none()
            && pages.is_none();
        (!says_nothing).then(|| Self {
            fields: fields.unwrap_or_default(),
            rewrite: said.rewrite.as_ref().and_then(Rewrite::build),
            host: said.host.clone(),
            split,
            mirror: said.mirror.as_ref().map(Mirror::build),
            timeouts: said.timeouts.clone(),
            connect_retries: said.connect_retries,
            most_body: said.limits.body.map(|most| most.as_u64()),
            pages,
        })
    }
}

//! What most tests put up: one listener, `web`, before one upstream, `app`.

use std::fmt::Display;
use std::net::SocketAddr;

use super::Gateway;
use super::node::Node;

/// A configuration of that kind. Keys are given in flow style, as they stand between braces.
#[derive(Clone, Default)]
pub struct Setup {
    address: Option<String>,
    listener: Vec<String>,
    others: Vec<String>,
    route: Vec<String>,
    servers: Vec<String>,
    upstream: Vec<String>,
    more: String,
}

impl Setup {
    /// Before servers at these addresses.
    pub fn before(servers: &[SocketAddr]) -> Self {
        servers.iter().fold(Self::default(), |setup, server| setup.server(format!("address: \"{server}\"")))
    }

    /// Before servers with names.
    pub fn before_named<'a>(servers: impl IntoIterator<Item = (&'a str, SocketAddr)>) -> Self {
        let named = |(name, address)| format!("address: \"{address}\", name: {name}");
        servers.into_iter().map(named).fold(Self::default(), Self::server)
    }

    /// Before programs that go by the names they were given.
    pub fn before_nodes(servers: &[Node]) -> Self {
        Self::before_named(servers.iter().map(|server| (server.ready["id"].as_str().unwrap(), server.address())))
    }

    /// More about the route, which leads to `app`.
    pub fn route(mut self, keys: impl Display) -> Self {
        self.route.push(format!(", {keys}"));
        self
    }

    /// One more server.
    pub fn server(mut self, keys: impl Display) -> Self {
        self.servers.push(format!("{{ {keys} }}"));
        self
    }

    /// Listens here, instead of at a port of the kernel's choice.
    pub fn at(mut self, address: impl Display) -> Self {
        self.address = Some(address.to_string());
        self
    }

    /// More about the listener.
    pub fn listener(mut self, keys: impl Display) -> Self {
        self.listener.push(format!(", {keys}"));
        self
    }

    /// One more listener, which has to have a name.
    pub fn another_listener(mut self, keys: impl Display) -> Self {
        self.others.push(format!("  - {{ address: \"127.0.0.1:0\", {keys} }}\n"));
        self
    }

    /// More about the upstream.
    pub fn upstream(mut self, keys: impl Display) -> Self {
        self.upstream.push(format!(", {keys}"));
        self
    }

    /// Its servers are taken for well.
    pub fn unchecked(self) -> Self {
        self.upstream("health: { check: none }")
    }

    /// More of the file, in block style.
    pub fn more(mut self, yaml: impl Display) -> Self {
        self.more += &format!("{yaml}\n");
        self
    }

    pub fn yaml(&self) -> String {
        let Self { address, listener, others, route, servers, upstream, more } = self;
        format!(
            "
listeners:
  - {{ name: web, address: \"{}\"{} }}
{}routes:
  - {{ upstream: app{} }}
upstreams:
  app: {{ servers: [{}]{} }}
{more}",
            address.as_deref().unwrap_or("127.0.0.1:0"),
            listener.concat(),
            others.concat(),
            route.concat(),
            servers.join(", "),
            upstream.concat()
        )
    }

    /// Starts a gateway, and waits until it is ready.
    pub async fn start(&self) -> Gateway {
        Gateway::start(&self.yaml()).await
    }

    /// Starts a gateway, and waits until it listens; its servers may be down.
    pub async fn start_unready(&self) -> Gateway {
        Gateway::start_unready(&self.yaml()).await
    }
}

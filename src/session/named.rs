//! The protocols that the gateway knows by name, and what upstreams of such a kind do where the operator says nothing.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::engine_io::EngineIo;
use super::mcp::Mcp;
use super::protocol::SessionProtocol;
use super::signalr::SignalR;
use super::sockjs::SockJs;

/// A protocol that a configuration can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// Engine.IO, with or without Socket.IO.
    EngineIo,
    /// The Model Context Protocol, by Streamable HTTP and by its older transport.
    Mcp,
    /// SignalR of ASP.NET Core.
    SignalR,
    /// SockJS.
    SockJs,
}

impl Named {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::EngineIo, Self::Mcp, Self::SignalR, Self::SockJs];

    /// The one that a check for sessions speaks where nothing else is said.
    pub const CHECKED: Self = Self::EngineIo;

    /// Its name in configurations.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EngineIo => "socket.io",
            Self::Mcp => "mcp",
            Self::SignalR => "signalr",
            Self::SockJs => "sockjs",
        }
    }

    /// What it says of sessions. One for all: who goes through the protocols in use does so for each request.
    pub fn protocol(self) -> Arc<dyn SessionProtocol> {
        static ENGINE_IO: LazyLock<Arc<dyn SessionProtocol>> = LazyLock::new(|| Arc::new(EngineIo));
        static MCP: LazyLock<Arc<dyn SessionProtocol>> = LazyLock::new(|| Arc::new(Mcp));
        static SIGNALR: LazyLock<Arc<dyn SessionProtocol>> = LazyLock::new(|| Arc::new(SignalR));
        static SOCKJS: LazyLock<Arc<dyn SessionProtocol>> = LazyLock::new(|| Arc::new(SockJs));
        Arc::clone(match self {
            Self::EngineIo => &ENGINE_IO,
            Self::Mcp => &MCP,
            Self::SignalR => &SIGNALR,
            Self::SockJs => &SOCKJS,
        })
    }

    /// Whether a client that comes back had better be where it was, since its server keeps something beyond the session.
    pub fn comes_back(self) -> bool {
        match self {
            Self::EngineIo => true,
            Self::Mcp | Self::SignalR | Self::SockJs => false,
        }
    }

    /// How often its servers and clients speak to each other at least, with the defaults of those.
    pub fn heartbeat(self) -> Option<Duration> {
        match self {
            Self::EngineIo => Some(Duration::from_secs(45)),
            Self::Mcp | Self::SignalR | Self::SockJs => None,
        }
    }

    /// Why the gateway sends no Pings of its own through its WebSockets.
    pub fn why_no_pings(self) -> &'static str {
        match self {
            Self::EngineIo | Self::SignalR | Self::SockJs => "whose servers ask their clients themselves",
            Self::Mcp => "which has no WebSockets",
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

//! The gateway's readers of hostile bytes, and what must hold for them, without the gateway around them.

// Of the readers, only what the checks ask is used here.
#![allow(dead_code, unused_imports)]

pub mod checks;

#[path = "../../src/http/mod.rs"]
pub mod http;
#[path = "../../src/request/mod.rs"]
pub mod request;
#[path = "../../src/text.rs"]
pub mod text;
#[path = "../../src/wire/mod.rs"]
pub mod wire;

#[path = "../../src/proxy"]
mod proxy {
    pub(crate) mod asked;
    pub(crate) mod head;
}

/// What a request head asks about the connection that it came by; the real one has Pingora in it.
mod listener {
    pub(crate) struct Info {
        pub(crate) listener: std::sync::Arc<str>,
        pub(crate) peer: std::net::SocketAddr,
        pub(crate) tls: Option<()>,
    }
}

//! The gateway's readers of hostile bytes, and what must hold for them, without the gateway around them.

// Of the readers, only what the checks ask is used here.
#![allow(dead_code, unused_imports)]

pub mod checks;

#[path = "../../src/access"]
pub mod access {
    pub mod config;
    pub mod cors;
    pub mod jwt;
    pub mod origins;

    /// Sets of keys, where none come over a network.
    pub mod key_set {
        use std::sync::Arc;

        use jsonwebtoken::jwk::Jwk;

        #[derive(Debug)]
        pub struct KeySet;

        pub struct Keys {
            pub number: u64,
            pub all: Vec<Jwk>,
        }

        impl KeySet {
            pub fn current(&self) -> Option<Arc<Keys>> {
                None
            }

            pub async fn renewed(&self) {}
        }

        pub fn read(_: &[u8]) -> Result<(Vec<Jwk>, usize), String> {
            unreachable!("nothing here reads files")
        }
    }

    /// Users, where nobody shows a password.
    pub mod passwords {
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub struct User;

        impl User {
            pub fn read(_: &str) -> Result<Self, String> {
                Ok(Self)
            }

            pub fn text(&self) -> &'static str {
                ""
            }
        }
    }

    /// As in the gateway.
    #[derive(Debug)]
    pub struct BuildError(String);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Unfit {
        Missing,
        Bad,
        Expired,
        NoKeys,
    }
}
#[path = "../../src/affinity/mod.rs"]
pub mod affinity;
#[path = "../../src/config"]
pub mod config {
    pub mod document;
    pub mod environment;
    pub mod fault;
    pub mod lint;
    pub mod shape;
}
#[path = "../../src/http/mod.rs"]
pub mod http;
#[path = "../../src/listener/tls"]
pub mod listener {
    #[path = "."]
    pub mod tls {
        use std::path::{Path, PathBuf};

        #[path = "tickets.rs"]
        pub mod tickets;

        /// As in the gateway, for files that are read there.
        #[derive(Debug)]
        pub struct TlsError {
            file: PathBuf,
            what: String,
        }

        fn read(_: &Path) -> Result<Vec<u8>, TlsError> {
            unreachable!("nothing here reads files")
        }
    }
}
#[path = "../../src/filter"]
pub mod filter {
    pub mod expression;
    pub mod verdict;

    pub use crate::http::edits::HeaderEdits;
    pub(crate) use expression::Expression;
    pub use verdict::{Changes, FilterAnswer};
}
/// What is counted, where nobody reads it.
pub mod metrics {
    /// Counts nothing.
    pub struct Counter;

    impl Counter {
        pub fn inc(&self) {}
    }

    pub fn expression_failures() -> &'static Counter {
        &Counter
    }
}
#[path = "../../src/rate"]
pub mod rate {
    pub mod config;
}
#[path = "../../src/request/mod.rs"]
pub mod request;
/// Addresses of services, which nobody asks here.
#[path = "../../src/service"]
pub mod service {
    pub mod url;

    pub use url::Url;
}
#[path = "../../src/text.rs"]
pub mod text;
#[path = "../../src/transport/mod.rs"]
pub mod transport;
#[path = "../../src/wire/mod.rs"]
pub mod wire;

//! The gateway's readers of hostile bytes, and what must hold for them, without the gateway around them.

// Of the readers, only what the checks ask is used here.
#![allow(dead_code, unused_imports)]

pub mod checks;

#[path = "../../src/affinity/mod.rs"]
pub mod affinity;
#[path = "../../src/config"]
pub mod config {
    pub mod document;
    pub mod environment;
    pub mod fault;
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
    pub(crate) use expression::Expression;
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
#[path = "../../src/text.rs"]
pub mod text;
#[path = "../../src/transport/mod.rs"]
pub mod transport;
#[path = "../../src/wire/mod.rs"]
pub mod wire;

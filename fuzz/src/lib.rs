//! The gateway's readers of hostile bytes, and what must hold for them, without the gateway around them.

// Of the readers, only what the checks ask is used here.
#![allow(dead_code, unused_imports)]

pub mod checks;

#[path = "../../src/http/mod.rs"]
pub mod http;
#[path = "../../src/rate"]
pub mod rate {
    pub mod config;
}
#[path = "../../src/request/mod.rs"]
pub mod request;
#[path = "../../src/text.rs"]
pub mod text;
#[path = "../../src/wire/mod.rs"]
pub mod wire;

//! The gateway's readers of hostile bytes, and what must hold for them, without the gateway around them.

#[path = "../../src/wire/mod.rs"]
pub mod wire;

#[path = "../../src/wire/checks.rs"]
pub mod checks;

//! Pure readers and writers of bytes: what strangers send becomes a value here, and I/O lives elsewhere.

pub mod client_hello;
pub mod engine_io;
pub mod events;
pub mod flash;
pub mod http2;
pub mod json;
pub mod mcp;
pub mod peer;
pub mod ping;
pub mod proxy_protocol;
pub mod signalr;
pub mod sniff;
pub mod sockjs;
pub mod trace_context;
pub mod websocket;

//! Black-box tests of the built program: real servers behind it, real clients before it, on loopback.
//!
//! One binary, since each further one would link Pingora again. A test is a short story; `support` hides the plumbing.

mod http;
mod layers;
mod routing;
mod support;
mod websocket;

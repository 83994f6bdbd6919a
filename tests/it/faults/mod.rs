//! Servers, certificates, handlers and clients fail in every way there is, and no more is lost than has to be.

mod gateway;
mod server;

//! What carries ordinary HTTP exchanges. Today that is Pingora; everything that decides lives outside of it, in
//! [`Exchange`](super::Exchange).

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;
use bytes::BytesMut;

use crate::drain::Stopping;
use crate::listener::Connection;

/// Carries HTTP between a client's connection and servers.
#[async_trait]
pub trait HttpEngine: Send + Sync {
    /// Serves the request whose head has been read and checked. The connection comes back when it can be used again,
    /// which it can't once `stopping` is true.
    async fn serve_http1(
        &self,
        connection: Box<Connection>,
        head: BytesMut,
        stopping: &Stopping,
    ) -> Option<Box<Connection>>;

    /// Serves an HTTP/2 connection to its end; once `stopping` is true the client is told to open no more streams.
    async fn serve_http2(&self, connection: Box<Connection>, stopping: &Stopping);

    /// The gateway has told everybody goodbye: idle connections are let go, and none is kept after its present request.
    async fn stop(&self);
}

/// The engines that there are, for HTTP/1; HTTP/2 is Pingora's in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Engine {
    /// Pingora's proxy.
    #[default]
    Pingora,
}

/// There is no engine of this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoSuchEngine(String);

impl fmt::Display for NoSuchEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no HTTP engine `{}`: expected pingora", self.0)
    }
}

impl std::error::Error for NoSuchEngine {}

impl FromStr for Engine {
    type Err = NoSuchEngine;

    fn from_str(name: &str) -> Result<Self, NoSuchEngine> {
        match name {
            "pingora" => Ok(Self::Pingora),
            _ => Err(NoSuchEngine(name.to_owned())),
        }
    }
}

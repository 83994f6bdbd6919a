//! The PROXY protocol, versions 1 and 2: the header with which a proxy says whose connection it carries; no I/O.
//!
//! The specification is HAProxy's `doc/proxy-protocol.txt`. Readers here are as strict as it asks: a proxy writes one
//! form, and whatever two readers could understand in two ways is refused.

mod crc32c;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The longest header that is read, of either version: room for every TLV that proxies send, a client's certificate
/// among them.
pub const LONGEST: usize = 4096;

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Whose connection it is.
    pub subject: Subject,
    /// What else is told of it; version 1 has no room for that.
    pub tlvs: Tlvs,
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subject {
    /// The proxy's own, as for a check: `LOCAL`, or in version 1 `UNKNOWN`.
    #[default]
    Proxy,
    /// A client's of which no Internet address is told: `UNKNOWN`, and in version 2 everything but TCP over IPv4 and IPv6.
    Unknown,
    /// A client's.
    Client {
        /// The client.
        source: SocketAddr,
        /// What it reached.
        destination: SocketAddr,
    },
}

/// The typed values of version 2 that are of use here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// The protocol that TLS agreed on, such as `h2`; 1 to 255 bytes.
    pub alpn: Option<Box<[u8]>>,
    /// The host that the client asked for, by SNI where it spoke TLS; 1 to 255 bytes without control characters.
    pub authority: Option<Box<str>>,
    /// What tells the connection from every other one; 1 to 128 bytes.
    pub unique_id: Option<Box<[u8]>>,
    /// Set where the client speaks TLS to the proxy: the version, such as `TLSv1.3`, or an empty text for one untold.
    pub tls: Option<Box<str>>,
    /// Set where the client has proved who it is by a certificate: the common name in it, or an empty text for none; only
    /// beside `tls`.
    pub certificate: Option<Box<str>>,
}

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Version {
    /// A line of text: addresses and ports.
    V1,
    /// Binary, with typed values.
    V2,
}

/// Why bytes are not a header, and won't become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They begin with something else.
    Missing,
    /// The header is longer than any proxy has reason to send.
    TooLong,
    /// It begins as a header and goes on as none.
    Malformed,
    /// Its checksum is another one.
    Checksum,
}

impl Fault {
    /// One word for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Checksum => "checksum",
        }
    }
}

/// Reads the header at the start of `bytes`, and how long it is; `None` where they may become one. Then all of them
/// belong to it.
///
/// # Errors
/// They are no header; more bytes change nothing about that.
pub fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => v1::read(bytes),
        Some(_) => v2::read(bytes),
    }
}

impl Header {
    /// The header as bytes. Values that are longer than their kind may be are left out.
    pub fn write(&self, version: Version) -> Vec<u8> {
        match version {
            Version::V1 => v1::write(self.subject),
            Version::V2 => v2::write(self),
        }
    }
}

/// Two addresses in one family, as a header has them: where only one is IPv4 it is written as IPv6.
fn in_one_family(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let mapped = |address: SocketAddr| match address {
        SocketAddr::V4(address) => SocketAddr::new(address.ip().to_ipv6_mapped().into(), address.port()),
        SocketAddr::V6(_) => address,
    };
    let (source, destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    }
}

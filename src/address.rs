//! Addresses as an operator writes them: where a listener binds and where a server lives.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where a listener binds: `127.0.0.1:80`, `[::]:443`, `:80` (every address, IPv4 and IPv6) or `unix:/run/app.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BindAddress {
    /// An IP address and a port; port 0 lets the kernel choose.
    Inet(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

/// Where a server lives: `10.0.0.7:3000`, `[::1]:3000`, `app.internal:3000` or `unix:/run/app.sock`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// A host name and a port, looked up by the resolver of the system.
    Name(String, u16),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

/// The address that stands for a client: IPv4 in IPv6's clothes is IPv4, and an IPv6 client is its /64, since one household
/// or phone changes the lower half at will (RFC 8981).
pub fn standing_for(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// What was found instead of an address, in words that say what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    found: String,
    expected: &'static str,
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not an address: expected {}", self.found, self.expected)
    }
}

impl std::error::Error for AddressError {}

const BIND_FORMS: &str = "IP:PORT, [IPV6]:PORT, :PORT (all addresses) or unix:/PATH";
const SERVER_FORMS: &str = "IP:PORT, [IPV6]:PORT, HOST:PORT or unix:/PATH";

impl FromStr for BindAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = unix_path(text) {
            return Ok(Self::Unix(path));
        }
        if let Some(port) = text.strip_prefix(':').and_then(|port| port.parse().ok()) {
            return Ok(Self::Inet((Ipv6Addr::UNSPECIFIED, port).into()));
        }
        text.parse().map(Self::Inet).map_err(|_| AddressError { found: text.to_owned(), expected: BIND_FORMS })
    }
}

impl FromStr for ServerAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fault = || AddressError { found: text.to_owned(), expected: SERVER_FORMS };
        if let Some(path) = unix_path(text) {
            return Ok(Self::Unix(path));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(fault()) } else { Ok(Self::Inet(address)) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(fault)?;
        let port: u16 = port.parse().ok().filter(|&port| port != 0).ok_or_else(fault)?;
        if !is_host_name(host) {
            return Err(fault());
        }
        Ok(Self::Name(host.to_ascii_lowercase(), port))
    }
}

fn unix_path(text: &str) -> Option<PathBuf> {
    text.strip_prefix("unix:").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Letters, digits, hyphens and underscores between dots (RFC 1123, and the underscores that container networks use).
pub(crate) fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    host.len() <= 253 && !numeric && host.split('.').all(label)
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(BindAddress, ServerAddress);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_forms_read_and_print_the_same() {
        for text in ["127.0.0.1:80", "[::1]:443", "unix:/run/app.sock", "0.0.0.0:0"] {
            assert_eq!(text.parse::<BindAddress>().unwrap().to_string(), text);
        }
        assert_eq!(":80".parse::<BindAddress>().unwrap().to_string(), "[::]:80");
        for text in ["", "80", "localhost:80", "unix:", "1.2.3.4", ":x"] {
            assert!(text.parse::<BindAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn server_forms_read_and_print_the_same() {
        for text in ["10.0.0.7:3000", "[::1]:3000", "app_1.internal:3000", "unix:/run/app.sock"] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), text);
        }
        for text in ["", "app", "app:0", "1.2.3.4:0", "1.2.3:80", "a b:80", "app:99999", "-:", ":80"] {
            assert!(text.parse::<ServerAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_wrong_address_is_answered_with_the_forms_that_would_do() {
        let fault = "nonsense".parse::<ServerAddress>().unwrap_err().to_string();
        assert_eq!(fault, "`nonsense` is not an address: expected IP:PORT, [IPV6]:PORT, HOST:PORT or unix:/PATH");
    }
}

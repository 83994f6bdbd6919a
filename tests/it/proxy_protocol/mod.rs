//! PROXY headers: what proxies in front tell of clients, and what servers behind are told.

mod incoming;
mod outgoing;
mod peers;

use std::net::{IpAddr, SocketAddr};

/// What a proxy in front of the gateway tells: the client.
pub const CLIENT: &str = "203.0.113.9:51234";
/// And what it has reached.
pub const REACHED: &str = "198.51.100.1:4443";

/// TLVs of version 2.
pub const ALPN: u8 = 0x01;
pub const AUTHORITY: u8 = 0x02;
pub const CRC32C: u8 = 0x03;
pub const UNIQUE_ID: u8 = 0x05;
pub const SSL: u8 = 0x20;

/// `client` of `SSL`: over TLS; the result of a verification, none; and the version.
pub const OVER_TLS: &[u8] = b"\x01\0\0\0\x01\x21\0\x07TLSv1.3";

/// Version 1, of a client.
pub fn v1(client: &str, reached: &str) -> Vec<u8> {
    let (client, reached): (SocketAddr, SocketAddr) = (client.parse().unwrap(), reached.parse().unwrap());
    let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (client.port(), reached.port());
    format!("PROXY {family} {} {} {from} {to}\r\n", client.ip(), reached.ip()).into_bytes()
}

/// Version 2, of a client.
pub fn v2(client: &str, reached: &str, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let (client, reached): (SocketAddr, SocketAddr) = (client.parse().unwrap(), reached.parse().unwrap());
    let mut rest = Vec::new();
    for address in [client, reached] {
        match address.ip() {
            IpAddr::V4(ip) => rest.extend(ip.octets()),
            IpAddr::V6(ip) => rest.extend(ip.octets()),
        }
    }
    rest.extend([client.port(), reached.port()].iter().flat_map(|port| port.to_be_bytes()));
    for (kind, value) in tlvs {
        rest.push(*kind);
        rest.extend((value.len() as u16).to_be_bytes());
        rest.extend(*value);
    }
    binary(0x21, if client.is_ipv4() { 0x11 } else { 0x21 }, &rest)
}

/// Version 2, with this command and family.
pub fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let fixed = [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &(rest.len() as u16).to_be_bytes()];
    [&fixed.concat(), rest].concat()
}

/// The checksum of version 2 (RFC 4960, appendix B), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { 0x82F6_3B78 ^ (crc >> 1) } else { crc >> 1 })
    })
}

//! Version 2: sixteen bytes, addresses, and typed values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::crc32c::crc32c;
use super::{Fault, Header, LONGEST, Subject, Tlvs, in_one_family};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, and the length of what follows.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Families in the upper half of a byte, and the protocol TCP in the lower one.
const UNSPEC: u8 = 0x0;
const INET: u8 = 0x1;
const INET6: u8 = 0x2;
const UNIX: u8 = 0x3;
const STREAM: u8 = 0x1;
const DATAGRAM: u8 = 0x2;

const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const UNIQUE_ID: u8 = 0x05;
const SSL: u8 = 0x20;
const SSL_VERSION: u8 = 0x21;
const SSL_CN: u8 = 0x22;
/// In the first byte of `SSL`: the client speaks TLS.
const CLIENT_SSL: u8 = 0x01;
/// The same: it has shown a certificate on this connection, or in the session that it resumes.
const CLIENT_CERT_CONN: u8 = 0x02;
const CLIENT_CERT_SESS: u8 = 0x04;
/// The rest of what precedes the typed values in `SSL`: whether the client has shown a good certificate; 0 if so.
const SSL_VERIFY: [u8; 4] = 1_u32.to_be_bytes();
const SSL_VERIFIED: [u8; 4] = 0_u32.to_be_bytes();

/// The longest values of their kinds: a host name, the name of a protocol (RFC 7301), and what the specification allows.
const LONGEST_NAME: usize = 255;
const LONGEST_ID: usize = 128;

pub(super) fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    if !SIGNATURE.starts_with(&bytes[..bytes.len().min(SIGNATURE.len())]) {
        return Err(Fault::Missing);
    }
    let Some(&[.., command, family, high, low]) = bytes.first_chunk::<FIXED>() else { return Ok(None) };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    let (family, protocol) = (family >> 4, family & 0xF);
    let addresses = match (command, family, protocol) {
        // Whatever it says of a family is to be ignored.
        (LOCAL, ..) | (PROXY, UNSPEC, ..=DATAGRAM) => 0,
        (PROXY, INET, ..=DATAGRAM) => 2 * 4 + 2 * 2,
        (PROXY, INET6, ..=DATAGRAM) => 2 * 16 + 2 * 2,
        (PROXY, UNIX, ..=DATAGRAM) => 2 * 108,
        _ => return Err(Fault::Malformed),
    };
    if length > LONGEST {
        return Err(Fault::TooLong);
    }
    if length < FIXED + addresses {
        return Err(Fault::Malformed);
    }
    let Some(whole) = bytes.get(..length) else { return Ok(None) };
    if command == LOCAL {
        return Ok(Some((Header::default(), length)));
    }
    let (addresses, values) = whole[FIXED..].split_at(addresses);
    let subject = match (family, protocol) {
        (INET, STREAM) => client(addresses, |ip: [u8; 4]| Ipv4Addr::from(ip).into()),
        (INET6, STREAM) => client(addresses, |ip: [u8; 16]| Ipv6Addr::from(ip).into()),
        _ => None,
    };
    let subject = subject.unwrap_or(Subject::Unknown);
    let tlvs = tlvs(whole, values)?;
    Ok(Some((Header { subject, tlvs }, length)))
}

/// Reads both addresses, then both ports.
fn client<const N: usize>(bytes: &[u8], ip: impl Fn([u8; N]) -> IpAddr) -> Option<Subject> {
    let (source, rest) = bytes.split_first_chunk()?;
    let (destination, rest) = rest.split_first_chunk()?;
    let &[a, b, c, d] = rest.first_chunk()?;
    Some(Subject::Client {
        source: SocketAddr::new(ip(*source), u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(ip(*destination), u16::from_be_bytes([c, d])),
    })
}

/// Reads the typed values at the end of a header.
fn tlvs(whole: &[u8], mut values: &[u8]) -> Result<Tlvs, Fault> {
    let (mut tlvs, mut checked) = (Tlvs::default(), false);
    while let Some((kind, value)) = next(&mut values)? {
        match kind {
            ALPN => once(&mut tlvs.alpn, within(value, LONGEST_NAME)?.into())?,
            AUTHORITY => {
                let name = text(within(value, LONGEST_NAME)?)?;
                once(&mut tlvs.authority, name.into())?;
            }
            UNIQUE_ID => once(&mut tlvs.unique_id, within(value, LONGEST_ID)?.into())?,
            CRC32C if value.len() != 4 || checked => return Err(Fault::Malformed),
            CRC32C if checksum(whole, whole.len() - values.len()) != value => return Err(Fault::Checksum),
            CRC32C => checked = true,
            SSL => {
                if let Some((version, certificate)) = ssl(value)? {
                    once(&mut tlvs.tls, version)?;
                    tlvs.certificate = certificate;
                }
            }
            // What is for padding, for others, or unknown.
            _ => {}
        }
    }
    Ok(tlvs)
}

/// Takes the next typed value off the bytes.
fn next<'a>(bytes: &mut &'a [u8]) -> Result<Option<(u8, &'a [u8])>, Fault> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (&[kind, high, low], rest) = bytes.split_first_chunk().ok_or(Fault::Malformed)?;
    let (value, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into()).ok_or(Fault::Malformed)?;
    *bytes = rest;
    Ok(Some((kind, value)))
}

/// Of two values of a kind, readers could take either.
fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Fault> {
    if slot.replace(value).is_some() { Err(Fault::Malformed) } else { Ok(()) }
}

fn within(value: &[u8], longest: usize) -> Result<&[u8], Fault> {
    if (1..=longest).contains(&value.len()) { Ok(value) } else { Err(Fault::Malformed) }
}

fn text(value: &[u8]) -> Result<&str, Fault> {
    let text = std::str::from_utf8(value).map_err(|_| Fault::Malformed)?;
    if text.chars().any(|char| char.is_control() || char == ' ') { Err(Fault::Malformed) } else { Ok(text) }
}

/// The version of TLS that the client speaks, and the common name in the certificate that it has proved who it is by; `None`
/// where it speaks none.
#[expect(clippy::type_complexity, reason = "a name for this pair would say no more")]
fn ssl(value: &[u8]) -> Result<Option<(Box<str>, Option<Box<str>>)>, Fault> {
    let (&[client, verify @ ..], mut values) = value.split_first_chunk::<5>().ok_or(Fault::Malformed)?;
    let (mut version, mut name) = (None, None);
    while let Some((kind, value)) = next(&mut values)? {
        match kind {
            SSL_VERSION => once(&mut version, text(within(value, LONGEST_NAME)?)?.into())?,
            SSL_CN => once(&mut name, value)?,
            _ => {}
        }
    }
    if client & CLIENT_SSL == 0 {
        return Ok(None);
    }
    let proved = client & (CLIENT_CERT_CONN | CLIENT_CERT_SESS) != 0 && verify == SSL_VERIFIED;
    // Of a name that can't be told there is none.
    let name = name.filter(|name| name.len() <= LONGEST_NAME).and_then(|name| std::str::from_utf8(name).ok());
    let name = name.filter(|name| !name.chars().any(char::is_control)).unwrap_or_default();
    Ok(Some((version.unwrap_or_default(), proved.then(|| name.into()))))
}

/// The checksum of a header with one that ends here, whose own bytes count as zeros.
fn checksum(whole: &[u8], end: usize) -> [u8; 4] {
    let zeroed = whole[..end - 4].iter().chain(&[0; 4]).chain(&whole[end..]);
    crc32c(zeroed).to_be_bytes()
}

pub(super) fn write(header: &Header) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.extend_from_slice(SIGNATURE);
    match header.subject {
        Subject::Proxy => out.extend([LOCAL, UNSPEC, 0, 0]),
        Subject::Unknown => out.extend([PROXY, UNSPEC, 0, 0]),
        Subject::Client { source, destination } => {
            let (source, destination) = in_one_family(source, destination);
            let family = if source.is_ipv4() { INET } else { INET6 };
            out.extend([PROXY, family << 4 | STREAM, 0, 0]);
            for address in [source, destination] {
                match address.ip() {
                    IpAddr::V4(ip) => out.extend(ip.octets()),
                    IpAddr::V6(ip) => out.extend(ip.octets()),
                }
            }
            out.extend(source.port().to_be_bytes());
            out.extend(destination.port().to_be_bytes());
        }
    }
    if header.subject == Subject::Proxy {
        return out;
    }
    values(&header.tlvs, &mut out);
    push(&mut out, CRC32C, &[0; 4], 4);
    // Each value has its bound, so that the sum is far from the largest number.
    let length = u16::try_from(out.len() - FIXED).unwrap_or_default();
    out[FIXED - 2..FIXED].copy_from_slice(&length.to_be_bytes());
    let (checksum, at) = (checksum(&out, out.len()), out.len() - 4);
    out[at..].copy_from_slice(&checksum);
    out
}

fn values(tlvs: &Tlvs, out: &mut Vec<u8>) {
    let Tlvs { alpn, authority, unique_id, tls, certificate } = tlvs;
    push(out, ALPN, alpn.as_deref().unwrap_or_default(), LONGEST_NAME);
    push(out, AUTHORITY, authority.as_deref().unwrap_or_default().as_bytes(), LONGEST_NAME);
    push(out, UNIQUE_ID, unique_id.as_deref().unwrap_or_default(), LONGEST_ID);
    if let Some(version) = tls {
        let shown = if certificate.is_some() { CLIENT_CERT_CONN | CLIENT_CERT_SESS } else { 0 };
        let mut value = vec![CLIENT_SSL | shown];
        value.extend(if certificate.is_some() { SSL_VERIFIED } else { SSL_VERIFY });
        push(&mut value, SSL_VERSION, version.as_bytes(), LONGEST_NAME);
        push(&mut value, SSL_CN, certificate.as_deref().unwrap_or_default().as_bytes(), LONGEST_NAME);
        push(out, SSL, &value, value.len());
    }
}

/// Adds a value; an empty one says nothing, and one that is too long nobody would take.
fn push(out: &mut Vec<u8>, kind: u8, value: &[u8], longest: usize) {
    if let (1.., true, Ok(length)) = (value.len(), value.len() <= longest, u16::try_from(value.len())) {
        out.push(kind);
        out.extend(length.to_be_bytes());
        out.extend_from_slice(value);
    }
}

//! Version 1: one line of text.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Fault, Header, Subject, Tlvs, in_one_family};

const PREFIX: &[u8] = b"PROXY ";
/// The longest line, its end included.
const LONGEST_LINE: usize = 107;

pub(super) fn read(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let start = &bytes[..bytes.len().min(LONGEST_LINE)];
    if !PREFIX.starts_with(&start[..start.len().min(PREFIX.len())]) {
        return Err(Fault::Missing);
    }
    let Some(end) = start.iter().position(|&byte| byte == b'\n') else {
        return if start.len() < LONGEST_LINE { Ok(None) } else { Err(Fault::TooLong) };
    };
    let line = start[PREFIX.len()..end].strip_suffix(b"\r").ok_or(Fault::Malformed)?;
    let subject = subject(line).ok_or(Fault::Malformed)?;
    Ok(Some((Header { subject, tlvs: Tlvs::default() }, end + 1)))
}

fn subject(line: &[u8]) -> Option<Subject> {
    // Whatever follows it is to be ignored.
    if line == b"UNKNOWN" || line.starts_with(b"UNKNOWN ") {
        return Some(Subject::Unknown);
    }
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let (source, destination) = match words.next()? {
        "TCP4" => (address::<Ipv4Addr>(words.next()?)?, address::<Ipv4Addr>(words.next()?)?),
        "TCP6" => (address::<Ipv6Addr>(words.next()?)?, address::<Ipv6Addr>(words.next()?)?),
        _ => return None,
    };
    let (from, to) = (port(words.next()?)?, port(words.next()?)?);
    let is_all = words.next().is_none();
    is_all.then(|| Subject::Client {
        source: SocketAddr::new(source, from),
        destination: SocketAddr::new(destination, to),
    })
}

fn address<A: FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<A>().ok().map(Into::into)
}

/// A number in decimal digits, without a sign or zeros in front.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

pub(super) fn write(subject: Subject) -> Vec<u8> {
    let Subject::Client { source, destination } = subject else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let (source, destination) = in_one_family(source, destination);
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.port(), destination.port());
    format!("PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip()).into_bytes()
}

//! The connection: whether there is one, its certificate, and HTTP/2.

use std::io::{Read, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::connection::{Fault, Stream};
use super::{Findings, Target};

/// A certificate that ends within this many days should have been renewed.
const SOON: i64 = 14;

/// False where there is nothing more to look at.
pub(super) fn examine(target: &Target, findings: &mut Findings) -> bool {
    let stream = match target.open(&[b"h2", b"http/1.1"]) {
        Ok(stream) => stream,
        Err(Fault::Tls(what)) => {
            findings.fault("certificate", format!("Browsers refuse the connection: {what}."));
            return false;
        }
        Err(fault) => {
            findings.fault("unreachable", format!("Nobody is there: {fault}."));
            return false;
        }
    };
    let Some(tls) = stream.tls() else {
        findings.care(
            "plain",
            "There is no TLS: passwords and tokens can be read on the way, and old proxies break WebSockets.",
        );
        return true;
    };
    let version = tls.protocol_version().map_or_else(String::new, |version| format!("{version:?}").replace('_', "."));
    let ends = tls.peer_certificates().and_then(|chain| chain.first()).and_then(|leaf| {
        let (_, leaf) = x509_parser::parse_x509_certificate(leaf).ok()?;
        Some(leaf.validity().not_after.timestamp())
    });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed());
    match ends.map(|ends| (ends - now) / 86_400) {
        Some(days) if days < SOON => {
            findings
                .care("certificate_ends", format!("The certificate ends in {days} days, and has not been renewed."));
        }
        Some(days) => findings
            .good("certificate", format!("{version}, with a certificate that is trusted and lasts {days} days.")),
        None => findings.good("certificate", format!("{version}, with a certificate that is trusted.")),
    }
    if tls.alpn_protocol() == Some(b"h2") {
        let by_streams = takes_websockets(stream);
        let also = if by_streams { ", and WebSockets on its streams" } else { "" };
        findings.good("http2", format!("HTTP/2 is spoken{also}."));
    } else {
        findings.care("http2", "HTTP/2 is not offered: a page's requests wait for each other.");
    }
    true
}

/// Whether the settings that a server begins with say so (RFC 8441 3).
fn takes_websockets(mut stream: Stream) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    if stream.write_all(PREFACE).and_then(|()| stream.flush()).is_err() {
        return false;
    }
    let (began, patience) = (Instant::now(), Duration::from_secs(5));
    let mut have = Vec::new();
    loop {
        if let [a, b, c, kind, _, _, _, _, _, rest @ ..] = have.as_slice() {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if rest.len() >= length {
                let settings = rest[..length].chunks_exact(6);
                return *kind == 4 && settings.into_iter().any(|setting| setting == [0, 8, 0, 0, 0, 1]);
            }
        }
        let mut buffer = [0; 4096];
        stream.wait(patience.saturating_sub(began.elapsed()));
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return false,
            Ok(read) => have.extend_from_slice(&buffer[..read]),
        }
    }
}

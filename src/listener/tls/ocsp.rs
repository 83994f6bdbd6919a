//! What an OCSP response (RFC 6960) says of one certificate, as far as whoever staples it has to know.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::der_parser::asn1_rs::ASN1DateTime;
use x509_parser::der_parser::ber::{BerObject, BerObjectContent};
use x509_parser::der_parser::der::parse_der;
use x509_parser::prelude::{FromDer, X509Certificate};

/// For how long a response that names no end of its own is shown.
const UNTIL_FURTHER_NOTICE: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a response says that can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    /// From when on it holds.
    pub(crate) from: SystemTime,
    /// Until when.
    pub(crate) until: SystemTime,
}

impl Response {
    /// Whether clients believe it at this time.
    pub(crate) fn holds(&self, now: SystemTime) -> bool {
        (self.from..self.until).contains(&now)
    }
}

/// Reads what a response says of this certificate.
///
/// # Errors
/// Why it can't be shown.
pub(crate) fn read(response: &[u8], leaf: &[u8]) -> Result<Response, &'static str> {
    let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| "the certificate can't be read")?;
    let broken = "expected an OCSP response in DER";
    match status(response).ok_or(broken)? {
        0 => {}
        _ => return Err("the responder has refused to say anything"),
    }
    let single = single(response, leaf.raw_serial()).ok_or(broken)?;
    match single.ok_or("it says nothing of this certificate")? {
        Single { status: 0, from, until } => Ok(Response { from, until: until.unwrap_or(from + UNTIL_FURTHER_NOTICE) }),
        Single { status: 1, .. } => Err("the certificate has been taken back"),
        Single { .. } => Err("the responder does not know the certificate"),
    }
}

struct Single {
    /// 0 good, 1 revoked, 2 unknown.
    status: u32,
    from: SystemTime,
    until: Option<SystemTime>,
}

fn status(response: &[u8]) -> Option<u64> {
    let (_, response) = parse_der(response).ok()?;
    match response.as_sequence().ok()?.first()?.content {
        BerObjectContent::Enum(status) => Some(status),
        _ => None,
    }
}

/// What is said of the certificate with this serial number; `None` within where nothing is.
fn single(response: &[u8], serial: &[u8]) -> Option<Option<Single>> {
    let (_, response) = parse_der(response).ok()?;
    let bytes = response.as_sequence().ok()?.get(1)?.as_slice().ok()?;
    let (_, bytes) = parse_der(bytes).ok()?;
    let basic = bytes.as_sequence().ok()?.get(1)?.as_slice().ok()?;
    let (_, basic) = parse_der(basic).ok()?;
    let data = basic.as_sequence().ok()?.first()?.as_sequence().ok()?;
    // The version, the responder and when it was made come before the list.
    let list = data.iter().find_map(|part| match &part.content {
        BerObjectContent::Sequence(list) => Some(list),
        _ => None,
    })?;
    let about = |single: &&BerObject<'_>| {
        let id = single.as_sequence().ok().and_then(|parts| parts.first()?.as_sequence().ok());
        id.and_then(|id| id.get(3)).is_some_and(|number| number.as_slice().is_ok_and(|number| number == serial))
    };
    let Some(single) = list.iter().find(about) else { return Some(None) };
    let parts = single.as_sequence().ok()?;
    let status = parts.get(1)?.header.tag().0;
    let from = time(&parts.get(2)?.content)?;
    let until = parts.get(3).filter(|part| part.header.tag().0 == 0).map(|part| {
        let (_, inner) = parse_der(part.as_slice().ok()?).ok()?;
        time(&inner.content)
    });
    let until = match until {
        Some(until) => Some(until?),
        None => None,
    };
    Some(Some(Single { status, from, until }))
}

fn time(content: &BerObjectContent<'_>) -> Option<SystemTime> {
    let BerObjectContent::GeneralizedTime(time) = content else { return None };
    let seconds = ASN1DateTime::to_datetime(time).ok()?.unix_timestamp();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

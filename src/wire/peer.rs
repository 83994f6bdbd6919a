//! What one gateway tells another in a field of its own: a request that it passes on, or that it asks for a session. Whether that
//! is to be believed is not decided here.

use std::fmt::Write;
use std::net::SocketAddr;

/// The field; it belongs to one connection, so that it never passes a gateway.
pub const FIELD: &str = "sockgate-peer";

/// What is said in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The process that says it.
    pub from: u128,
    /// When, in seconds of Unix time.
    pub at: u64,
    /// The client, as it came to that gateway.
    pub client: SocketAddr,
    /// The port that it came to.
    pub port: u16,
    /// The name of the listener that it came to.
    pub listener: String,
    /// The version of TLS that it speaks there, where it speaks that.
    pub tls: Option<String>,
    /// The name that it asked for in TLS.
    pub server_name: Option<String>,
    /// The id of the request; empty where it has none.
    pub request_id: String,
    /// What is asked, where the request is none of a client's.
    pub asks: Option<Asks>,
}

/// A question for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asks {
    /// The upstream that may have it.
    pub upstream: String,
    /// What its protocol makes of the client's request.
    pub dialect: u64,
    /// Its id.
    pub id: String,
    /// Whether the client's connection has asked for nothing in vain before.
    pub fresh: bool,
}

/// A mark as it was sent: what is sealed of it, and the seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// What it says.
    pub mark: Mark,
    /// The bytes that say so.
    pub text: &'a str,
    /// The seal; `-` for none.
    pub seal: &'a str,
}

const VERSION: &str = "1";
/// What stands for no text, and for none that has to be given.
const NONE: &str = "-";

impl Mark {
    /// As the field has it, before a blank and the seal. Texts are in hexadecimal digits, so that nothing in them means anything.
    pub fn write(&self) -> String {
        let mut out = format!("{VERSION} {:032x} {} {} {}", self.from, self.at, self.client, self.port);
        let mut text = |text: &str| {
            out.push(' ');
            if text.is_empty() {
                out.push_str(NONE);
            }
            for byte in text.bytes() {
                let _ = write!(out, "{byte:02x}");
            }
        };
        text(&self.listener);
        text(self.tls.as_deref().unwrap_or_default());
        text(self.server_name.as_deref().unwrap_or_default());
        text(&self.request_id);
        if let Some(asks) = &self.asks {
            text(&asks.upstream);
            text(&asks.id);
            let _ = write!(out, " {} {}", asks.dialect, u8::from(asks.fresh));
        }
        out
    }
}

impl<'a> Sealed<'a> {
    /// Reads a field; `None` where it is none.
    pub fn read(field: &'a [u8]) -> Option<Self> {
        let field = std::str::from_utf8(field).ok()?;
        let (text, seal) = field.rsplit_once(' ')?;
        let mut parts = text.split(' ');
        let mut part = || parts.next();
        if part()? != VERSION {
            return None;
        }
        let from = part().filter(|text| text.len() == 32)?;
        let from = u128::from_str_radix(from, 16).ok()?;
        let at = part()?.parse().ok()?;
        let client = part()?.parse().ok()?;
        let port = part()?.parse().ok()?;
        let listener = text_of(part()?)?;
        let mut some = || Some(text_of(part()?)?).map(|text| (!text.is_empty()).then_some(text));
        let (tls, server_name) = (some()?, some()?);
        let request_id = text_of(part()?)?;
        let asks = match part() {
            None => None,
            Some(upstream) => Some(Asks {
                upstream: text_of(upstream)?,
                id: text_of(part()?)?,
                dialect: part()?.parse().ok()?,
                fresh: match part()? {
                    "0" => false,
                    "1" => true,
                    _ => return None,
                },
            }),
        };
        let mark = Mark { from, at, client, port, listener, tls, server_name, request_id, asks };
        // One way to write each mark, so that what is sealed says what is read.
        (part().is_none() && mark.write() == text).then_some(Self { mark, text, seal })
    }
}

fn text_of(digits: &str) -> Option<String> {
    if digits == NONE {
        return Some(String::new());
    }
    if digits.is_empty() || !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return None;
    }
    let bytes = digits.as_bytes().chunks(2);
    let bytes = bytes.map(|two| std::str::from_utf8(two).ok().and_then(|two| u8::from_str_radix(two, 16).ok()));
    String::from_utf8(bytes.collect::<Option<Vec<u8>>>()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(asks: Option<Asks>) -> Mark {
        Mark {
            from: 7,
            at: 1_700_000_000,
            client: "[2001:db8::1]:4711".parse().unwrap(),
            port: 443,
            listener: "web at home".to_owned(),
            tls: Some("TLSv1.3".to_owned()),
            server_name: None,
            request_id: "an id".to_owned(),
            asks,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let asks = Asks { upstream: "app".to_owned(), dialect: u64::MAX, id: "ü \r\n".to_owned(), fresh: true };
        for mark in [mark(None), mark(Some(asks))] {
            let field = format!("{} seal", mark.write());
            assert!(field.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{field}");
            let sealed = Sealed::read(field.as_bytes()).unwrap();
            assert_eq!((sealed.mark, sealed.seal), (mark, "seal"));
        }
    }

    #[test]
    fn anything_else_is_no_mark() {
        let good = format!("{} -", mark(None).write());
        for at in 0..good.len() {
            assert!(Sealed::read(&good.as_bytes()[..at]).is_none_or(|cut| cut.seal.is_empty()), "{at}");
        }
        for (from, to) in
            [("1 0", "2 0"), (" 443", " 0443"), (" 443", " 443 "), ("776562", "77656"), ("776562", "+76562")]
        {
            assert!(good.contains(from));
            assert_eq!(Sealed::read(good.replacen(from, to, 1).as_bytes()), None, "{from} as {to}");
        }
    }
}

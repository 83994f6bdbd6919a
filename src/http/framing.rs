//! Where a message ends: the framing rules of RFC 9112, told strictly, so that no two readers of one connection can
//! disagree on where the next message begins.

use std::ops::Range;

use httparse::Header;

/// How the body of a message is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    /// There is none.
    None,
    /// This many bytes.
    Length(u64),
    /// Chunks, and trailers.
    Chunked,
    /// All that comes until the connection closes; responses only.
    UntilClose,
}

/// Why a message can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// `Content-Length` beside `Transfer-Encoding`: the mark of request smuggling.
    LengthAndChunks,
    /// A `Content-Length` that is no number, or several.
    Length,
    /// A `Transfer-Encoding` other than `chunked`, or in HTTP/1.0.
    Encoding,
    /// No `Host` in HTTP/1.1, more than one, or one that is no host.
    Host,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::LengthAndChunks => "Content-Length beside Transfer-Encoding",
            Self::Length => "a Content-Length that is not one number",
            Self::Encoding => "a Transfer-Encoding other than chunked",
            Self::Host => "not exactly one proper Host",
        })
    }
}

impl std::error::Error for Malformed {}

/// The body of a request (RFC 9112 6.3), after the checks that close request smuggling.
pub fn request_body(minor_version: u8, headers: &[Header<'_>]) -> Result<Body, Malformed> {
    let hosts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host")).count();
    if hosts > 1 || (hosts == 0 && minor_version == 1) {
        return Err(Malformed::Host);
    }
    let body = declared(headers)?;
    if body == Some(Body::Chunked) && minor_version == 0 {
        return Err(Malformed::Encoding);
    }
    Ok(match body {
        None | Some(Body::Length(0)) => Body::None,
        Some(body) => body,
    })
}

/// The body of an answer to a `GET` (RFC 9112 6.3).
pub fn response_body(status: u16, headers: &[Header<'_>]) -> Result<Body, Malformed> {
    if matches!(status, 100..=199 | 204 | 304) {
        return Ok(Body::None);
    }
    Ok(declared(headers)?.unwrap_or(Body::UntilClose))
}

/// What `Content-Length` and `Transfer-Encoding` say.
fn declared(headers: &[Header<'_>]) -> Result<Option<Body>, Malformed> {
    let mut length = None;
    let mut chunked = false;
    for header in headers {
        if header.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(Malformed::Length);
            }
            length = Some(number(header.value).ok_or(Malformed::Length)?);
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !header.value.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::Encoding);
            }
            chunked = true;
        }
    }
    match (length, chunked) {
        (Some(_), true) => Err(Malformed::LengthAndChunks),
        (_, true) => Ok(Some(Body::Chunked)),
        (Some(length), false) => Ok(Some(Body::Length(length))),
        (None, false) => Ok(None),
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    let digits = digits.trim_ascii();
    let number = digits.iter().try_fold(0_u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|&digit| digit <= 9)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })?;
    (!digits.is_empty()).then_some(number)
}

/// Follows a chunked body to its end (RFC 9112 7.1).
///
/// Lines end in CRLF and nothing else: a bare line feed in a chunk extension ends the line for some readers and not for
/// others, which is a way to smuggle requests. Blanks behind a size are borne, since old programs pad it.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    state: ChunkState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    /// In the hexadecimal size of a chunk.
    #[default]
    SizeStart,
    Size(u64),
    /// Among blanks behind it.
    Padding(u64),
    /// In what follows the size on its line.
    Extension(u64),
    /// Before the line feed of that line.
    SizeEnd(u64),
    /// This many bytes of the chunk, and the line end after them, are to come.
    Data(u64),
    DataEnd,
    DataLineFeed,
    /// At the start of a trailer line.
    TrailerStart,
    Trailer,
    TrailerLineFeed,
    /// Before the line feed of the blank line.
    LastLineFeed,
    Done,
}

impl Chunks {
    /// Takes the next bytes and says how many of them belong to the body; fewer than all once the end has been seen.
    /// `None`: this is no chunked body.
    pub fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        self.decode(bytes, |_| {})
    }

    /// The same, and hands out the data of the chunks.
    pub(crate) fn decode(&mut self, bytes: &[u8], mut data: impl FnMut(&[u8])) -> Option<usize> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            let (taken, found) = self.step(&bytes[at..])?;
            if !found.is_empty() {
                data(&bytes[at..][found]);
            }
            at += taken;
        }
        Some(at)
    }

    /// Takes bytes up to and including the next data of a chunk, or up to the trailers: how many, and which of them are
    /// data. `None`: this is no chunked body.
    pub(crate) fn step(&mut self, bytes: &[u8]) -> Option<(usize, Range<usize>)> {
        use ChunkState::{
            Data, DataEnd, DataLineFeed, Done, Extension, LastLineFeed, Padding, Size, SizeEnd, SizeStart, Trailer,
            TrailerLineFeed, TrailerStart,
        };
        let mut at = 0;
        while at < bytes.len() && self.state != Done {
            if let Extension(_) | Trailer = self.state {
                // They may be long, and nothing in them matters here but their end.
                at += memchr::memchr2(b'\r', b'\n', &bytes[at..]).unwrap_or(bytes.len() - at);
                if at == bytes.len() {
                    break;
                }
            }
            let byte = bytes[at];
            let digit = char::from(byte).to_digit(16).map(u64::from);
            self.state = match (self.state, byte) {
                (SizeStart, _) => Size(digit?),
                (Size(size) | Padding(size) | Extension(size), b'\r') => SizeEnd(size),
                (Size(size) | Padding(size), b';') => Extension(size),
                (Size(size) | Padding(size), b' ' | b'\t') => Padding(size),
                (Size(size), _) => Size(size.checked_mul(16)?.checked_add(digit?)?),
                (Extension(_), b'\n') | (Padding(_), _) => return None,
                (Extension(size), _) => Extension(size),
                (SizeEnd(0), b'\n') => {
                    self.state = TrailerStart;
                    return Some((at + 1, 0..0));
                }
                (SizeEnd(size), b'\n') => Data(size),
                (Data(left), _) => {
                    let step = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                    self.state = match left - step as u64 {
                        0 => DataEnd,
                        left => Data(left),
                    };
                    return Some((at + step, at..at + step));
                }
                (DataEnd, b'\r') => DataLineFeed,
                (DataLineFeed, b'\n') => SizeStart,
                (TrailerStart, b'\r') => LastLineFeed,
                (Trailer, b'\r') => TrailerLineFeed,
                (TrailerStart | Trailer, b'\n') => return None,
                (TrailerStart | Trailer, _) => Trailer,
                (TrailerLineFeed, b'\n') => TrailerStart,
                (LastLineFeed, b'\n') => Done,
                (SizeEnd(_) | DataEnd | DataLineFeed | TrailerLineFeed | LastLineFeed, _) => return None,
                (Done, _) => Done,
            };
            at += 1;
        }
        Some((at, at..at))
    }

    /// Whether a byte that is next is one of the trailers, and not of the blank line behind them; `any` says whether
    /// there have been some.
    pub(crate) fn is_of_trailers(&self, byte: u8, any: bool) -> bool {
        match self.state {
            ChunkState::TrailerStart => any || byte != b'\r',
            ChunkState::Trailer | ChunkState::TrailerLineFeed => true,
            _ => false,
        }
    }

    /// Whether the last byte of the body has been seen.
    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(minor: u8, pairs: &[(&str, &str)]) -> Result<Body, Malformed> {
        let mut headers = vec![Header { name: "Host", value: b"a" }];
        headers.extend(pairs.iter().map(|(name, value)| Header { name, value: value.as_bytes() }));
        request_body(minor, &headers)
    }

    #[test]
    fn well_framed_requests_are_read() {
        assert_eq!(request(1, &[]), Ok(Body::None));
        assert_eq!(request(1, &[("content-length", "0")]), Ok(Body::None));
        assert_eq!(request(1, &[("Content-Length", " 12 ")]), Ok(Body::Length(12)));
        assert_eq!(request(1, &[("Transfer-Encoding", "Chunked")]), Ok(Body::Chunked));
        assert_eq!(request_body(0, &[]), Ok(Body::None));
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for (pairs, fault) in [
            (vec![("Content-Length", "1"), ("Transfer-Encoding", "chunked")], Malformed::LengthAndChunks),
            (vec![("Content-Length", "1"), ("Content-Length", "1")], Malformed::Length),
            (vec![("Content-Length", "1, 1")], Malformed::Length),
            (vec![("Content-Length", "+1")], Malformed::Length),
            (vec![("Content-Length", "")], Malformed::Length),
            (vec![("Content-Length", "99999999999999999999")], Malformed::Length),
            (vec![("Transfer-Encoding", "xchunked")], Malformed::Encoding),
            (vec![("Transfer-Encoding", "gzip, chunked")], Malformed::Encoding),
            (vec![("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], Malformed::Encoding),
            (vec![("Host", "b")], Malformed::Host),
        ] {
            assert_eq!(request(1, &pairs), Err(fault), "{pairs:?}");
        }
        assert_eq!(request(0, &[("Transfer-Encoding", "chunked")]), Err(Malformed::Encoding));
        assert_eq!(request_body(1, &[]), Err(Malformed::Host));
    }

    #[test]
    fn answers_without_length_end_with_the_connection() {
        assert_eq!(response_body(400, &[]), Ok(Body::UntilClose));
        assert_eq!(response_body(304, &[Header { name: "content-length", value: b"9" }]), Ok(Body::None));
        assert_eq!(response_body(400, &[Header { name: "content-length", value: b"9" }]), Ok(Body::Length(9)));
    }

    #[test]
    fn chunks_are_followed_to_their_last_byte() {
        let body = b"5;x=1\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n";
        let mut chunks = Chunks::default();
        assert_eq!(chunks.advance(&[body.as_slice(), b"next"].concat()), Some(body.len()));
        assert!(chunks.is_done());
        assert_eq!(Chunks::default().advance(b"x"), None);
        assert_eq!(Chunks::default().advance(b"5\r\nhelloX"), None);
        for loose in ["5\nhello", "5;x\nhello", "5\r\nhello\n", "5\r\nhello\r\r", "5\r5", "0\r\n\n", "0\r\nX: y\n"] {
            assert_eq!(Chunks::default().advance(loose.as_bytes()), None, "{loose:?}");
        }
        assert_eq!(Chunks::default().advance(b"5  \r\nhello"), Some(10));
        assert_eq!(Chunks::default().advance(b"fffffffffffffffff\r\n"), None);
    }

    proptest! {
        #[test]
        fn chunks_end_at_the_same_byte_however_they_arrive(
            sizes in prop::collection::vec(1usize..300, 0..6), step in 1usize..50,
        ) {
            let mut body = Vec::new();
            for size in sizes {
                body.extend(format!("{size:x}\r\n").bytes());
                body.extend(std::iter::repeat_n(b'0', size));
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\n\r\n");
            let mut chunks = Chunks::default();
            let mut taken = 0;
            for part in [body.as_slice(), b"0\r\n\r\n"].concat().chunks(step) {
                taken += chunks.advance(part).unwrap();
            }
            prop_assert_eq!(taken, body.len());
            prop_assert!(chunks.is_done());
        }
    }
}

//! Bodies on their way from one side to the other: which bytes belong to one, and how its end is told where it goes.
//!
//! Chunks are put together and cut anew, one for what each read brings: so extensions go no further, and chunks of one
//! byte cost their reader no more than others do. Trailers are gathered where they can go on, and passed over elsewhere; which of
//! them do is their reader's business.

use std::io::Write;
use std::ops::Range;

use super::framing::{Body, Chunks};
use super::hop_by_hop::nominated;
use super::trailers::Trailers;
use crate::request::Headers;

/// A body as it passes.
#[derive(Debug)]
pub(crate) struct Passing {
    framing: Framing,
    /// Whether it is told in chunks where it goes.
    in_chunks: bool,
    /// Whether trailers can go on.
    gathers: bool,
    /// What came of trailers; mostly there are none.
    trailers: Option<Box<Trailers>>,
    /// Names of trailers that are of the connection, if any.
    nominated: Option<Box<[u8]>>,
}

#[derive(Debug)]
enum Framing {
    Over,
    Length(u64),
    Chunked(Chunks),
    UntilClose,
}

/// What of some bytes belongs to a body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// How many of the bytes do, framing included.
    pub(crate) taken: usize,
    /// Where its data are now.
    pub(crate) data: Range<usize>,
}

/// Room before the data of a chunk: 16 digits and a line end.
pub(crate) const CHUNK_AHEAD: usize = 18;

impl Passing {
    /// A body that comes like this, and goes on in chunks where its reader needs them.
    pub(crate) fn new(body: Body, in_chunks: bool) -> Self {
        let framing = match body {
            Body::None | Body::Length(0) => Framing::Over,
            Body::Length(length) => Framing::Length(length),
            Body::Chunked => Framing::Chunked(Chunks::default()),
            Body::UntilClose => Framing::UntilClose,
        };
        Self { framing, in_chunks, gathers: in_chunks, trailers: None, nominated: None }
    }

    /// Lets those trailers end here that the head before them names in `Connection` (RFC 9110 7.6.1).
    pub(crate) fn behind(mut self, head: Headers<'_>) -> Self {
        if self.gathers && matches!(self.framing, Framing::Chunked(_)) {
            self.nominated = nominated(head);
        }
        self
    }

    /// The same for a reader that can take trailers without chunks, as HTTP/2 has them.
    pub(crate) fn with_trailers(body: Body) -> Self {
        Self { gathers: true, ..Self::new(body, false) }
    }

    /// Whether its last byte has been seen.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.framing, Framing::Over)
    }

    /// How much of it is to come, where its length was told.
    pub(crate) fn left(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(left) => Some(left),
            _ => None,
        }
    }

    /// So much of what is [left](Self::left) has gone another way.
    pub(crate) fn pass(&mut self, bytes: u64) {
        if let Framing::Length(left) = &mut self.framing {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.framing = Framing::Over;
            }
        }
    }

    /// How many bytes of trailers have come.
    pub(crate) fn trailers_len(&self) -> usize {
        self.trailers.as_ref().map_or(0, |trailers| trailers.len())
    }

    /// The trailers, once they are whole, in place of the [`Self::end`] that is not said for a body that has some.
    pub(crate) fn take_trailers(&mut self) -> Option<Box<Trailers>> {
        if self.is_over() { self.trailers.take() } else { None }
    }

    /// Takes the next bytes, and moves the data among them together. `None`: this is no chunked body.
    pub(crate) fn take(&mut self, bytes: &mut [u8]) -> Option<Part> {
        match &mut self.framing {
            Framing::Over => Some(Part { taken: 0, data: 0..0 }),
            Framing::UntilClose => Some(Part { taken: bytes.len(), data: 0..bytes.len() }),
            Framing::Length(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                if *left == 0 {
                    self.framing = Framing::Over;
                }
                Some(Part { taken, data: 0..taken })
            }
            Framing::Chunked(chunks) => {
                let (mut at, mut data) = (0, 0..0);
                while at < bytes.len() && !chunks.is_done() {
                    let trails = self.gathers && chunks.is_of_trailers(bytes[at], self.trailers.is_some());
                    let (taken, found) = chunks.step(&bytes[at..])?;
                    if trails
                        && !self
                            .trailers
                            .get_or_insert_with(|| Box::new(Trailers::without(self.nominated.take())))
                            .add(&bytes[at..at + taken])
                    {
                        return None;
                    }
                    let found = at + found.start..at + found.end;
                    at += taken;
                    if data.is_empty() {
                        data = found;
                    } else {
                        bytes.copy_within(found.clone(), data.end);
                        data.end += found.len();
                    }
                }
                if chunks.is_done() {
                    self.framing = Framing::Over;
                }
                Some(Part { taken: at, data })
            }
        }
    }

    /// The connection that it comes by has ended. True where that is the end of the body, and not a cut.
    pub(crate) fn close(&mut self) -> bool {
        if let Framing::UntilClose = self.framing {
            self.framing = Framing::Over;
        }
        self.is_over()
    }

    /// Ends it here, though more may come. False where that can't be told, since its length has been.
    pub(crate) fn end_early(&mut self) -> bool {
        let endless = matches!(self.framing, Framing::Chunked(_) | Framing::UntilClose);
        if endless {
            self.framing = Framing::Over;
        }
        endless
    }

    /// Puts what tells the length of these data before and behind them; gives where they stand with it.
    pub(crate) fn frame(&self, bytes: &mut [u8], data: Range<usize>) -> Range<usize> {
        if !self.in_chunks {
            return data;
        }
        let (mut start, mut end) = (data.start, data.end);
        if !data.is_empty() {
            let mut line = [0; CHUNK_AHEAD];
            let mut unwritten = &mut line[..];
            // It fits.
            let _ = write!(unwritten, "{:x}\r\n", data.len());
            let length = CHUNK_AHEAD - unwritten.len();
            start -= length;
            bytes[start..data.start].copy_from_slice(&line[..length]);
            bytes[end..end + 2].copy_from_slice(b"\r\n");
            end += 2;
        }
        if self.is_over() {
            let last = self.end();
            bytes[end..end + last.len()].copy_from_slice(last);
            end += last.len();
        }
        start..end
    }

    /// The same into what goes out elsewhere.
    pub(crate) fn frame_into(&self, out: &mut Vec<u8>, data: &[u8]) {
        if self.in_chunks && !data.is_empty() {
            // Writing to memory never fails.
            let _ = write!(out, "{:x}\r\n", data.len());
        }
        out.extend_from_slice(data);
        if self.in_chunks && !data.is_empty() {
            out.extend_from_slice(b"\r\n");
        }
        if self.is_over() {
            out.extend_from_slice(self.end());
        }
    }

    /// What is still to be said where it goes, now that it is over; with trailers this is their reader's to say.
    pub(crate) fn end(&self) -> &'static [u8] {
        if self.in_chunks && self.trailers.is_none() { LAST_CHUNK } else { b"" }
    }
}

/// The chunk that ends a body (RFC 9112 7.1), without trailers.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::Limits;

    /// What arrives of a body that is cut into reads of this size, and what is left behind it.
    fn pass(mut passing: Passing, sent: &[u8], step: usize) -> Option<(Vec<u8>, Vec<u8>)> {
        let (mut arrived, mut left) = (Vec::new(), Vec::new());
        for read in sent.chunks(step) {
            if passing.is_over() {
                left.extend_from_slice(read);
                continue;
            }
            let mut buffer = vec![0; CHUNK_AHEAD + read.len() + 16];
            buffer[CHUNK_AHEAD..][..read.len()].copy_from_slice(read);
            let part = passing.take(&mut buffer[CHUNK_AHEAD..][..read.len()])?;
            left.extend_from_slice(&read[part.taken..]);
            let data = CHUNK_AHEAD + part.data.start..CHUNK_AHEAD + part.data.end;
            let framed = passing.frame(&mut buffer, data);
            arrived.extend_from_slice(&buffer[framed]);
            if let Some(trailers) = passing.take_trailers() {
                trailers.write_last_chunk(&mut arrived, &Limits::default(), |_| true).ok()?;
            }
        }
        Some((arrived, left))
    }

    #[test]
    fn each_framing_ends_where_it_says() {
        let chunks = b"5;x=1\r\nhello\r\n02\r\n, \r\n0\r\nTrailer: x\r\n\r\nGET /";
        let by_length = Passing::new(Body::Length(5), false);
        assert_eq!(pass(by_length, b"helloGET /", 100).unwrap(), (b"hello".to_vec(), b"GET /".to_vec()));
        let (plain, left) = pass(Passing::new(Body::Chunked, false), chunks, 100).unwrap();
        assert_eq!((&plain[..], &left[..]), (&b"hello, "[..], &b"GET /"[..]), "for who knows no chunks");
        let (anew, left) = pass(Passing::new(Body::Chunked, true), chunks, 100).unwrap();
        assert_eq!((&anew[..], &left[..]), (&b"7\r\nhello, \r\n0\r\n\r\n"[..], &b"GET /"[..]));
        let mut endless = Passing::new(Body::UntilClose, true);
        assert_eq!(endless.take(&mut b"hello".clone()), Some(Part { taken: 5, data: 0..5 }));
        assert!(!endless.is_over() && endless.close() && endless.is_over());
        assert_eq!(endless.end(), b"0\r\n\r\n");
        assert!(!Passing::new(Body::Length(1), false).close() && !Passing::new(Body::Chunked, true).close(), "cut");
        assert!(Passing::new(Body::None, true).is_over() && Passing::new(Body::Length(0), true).is_over());
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        assert_eq!(Passing::new(Body::Chunked, true).take(&mut b"5\r\nhelloX".clone()), None);
        assert_eq!(Passing::new(Body::Chunked, true).take(&mut b"x".clone()), None);
    }

    proptest! {
        #[test]
        fn chunks_arrive_whole_however_they_are_cut(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..6), step in 1usize..400,
        ) {
            let mut sent = Vec::new();
            for part in &parts {
                sent.extend(format!("{:x};a=b\r\n", part.len()).bytes());
                sent.extend(part);
                sent.extend(b"\r\n");
            }
            sent.extend(b"0\r\nX: y\r\n\r\nrest");
            let (plain, left) = pass(Passing::new(Body::Chunked, false), &sent, step).unwrap();
            prop_assert_eq!(&plain, &parts.concat());
            prop_assert_eq!(&left, b"rest");
            // Once more through what reads chunks gives the same.
            let (anew, _) = pass(Passing::new(Body::Chunked, true), &sent, step).unwrap();
            prop_assert!(anew.ends_with(b"\r\nX: y\r\n\r\n") || parts.is_empty() && anew == b"0\r\nX: y\r\n\r\n");
            let (again, left) = pass(Passing::new(Body::Chunked, false), &anew, 100).unwrap();
            prop_assert_eq!(again, plain);
            prop_assert!(left.is_empty());
        }
    }
}

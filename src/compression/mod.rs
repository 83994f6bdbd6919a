//! Answers compressed on their way to the client: whether one is, by what, and how its head says so.
//!
//! Only answers of servers, and only where a route says so. Never sockets, polls, sessions and streams of messages, nor
//! what is compressed, cut into ranges or sealed by a digest already.

mod accept;
pub mod config;
mod encoder;
mod room;
mod types;

use std::sync::Arc;

use ::http::HeaderValue;
use ::http::header::{ACCEPT_RANGES, CONTENT_ENCODING, ETAG, VARY};

pub use config::{Coding, Config};
pub(crate) use encoder::{Encoder, MEMORY};
pub(crate) use room::Room;
pub(crate) use types::checked as checked_type;

use crate::http::edits::HeaderEdits;
use crate::request::Headers;
use config::Levels;
use types::Types;

/// What a route says about compression, built.
#[derive(Debug)]
pub struct Compression {
    encodings: Box<[Coding]>,
    types: Types,
    min: u64,
    levels: Levels,
    cross_site: bool,
    room: Arc<Room>,
}

/// What a request gets where its answer is worth it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Nothing is compressed there, nor would be for somebody else.
    #[default]
    Never,
    /// The answer as it is, where somebody else would get it compressed.
    Plain,
    /// It compressed like this.
    Compressed(Coding),
}

/// Fields that tell what the bytes of a body add up to: they would not any more.
const DIGESTS: [&str; 3] = ["content-digest", "digest", "content-md5"];

impl Compression {
    /// Of what the operator says, which has been checked.
    pub(crate) fn new(said: &Config, room: &Arc<Room>) -> Self {
        let Config { encodings, types, min, levels, cross_site } = said;
        Self {
            encodings: encodings.as_slice().into(),
            types: Types::new(types),
            min: min.as_u64(),
            levels: *levels,
            cross_site: *cross_site,
            room: Arc::clone(room),
        }
    }

    /// What this request gets.
    pub(crate) fn offer(&self, method: &str, target: &str, headers: &Headers<'_>) -> Offer {
        let exposed = !self.cross_site && accept::is_exposed(method, target, headers);
        match accept::best(headers, &self.encodings).filter(|_| method != "HEAD" && !exposed) {
            Some(coding) => Offer::Compressed(coding),
            None => Offer::Plain,
        }
    }

    /// Looks at the head of the answer: says in `edits` what is to be said in it, and gives what compresses the body, where
    /// something does.
    pub(crate) fn begin(
        &self,
        offer: Offer,
        status: u16,
        headers: &Headers<'_>,
        edits: &mut HeaderEdits,
    ) -> Option<Encoder> {
        // An answer without content says of which one it would be (RFC 9110 15.4.5).
        let unchanged = status == 304;
        if offer == Offer::Never || !unchanged && !self.is_worth_it(status, headers) {
            return None;
        }
        if !headers.lists("vary", "accept-encoding") && !headers.lists("vary", "*") {
            edits.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
        let Offer::Compressed(coding) = offer else { return None };
        let encoder = if unchanged { None } else { Encoder::new(coding, self.levels, self.room.enter()?) }?;
        edits.set(CONTENT_ENCODING, HeaderValue::from_static(coding.as_str()));
        edits.remove(ACCEPT_RANGES);
        if let Some(etag) = headers.get("etag").filter(|etag| !etag.starts_with(b"W/")) {
            // Equal in meaning, not byte by byte (RFC 9110 8.8.1).
            match HeaderValue::from_bytes(&[b"W/", etag].concat()) {
                Ok(weak) => edits.set(ETAG, weak),
                Err(_) => edits.remove(ETAG),
            }
        }
        Some(encoder)
    }

    fn is_worth_it(&self, status: u16, headers: &Headers<'_>) -> bool {
        let has_content = status >= 200 && !matches!(status, 204 | 205 | 206 | 304);
        let length = headers.get("content-length").and_then(|length| std::str::from_utf8(length).ok()?.parse().ok());
        has_content
            && length.is_none_or(|length: u64| length >= self.min.max(1))
            && headers.get("content-type").is_some_and(|content_type| self.types.has(content_type))
            && headers.all("content-encoding").all(|coding| coding.eq_ignore_ascii_case(b"identity"))
            && headers.get("content-range").is_none()
            && !headers.lists("cache-control", "no-transform")
            && !DIGESTS.iter().any(|name| headers.get(name).is_some())
    }
}

/// The codings in which a client takes what is there in several, as they are written, the one that it likes best first.
pub(crate) fn preferred(headers: &Headers<'_>) -> Vec<&'static str> {
    accept::in_order(headers).iter().map(|coding| coding.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GZIP: Offer = Offer::Compressed(Coding::Gzip);

    fn room(most: usize) -> Arc<Room> {
        let room = Arc::<Room>::default();
        room.set(most);
        room
    }

    fn begun(compression: &Compression, offer: Offer, status: u16, fields: &[(&str, &str)]) -> (bool, String) {
        let fields: Vec<_> =
            fields.iter().map(|&(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        let mut edits = HeaderEdits::default();
        let encoder = compression.begin(offer, status, &Headers::Fields(&fields), &mut edits);
        let added = edits.added().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()));
        (encoder.is_some(), added.collect::<Vec<_>>().join(", "))
    }

    #[test]
    fn an_answer_is_compressed_where_it_is_worth_it() {
        let compression = Compression::new(&Config::default(), &room(100));
        let html = ("Content-Type", "text/html");
        let compressed = "vary: Accept-Encoding, content-encoding: gzip";
        for (status, fields, expected) in [
            (200, &[html][..], compressed),
            (404, &[html], compressed),
            (200, &[html, ("Content-Length", "1024")], compressed),
            (200, &[html, ("Content-Length", "1023")], ""),
            (200, &[html, ("Content-Encoding", "identity")], compressed),
            (200, &[html, ("Content-Encoding", "br")], ""),
            (206, &[html, ("Content-Range", "bytes 0-1/2")], ""),
            (204, &[html], ""),
            (200, &[html, ("Cache-Control", "max-age=1, No-Transform")], ""),
            (200, &[html, ("Content-Digest", "sha-256=:x:")], ""),
            (200, &[("Content-Type", "image/png")], ""),
            (200, &[], ""),
            (200, &[html, ("Vary", "Origin, accept-encoding")], "content-encoding: gzip"),
            (200, &[html, ("ETag", "\"a\"")], "vary: Accept-Encoding, content-encoding: gzip, etag: W/\"a\""),
            (200, &[html, ("ETag", "W/\"a\"")], compressed),
        ] {
            let expected = (expected.contains("gzip"), expected.to_owned());
            assert_eq!(begun(&compression, GZIP, status, fields), expected, "{status} {fields:?}");
        }
    }

    #[test]
    fn who_gets_it_plain_is_told_what_it_depends_on() {
        let compression = Compression::new(&Config::default(), &room(100));
        let html = [("Content-Type", "text/html")];
        assert_eq!(begun(&compression, Offer::Plain, 200, &html), (false, "vary: Accept-Encoding".to_owned()));
        assert_eq!(begun(&compression, GZIP, 304, &[]), (false, "vary: Accept-Encoding".to_owned()));
        assert_eq!(begun(&compression, Offer::Never, 200, &html), (false, String::new()));
    }

    #[test]
    fn what_is_there_in_several_codings_goes_in_the_one_that_is_liked_best() {
        for (said, expected) in [
            ("gzip, br, zstd", &["br", "zstd", "gzip"][..]),
            ("gzip, br;q=0.5", &["gzip", "br"]),
            ("br;q=0, *", &["zstd", "gzip"]),
            ("identity", &[]),
        ] {
            let fields = [httparse::Header { name: "Accept-Encoding", value: said.as_bytes() }];
            assert_eq!(preferred(&Headers::Fields(&fields)), expected, "{said}");
        }
        assert!(preferred(&Headers::Fields(&[])).is_empty());
    }

    #[test]
    fn without_room_answers_go_as_they_are() {
        let compression = Compression::new(&Config::default(), &room(0));
        let html = [("Content-Type", "text/html")];
        assert_eq!(begun(&compression, GZIP, 200, &html), (false, "vary: Accept-Encoding".to_owned()));
    }
}

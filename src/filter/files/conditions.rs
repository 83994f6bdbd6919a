//! What of a file a client wants that may have it already, or a part of it (RFC 9110 13, 14).

use std::ops::Range;
use std::time::{Duration, SystemTime};

use crate::request::{Request, elements};

/// A file as it is now.
#[derive(Clone, Debug)]
pub(super) struct Version {
    etag: String,
    /// In whole seconds, as the field tells it.
    changed: SystemTime,
    length: u64,
}

/// What is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    All,
    /// The client has it.
    Nothing,
    Part(Range<usize>),
    /// A part that there is not.
    Beyond,
}

impl Version {
    /// `coding` tells how it is compressed, if it is: forms of one file have tags of their own (RFC 9110 8.8.3.3).
    pub(super) fn of(changed: SystemTime, length: u64, coding: Option<&str>) -> Self {
        let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let (dash, coding) = coding.map_or(("", ""), |coding| ("-", coding));
        let etag = format!("\"{:x}-{length:x}{dash}{coding}\"", since.as_nanos());
        Self { etag, changed: SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs()), length }
    }

    pub(super) fn etag(&self) -> &str {
        &self.etag
    }

    /// For `Last-Modified`.
    pub(super) fn changed(&self) -> String {
        httpdate::fmt_http_date(self.changed)
    }

    /// What the conditions of a request ask for.
    pub(super) fn wanted(&self, request: &Request<'_>) -> Wanted {
        let text = |name: &str| request.headers.get(name).and_then(|value| std::str::from_utf8(value).ok());
        let date = |name: &str| text(name).and_then(|text| httpdate::parse_http_date(text).ok());
        let has_it = match request.headers.get("if-none-match") {
            Some(_) => request.headers.all("if-none-match").flat_map(elements).any(|tag| self.is(tag)),
            None => date("if-modified-since").is_some_and(|since| self.changed <= since),
        };
        if has_it {
            return Wanted::Nothing;
        }
        let holds = match text("if-range") {
            // A weak tag says nothing of bytes (RFC 9110 13.1.5).
            Some(tag) if tag.contains('"') => tag.trim() == self.etag,
            Some(_) => date("if-range").is_some_and(|at| at == self.changed),
            None => true,
        };
        match text("range").filter(|_| holds && request.method == "GET") {
            Some(range) => self.part(range),
            None => Wanted::All,
        }
    }

    fn is(&self, tag: &[u8]) -> bool {
        tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.etag.as_bytes()
    }

    /// One range of bytes. Several of them, and what can't be read, are as if nobody had asked (RFC 9110 14.2).
    fn part(&self, text: &str) -> Wanted {
        let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.trim().split_once('-')) else {
            return Wanted::All;
        };
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
        };
        let (start, end) = match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(self.length)),
            (Some(first), None) if last.is_empty() => (first, self.length),
            (None, Some(0)) if first.is_empty() => return Wanted::Beyond,
            (None, Some(last)) if first.is_empty() => (self.length.saturating_sub(last), self.length),
            _ => return Wanted::All,
        };
        match (usize::try_from(start), usize::try_from(end)) {
            (Ok(start), Ok(end)) if start < end => Wanted::Part(start..end),
            _ => Wanted::Beyond,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::testing::request;

    fn wanted(fields: &[(&str, &str)]) -> Wanted {
        let fields: Vec<_> =
            fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
        version().wanted(&request("GET", "/", &fields))
    }

    fn version() -> Version {
        Version::of(SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_500), 10, None)
    }

    #[test]
    fn parts_are_cut_where_they_are_asked_for() {
        for (range, expected) in [
            ("bytes=0-3", Wanted::Part(0..4)),
            ("bytes=4-", Wanted::Part(4..10)),
            ("bytes=-3", Wanted::Part(7..10)),
            ("bytes=-99", Wanted::Part(0..10)),
            ("bytes=8-99999999999999999999", Wanted::Part(8..10)),
            ("bytes=10-", Wanted::Beyond),
            ("bytes=-0", Wanted::Beyond),
            ("bytes=3-1", Wanted::All),
            ("bytes=0-1,4-5", Wanted::All),
            ("bytes=", Wanted::All),
            ("bytes=+1-2", Wanted::All),
            ("lines=0-1", Wanted::All),
        ] {
            assert_eq!(wanted(&[("Range", range)]), expected, "{range}");
        }
    }

    #[test]
    fn who_has_a_file_gets_none_and_who_has_another_gets_all_of_it() {
        let (tag, changed) = (version().etag().to_owned(), version().changed());
        assert_eq!(wanted(&[("If-None-Match", &tag)]), Wanted::Nothing);
        assert_eq!(wanted(&[("If-None-Match", &format!("\"x\", W/{tag}"))]), Wanted::Nothing);
        assert_eq!(wanted(&[("If-None-Match", "*")]), Wanted::Nothing);
        assert_eq!(wanted(&[("If-None-Match", "\"x\""), ("If-Modified-Since", &changed)]), Wanted::All);
        assert_eq!(wanted(&[("If-Modified-Since", &changed)]), Wanted::Nothing);
        assert_eq!(wanted(&[("If-Modified-Since", "Thu, 01 Jan 1970 00:00:01 GMT")]), Wanted::All);
        let part = ("Range", "bytes=0-0");
        assert_eq!(wanted(&[part, ("If-Range", &tag)]), Wanted::Part(0..1));
        assert_eq!(wanted(&[part, ("If-Range", &changed)]), Wanted::Part(0..1));
        assert_eq!(wanted(&[part, ("If-Range", &format!("W/{tag}"))]), Wanted::All);
        assert_eq!(wanted(&[part, ("If-Range", "\"x\"")]), Wanted::All);
    }
}

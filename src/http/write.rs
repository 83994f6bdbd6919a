//! Writes the heads of HTTP/1 messages: one way for requests and answers, for those of the gateway's own and those that
//! it passes on. Which fields go, in which order and spelling, is the caller's.

use httparse::Header;

use crate::text::Text;

/// A head as it grows: a first line, fields, and the end.
#[derive(Debug)]
pub(crate) struct HeadWriter(Vec<u8>);

/// Room for a usual head.
const ROOM: usize = 1024;

impl HeadWriter {
    /// Begins a request of HTTP/1.`minor_version`.
    pub(crate) fn request(method: &str, target: &str, minor_version: u8) -> Self {
        let version: &[u8] = if minor_version == 0 { b" HTTP/1.0\r\n" } else { b" HTTP/1.1\r\n" };
        Self::begin(&[method.as_bytes(), b" ", target.as_bytes(), version])
    }

    /// Begins an answer, with the reason that its status has (RFC 9110 15).
    pub(crate) fn answer(status: u16) -> Self {
        let known = ::http::StatusCode::from_u16(status).ok();
        Self::answer_with(status, known.and_then(|status| status.canonical_reason()).unwrap_or(""))
    }

    /// Begins an answer, with the reason that somebody else gave.
    pub(crate) fn answer_with(status: u16, reason: &str) -> Self {
        Self::begin(&[b"HTTP/1.1 ", Text::number(status.into()).as_bytes(), b" ", reason.as_bytes(), b"\r\n"])
    }

    fn begin(parts: &[&[u8]]) -> Self {
        let mut head = Vec::with_capacity(ROOM);
        put(&mut head, parts);
        Self(head)
    }

    /// Adds a field. Name and value have been checked by whoever read them: a line end would begin another field.
    pub(crate) fn field(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        debug_assert!(!value.contains(&b'\r') && !value.contains(&b'\n'), "a line end in {name}");
        put(&mut self.0, &[name.as_bytes(), b": ", value, b"\r\n"]);
    }

    /// Ends the head of a message that has no body, or whose body comes from elsewhere.
    pub(crate) fn end(self) -> Vec<u8> {
        self.end_with(b"")
    }

    /// Ends the head, and the message with this body, whose length a field has told.
    pub(crate) fn end_with(mut self, body: &[u8]) -> Vec<u8> {
        put(&mut self.0, &[b"\r\n", body]);
        self.0
    }
}

/// The line of a field as it stands in the head that it was parsed from, where it stands there as it would be written.
pub(crate) fn as_sent<'a>(head: &'a [u8], field: &Header<'_>) -> Option<&'a [u8]> {
    let start = field.name.as_ptr().addr().checked_sub(head.as_ptr().addr())?;
    let length = field.name.len() + 2 + field.value.len() + 2;
    let line = head.get(start..start.checked_add(length)?)?;
    let (colon, value) = line[field.name.len()..].split_at(2);
    let same = std::ptr::eq(value.as_ptr(), field.value.as_ptr()) && colon == b": ";
    (same && line.ends_with(b"\r\n")).then_some(line)
}

fn put(head: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        head.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use httparse::{EMPTY_HEADER, Status};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_and_answers_are_written() {
        let mut request = HeadWriter::request("GET", "/x?y", 1);
        request.field("Host", "a");
        assert_eq!(&request.end()[..], b"GET /x?y HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut answer = HeadWriter::answer(404);
        answer.field("content-length", "2");
        assert_eq!(&answer.end_with(b"no")[..], b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno");
        assert_eq!(&HeadWriter::answer(799).end()[..], b"HTTP/1.1 799 \r\n\r\n");
        assert_eq!(&HeadWriter::answer_with(200, "Fine").end()[..], b"HTTP/1.1 200 Fine\r\n\r\n");
    }

    #[test]
    fn a_field_is_copied_as_it_was_sent_where_it_was_sent_as_it_is_written() {
        let head = b"GET / HTTP/1.1\r\nA: one\r\nB:two\r\nC:  three\r\nD: four \r\nE:\r\nF: six\n\r\n";
        let mut room = [EMPTY_HEADER; 8];
        let mut request = httparse::Request::new(&mut room);
        request.parse(head).unwrap();
        let lines: Vec<_> = request.headers.iter().map(|field| as_sent(head, field)).collect();
        assert_eq!(lines, [Some(b"A: one\r\n".as_slice()), None, None, None, None, None]);
        assert_eq!(as_sent(b"another", &request.headers[0]), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            method in "[A-Z]{1,8}", target in "/[!-~]{0,40}", minor in 0u8..2,
            fields in prop::collection::vec(("[A-Za-z][A-Za-z0-9-]{0,12}", "[!-~]([ -~]{0,30}[!-~])?"), 0..20),
        ) {
            let mut head = HeadWriter::request(&method, &target, minor);
            fields.iter().for_each(|(name, value)| head.field(name, value));
            let head = head.end();
            let mut room = [EMPTY_HEADER; 20];
            let mut request = httparse::Request::new(&mut room);
            prop_assert_eq!(request.parse(&head), Ok(Status::Complete(head.len())));
            let first = (request.method, request.path, request.version);
            prop_assert_eq!(first, (Some(&*method), Some(&*target), Some(minor)));
            let read = request.headers.iter().map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned()));
            prop_assert_eq!(read.collect::<Vec<_>>(), fields);
        }
    }
}

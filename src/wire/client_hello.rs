//! The first message of a TLS client (RFC 8446 4.1.2), as far as it says whom the client asks for; no I/O.
//!
//! Whoever carries a connection on by that name has to be sure that the server behind reads the same one. So this reader
//! is strict: what a second reader could understand in another way names nobody, and is left to whoever speaks TLS here,
//! who says what is wrong with it.

/// Bytes after which a message that is not whole names nobody: far more than any client has to say.
pub const LONGEST: usize = 16 * 1024;

/// What the first bytes of a connection say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// More bytes are needed; ask again with all bytes so far.
    Incomplete,
    /// A whole message that asks for this name, in lower case.
    For(Box<str>),
    /// A whole message without a name, or something that is none.
    ForNobody,
}

/// Reads what `bytes` say, which are all that the client has sent so far. A verdict other than [`Hello::Incomplete`] never
/// changes when more bytes arrive, and after [`LONGEST`] bytes there always is one.
pub fn read(bytes: &[u8]) -> Hello {
    let bytes = &bytes[..bytes.len().min(LONGEST)];
    match message(bytes) {
        Ok(Some(message)) => match server_name(&message) {
            Some(name) => Hello::For(name),
            None => Hello::ForNobody,
        },
        Ok(None) if bytes.len() < LONGEST => Hello::Incomplete,
        Ok(None) | Err(NoHello) => Hello::ForNobody,
    }
}

/// The content type of records of the handshake (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The most that a record carries.
const RECORD: usize = 1 << 14;
/// The extension that names the server (RFC 6066 3), and the only kind of names in it.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// The longest name of a host.
const LONGEST_NAME: usize = 253;

struct NoHello;

/// Puts the message together from its records, which may cut it anywhere; `None` where its end has not come.
fn message(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, NoHello> {
    let mut message = Vec::new();
    loop {
        let length = match *bytes {
            [HANDSHAKE, 3, _, high, low, ..] => usize::from(u16::from_be_bytes([high, low])),
            [] | [HANDSHAKE] | [HANDSHAKE, 3, ..] => return Ok(None),
            _ => return Err(NoHello),
        };
        if length == 0 || length > RECORD {
            return Err(NoHello);
        }
        let rest = &bytes[5..];
        let part = &rest[..rest.len().min(length)];
        message.extend_from_slice(part);
        if message.first().is_some_and(|&kind| kind != CLIENT_HELLO) {
            return Err(NoHello);
        }
        if let [_, high, middle, low, ..] = message[..] {
            let whole = 4 + usize::from(high) * 65536 + usize::from(middle) * 256 + usize::from(low);
            if whole > LONGEST || message.len() > whole {
                return Err(NoHello);
            }
            if message.len() == whole {
                // Its last record carries nothing else: the server has to speak first.
                return if part.len() == length { Ok(Some(message)) } else { Err(NoHello) };
            }
        }
        if part.len() < length {
            return Ok(None);
        }
        bytes = &rest[length..];
    }
}

/// The one name that a whole message asks for.
fn server_name(message: &[u8]) -> Option<Box<str>> {
    let mut hello = Reader(message.get(4..)?);
    // Version and random bytes.
    hello.take(2 + 32)?;
    hello.short_list()?;
    hello.list()?;
    hello.short_list()?;
    let mut extensions = Reader(hello.list()?);
    if !hello.0.is_empty() {
        return None;
    }
    let mut found = None;
    let mut twice = false;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let extension = extensions.list()?;
        if kind == SERVER_NAME {
            twice |= found.is_some();
            found = Some(extension);
        }
    }
    let mut extension = Reader(found.filter(|_| !twice)?);
    let mut names = Reader(extension.list()?);
    let (kind, name) = (names.take(1)?[0], names.list()?);
    if kind != HOST_NAME || !names.0.is_empty() || !extension.0.is_empty() || name.len() > LONGEST_NAME {
        return None;
    }
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    if name.is_empty() || !name.iter().all(is_plain) {
        return None;
    }
    std::str::from_utf8(name).ok().map(|name| name.to_ascii_lowercase().into())
}

/// Takes values from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// What a length of two bytes stands before.
    fn list(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(length.into())
    }

    /// What a length of one byte stands before.
    fn short_list(&mut self) -> Option<&'a [u8]> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn with_length(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
    }

    fn extension(kind: u16, bytes: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &with_length(bytes)].concat()
    }

    fn names(list: &[(u8, &[u8])]) -> Vec<u8> {
        let entries: Vec<u8> =
            list.iter().flat_map(|(kind, name)| [&[*kind][..], &with_length(name)].concat()).collect();
        extension(SERVER_NAME, &with_length(&entries))
    }

    /// A message with these extensions.
    fn message_with(extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = [&[3, 3][..], &[7; 32], &[2, 9, 9], &with_length(&[0x13, 1]), &[1, 0]].concat();
        body.extend(with_length(&extensions.concat()));
        [&[CLIENT_HELLO, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat()
    }

    /// The message in records of this size.
    fn in_records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[HANDSHAKE, 3, 1][..], &with_length(part)].concat()).collect()
    }

    fn hello(extensions: &[Vec<u8>]) -> Vec<u8> {
        in_records(&message_with(extensions), RECORD)
    }

    #[test]
    fn the_name_is_found_in_one_record_or_many_and_not_before_all_has_come() {
        let message = message_with(&[extension(43, &[2, 3, 4]), names(&[(0, b"A.Example")]), extension(21, &[0; 600])]);
        let expected = Hello::For("a.example".into());
        for size in [RECORD, 100, 7, 1] {
            let bytes = in_records(&message, size);
            assert_eq!(read(&bytes), expected);
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), Hello::Incomplete, "{end} of {}", bytes.len());
            }
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_names_nobody() {
        let one = || names(&[(0, b"a.example")]);
        let whole = hello(&[one()]);
        let mut cases = vec![
            hello(&[]),
            hello(&[one(), one()]),
            hello(&[names(&[(0, b"a.example"), (0, b"b.example")])]),
            hello(&[names(&[(1, b"a.example")])]),
            hello(&[names(&[(0, b"")])]),
            hello(&[names(&[(0, b"a.example\0.b")])]),
            hello(&[names(&[(0, "ä.example".as_bytes())])]),
            hello(&[names(&[(0, &[b'a'; 254])])]),
            hello(&[extension(SERVER_NAME, b"")]),
            in_records(&[&message_with(&[one()])[..], b"more"].concat(), RECORD),
            b"\x16\x03\x01\x00\x00".to_vec(),
            b"\x16\x03\x01\x40\x01\x01".to_vec(),
            b"\x15\x03\x01\x00\x02\x01\x00".to_vec(),
            b"\x16\x02\x01\x00\x10\x01".to_vec(),
            b"\x16\x03\x01\x00\x10\x02".to_vec(),
            b"GET / HTTP/1.1\r\n".to_vec(),
            b"\x16\x03\x01\x00\x04\x01\xff\xff\xff".to_vec(),
        ];
        // A byte behind the list of extensions, which the length of the message counts.
        let mut longer = message_with(&[one()]);
        longer.push(0);
        let length = (longer.len() - 4) as u16;
        longer[2..4].copy_from_slice(&length.to_be_bytes());
        cases.push(in_records(&longer, RECORD));
        for bytes in cases {
            assert_eq!(read(&bytes), Hello::ForNobody, "{bytes:02x?}");
        }
        // What follows in records of its own may be early data, and changes nothing.
        assert_eq!(read(&[&whole[..], b"\x14\x03\x03"].concat()), Hello::For("a.example".into()));
    }

    #[test]
    fn a_message_without_end_is_waited_for_up_to_a_bound() {
        let endless: Vec<u8> = [&[CLIENT_HELLO, 0, 0x3f, 0x00][..], &[0; LONGEST]].concat();
        let bytes = in_records(&endless, 1);
        assert_eq!(read(&bytes[..LONGEST - 1]), Hello::Incomplete);
        assert_eq!(read(&bytes[..LONGEST]), Hello::ForNobody);
        assert_eq!(read(&bytes), Hello::ForNobody);
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0usize..200, to: u8) {
            let _ = read(&bytes);
            let mut bytes = hello(&[names(&[(0, b"a.example")]), extension(21, &bytes)]);
            let at = at % bytes.len();
            bytes[at] = to;
            let whole = read(&bytes);
            for end in 0..bytes.len() {
                let early = read(&bytes[..end]);
                prop_assert!(early == Hello::Incomplete || early == whole);
            }
        }
    }
}

//! The messages of gRPC's health checking protocol (`grpc.health.v1`), which are two fields.

use bytes::{BufMut, Bytes, BytesMut};

/// The first field, with a length before its bytes.
const SERVICE: u8 = 1 << 3 | 2;
/// The first field, a number.
const STATUS: u8 = 1 << 3;
/// What a server that serves says.
const SERVING: u64 = 1;

/// Asks whether a service serves; without a name, whether the server does.
pub(super) fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(SERVICE);
        put_number(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(&message);
    framed.freeze()
}

/// Whether the answer says so; `None` where it is no such answer.
pub(super) fn is_serving(body: &[u8]) -> Option<bool> {
    let (&[compressed, a, b, c, d], mut message) = body.split_first_chunk()?;
    if compressed != 0 || u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while let Some((&tag, rest)) = message.split_first() {
        let number;
        (number, message) = take_number(rest)?;
        match tag {
            STATUS => status = number,
            // What later versions add.
            _ if tag & 7 == 0 => {}
            _ if tag & 7 == 2 => message = message.get(usize::try_from(number).ok()?..)?,
            _ => return None,
        }
    }
    Some(status == SERVING)
}

fn put_number(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "seven bits are left")]
    out.put_u8(number as u8);
}

fn take_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, &byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f).checked_shl(u32::try_from(at).ok()? * 7)?;
        if byte < 0x80 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_question_names_its_service() {
        assert_eq!(&question("")[..], [0; 5]);
        assert_eq!(&question("a.B")[..], b"\0\0\0\0\x05\x0a\x03a.B");
        let long = "x".repeat(300);
        assert_eq!(&question(&long)[..8], [0, 0, 0, 1, 47, 10, 0xac, 2]);
    }

    #[test]
    fn an_answer_says_whether_it_serves() {
        for (body, serves) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], Some(true)),
            (b"\0\0\0\0\x02\x08\x02", Some(false)),
            (b"\0\0\0\0\0", Some(false)),
            (b"\0\0\0\0\x06\x12\x02ab\x08\x01", Some(true)),
            (b"\x01\0\0\0\x02\x08\x01", None),
            (b"\0\0\0\0\x03\x08\x01", None),
            (b"\0\0\0\0\x02\x08\x81", None),
            (b"\0\0\0\0\x03\x12\x09a", None),
            (b"", None),
        ] {
            assert_eq!(is_serving(body), serves, "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_to_an_end(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let length = u32::try_from(body.len()).unwrap().to_be_bytes();
            is_serving(&[&[0][..], &length, &body].concat());
        }

        #[test]
        fn numbers_are_read_as_they_are_written(number in any::<u64>()) {
            let mut out = BytesMut::new();
            put_number(&mut out, number);
            prop_assert_eq!(take_number(&out), Some((number, &[][..])));
        }
    }
}

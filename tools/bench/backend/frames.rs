//! WebSocket frames as a server reads and writes them (RFC 6455 5.2).

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LARGEST: u64 = 64 * 1024 * 1024;
pub(super) const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A client's frame at the beginning of what has been read: its payload, unmasked in place.
pub(super) struct Frame {
    pub first: u8,
    pub start: usize,
    pub end: usize,
}

impl Frame {
    pub(crate) fn opcode(&self) -> u8 {
        self.first & 0x0f
    }
}

/// The first frame, once it is whole. Call it once for each: what it returns has been unmasked.
pub(super) fn take(bytes: &mut [u8]) -> io::Result<Option<Frame>> {
    let &mut [first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let (extended, length) = match (second & 0x7f, rest) {
        (126, [a, b, ..]) => (2, u64::from(u16::from_be_bytes([*a, *b]))),
        (127, [a, b, c, d, e, f, g, h, ..]) => (8, u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h])),
        (126 | 127, _) => return Ok(None),
        (length, _) => (0, u64::from(length)),
    };
    if length > LARGEST || second & 0x80 == 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let start = 2 + extended + 4;
    let end = start + usize::try_from(length).unwrap_or(usize::MAX);
    if bytes.len() < end {
        return Ok(None);
    }
    let mask: [u8; 4] = bytes[start - 4..start].try_into().unwrap_or_default();
    if mask != [0; 4] {
        for (byte, mask) in bytes[start..end].iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
    }
    Ok(Some(Frame { first, start, end }))
}

/// Appends a frame.
pub(super) fn put(written: &mut Vec<u8>, first: u8, payload: &[u8]) {
    written.push(first);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ 0..=125), _) => written.push(length),
        (_, Ok(length)) => {
            written.push(126);
            written.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            written.push(127);
            written.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    written.extend_from_slice(payload);
}

/// Sends every frame back until the client closes.
pub(super) async fn echo(mut stream: TcpStream, mut buffer: Vec<u8>) -> io::Result<()> {
    let mut written = Vec::new();
    loop {
        let mut used = 0;
        let mut closes = false;
        while let Some(frame) = take(&mut buffer[used..])? {
            let first = if frame.opcode() == PING { frame.first & 0xf0 | PONG } else { frame.first };
            closes |= frame.opcode() == CLOSE;
            put(&mut written, first, &buffer[used + frame.start..used + frame.end]);
            used += frame.end;
        }
        buffer.drain(..used);
        if !written.is_empty() {
            stream.write_all(&written).await?;
            written.clear();
        }
        if closes || stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_masked_is_taken_whole() {
        for size in [0, 5, 125, 126, 70_000] {
            let payload = vec![b'p'; size];
            let mut frame = Vec::new();
            put(&mut frame, TEXT, &payload);
            frame[1] |= 0x80;
            let head = frame.len() - size;
            frame.splice(head..head, [1, 2, 3, 4]);
            for (byte, mask) in frame[head + 4..].iter_mut().zip([1, 2, 3, 4].iter().cycle()) {
                *byte ^= mask;
            }
            let cut = frame.len() - 1;
            assert!(take(&mut frame.clone()[..cut]).unwrap().is_none(), "{size}");
            let found = take(&mut frame).unwrap().unwrap();
            assert_eq!(found.first, TEXT);
            assert_eq!(&frame[found.start..found.end], payload, "{size}");
        }
    }
}

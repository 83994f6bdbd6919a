//! As much of WebSocket as it takes to send a word and to read one (RFC 6455).

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use super::connection::{Answer, Stream};

/// An open WebSocket.
pub(super) struct Socket {
    stream: Stream,
    have: Vec<u8>,
    opened: Instant,
}

/// What came of waiting for a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    Text(String),
    /// It was closed: with a code, or without a word.
    Closed(Option<u16>),
    Nothing,
}

impl Socket {
    /// Behind a 101.
    pub(super) fn new(answer: Answer) -> Self {
        Self { stream: answer.stream, have: answer.rest, opened: Instant::now() }
    }

    /// How long it has been open.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    pub(super) fn say(&mut self, text: &str) -> bool {
        self.stream.write_all(&frame(text)).and_then(|()| self.stream.flush()).is_ok()
    }

    /// The next message; control frames are passed over.
    pub(super) fn hear(&mut self, patience: Duration) -> Heard {
        let began = Instant::now();
        loop {
            if let Some((opcode, payload, length)) = read_frame(&self.have) {
                self.have.drain(..length);
                match opcode {
                    1 | 2 => return Heard::Text(String::from_utf8_lossy(&payload).into_owned()),
                    8 => return Heard::Closed(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
                    _ => continue,
                }
            }
            let left = patience.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Heard::Nothing;
            }
            self.stream.wait(left);
            let mut buffer = [0; 8192];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Heard::Closed(None),
                Ok(read) => self.have.extend_from_slice(&buffer[..read]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                }
                Err(_) => return Heard::Closed(None),
            }
        }
    }
}

/// A short text as a client sends it.
pub(super) fn frame(text: &str) -> Vec<u8> {
    let mask: [u8; 4] = rand::random();
    let length = u8::try_from(text.len().min(125)).unwrap_or(125);
    let mut frame = vec![0x81, 0x80 | length];
    frame.extend_from_slice(&mask);
    frame.extend(text.bytes().take(125).zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The first frame that a server has sent: its opcode, its payload and its whole length.
fn read_frame(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, start) = match second & 0x7f {
        126 => (usize::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (usize::try_from(u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?)).ok()?, 10),
        short => (usize::from(short), 2),
    };
    let end = length.checked_add(start)?;
    Some((first & 0x0f, bytes.get(start..end)?.to_vec(), end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_masked_and_read_when_they_are_whole() {
        let sent = frame("2probe");
        assert_eq!((sent[0], sent[1], sent.len()), (0x81, 0x86, 12));
        let plain: Vec<u8> = sent[6..].iter().zip(sent[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(plain, b"2probe");
        assert_eq!(read_frame(b"\x81\x02hi!"), Some((1, b"hi".to_vec(), 4)));
        assert_eq!(read_frame(b"\x81\x02h"), None);
        assert_eq!(read_frame(b"\x81\x7e\0\x02hi"), Some((1, b"hi".to_vec(), 6)));
        assert_eq!(read_frame(b"\x88\xff\xff\xff\xff\xff\xff\xff\xff\xff"), None);
    }
}

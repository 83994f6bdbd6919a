//! What a fresh connection speaks, by its first bytes, within the inspect delay.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout_at};

use crate::wire::sniff::{Verdict, sniff};

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2 by prior knowledge (RFC 9113 3.3).
    Http2,
    /// A Flash policy request.
    FlashPolicy,
    /// Nothing of these.
    Other,
    /// The delay ran out before the client had said enough.
    Silent,
    /// The client left before it had said enough.
    Gone,
}

impl Detected {
    /// One word for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::FlashPolicy => "flash_policy",
            Self::Other => "other",
            Self::Silent => "silent",
            Self::Gone => "gone",
        }
    }
}

/// Reads until the first bytes tell, and leaves every byte in `held`. Without a deadline, silence is waited out.
pub async fn detect<S: AsyncRead + Unpin>(stream: &mut S, held: &mut BytesMut, deadline: Option<Instant>) -> Detected {
    loop {
        match sniff(held) {
            Verdict::Http1 => return Detected::Http1,
            Verdict::Http2 => return Detected::Http2,
            Verdict::FlashPolicy => return Detected::FlashPolicy,
            Verdict::Tls | Verdict::Other => return Detected::Other,
            Verdict::Incomplete => {}
        }
        held.reserve(1024);
        let reading = stream.read_buf(held);
        let read = match deadline {
            Some(deadline) => timeout_at(deadline, reading).await,
            None => Ok(reading.await),
        };
        match read {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Detected::Gone,
            Err(_) => return Detected::Silent,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::wire::flash;

    async fn detected(parts: &[&[u8]], close: bool) -> (Detected, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        let mut held = BytesMut::new();
        let writing = async {
            for part in parts {
                theirs.write_all(part).await.unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if close { None } else { Some(theirs) }
        };
        let deadline = Some(Instant::now() + Duration::from_millis(500));
        let (detected, _client) = tokio::join!(detect(&mut ours, &mut held, deadline), writing);
        (detected, held.to_vec())
    }

    #[tokio::test(start_paused = true)]
    async fn protocols_are_told_whole_and_byte_by_byte() {
        let cases: [(&[u8], Detected); 4] = [
            (b"GET / HTTP/1.1\r\n\r\n", Detected::Http1),
            (flash::REQUEST, Detected::FlashPolicy),
            (b"\x00binary", Detected::Other),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detected::Http2),
        ];
        for (bytes, expected) in cases {
            assert_eq!(detected(&[bytes], false).await.0, expected);
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(detected(&single, false).await.0, expected, "byte by byte");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_with_the_delay_and_loses_no_byte() {
        assert_eq!(detected(&[], false).await, (Detected::Silent, vec![]));
        assert_eq!(detected(&[b"<policy"], false).await, (Detected::Silent, b"<policy".to_vec()));
        assert_eq!(detected(&[b"GE"], true).await, (Detected::Gone, b"GE".to_vec()));
    }
}

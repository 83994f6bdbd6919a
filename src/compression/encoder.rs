//! A body as it is compressed, part by part.

use std::fmt;
use std::io::{self, Write};

use brotli::CompressorWriter;
use brotli::enc::BrotliEncoderParams;
use flate2::Compression as GzipLevel;
use flate2::write::GzEncoder;
use zstd::zstd_safe::CParameter;

use super::config::{Coding, Levels};
use super::room::Place;

/// How far back it looks, as a power of two: 128 KiB. More would take more memory for each answer than text is worth.
const WINDOW: u32 = 17;

/// What one encoder takes at most, in bytes: measured with each coding at its highest level (brotli 3.1 MiB, zstd 1.4, gzip
/// 0.5), and rounded up.
pub(crate) const MEMORY: u64 = 4 * 1024 * 1024;

/// Compresses one body.
pub(crate) struct Encoder {
    coding: Coding,
    stream: Stream,
    /// Bytes that went in since all was last let out.
    held: usize,
    /// Bytes that went in, and came out.
    read: u64,
    written: u64,
    /// Its place among those that compress at once.
    _place: Place,
}

enum Stream {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
    /// It has been ended.
    Over,
}

impl Encoder {
    /// At the beginning of a body. `None` where the memory for it can't be had.
    pub(super) fn new(coding: Coding, levels: Levels, place: Place) -> Option<Self> {
        let stream = match coding {
            Coding::Gzip => Stream::Gzip(GzEncoder::new(Vec::new(), GzipLevel::new(levels.gzip.into()))),
            Coding::Br => {
                let quality = levels.br.into();
                let params =
                    BrotliEncoderParams { quality, lgwin: WINDOW.cast_signed(), ..BrotliEncoderParams::default() };
                Stream::Brotli(Box::new(CompressorWriter::with_params(Vec::new(), BUFFER, &params)))
            }
            Coding::Zstd => {
                let mut stream = zstd::stream::write::Encoder::new(Vec::new(), levels.zstd.into()).ok()?;
                // Else a high level takes tens of MiB for its tables.
                for bound in [CParameter::WindowLog(WINDOW), CParameter::HashLog(WINDOW), CParameter::ChainLog(WINDOW)]
                {
                    stream.set_parameter(bound).ok()?;
                }
                Stream::Zstd(stream)
            }
        };
        Some(Self { coding, stream, held: 0, read: 0, written: 0, _place: place })
    }

    /// Takes the next bytes, all that are left where this is the end; gives what of the compressed body can go.
    pub(crate) fn take(&mut self, bytes: &[u8], is_end: bool) -> io::Result<Vec<u8>> {
        self.read += bytes.len() as u64;
        self.held += bytes.len();
        match &mut self.stream {
            Stream::Gzip(stream) => stream.write_all(bytes)?,
            Stream::Brotli(stream) => stream.write_all(bytes)?,
            Stream::Zstd(stream) => stream.write_all(bytes)?,
            Stream::Over => {}
        }
        if is_end { self.end() } else { Ok(self.let_go()) }
    }

    /// Lets out all that has gone in, since nothing follows for a while.
    pub(crate) fn flush(&mut self) -> io::Result<Vec<u8>> {
        if std::mem::take(&mut self.held) == 0 {
            return Ok(Vec::new());
        }
        match &mut self.stream {
            Stream::Gzip(stream) => stream.flush()?,
            Stream::Brotli(stream) => stream.flush()?,
            Stream::Zstd(stream) => stream.flush()?,
            Stream::Over => {}
        }
        Ok(self.let_go())
    }

    /// How it compresses.
    pub(crate) fn coding(&self) -> Coding {
        self.coding
    }

    /// Bytes that have gone in, and that have come out.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.read, self.written)
    }

    fn end(&mut self) -> io::Result<Vec<u8>> {
        let out = match std::mem::replace(&mut self.stream, Stream::Over) {
            Stream::Gzip(stream) => stream.finish()?,
            Stream::Brotli(stream) => stream.into_inner(),
            Stream::Zstd(stream) => stream.finish()?,
            Stream::Over => Vec::new(),
        };
        self.written += out.len() as u64;
        Ok(out)
    }

    fn let_go(&mut self) -> Vec<u8> {
        let out = match &mut self.stream {
            Stream::Gzip(stream) => std::mem::take(stream.get_mut()),
            Stream::Brotli(stream) => std::mem::take(stream.get_mut()),
            Stream::Zstd(stream) => std::mem::take(stream.get_mut()),
            Stream::Over => Vec::new(),
        };
        self.written += out.len() as u64;
        out
    }
}

/// What brotli gathers of its output before it writes it.
const BUFFER: usize = 16 * 1024;

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { held, read, written, .. } = self;
        f.debug_struct("Encoder").field("held", held).field("read", read).field("written", written).finish()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::room::Room;
    use super::*;

    /// What a client makes of a body.
    pub(crate) fn decoded(coding: Coding, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        match coding {
            Coding::Gzip => flate2::read::GzDecoder::new(bytes).read_to_end(&mut out)?,
            Coding::Br => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out)?,
            Coding::Zstd => zstd::stream::read::Decoder::new(bytes)?.read_to_end(&mut out)?,
        };
        Ok(out)
    }

    fn encoder(coding: Coding, levels: Levels) -> Encoder {
        let room = Arc::<Room>::default();
        room.set(1);
        Encoder::new(coding, levels, room.enter().unwrap()).unwrap()
    }

    const ALL: [Coding; 3] = [Coding::Gzip, Coding::Br, Coding::Zstd];

    proptest! {
        // Each makes three encoders, which are large.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_body_comes_out_as_it_went_in_however_it_is_cut(
            parts in prop::collection::vec((prop::collection::vec(0u8..4, 0..3000), any::<bool>()), 0..12),
            level in 0u8..=6,
        ) {
            for coding in ALL {
                let levels = Levels { gzip: level.max(1), br: level, zstd: level.max(1) };
                let (mut encoder, mut sent, mut whole) = (encoder(coding, levels), Vec::new(), Vec::new());
                for (part, flush) in &parts {
                    whole.extend_from_slice(part);
                    sent.extend(encoder.take(part, false).unwrap());
                    if *flush {
                        sent.extend(encoder.flush().unwrap());
                    }
                }
                sent.extend(encoder.take(b"", true).unwrap());
                prop_assert_eq!(encoder.counts(), (whole.len() as u64, sent.len() as u64));
                prop_assert_eq!(decoded(coding, &sent).unwrap(), whole);
            }
        }
    }

    #[test]
    fn what_was_let_out_can_be_read_before_the_rest_has_come() {
        for coding in ALL {
            let mut encoder = encoder(coding, Levels::default());
            let mut sent = encoder.take(b"the first of many lines\n", false).unwrap();
            sent.extend(encoder.flush().unwrap());
            assert_eq!(encoder.flush().unwrap(), b"", "{coding}: there is no more");
            let mut begun = [0; 24];
            match coding {
                Coding::Gzip => flate2::read::GzDecoder::new(&sent[..]).read_exact(&mut begun).unwrap(),
                Coding::Br => brotli::Decompressor::new(&sent[..], 4096).read_exact(&mut begun).unwrap(),
                Coding::Zstd => zstd::stream::read::Decoder::new(&sent[..]).unwrap().read_exact(&mut begun).unwrap(),
            }
            assert_eq!(&begun, b"the first of many lines\n", "{coding}");
        }
    }

    #[test]
    fn text_gets_much_shorter() {
        let text = include_str!("encoder.rs").repeat(4);
        for coding in ALL {
            let sent = encoder(coding, Levels::default()).take(text.as_bytes(), true).unwrap();
            assert!(sent.len() * 6 < text.len(), "{coding}: {} of {}", sent.len(), text.len());
        }
    }
}

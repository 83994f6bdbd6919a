//! The buffers of a thread, which its connections borrow for as long as one of them reads or writes.

use std::cell::RefCell;
use std::io::IoSlice;

use rustls::unbuffered::{EncryptError, WriteTraffic};

/// The most plain text of a record (RFC 8446 5.1).
pub(super) const RECORD: usize = 16 * 1024;
/// What a record takes beside its plain text: header, nonce, tag and the padding allowed for (RFC 5246 6.2.3).
pub(super) const RECORD_OVERHEAD: usize = 5 + 2048;
/// The most that is read from a socket at once.
pub(super) const READ: usize = 64 * 1024;
/// The most that may wait for the rest of a record or of a handshake message; the same limit as in rustls' own buffer.
pub(super) const HELD: usize = 64 * 1024;
/// The most that is encrypted at once, in bytes of plain text.
pub(super) const WRITE: usize = 4 * RECORD;
/// What is sealed at once: whole records, the end of a collected one, and a key update before them.
const SEALED: usize = WRITE + 6 * 64 + 1024;

thread_local! {
    pub(super) static INCOMING: RefCell<Box<[u8]>> = RefCell::new(vec![0; HELD + READ].into_boxed_slice());
    pub(super) static OUTGOING: RefCell<Outgoing> = RefCell::new(Outgoing::new());
}

/// Where plain text becomes records.
pub(super) struct Outgoing {
    /// Where small pieces become one record.
    gathered: Box<[u8]>,
    pub(super) sealed: Box<[u8]>,
}

/// What [`Outgoing::seal`] did.
#[derive(Default)]
pub(super) struct Sealed {
    /// Bytes of plain text that were taken.
    pub(super) accepted: usize,
    /// Bytes of records that came of them.
    pub(super) sealed: usize,
}

impl Outgoing {
    fn new() -> Self {
        Self { gathered: vec![0; RECORD].into_boxed_slice(), sealed: vec![0; SEALED].into_boxed_slice() }
    }

    /// Encrypts up to [`WRITE`] bytes of all slices together, into as few records as they fit.
    pub(super) fn seal<D>(
        &mut self,
        traffic: &mut WriteTraffic<'_, D>,
        slices: &[IoSlice<'_>],
    ) -> Result<Sealed, EncryptError> {
        let mut done = Sealed::default();
        let mut gathered = 0;
        let mut room = WRITE;
        for (index, slice) in slices.iter().enumerate() {
            let last = index + 1 == slices.len();
            let mut bytes = &slice[..slice.len().min(room)];
            room -= bytes.len();
            done.accepted += bytes.len();
            while !bytes.is_empty() {
                let straight = match gathered {
                    0 if last => bytes.len(),
                    0 => bytes.len() - bytes.len() % RECORD,
                    _ => 0,
                };
                if straight > 0 {
                    done.sealed += traffic.encrypt(&bytes[..straight], &mut self.sealed[done.sealed..])?;
                    bytes = &bytes[straight..];
                    continue;
                }
                let step = bytes.len().min(RECORD - gathered);
                self.gathered[gathered..gathered + step].copy_from_slice(&bytes[..step]);
                gathered += step;
                bytes = &bytes[step..];
                if gathered == RECORD {
                    done.sealed += traffic.encrypt(&self.gathered, &mut self.sealed[done.sealed..])?;
                    gathered = 0;
                }
            }
        }
        if gathered > 0 {
            done.sealed += traffic.encrypt(&self.gathered[..gathered], &mut self.sealed[done.sealed..])?;
        }
        Ok(done)
    }
}

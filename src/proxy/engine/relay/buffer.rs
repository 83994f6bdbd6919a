//! The buffer of a thread, which its connections borrow for as long as one of them reads or writes: none keeps one.

use std::cell::RefCell;

use crate::http::response;

/// Room in front of what is read: for the head of an answer, which goes out in one piece with the first of its body.
pub(super) const AHEAD: usize = 16 * 1024;
/// The most that is read at once: as much as servers write at once, and a head before it.
pub(super) const READ: usize = (64 + 8) * 1024;
/// Room behind what is read, for the end of a chunk.
const BEHIND: usize = 64;

/// Where bytes are while somebody looks at them.
pub(super) struct Buffer {
    pub(super) bytes: Box<[u8]>,
    /// The head of an answer on its way to the client.
    pub(super) head: Vec<u8>,
}

thread_local! {
    static BUFFER: RefCell<Buffer> = RefCell::new(Buffer {
        // The beginning of a head that came in pieces is put before the rest of it.
        bytes: vec![0; AHEAD + response::MOST_HEAD + READ + BEHIND].into_boxed_slice(),
        head: Vec::new(),
    });
}

/// Lends the buffer of this thread.
pub(super) fn lend<R>(to: impl FnOnce(&mut Buffer) -> R) -> R {
    BUFFER.with_borrow_mut(to)
}

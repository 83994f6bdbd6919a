//! Bytes that have to wait, in memory that goes when they go.

/// A queue of bytes that holds no memory while it is empty.
#[derive(Default)]
pub(super) struct Rest {
    bytes: Vec<u8>,
    /// How many at the beginning are gone already.
    taken: usize,
}

impl Rest {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == self.taken
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.taken..]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// For those who write behind what is there.
    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Puts other bytes in the place of all that was there.
    pub(super) fn replace(&mut self, bytes: &[u8]) {
        self.taken = 0;
        if bytes.is_empty() {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Drops bytes from the beginning.
    pub(super) fn take(&mut self, count: usize) {
        self.taken += count;
        if self.is_empty() {
            *self = Self::default();
        }
    }
}

//! The end of a body, kept while the body passes in pieces that are cut anywhere.

/// The last bytes of what has passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tail {
    kept: [u8; MOST],
    len: usize,
    more: bool,
}

/// What is kept: more than any word by which a session is ended.
const MOST: usize = 64;

impl Default for Tail {
    fn default() -> Self {
        Self { kept: [0; MOST], len: 0, more: false }
    }
}

impl Tail {
    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: &[u8]) {
        let overflow = (self.len + piece.len()).saturating_sub(MOST);
        self.more |= overflow > 0;
        let dropped = overflow.min(self.len);
        self.kept.copy_within(dropped..self.len, 0);
        self.len -= dropped;
        let last = &piece[piece.len() - piece.len().min(MOST)..];
        self.kept[self.len..self.len + last.len()].copy_from_slice(last);
        self.len += last.len();
    }

    /// What has been kept.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.kept[..self.len]
    }

    /// Whether nothing came before that.
    pub(super) fn is_whole(&self) -> bool {
        !self.more
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_end_is_the_same_however_it_is_cut(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..6)) {
            let mut tail = Tail::default();
            pieces.iter().for_each(|piece| tail.push(piece));
            let all = pieces.concat();
            prop_assert_eq!(tail.bytes(), &all[all.len() - all.len().min(MOST)..]);
            prop_assert_eq!(tail.is_whole(), all.len() <= MOST);
        }
    }
}

//! A timing wheel: finds what is due at a tick without a look at anything else.
//!
//! A level has 64 slots. A slot of the lowest stands for one tick, one of the next for 64 ticks, and so on. What is due is
//! filed in the lowest level that can tell its tick from the present one, and moves down as its time comes nearer: at
//! most once for each level, however long it waits.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Cell, NEVER};

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// Enough for every tick that 32 bits can tell.
const LEVELS: usize = 6;
/// No entry.
const NONE: u32 = u32::MAX;
/// What the first entry of a slot has before it: the slot, with this bit.
const SLOT: u32 = 1 << 31;

/// Cells, and those of them that are filed by their ticks.
#[derive(Debug)]
pub(super) struct Wheel {
    entries: Vec<Entry>,
    /// The first entry of each slot.
    slots: [u32; SLOTS * LEVELS],
    now: u32,
    filed: usize,
    #[cfg(test)]
    pub(super) looks: usize,
}

/// A cell, between its neighbours in the list of its slot. Positions are small, so that an idle connection stays so.
#[derive(Debug)]
struct Entry {
    cell: Arc<Cell>,
    before: u32,
    after: u32,
}

impl Wheel {
    pub(super) fn new(now: u32) -> Self {
        Self {
            entries: Vec::new(),
            slots: [NONE; SLOTS * LEVELS],
            now,
            filed: 0,
            #[cfg(test)]
            looks: 0,
        }
    }

    /// Adds a cell, not filed.
    pub(super) fn add(&mut self, cell: Arc<Cell>) {
        cell.place.store(self.entries.len() as u32, Relaxed);
        self.entries.push(Entry { cell, before: NONE, after: NONE });
    }

    /// Removes a cell; the last one takes its place.
    pub(super) fn remove(&mut self, cell: &Cell) {
        let at = cell.place.load(Relaxed);
        self.take_out(at);
        self.entries.swap_remove(at as usize);
        if let Some(moved) = self.entries.get(at as usize) {
            moved.cell.place.store(at, Relaxed);
            let (before, after) = (moved.before, moved.after);
            self.set_after(before, at);
            self.set_before(after, at);
        }
        let length = self.entries.len();
        if length * 4 < self.entries.capacity() {
            self.entries.shrink_to(length * 2);
        }
    }

    /// Files a cell, so that it comes up at this tick, or at the next one if that has passed.
    pub(super) fn file(&mut self, cell: &Cell, tick: u32) {
        let at = cell.place.load(Relaxed);
        self.take_out(at);
        self.put_in(at, tick.max(self.now + 1));
    }

    /// All cells.
    pub(super) fn cells(&self) -> impl Iterator<Item = &Arc<Cell>> {
        self.entries.iter().map(|entry| &entry.cell)
    }

    /// Goes on to this tick; what was filed up to it comes up, and is filed no more.
    pub(super) fn advance(&mut self, to: u32, up: &mut Vec<Arc<Cell>>) {
        while self.now < to {
            if self.filed == 0 {
                self.now = to;
                return;
            }
            self.now += 1;
            for level in (1..LEVELS).rev() {
                // Where the ticks of a slot begin, those that are filed in it are told from each other from now on.
                let below = BITS * level as u32;
                if self.now & ((1 << below) - 1) == 0 {
                    let mut at = self.first_of(level, self.now);
                    while at != NONE {
                        let Entry { cell, after, .. } = &self.entries[at as usize];
                        let (tick, after) = (cell.filed.load(Relaxed), *after);
                        self.take_out(at);
                        self.put_in(at, tick);
                        self.look();
                        at = after;
                    }
                }
            }
            let mut at = self.first_of(0, self.now);
            while at != NONE {
                let Entry { cell, after, .. } = &self.entries[at as usize];
                up.push(Arc::clone(cell));
                let after = *after;
                self.take_out(at);
                self.look();
                at = after;
            }
        }
    }

    fn first_of(&self, level: usize, tick: u32) -> u32 {
        self.slots[slot(level, tick)]
    }

    /// Puts an entry that is in no slot into that of a tick, which has not passed.
    fn put_in(&mut self, at: u32, tick: u32) {
        let differ = (self.now ^ tick).checked_ilog2().unwrap_or(0);
        let slot = slot((differ / BITS) as usize, tick);
        let entry = &mut self.entries[at as usize];
        entry.cell.filed.store(tick, Relaxed);
        entry.before = SLOT | slot as u32;
        entry.after = std::mem::replace(&mut self.slots[slot], at);
        let after = entry.after;
        self.set_before(after, at);
        self.filed += 1;
    }

    /// Takes an entry out of its slot, if it is in one.
    fn take_out(&mut self, at: u32) {
        let entry = &mut self.entries[at as usize];
        if entry.before == NONE {
            return;
        }
        entry.cell.filed.store(NEVER, Relaxed);
        let before = std::mem::replace(&mut entry.before, NONE);
        let after = std::mem::replace(&mut entry.after, NONE);
        self.set_after(before, after);
        self.set_before(after, before);
        self.filed -= 1;
    }

    /// Says what comes after an entry, or is the first of a slot.
    fn set_after(&mut self, before: u32, at: u32) {
        if before == NONE {
            return;
        }
        match before & SLOT {
            0 => self.entries[before as usize].after = at,
            _ => self.slots[(before ^ SLOT) as usize] = at,
        }
    }

    fn set_before(&mut self, after: u32, at: u32) {
        if after != NONE {
            self.entries[after as usize].before = at;
        }
    }

    fn look(&mut self) {
        #[cfg(test)]
        {
            self.looks += 1;
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.capacity())
    }
}

/// The slot of a tick in a level.
fn slot(level: usize, tick: u32) -> usize {
    level * SLOTS + (tick as usize >> (BITS as usize * level)) % SLOTS
}

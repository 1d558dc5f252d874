//! A part of an object that was read at once.

use super::super::Result;
use super::super::keys::PackName;
use super::super::sealed::read_exactly;
use super::Slot;
use crate::store::Store;

/// What is read at once around a slot: its neighbours are likely to be wanted next.
pub(super) const WINDOW: usize = 1 << 20;

/// What was read.
pub(super) struct Window {
    pub bytes: Vec<u8>,
    /// So much is read at least.
    pub least: usize,
    /// Which part of which object it holds.
    pub held: Option<(PackName, u64)>,
}

impl Window {
    /// Makes the window hold the slot; returns where in it the slot begins.
    pub fn fill(&mut self, store: &dyn Store, name: PackName, slot: &Slot, end: u64) -> Result<usize> {
        if let Some((held, from)) = self.held {
            let inside = slot.offset.checked_sub(from).filter(|_| held == name);
            if let Some(start) = inside.filter(|start| start + u64::from(slot.stored) <= self.bytes.len() as u64) {
                return Ok(start as usize);
            }
        }
        let length = (end - slot.offset).min((slot.stored as usize).max(self.least) as u64);
        self.held = None;
        self.bytes.clear();
        self.bytes.resize(length as usize, 0);
        let key = name.key();
        if let Err(error) = read_exactly(store, &key, slot.offset, &mut self.bytes) {
            if self.bytes.len() <= slot.stored as usize {
                return Err(error);
            }
            // Neighbours on a bad sector must not cost the slot itself.
            self.bytes.truncate(slot.stored as usize);
            read_exactly(store, &key, slot.offset, &mut self.bytes)?;
        }
        self.held = Some((name, slot.offset));
        Ok(0)
    }
}

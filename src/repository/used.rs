//! Which slots of which packs are referred to: a bitmap per pack, 2 MiB for a TiB of 64 KiB chunks. No set of chunks is ever held.

use std::collections::HashMap;

use super::{Section, SectionRef};
use crate::units::Id;

/// Slots of one pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slots {
    bits: Vec<u64>,
    /// Nobody could tell which, so all of them are.
    whole: bool,
}

impl Slots {
    pub fn insert(&mut self, slot: u32) {
        let word = (slot / 64) as usize;
        if self.bits.len() <= word {
            // Exactly as long as needed: doubling would cost as much again.
            self.bits.reserve_exact(word + 1 - self.bits.len());
            self.bits.resize(word + 1, 0);
        }
        self.bits[word] |= 1 << (slot % 64);
    }

    fn has_bit(&self, slot: u32) -> bool {
        let word = self.bits.get((slot / 64) as usize);
        word.is_some_and(|word| word & 1 << (slot % 64) != 0)
    }

    /// Whether the slot is referred to, or may be.
    pub fn contains(&self, slot: u32) -> bool {
        self.whole || self.has_bit(slot)
    }

    /// Whether it is not known which slots are referred to.
    pub fn is_whole(&self) -> bool {
        self.whole
    }

    /// The slots that are known to be referred to, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        let words = self.bits.iter().enumerate();
        words.flat_map(|(at, word)| {
            (0..64)
                .filter(move |bit| word & 1 << bit != 0)
                .map(move |bit| at as u32 * 64 + bit)
        })
    }

    fn merge(&mut self, other: &Slots) {
        if self.bits.len() < other.bits.len() {
            self.bits.resize(other.bits.len(), 0);
        }
        self.bits
            .iter_mut()
            .zip(&other.bits)
            .for_each(|(mine, theirs)| *mine |= theirs);
        self.whole |= other.whole;
    }
}

/// Slots of many packs.
#[derive(Debug, Clone, Default)]
pub(super) struct Used(HashMap<Id, Slots>);

impl Used {
    pub fn insert(&mut self, pack: Id, slot: u32) {
        self.0.entry(pack).or_default().insert(slot);
    }

    /// All of a pack is referred to, as far as anybody knows.
    pub fn insert_whole(&mut self, pack: Id) {
        self.0.entry(pack).or_default().whole = true;
    }

    /// Whether this very slot was inserted.
    pub fn has(&self, pack: Id, slot: u32) -> bool {
        self.0.get(&pack).is_some_and(|slots| slots.has_bit(slot))
    }

    pub fn of(&self, pack: Id) -> Option<&Slots> {
        self.0.get(&pack)
    }

    pub fn packs(&self) -> impl Iterator<Item = (&Id, &Slots)> {
        self.0.iter()
    }

    /// Every chunk of a section.
    pub fn insert_section(&mut self, section: &Section) {
        for (pack, slot) in section.slots() {
            self.insert(pack, slot);
        }
    }

    /// The slot that a section lies in.
    pub fn insert_reference(&mut self, at: &SectionRef) {
        if let SectionRef::Stored { pack, slot, .. } = at {
            self.insert(*pack, *slot);
        }
    }

    pub fn merge(&mut self, other: &Used) {
        for (pack, slots) in &other.0 {
            self.0.entry(*pack).or_default().merge(slots);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_inserted_is_there_and_nothing_else(one: Vec<u16>, other: Vec<u16>) {
            let pack = Id([1; 16]);
            let (mut used, mut further) = (Used::default(), Used::default());
            one.iter().for_each(|slot| used.insert(pack, u32::from(*slot)));
            other.iter().for_each(|slot| further.insert(pack, u32::from(*slot)));
            used.merge(&further);
            let expected: std::collections::BTreeSet<u32> = one.iter().chain(&other).map(|slot| u32::from(*slot)).collect();
            let found: Vec<u32> = used.of(pack).map(|slots| slots.iter().collect()).unwrap_or_default();
            prop_assert_eq!(found, expected.into_iter().collect::<Vec<u32>>());
        }
    }

    #[test]
    fn a_tebibyte_of_chunks_takes_two_mebibytes_of_bits() {
        let mut slots = Slots::default();
        (0..1024).for_each(|slot| slots.insert(slot));
        let packs = (1u64 << 40) / (64 << 20);
        assert!(slots.bits.capacity() as u64 * 8 * packs <= 2 << 20);
    }

    #[test]
    fn a_whole_pack_holds_every_slot_but_was_not_given_any() {
        let (mut used, pack) = (Used::default(), Id([2; 16]));
        used.insert_whole(pack);
        assert!(used.of(pack).unwrap().contains(7) && !used.has(pack, 7));
    }
}

//! What an inode number stands for. Numbers of entries are their places, so nothing has to be remembered for them.

use std::collections::HashMap;

use crate::repository::Place;

/// Not the highest bit: programs that take inode numbers as signed show no negative ones.
const ENTRY: u64 = 1 << 62;
const INDEX_BITS: u32 = 23;
const BLOCK_BITS: u32 = 26;
const BACKUP_BITS: u32 = 62 - INDEX_BITS - BLOCK_BITS;

/// Backups that can be shown at once.
pub(super) const MOST_BACKUPS: usize = 1 << BACKUP_BITS;

/// A file or directory of the mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// The mount's top: hosts.
    Top,
    /// A host's backups.
    Host(String),
    /// The link to the newest backup of a host's job: the host, and the link's name.
    Latest(String, String),
    /// A directory above a backup's roots, without a leading slash; empty for the backup's top.
    Above(u32, Vec<u8>),
    /// An entry of a backup.
    Entry(u32, Place),
}

/// The numbers of nodes that are no entries: some per host and backup.
pub(super) struct Numbers {
    made: Vec<Node>,
    known: HashMap<Node, u64>,
}

impl Numbers {
    pub fn new() -> Numbers {
        let mut numbers = Numbers {
            made: Vec::new(),
            known: HashMap::new(),
        };
        numbers.number(&Node::Top);
        numbers
    }

    /// The top has number 1, as the kernel expects.
    pub fn number(&mut self, node: &Node) -> u64 {
        if let Node::Entry(backup, place) = node {
            return ENTRY
                | u64::from(*backup) << (INDEX_BITS + BLOCK_BITS)
                | u64::from(place.block) << INDEX_BITS
                | u64::from(place.index);
        }
        if let Some(known) = self.known.get(node) {
            return *known;
        }
        self.made.push(node.clone());
        let number = self.made.len() as u64;
        self.known.insert(node.clone(), number);
        number
    }

    pub fn node(&self, number: u64) -> Option<Node> {
        if number & ENTRY == 0 {
            return self.made.get(usize::try_from(number).ok()?.checked_sub(1)?).cloned();
        }
        let part = |from: u32, bits: u32| (number >> from & ((1 << bits) - 1)) as u32;
        let place = Place {
            block: part(INDEX_BITS, BLOCK_BITS),
            index: part(0, INDEX_BITS),
        };
        Some(Node::Entry(part(INDEX_BITS + BLOCK_BITS, BACKUP_BITS), place))
    }
}

/// A place as a number that fits a directory offset.
pub(super) fn offset_of(place: Place) -> u64 {
    u64::from(place.block) << INDEX_BITS | u64::from(place.index)
}

/// The place of such a number.
pub(super) fn place_of(offset: u64) -> Place {
    Place {
        block: (offset >> INDEX_BITS) as u32,
        index: (offset & ((1 << INDEX_BITS) - 1)) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_back_to_their_nodes() {
        let mut numbers = Numbers::new();
        let last = Place {
            block: (1 << BLOCK_BITS) - 1,
            index: (1 << INDEX_BITS) - 1,
        };
        let nodes = [
            Node::Top,
            Node::Host("h".into()),
            Node::Latest("h".into(), "latest".into()),
            Node::Above(3, b"srv".to_vec()),
            Node::Entry(0, Place { block: 0, index: 0 }),
            Node::Entry(MOST_BACKUPS as u32 - 1, last),
            Node::Entry(5, Place { block: 7, index: 9 }),
        ];
        let given: Vec<u64> = nodes.iter().map(|node| numbers.number(node)).collect();
        assert_eq!(given[0], 1);
        for (node, number) in nodes.iter().zip(&given) {
            assert_eq!(numbers.node(*number).as_ref(), Some(node));
            assert_eq!(numbers.number(node), *number);
        }
        assert_eq!(place_of(offset_of(last)), last);
        assert!(numbers.node(0).is_none() && numbers.node(99).is_none());
    }
}

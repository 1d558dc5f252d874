//! The values used last, up to a number and a sum of bytes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

struct Kept<K, V> {
    key: K,
    value: Arc<V>,
    bytes: usize,
}

/// A cache for several threads. Few values: it is searched in order, the one used last first.
pub(super) struct Recent<K, V> {
    kept: Mutex<VecDeque<Kept<K, V>>>,
    most: usize,
    most_bytes: usize,
}

impl<K: PartialEq, V> Recent<K, V> {
    pub fn new(most: usize, most_bytes: usize) -> Recent<K, V> {
        Recent {
            kept: Mutex::default(),
            most,
            most_bytes,
        }
    }

    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|one| one.key == *key)?;
        let found = kept.remove(at)?;
        let value = Arc::clone(&found.value);
        kept.push_front(found);
        Some(value)
    }

    pub fn put(&self, key: K, value: Arc<V>, bytes: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.iter().any(|one| one.key == key) {
            return;
        }
        kept.push_front(Kept { key, value, bytes });
        let mut sum: usize = kept.iter().map(|one| one.bytes).sum();
        while kept.len() > self.most || (sum > self.most_bytes && kept.len() > 1) {
            sum -= kept.pop_back().map_or(0, |last| last.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_last_stays_within_both_bounds() {
        let recent = Recent::new(3, 100);
        for key in 0..3 {
            recent.put(key, Arc::new(key), 30);
        }
        assert!(recent.get(&0).is_some());
        recent.put(3, Arc::new(3), 30);
        assert!(recent.get(&1).is_none(), "the one not used for longest goes");
        assert!(recent.get(&0).is_some() && recent.get(&2).is_some() && recent.get(&3).is_some());
        recent.put(4, Arc::new(4), 90);
        assert_eq!((0..5).filter(|key| recent.get(key).is_some()).collect::<Vec<_>>(), [4]);
        recent.put(5, Arc::new(5), 1000);
        assert!(recent.get(&5).is_some(), "one value is kept whatever its size");
    }
}

//! A bounded memory of what was read: decoded blocks of layers, and pages that were made.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;

use crate::activity::CacheUse;
use crate::locked;

struct Entry<V> {
    used: u64,
    bytes: usize,
    value: V,
}

struct Entries<K, V> {
    entries: HashMap<K, Entry<V>>,
    bytes: usize,
    clock: u64,
    questions: u64,
    hits: u64,
}

/// Values by key up to a number of bytes, the least recently used dropped first.
pub(crate) struct Cache<K, V> {
    bytes_max: usize,
    entries: Mutex<Entries<K, V>>,
}

impl<K: Eq + Hash, V: Clone> Cache<K, V> {
    pub(crate) fn new(bytes_max: usize) -> Cache<K, V> {
        let entries = Entries {
            entries: HashMap::new(),
            bytes: 0,
            clock: 0,
            questions: 0,
            hits: 0,
        };
        Cache {
            bytes_max,
            entries: Mutex::new(entries),
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut all = locked(&self.entries);
        all.clock += 1;
        all.questions += 1;
        let clock = all.clock;
        let entry = all.entries.get_mut(key)?;
        entry.used = clock;
        let value = entry.value.clone();
        all.hits += 1;
        Some(value)
    }

    pub(crate) fn insert(&self, key: K, value: V, bytes: usize) {
        let mut all = locked(&self.entries);
        if self.bytes_max < bytes {
            // It would only push out all others first.
            if let Some(before) = all.entries.remove(&key) {
                all.bytes -= before.bytes;
            }
            return;
        }
        all.clock += 1;
        let used = all.clock;
        all.bytes += bytes;
        if let Some(before) = all.entries.insert(key, Entry { used, bytes, value }) {
            all.bytes -= before.bytes;
        }
        while self.bytes_max < all.bytes {
            // An eighth at a time, so that the scan for the oldest is rare.
            let mut used: Vec<u64> = all.entries.values().map(|entry| entry.used).collect();
            used.sort_unstable();
            let oldest_kept = used[used.len() / 8];
            all.entries.retain(|_, entry| oldest_kept < entry.used);
            all.bytes = all.entries.values().map(|entry| entry.bytes).sum();
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        locked(&self.entries).bytes
    }

    /// How it did so far.
    pub(crate) fn so_far(&self) -> CacheUse {
        let all = locked(&self.entries);
        CacheUse {
            hits: all.hits,
            misses: all.questions - all.hits,
            bytes: all.bytes as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_go_first() {
        let cache = Cache::new(80);
        for key in 0..8 {
            cache.insert(key, key, 10);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.insert(8, 8, 10);
        assert_eq!(cache.get(&1), None);
        assert_eq!(cache.get(&0), Some(0));
        assert!(cache.bytes() <= 80);
        let so_far = cache.so_far();
        assert_eq!((so_far.hits, so_far.misses), (2, 1));
    }

    #[test]
    fn a_value_larger_than_the_cache_does_not_stay() {
        let cache = Cache::new(80);
        cache.insert(2, (), 50);
        cache.insert(1, (), 20);
        cache.insert(1, (), 100);
        assert_eq!((cache.get(&1), cache.get(&2), cache.bytes()), (None, Some(()), 50));
    }

    #[test]
    fn large_values_push_out_as_many_as_they_need() {
        let cache = Cache::new(80);
        for key in 0..80 {
            cache.insert(key, (), 1);
        }
        for key in 100..110 {
            cache.insert(key, (), 60);
            assert!(cache.bytes() <= 80 && cache.get(&key).is_some(), "{}", cache.bytes());
        }
    }
}

//! A hash table of fixed capacity in memory that somebody else owns: shared memory in the server, a vector in tests.
//!
//! Entries keep their index while they live, so that others may refer to them by it. Nothing is ever allocated.
//!
//! Invariant: every entry is either on the chain of its bucket or on the free chain, never on both.

/// Says where a key belongs.
pub trait Hashed {
    /// All 64 bits are used: equal keys give equal values, different keys spread.
    fn hashed(&self) -> u64;
}

/// Mixes `words` into 64 well-spread bits.
pub fn mix(words: &[u32]) -> u64 {
    let mut hash = 0x9E37_79B9_7F4A_7C15_u64;
    for word in words {
        hash = (hash ^ u64::from(*word)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        hash ^= hash >> 29;
    }
    hash = hash.wrapping_mul(0x94D0_49BB_1331_11EB);
    hash ^ hash >> 32
}

const NONE: u32 = u32::MAX;

/// What stands in front of a table.
#[derive(Clone, Copy)]
pub struct TableHeader {
    free: u32,
    used_count: u32,
    hand: u32,
    /// Places from here on were never used: nobody looks there.
    used_end: u32,
    removals_count: u64,
}

/// One place of a table.
#[derive(Clone, Copy)]
pub struct Place<K, V> {
    next: u32,
    content: Option<(K, V)>,
}

/// A table, borrowed from its memory.
pub struct FixedTable<'a, K, V> {
    header: &'a mut TableHeader,
    buckets: &'a mut [u32],
    places: &'a mut [Place<K, V>],
}

impl<'a, K: Hashed + Copy + Eq, V: Copy> FixedTable<'a, K, V> {
    /// A header to begin with.
    pub const HEADER: TableHeader = TableHeader {
        free: NONE,
        used_count: 0,
        hand: 0,
        used_end: 0,
        removals_count: 0,
    };
    /// A place to begin with.
    pub const PLACE: Place<K, V> = Place {
        next: NONE,
        content: None,
    };

    /// The table in this memory. Neither slice may be empty.
    pub fn new(header: &'a mut TableHeader, buckets: &'a mut [u32], places: &'a mut [Place<K, V>]) -> Self {
        assert!(!buckets.is_empty() && !places.is_empty());
        FixedTable {
            header,
            buckets,
            places,
        }
    }

    /// Makes the memory an empty table.
    pub fn clear(&mut self) {
        self.buckets.fill(NONE);
        let count = self.places.len() as u32;
        for (index, place) in (0..count).zip(self.places.iter_mut()) {
            *place = Place {
                next: if index + 1 < count { index + 1 } else { NONE },
                content: None,
            };
        }
        *self.header = TableHeader {
            free: 0,
            ..Self::HEADER
        };
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.header.used_count as usize
    }

    /// How many entries were ever taken out.
    pub fn removals(&self) -> u64 {
        self.header.removals_count
    }

    /// Where the entry of `key` stands.
    pub fn find(&self, key: &K) -> Option<u32> {
        let mut at = self.buckets[self.bucket(key)];
        while at != NONE {
            let place = &self.places[at as usize];
            if place.content.as_ref().is_some_and(|(found, _)| found == key) {
                return Some(at);
            }
            at = place.next;
        }
        None
    }

    /// The entry at `index`, which lives.
    pub fn at(&mut self, index: u32) -> (K, &mut V) {
        let (key, value) = self.places[index as usize]
            .content
            .as_mut()
            .expect("indexes are of living entries");
        (*key, value)
    }

    /// The value of `key`.
    pub fn get(&mut self, key: &K) -> Option<&mut V> {
        self.find(key).map(|index| self.at(index).1)
    }

    /// Adds an entry whose key has none; gives its index, or `None` if the table is full.
    pub fn insert(&mut self, key: K, value: V) -> Option<u32> {
        let index = self.header.free;
        if index == NONE {
            return None;
        }
        let bucket = self.bucket(&key);
        let place = &mut self.places[index as usize];
        self.header.free = place.next;
        *place = Place {
            next: self.buckets[bucket],
            content: Some((key, value)),
        };
        self.buckets[bucket] = index;
        self.header.used_count += 1;
        self.header.used_end = self.header.used_end.max(index + 1);
        Some(index)
    }

    /// Takes the entry of `key` out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let bucket = self.bucket(key);
        let (mut before, mut at) = (NONE, self.buckets[bucket]);
        while at != NONE {
            let Place { next, content } = self.places[at as usize];
            match content {
                Some((found, value)) if found == *key => {
                    match before {
                        NONE => self.buckets[bucket] = next,
                        before => self.places[before as usize].next = next,
                    }
                    self.places[at as usize] = Place {
                        next: self.header.free,
                        content: None,
                    };
                    self.header.free = at;
                    self.header.used_count -= 1;
                    self.header.removals_count += 1;
                    return Some(value);
                }
                _ => (before, at) = (at, next),
            }
        }
        None
    }

    /// The next entry, from where the last call stopped, that `wanted` accepts; none after one round.
    pub fn sweep(&mut self, mut wanted: impl FnMut(&K, &V) -> bool) -> Option<K> {
        for _ in 0..self.header.used_end {
            let at = self.header.hand as usize;
            self.header.hand = (self.header.hand + 1) % self.header.used_end;
            if let Some((key, value)) = &self.places[at].content
                && wanted(key, value)
            {
                return Some(*key);
            }
        }
        None
    }

    /// Every entry.
    pub fn iter(&self) -> impl Iterator<Item = &(K, V)> {
        self.places[..self.header.used_end as usize]
            .iter()
            .filter_map(|place| place.content.as_ref())
    }

    fn bucket(&self, key: &K) -> usize {
        (key.hashed() % self.buckets.len() as u64) as usize
    }
}

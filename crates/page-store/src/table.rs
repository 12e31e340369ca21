//! Versions in memory, between the journal and the layers.

use std::collections::BTreeMap;

use units::Position;

use crate::key::{Key, Version};

/// Bytes that a version takes besides its content, about.
pub(crate) const VERSION_BYTES: usize = 96;

/// The versions of one segment that are in no layer yet.
#[derive(Default, Debug)]
pub(crate) struct Table {
    pub(crate) versions: BTreeMap<Key, Vec<Version>>,
    pub(crate) bytes: usize,
    /// Set when it is frozen: every journal entry below this offset is in here or in a layer.
    pub(crate) through_offset: u64,
}

impl Table {
    pub(crate) fn insert(&mut self, key: Key, version: Version) {
        self.bytes += VERSION_BYTES + version.bytes();
        self.versions.entry(key).or_default().push(version);
    }

    /// Adds the versions of `key` that are wanted to `into`.
    pub(crate) fn collect(&self, key: &Key, wanted: impl Fn(Position) -> bool, into: &mut Vec<Version>) {
        if let Some(versions) = self.versions.get(key) {
            into.extend(versions.iter().filter(|version| wanted(version.position)).cloned());
        }
    }
}

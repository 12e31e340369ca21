//! Scanning the catalog as of a read point.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use timeline::Path;
use units::Lsn;
use wire_format::{CatalogEntry, CatalogKey};

use crate::key::{Key, Value, Version};
use crate::read::ReadError;
use crate::segment_store::{SegmentStore, order};

/// Distinct keys taken from each source at once.
const KEYS_AT_ONCE: usize = 4096;
/// Bytes of one answer, about, and of what is taken from each source at once: an answer has to fit into a frame, however
/// long values are.
pub(crate) const BYTES_MAX: usize = 8 << 20;
/// Bytes that an entry takes besides its value, at most.
const ENTRY_BYTES: usize = CatalogKey::NAME_BYTES_MAX + 24;

/// At most `most` entries with a value, in key order after `after`, until they come to [`BYTES_MAX`]. None: the end.
pub(crate) fn scan(
    segment: &SegmentStore,
    path: &Path,
    read_point: Lsn,
    after: Option<&CatalogKey>,
    most: usize,
) -> Result<Vec<CatalogEntry>, ReadError> {
    let mut found = Vec::new();
    let mut after = after.cloned();
    let mut bytes = 0;
    while found.len() < most && bytes < BYTES_MAX {
        let (part, last) = part(segment, after.as_ref())?;
        for (key, mut versions) in part {
            versions.retain(|version| version.position.lsn <= read_point && path.sees(version.position));
            order(&mut versions);
            let newest = versions.pop();
            if let Some(Version {
                position,
                value: Value::Entry(Some(value)),
            }) = newest
                && found.len() < most
                && bytes < BYTES_MAX
            {
                bytes += ENTRY_BYTES + value.len();
                found.push(CatalogEntry {
                    key,
                    lsn: position.lsn,
                    value: Some(value),
                });
            }
        }
        match last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    segment.check_not_folded(read_point)?;
    Ok(found)
}

/// What was taken from one source.
#[derive(Default)]
struct Taken {
    distinct: usize,
    bytes: usize,
    last: Option<CatalogKey>,
}

type Part = BTreeMap<CatalogKey, Vec<Version>>;

/// All versions of a run of keys, and the last key of the run unless it reaches the end.
fn part(segment: &SegmentStore, after: Option<&CatalogKey>) -> Result<(Part, Option<CatalogKey>), ReadError> {
    let mut keys = Part::new();
    let mut last: Option<CatalogKey> = None;
    let from = match after {
        Some(after) => Key::Catalog(after.clone()),
        None => Key::Catalog(CatalogKey::FIRST),
    };
    let mut cut_at = |key: &CatalogKey| {
        if last.as_ref().is_none_or(|last| key < last) {
            last = Some(key.clone());
        }
    };
    let mut take = |taken: &mut Taken, key: CatalogKey, version: Version| {
        if after.is_some_and(|after| key <= *after) {
            return true;
        }
        if taken.last.as_ref() != Some(&key) {
            if let Some(last) = &taken.last
                && (taken.distinct == KEYS_AT_ONCE || BYTES_MAX <= taken.bytes)
            {
                cut_at(last);
                return false;
            }
            taken.distinct += 1;
            taken.last = Some(key.clone());
        }
        taken.bytes += ENTRY_BYTES + version.bytes();
        keys.entry(key).or_default().push(version);
        true
    };
    {
        let tables = segment.tables.read().unwrap_or_else(PoisonError::into_inner);
        for table in std::iter::once(&tables.active).chain(tables.frozen.as_deref()) {
            let mut taken = Taken::default();
            'table: for (key, versions) in table.versions.range(from.clone()..Key::FlushHeader) {
                for version in versions {
                    if let Key::Catalog(key) = key
                        && !take(&mut taken, key.clone(), version.clone())
                    {
                        break 'table;
                    }
                }
            }
        }
    }
    for layer in segment.layers().iter() {
        let mut taken = Taken::default();
        let mut scan = layer.scan(Some(&from))?;
        while let Some((Key::Catalog(key), version)) = scan.next()? {
            if !take(&mut taken, key, version) {
                break;
            }
        }
    }
    if let Some(last) = &last {
        keys.retain(|key, _| key <= last);
    }
    Ok((keys, last))
}

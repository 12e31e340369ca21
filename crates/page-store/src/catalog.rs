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

/// At most `most` entries with a value, in key order after `after`. Fewer than asked for: the end.
pub(crate) fn scan(
    segment: &SegmentStore,
    path: &Path,
    read_point: Lsn,
    after: Option<&CatalogKey>,
    most: usize,
) -> Result<Vec<CatalogEntry>, ReadError> {
    let mut found = Vec::new();
    let mut after = after.cloned();
    while found.len() < most {
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
            {
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
    Ok(found)
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
    let mut take = |distinct: &mut usize, before: &mut Option<CatalogKey>, key: CatalogKey, version: Version| {
        if after.is_some_and(|after| key <= *after) {
            return true;
        }
        if before.as_ref() != Some(&key) {
            if *distinct == KEYS_AT_ONCE {
                if let Some(before) = before {
                    cut_at(before);
                }
                return false;
            }
            *distinct += 1;
            *before = Some(key.clone());
        }
        keys.entry(key).or_default().push(version);
        true
    };
    {
        let tables = segment.tables.read().unwrap_or_else(PoisonError::into_inner);
        for table in std::iter::once(&tables.active).chain(tables.frozen.as_deref()) {
            let (mut distinct, mut before) = (0, None);
            'table: for (key, versions) in table.versions.range(from.clone()..Key::FlushHeader) {
                for version in versions {
                    if let Key::Catalog(key) = key
                        && !take(&mut distinct, &mut before, key.clone(), version.clone())
                    {
                        break 'table;
                    }
                }
            }
        }
    }
    for layer in segment.layers().iter() {
        let (mut distinct, mut before) = (0, None);
        let mut scan = layer.scan(Some(&from));
        while let Some((Key::Catalog(key), version)) = scan.next()? {
            if !take(&mut distinct, &mut before, key, version) {
                break;
            }
        }
    }
    if let Some(last) = &last {
        keys.retain(|key, _| key <= last);
    }
    Ok((keys, last))
}

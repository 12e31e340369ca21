//! Records with the pages to which PostgreSQL applied them, and page images.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use engine::{Engine, Touch};
use redo::PostgreSql;
use units::{Lsn, Page, PageKey};
use wal::{DecodedRecord, Record, resource_manager};

use super::log::{kind, records, workload};
use super::part;
use crate::input::Input;

/// Longer ones teach a mutator nothing.
const SEED_BYTES_MAX: usize = 17_000;
/// In place of a block's id.
const NO_BLOCK: u8 = 0xFF;

/// What a seed stands for: resource manager, operation, and which of the record's block references its page is (`None`: it
/// changes the page without one).
type Role = ((u8, u8), Option<u8>);

/// Whether its page is empty, which teaches less, and the seed.
type Found = BTreeMap<Role, (bool, Vec<u8>)>;

/// What [`gather`] wrote, in LZ4: records and pages of heaps and of every kind of index.
const GATHERED: &[u8] = include_bytes!("../../samples/redo.seeds");

/// For each kind of record and each of its pages, the shortest one with a page that is not empty.
static SEEDS: LazyLock<BTreeMap<Role, Vec<u8>>> = LazyLock::new(|| {
    let mut found = gathered();
    find(workload(), &mut found);
    found.into_iter().map(|(role, (_, seed))| (role, seed)).collect()
});

fn add(role: Role, seed: (bool, Vec<u8>), found: &mut Found) {
    let order = |(is_empty, seed): &(bool, Vec<u8>)| (*is_empty, seed.len());
    let known = found.get(&role);
    if seed.1.len() <= SEED_BYTES_MAX && known.is_none_or(|known| order(&seed) < order(known)) {
        found.insert(role, seed);
    }
}

/// Adds what is better than what was found before.
fn find(records: Vec<Record>, found: &mut Found) {
    let mut pages: BTreeMap<PageKey, Page> = BTreeMap::new();
    let mut touches = Vec::new();
    for record in records {
        touches.clear();
        if PostgreSql.touches(&record.bytes, record.end, &mut touches).is_err() {
            continue;
        }
        let decoded = DecodedRecord::decode(&record.bytes).expect("the sample is sound");
        for touch in &touches {
            let Touch::Page { key, .. } = *touch else {
                continue;
            };
            let page = pages.entry(key).or_insert_with(Page::zeroed);
            let before = page.clone();
            if PostgreSql.apply(&record.bytes, record.end, key, page).is_err() {
                pages.remove(&key);
                continue;
            }
            let block = decoded.blocks().find(|block| block.key == key);
            let role = (kind(&record), block.map(|block| block.id));
            let seed = (before.is_zeroed(), page_and_record(&record.bytes, &before));
            add(role, seed, found);
        }
    }
}

/// Seeds out of recorded logs, each with where it begins, to be committed.
pub fn gather(logs: &[(Lsn, Vec<u8>)], wal_file_bytes: u64) -> Vec<u8> {
    let mut found = Found::new();
    for (start, log) in logs {
        find(records(*start, log, wal_file_bytes), &mut found);
    }
    let managers = resource_manager::HEAP2..=resource_manager::BRIN;
    found.retain(|((manager, _), _), _| managers.contains(manager) && *manager != resource_manager::SEQUENCE);
    let mut bytes = Vec::new();
    for (((manager, info), block), (is_empty, seed)) in found {
        bytes.extend([manager, info, block.unwrap_or(NO_BLOCK), u8::from(is_empty)]);
        bytes.extend(part(&seed));
    }
    lz4_flex::compress_prepend_size(&bytes)
}

fn gathered() -> Found {
    let bytes = lz4_flex::decompress_size_prepended(GATHERED).expect("it was written by `gather`");
    let mut input = Input::new(&bytes);
    let mut found = Found::new();
    while !input.is_empty() {
        let (kind, block) = ((input.u8(), input.u8()), input.u8());
        let is_empty = input.u8() != 0;
        found.insert(
            (kind, (block != NO_BLOCK).then_some(block)),
            (is_empty, input.part().to_vec()),
        );
    }
    found
}

/// One for each kind of record.
pub(super) fn of_each_kind() -> Vec<Vec<u8>> {
    let mut kinds: BTreeMap<(u8, u8), Vec<u8>> = BTreeMap::new();
    for ((kind, _), seed) in &*SEEDS {
        kinds.entry(*kind).or_insert_with(|| seed.clone());
    }
    kinds.into_values().collect()
}

/// Every seed of this resource manager.
pub(super) fn of_manager(manager: u8) -> Vec<Vec<u8>> {
    let seeds = SEEDS.iter().filter(|(((of, _), _), _)| *of == manager);
    seeds.map(|(_, seed)| seed.clone()).collect()
}

/// The record, the page up to the end of its line pointers, and from there on what is not zero.
fn page_and_record(record: &[u8], page: &Page) -> Vec<u8> {
    let bytes = page.bytes();
    let lower = usize::from(u16::from_le_bytes([bytes[12], bytes[13]])).clamp(24, bytes.len());
    let back = bytes[lower..]
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len() - lower);
    [part(record), part(&bytes[..lower]), part(&bytes[lower + back..])].concat()
}

/// A short record with a page image of each compression.
pub(super) fn images() -> Vec<Vec<u8>> {
    let mut seeds: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for record in workload() {
        let decoded = DecodedRecord::decode(&record.bytes).expect("the sample is sound");
        for block in decoded.blocks() {
            if let Some(image) = &block.image {
                let known = seeds.entry(format!("{:?}", image.compression)).or_default();
                if known.is_empty() || record.bytes.len() < known.len() {
                    *known = record.bytes.to_vec();
                }
            }
        }
    }
    seeds.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::SEEDS;

    /// If redo or the samples changed so that hardly anything is reached, nothing would be fuzzed.
    #[test]
    fn every_manager_has_seeds() {
        for (manager, roles_min) in [
            (9, 8),
            (10, 10),
            (11, 20),
            (12, 15),
            (13, 10),
            (14, 5),
            (16, 10),
            (17, 6),
        ] {
            let roles: Vec<_> = SEEDS.keys().filter(|((of, _), _)| *of == manager).collect();
            assert!(roles_min <= roles.len(), "manager {manager} has {roles:x?} only");
        }
    }
}

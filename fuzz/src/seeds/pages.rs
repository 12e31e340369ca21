//! Records with the pages to which PostgreSQL applied them, and page images.

use std::collections::BTreeMap;

use engine::{Engine, Touch};
use redo::PostgreSql;
use units::{Page, PageKey};
use wal::DecodedRecord;

use super::log::{RECORD_BYTES_MAX, kind, workload};
use super::part;

/// For each kind of record, one with the page it was applied to.
pub(super) fn pages_and_records() -> Vec<Vec<u8>> {
    let mut pages: BTreeMap<PageKey, Page> = BTreeMap::new();
    let mut seeds: BTreeMap<(u8, u8), Vec<u8>> = BTreeMap::new();
    for record in workload() {
        let mut touches = Vec::new();
        if PostgreSql.touches(&record.bytes, record.end, &mut touches).is_err() {
            continue;
        }
        for touch in touches {
            let Touch::Page { key, .. } = touch else {
                continue;
            };
            let before = pages.get(&key).cloned().unwrap_or_else(Page::zeroed);
            let mut page = before.clone();
            if PostgreSql.apply(&record.bytes, record.end, key, &mut page).is_err() {
                continue;
            }
            pages.insert(key, page);
            let seed = page_and_record(&record.bytes, &before);
            let known = seeds.entry(kind(&record)).or_insert_with(|| seed.clone());
            let is_better = (before.bytes().iter().any(|byte| *byte != 0), usize::MAX - seed.len());
            if record.bytes.len() <= RECORD_BYTES_MAX && (known.len() < 100 || seed.len() < known.len()) && is_better.0
            {
                *known = seed;
            }
        }
    }
    seeds.into_values().filter(|seed| seed.len() <= 10_000).collect()
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

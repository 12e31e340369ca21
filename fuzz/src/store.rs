//! A storage node's files: the store is opened on a disk that holds any bytes, and asked for pages.
//!
//! The files are put together here after `docs/formats/journal.md` and `layers.md`, with the right checksums, so that a
//! mismatch between those pages and the code shows as targets that reach nothing (`tests/replay.rs` insists on it).

use std::sync::Arc;

use io::{Disk, MemoryDisk};
use page_store::{Horizon, Opened, PageStore, StoreConfig};
use redo::PostgreSql;
use timeline::{Branch, Path};
use units::{Epoch, Lsn, PageKey, Position, RelationKey, SegmentId, fork};

use crate::input::Input;
use crate::wire::sealed;

const SEGMENT: SegmentId = SegmentId::from_bytes([7; 16]);
const STATE: u8 = 1;
const BATCH: u8 = 2;
const BEGINNING: u8 = 3;
const JOURNAL: &str = "journal/00000000000000000000";
const LAYER: &str = "layers/0000000000000001";
const LAYER_NUMBER: u64 = 1;
/// The page that is read.
const KEY: PageKey = RelationKey {
    tablespace: 1663,
    database: 5,
    relation: 16384,
}
.fork(fork::MAIN)
.page(0);

fn config() -> StoreConfig {
    StoreConfig {
        table_bytes_max: 16 << 10,
        cache_bytes_max: 64 << 10,
        index_cache_bytes_max: 64 << 10,
        page_cache_bytes_max: 64 << 10,
        journal_file_bytes: 32 << 10,
        journal_retained_bytes_max: 64 << 10,
        merge_layers: 2,
        ..StoreConfig::default()
    }
}

/// Writes a file of any bytes.
fn put(disk: &MemoryDisk, file: &str, bytes: &[u8]) {
    disk.write_at(file, 0, bytes).expect("a disk in memory has room");
    disk.sync(file).expect("a disk in memory syncs");
}

/// Opens the store if it can be opened, and asks it for everything.
fn open(disk: &MemoryDisk) -> Option<Opened> {
    let opened = PageStore::open(Arc::new(disk.clone()), config(), Arc::new(PostgreSql)).ok()?;
    let path = path();
    let store = &opened.store;
    store.settle();
    ask(store, &path);
    let top = Position::new(path.epoch(), Lsn::from_raw(1 << 40));
    store.set_horizon(
        SEGMENT,
        Horizon {
            path: path.clone(),
            durable: top,
            floor: top,
            recycle_through: top,
            let_go: None,
        },
    );
    // Tables become layers, folded; what was read must read again.
    let _ = store.write_tables();
    ask(store, &path);
    Some(opened)
}

fn ask(store: &PageStore, path: &Path) {
    for read_point in [Lsn::from_raw(1 << 20), Lsn::MAX] {
        let _ = store.read_pages(SEGMENT, path, read_point, KEY, 3);
        let _ = store.scan_catalog(SEGMENT, path, read_point, None, 100);
        let _ = store.flush_header(SEGMENT, path, read_point);
    }
}

fn path() -> Path {
    let branch = Branch {
        epoch: Epoch::from_raw(1),
        parent: Position::ZERO,
    };
    Path::new(vec![branch]).expect("one reign from the root")
}

/// One entry of the journal, sealed for its place.
fn entry(journal: &mut Vec<u8>, synced: u64, kind: u8, payload: &[u8]) {
    let offset = journal.len() as u64;
    let mut rest = offset.to_le_bytes().to_vec();
    rest.extend_from_slice(&synced.to_le_bytes());
    rest.push(kind);
    rest.extend_from_slice(&SEGMENT.bytes());
    rest.extend_from_slice(payload);
    let length = (payload.len() as u32).to_le_bytes();
    let mut checksum = crc32c::crc32c(&length);
    checksum = crc32c::crc32c_append(checksum, &rest);
    journal.extend_from_slice(&[0x17, 0xA1, 0x4E, 0xB0]);
    journal.extend_from_slice(&length);
    journal.extend_from_slice(&checksum.to_le_bytes());
    journal.extend_from_slice(&rest);
}

/// A journal of any entries, sealed, between any bytes.
pub(crate) fn journal(data: &[u8]) {
    journal_opens(data);
}

/// Whether the store opened, and with how many batches.
pub(crate) fn journal_opens(data: &[u8]) -> Option<usize> {
    let mut input = Input::new(data);
    let mut journal = Vec::new();
    entry(&mut journal, 0, BEGINNING, &[0; 16]);
    entry(&mut journal, 0, STATE, b"state");
    let mut entries = 0;
    while !input.is_empty() && entries < 64 {
        entries += 1;
        let (kind, synced) = (input.u8(), u64::from(input.u16()));
        let payload = input.part();
        match kind % 8 {
            0 => entry(&mut journal, synced, STATE, payload),
            1 => journal.extend_from_slice(payload),
            2 => entry(&mut journal, synced, kind, payload),
            _ => entry(&mut journal, synced, BATCH, &sealed(payload)),
        }
    }
    let disk = MemoryDisk::new();
    put(&disk, JOURNAL, &journal);
    put(&disk, "manifest", &manifest_bytes(false));
    let opened = open(&disk)?;
    // Once more, on what the store made of it.
    let again = PageStore::open(Arc::new(disk.clone()), config(), Arc::new(PostgreSql));
    assert!(
        again.is_ok(),
        "a store that was opened once opens again: {:?}",
        again.err().map(|error| error.to_string())
    );
    Some(opened.segments.iter().map(|segment| segment.batches.len()).sum())
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while 0x80 <= value {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn page_key(out: &mut Vec<u8>) {
    const PAGE: u8 = 1;
    out.push(PAGE);
    for number in [1663, 5, 16384] {
        varint(out, number);
    }
    out.push(fork::MAIN);
    varint(out, 0);
}

/// A manifest that names nothing, or one layer.
fn manifest_bytes(has_layer: bool) -> Vec<u8> {
    let mut out = b"BORMANI1".to_vec();
    varint(&mut out, page_store::STORE_VERSION.into());
    varint(&mut out, 2);
    varint(&mut out, u64::from(has_layer));
    if has_layer {
        out.extend_from_slice(&SEGMENT.bytes());
        varint(&mut out, 0);
        out.push(0);
        varint(&mut out, 1);
        varint(&mut out, 1);
    }
    sealed(&out)
}

/// A disk with a segment and a manifest.
fn disk_with(manifest: &[u8]) -> MemoryDisk {
    let disk = MemoryDisk::new();
    let mut journal = Vec::new();
    entry(&mut journal, 0, BEGINNING, &[0; 16]);
    entry(&mut journal, 0, STATE, b"state");
    put(&disk, JOURNAL, &journal);
    put(&disk, "manifest", manifest);
    disk
}

/// A layer of any bytes: its versions, its compressed block, or its index.
pub(crate) fn layer(data: &[u8]) {
    layer_gives_page(data);
}

/// Whether the page could be made from the layer.
pub(crate) fn layer_gives_page(data: &[u8]) -> bool {
    let mut input = Input::new(data);
    let kind = input.u8();
    let (mut file, mut index) = (Vec::new(), Vec::new());
    if kind.is_multiple_of(4) {
        file.extend_from_slice(input.part());
        index.extend_from_slice(input.rest());
    } else {
        let newest = u64::from(input.u16()) << 8;
        file = match kind % 4 {
            1 => input.rest().to_vec(),
            _ => lz4_flex::compress_prepend_size(input.rest()),
        };
        varint(&mut index, LAYER_NUMBER);
        varint(&mut index, 1);
        page_key(&mut index);
        varint(&mut index, 0);
        varint(&mut index, file.len() as u64);
        varint(&mut index, u64::from(crc32c::crc32c(&file)));
        page_key(&mut index);
        // The oldest version, and the newest of the one reign.
        for number in [1, 0, 1, 1, newest] {
            varint(&mut index, number);
        }
    }
    let index_at = file.len() as u64;
    file.extend_from_slice(&index);
    file.extend_from_slice(&index_at.to_le_bytes());
    file.extend_from_slice(&(index.len() as u64).to_le_bytes());
    file.extend_from_slice(&crc32c::crc32c(&index).to_le_bytes());
    file.extend_from_slice(b"BORLAYR2");
    let disk = disk_with(&manifest_bytes(true));
    put(&disk, LAYER, &file);
    let Some(opened) = open(&disk) else {
        return false;
    };
    let pages = opened.store.read_pages(SEGMENT, &path(), Lsn::MAX, KEY, 1);
    pages.is_ok_and(|pages| pages.iter().any(|page| page.bytes().iter().any(|byte| *byte != 0)))
}

/// A manifest of any bytes, as it is and sealed.
pub(crate) fn manifest(data: &[u8]) {
    for bytes in [data.to_vec(), sealed(data), sealed(&[b"BORMANI1", data].concat())] {
        open(&disk_with(&bytes));
    }
}

/// A version of the page: its image.
fn image_version() -> Vec<u8> {
    const IMAGE: u8 = 3;
    let mut version = Vec::new();
    page_key(&mut version);
    varint(&mut version, 1);
    varint(&mut version, 100);
    version.push(IMAGE);
    varint(&mut version, 8192);
    version.extend_from_slice(&[9; 8192]);
    version
}

/// What [`layer`] is fed to reach the page by way of a block.
pub(crate) fn layer_with_image() -> Vec<u8> {
    [&[2, 1, 0], &image_version()[..]].concat()
}

/// The same with the index in the input.
pub(crate) fn layer_with_index() -> Vec<u8> {
    let block = lz4_flex::compress_prepend_size(&image_version());
    let mut seed = vec![0];
    seed.extend_from_slice(&(block.len() as u16).to_le_bytes());
    seed.extend_from_slice(&block);
    varint(&mut seed, LAYER_NUMBER);
    varint(&mut seed, 1);
    page_key(&mut seed);
    varint(&mut seed, 0);
    varint(&mut seed, block.len() as u64);
    varint(&mut seed, u64::from(crc32c::crc32c(&block)));
    page_key(&mut seed);
    // The oldest version, and the newest of the one reign.
    for number in [1, 100, 1, 1, 100] {
        varint(&mut seed, number);
    }
    seed
}

/// What [`manifest`] is fed: sealed by us, by the target, and without what the target puts before it.
pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let whole = manifest_bytes(true);
    let body = whole[..whole.len() - 4].to_vec();
    vec![body[8..].to_vec(), body, whole]
}

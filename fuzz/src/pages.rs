//! Redo on any page, images of any bytes, and the control file.

use engine::{Engine, Touch};
use redo::PostgreSql;
use skeleton::ControlFile;
use units::{Lsn, PAGE_BYTES, Page, RelationKey, fork};
use wal::DecodedRecord;

use crate::input::Input;

/// Pages to which one record is applied: those that it names come first.
const PAGES_MAX: usize = 12;
/// Where a record's header has the resource manager.
const MANAGER_AT: usize = 17;

/// One record on the pages that it touches and on some that it does not. The pages' own bytes are part of the input.
pub(crate) fn apply(data: &[u8]) {
    let mut input = Input::new(data);
    let record = input.part().to_vec();
    applied(record, &page(&mut input));
}

/// As [`apply`], with a record of this resource manager, whatever its header says.
pub(crate) fn apply_of(manager: u8, data: &[u8]) {
    let mut input = Input::new(data);
    let mut record = input.part().to_vec();
    if let Some(place) = record.get_mut(MANAGER_AT) {
        *place = manager;
    }
    applied(record, &page(&mut input));
}

fn applied(mut record: Vec<u8>, page: &Page) {
    if let Some(length) = record.len().try_into().ok().filter(|_| 4 <= record.len()) {
        record[..4].copy_from_slice(&u32::to_le_bytes(length));
    }
    let end = Lsn::from_raw(1 << 20);
    let mut touches = Vec::new();
    if PostgreSql.touches(&record, end, &mut touches).is_err() {
        return;
    }
    let mut keys = Vec::new();
    for touch in touches {
        if let Touch::Page { key, .. } = touch {
            assert!(!keys.contains(&key), "a record touches each page at most once");
            keys.push(key);
        }
    }
    keys.truncate(PAGES_MAX - 4);
    let relation = RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    };
    keys.extend([fork::MAIN, fork::FREE_SPACE, fork::VISIBILITY].map(|fork| relation.fork(fork).page(0)));
    keys.push(RelationKey::TRANSACTION_STATUS.fork(fork::MAIN).page(0));
    for key in keys {
        for mut page in [page.clone(), Page::zeroed()] {
            let mut again = page.clone();
            let applied = PostgreSql.apply(&record, end, key, &mut page);
            assert_eq!(
                PostgreSql.apply(&record, end, key, &mut again),
                applied,
                "redo is a function"
            );
            if applied.is_ok() {
                assert!(page.bytes() == again.bytes(), "redo is a function");
                redo::mask::mask(&mut page, key.block, record.get(MANAGER_AT).copied().unwrap_or(0));
            }
        }
    }
}

/// A page: a header, line pointers and tuples from the front of the input, the rest of it at the end of the page.
fn page(input: &mut Input<'_>) -> Page {
    let front = input.part();
    let mut bytes = [0; PAGE_BYTES];
    let front_bytes = front.len().min(PAGE_BYTES);
    bytes[..front_bytes].copy_from_slice(&front[..front_bytes]);
    let back = input.part();
    let back_bytes = back.len().min(PAGE_BYTES);
    bytes[PAGE_BYTES - back_bytes..].copy_from_slice(&back[..back_bytes]);
    Page::from_bytes(&bytes).expect("a page of bytes")
}

/// Page images in any compression.
pub(crate) fn image(data: &[u8]) {
    let Ok(record) = DecodedRecord::decode(data) else {
        return;
    };
    for block in record.blocks() {
        if let Some(image) = &block.image {
            let _ = redo::restore(image);
        }
    }
}

/// `pg_control`, sealed.
pub(crate) fn control_file(data: &[u8]) {
    /// `PG_CONTROL_FILE_SIZE`.
    const FILE_BYTES: usize = 8192;
    /// `offsetof(ControlFileData, crc)`.
    const CHECKSUM_AT: usize = 288;
    let _ = ControlFile::parse(data);
    let mut file = data.to_vec();
    file.resize(FILE_BYTES, 0);
    let checksum = crc32c::crc32c(&file[..CHECKSUM_AT]);
    file[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
    if let Ok(file) = ControlFile::parse(&file) {
        let _ = (file.system_identifier(), file.is_shut_down());
        let _ = (file.checkpoint_start(), file.checkpoint(), file.wal_file_bytes());
    }
}

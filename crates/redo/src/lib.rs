//! PostgreSQL redo: (page, record) to page.
//!
//! [`PostgreSql`] is what storage nodes ask. Each module follows one part of PostgreSQL's own redo code and is named after
//! it; each function names the one it follows. What PostgreSQL does besides to pages (files, shared memory, conflicts with
//! readers) is not here: `wal::touches` and `wal::state_changes` say which of it matters to the volume.
//!
//! Invariants:
//! - Total: any record on any page gives a page or an error.
//! - A kind of record that is not implemented is an error that names it, unless an image of the page makes redo needless.
//! - The result depends on nothing but the arguments.

mod brin;
mod bufpage;
mod clog;
mod fault;
mod generic_xlog;
mod gin;
mod ginblock;
mod gindatapage;
mod ginpostinglist;
mod gist;
mod hash;
mod hashpage;
mod heap_tuple;
mod heapam;
mod image;
mod index_items;
mod itup;
mod maps;
pub mod mask;
mod multixact;
mod nbtree;
mod nbtree_tuple;
mod numbers;
mod sequence;
mod spgist;
mod spgutils;
mod spgxlog;

use engine::{Engine, EngineError, Touch};
use units::{Lsn, Page, PageKey, RelationKey, fork};
use wal::{BlockReference, DecodedRecord, resource_manager};

use bufpage::PageMut;
use fault::{Applied, Fault};

pub use image::{ImageError, restore};

/// PostgreSQL 15, as the storage sees it.
#[derive(Clone, Copy, Default, Debug)]
pub struct PostgreSql;

impl Engine for PostgreSql {
    fn touches(&self, record: &[u8], end: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        let malformed = |what: String| EngineError::Malformed { end, what };
        let record = DecodedRecord::decode(record).map_err(|error| malformed(error.to_string()))?;
        wal::touches(&record, touches).map_err(|error| malformed(error.to_string()))
    }

    fn apply(&self, record: &[u8], end: Lsn, key: PageKey, page: &mut Page) -> Result<(), EngineError> {
        let malformed = |what: String| EngineError::Malformed { end, what };
        let record = DecodedRecord::decode(record).map_err(|error| malformed(error.to_string()))?;
        let kind = record.kind().map_err(|error| malformed(error.to_string()))?;
        let mut page = PageMut::new(page);
        apply(&record, end, key, &mut page).map_err(|fault| match fault {
            Fault::Unsupported => EngineError::Unsupported {
                end,
                kind: kind.to_string(),
            },
            Fault::Mismatch(what) => EngineError::Mismatch {
                end,
                kind: kind.to_string(),
                key,
                what: what.to_owned(),
            },
        })
    }
}

/// The page as a record leaves it, by the image that the record carries of it: also if the image is there for consistency
/// checks only. For oracles: it is what [`Engine::apply`] has to make of the page before.
pub fn after_image(
    record: &DecodedRecord<'_>,
    end: Lsn,
    block: &BlockReference<'_>,
) -> Result<Option<Page>, ImageError> {
    let Some(image) = &block.image else {
        return Ok(None);
    };
    let mut page = restore(image)?;
    complete_image(record, end, block, &mut PageMut::new(&mut page)).map_err(|_| ImageError)?;
    Ok(Some(page))
}

/// Redo of one record on one page that it touches.
fn apply(record: &DecodedRecord<'_>, end: Lsn, key: PageKey, page: &mut PageMut<'_>) -> Result<(), Fault> {
    let block = record.blocks().find(|block| block.key == key);
    if let Some(block) = &block
        && let Some(image) = block.image.filter(|image| image.apply)
    {
        image::apply(&image, end, page)?;
        return complete_image(record, end, block, page);
    }
    if key.fork.relation.is_status_array() {
        return status(record, key, page);
    }
    let Some(block) = &block else {
        return implied(record, key, page);
    };
    match record.header.resource_manager {
        // A reference without an image to apply is there for a consistency check.
        resource_manager::XLOG => Ok(()),
        resource_manager::HEAP => heapam::redo(record, end, block, page),
        resource_manager::HEAP2 => heapam::redo2(record, end, block, page),
        resource_manager::BTREE => nbtree::redo(record, end, block, page),
        resource_manager::GIN => gin::redo(record, end, block, page),
        resource_manager::HASH => hash::redo(record, end, block, page),
        resource_manager::GIST => gist::redo(record, end, block, page),
        resource_manager::SEQUENCE => sequence::redo(record, end, page),
        resource_manager::SPGIST => spgist::redo(record, end, block, page),
        resource_manager::BRIN => brin::redo(record, end, block, page),
        resource_manager::GENERIC => generic_xlog::redo(block, end, page),
        _ => Err(Fault::Unsupported),
    }
}

/// What redo changes even on a page that an image restored: the image was made before that (`BLK_RESTORED`).
fn complete_image(record: &DecodedRecord<'_>, end: Lsn, block: &BlockReference<'_>, page: &mut PageMut<'_>) -> Applied {
    match record.header.resource_manager {
        resource_manager::HASH => hash::complete_image(record, end, block, page),
        resource_manager::GIST => gist::complete_image(record, end, block, page),
        _ => Ok(()),
    }
}

/// `CLOG_ZEROPAGE` and `COMMIT_TS_ZEROPAGE`.
const ZERO_PAGE: u8 = 0x00;

/// Pages of transaction status, which have no header and no LSN.
fn status(record: &DecodedRecord<'_>, key: PageKey, page: &mut PageMut<'_>) -> Result<(), Fault> {
    match (record.header.resource_manager, key.fork.relation) {
        (resource_manager::TRANSACTION, RelationKey::TRANSACTION_STATUS) => clog::redo(record, key.block, page),
        (resource_manager::TRANSACTION, RelationKey::COMMIT_TIMESTAMPS) => {
            clog::redo_commit_timestamps(record, key.block, page)
        }
        (resource_manager::MULTIXACT, _) => multixact::redo(record, key, page),
        (resource_manager::CLOG | resource_manager::COMMIT_TIMESTAMP, _) if record.operation() == ZERO_PAGE => {
            page.bytes_mut().fill(0);
            Ok(())
        }
        _ => Err(Fault::Unsupported),
    }
}

/// Pages that a record changes without referring to them.
fn implied(record: &DecodedRecord<'_>, key: PageKey, page: &mut PageMut<'_>) -> Result<(), Fault> {
    match (record.header.resource_manager, key.fork.fork) {
        (resource_manager::STORAGE, fork::VISIBILITY) => maps::truncate_visibility(record, page),
        (resource_manager::STORAGE, fork::FREE_SPACE) => maps::truncate_free_space(record, page),
        (resource_manager::HEAP | resource_manager::HEAP2, fork::VISIBILITY) => {
            maps::clear_visibility(record, key, page)
        }
        _ => Err(Fault::Unsupported),
    }
}

//! The end of the log, as an opener needs it: the page that PostgreSQL goes on writing behind.

use std::collections::BTreeMap;

use bytes::Bytes;
use skeleton::ControlFile;
use units::{GroupId, Lsn};
use wal::{Marks, WAL_PAGE_BYTES};
use wire_format::Item;
use wire_format::log::LoggedFlush;

use crate::last_page::{ImportedPage, LastPage, LogFacts};
use crate::log::{LogError, LogReader, parts_of_others};

/// Bytes asked for at once.
const BYTES_AT_ONCE: u32 = 64 << 10;

/// The page on which the log ends, up to the end: of the records of every group that has one of them. The floor never passes
/// its beginning.
pub(crate) async fn last_page(
    log: &mut LogReader,
    marks: &Marks,
    control: &ControlFile,
    imported: Option<&Bytes>,
) -> Vec<u8> {
    if marks.end.raw().is_multiple_of(WAL_PAGE_BYTES) {
        return Vec::new();
    }
    let facts = LogFacts {
        timeline: marks.state.timeline,
        system_identifier: control.system_identifier(),
        wal_file_bytes: control.wal_file_bytes(),
    };
    let mut page = LastPage::new(marks.end, facts);
    let imported = imported.and_then(|value| ImportedPage::decode(value.clone()));
    let collected = collect(log, &mut page, marks.end).await;
    let why = match collected {
        Ok(()) => "its records do not make it".to_owned(),
        Err(error) => error.to_string(),
    };
    page.bytes(imported.as_ref()).unwrap_or_else(|| {
        // PostgreSQL goes on behind the page in any case: a group whose copies are all away must not keep the volume closed.
        tracing::warn!(end = %marks.end, %why, "log.end: what stands on the last page is not to be had");
        page.unknown()
    })
}

async fn collect(log: &mut LogReader, page: &mut LastPage, end: Lsn) -> Result<(), LogError> {
    let start = Lsn::from_raw(end.raw() - end.raw() % WAL_PAGE_BYTES);
    let mut records = BTreeMap::new();
    let flushes = share(log, GroupId::FIRST, start, end, &mut records).await?;
    flushes.iter().for_each(|flush| page.flags(&flush.page_flags));
    for (group, through) in parts_of_others(&flushes) {
        let mut more = BTreeMap::new();
        share(log, group, start, through, &mut more).await?;
        records.extend(more);
    }
    records.values().flatten().for_each(|item| page.item(item));
    Ok(())
}

/// A group's records above `after`, each in its pieces; of a long one no more than its beginning and its end. Answers with the
/// flushes.
async fn share(
    log: &mut LogReader,
    group: GroupId,
    after: Lsn,
    through: Lsn,
    records: &mut BTreeMap<Lsn, Vec<Item>>,
) -> Result<Vec<LoggedFlush>, LogError> {
    let mut flushes = Vec::new();
    let mut at = (after, 0);
    while at.0 < through {
        let part = log.part(group, at, through, BYTES_AT_ONCE).await?;
        flushes.extend(part.flushes);
        let known = part.items.last().map_or(0, known_of);
        for item in part.items {
            let (Item::Record { end, .. } | Item::Fragment { end, .. } | Item::Image { end, .. }) = &item;
            records.entry(*end).or_default().push(item);
        }
        at = (part.through.max(at.0), known);
    }
    Ok(flushes)
}

/// How much need not be asked for of a record of which this piece came last; zero if it is whole.
fn known_of(item: &Item) -> u32 {
    match item {
        Item::Fragment {
            record_bytes,
            offset,
            bytes,
            ..
        } => {
            let end = offset + bytes.len() as u32;
            let rest = record_bytes.saturating_sub(WAL_PAGE_BYTES as u32);
            if end < *record_bytes { end.max(rest) } else { 0 }
        }
        Item::Record { .. } | Item::Image { .. } => 0,
    }
}

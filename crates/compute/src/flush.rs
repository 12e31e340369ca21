//! From the stream of WAL to flushes.
//!
//! Invariants:
//! - A flush ends at a record's end, or holds nothing but a piece of one record: its boundary is then the record end before.
//! - Marks and catalog entries of a flush are as of its boundary, in the order of the log.
//! - A record goes whole to every group that has a page which it changes or takes away, and to group 0 if there is none. As
//!   long as the volume has one group, nobody looks.
//! - No byte of a record leaves that no storage node could redo: an extension's own, or of a later release. Nor does one that
//!   copies a database as files.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use engine::Touch;
use units::{GroupId, Lsn};
use volume::{FlushParts, Share};
use wal::{DecodedRecord, Marks, Record, StateChange, StreamDecoder, StreamError};
use wire_format::{CatalogEntry, Elsewhere, Item};

use crate::catalog::Catalog;

/// WAL that is not what it should be: PostgreSQL and this build do not understand each other. Nothing of it is shipped, so no
/// commit behind it is ever acknowledged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FlushError {
    #[error("the log cannot be read: {0}")]
    Stream(#[from] StreamError),
    #[error("the record ending at {end} cannot be kept: {what}")]
    Record { end: Lsn, what: String },
}

/// Turns WAL into flushes of a bounded size.
pub(crate) struct FlushBuilder {
    decoder: StreamDecoder,
    marks: Marks,
    catalog: Rc<RefCell<Catalog>>,
    flush_bytes_max: usize,
    first: Share,
    others: BTreeMap<GroupId, Share>,
    entries: Vec<CatalogEntry>,
    flags: Vec<(Lsn, u16)>,
    bytes: usize,
    /// A record that is being cut.
    long: Option<Long>,
    touches: Vec<Touch>,
}

struct Long {
    record: Record,
    /// How much of it is sent.
    sent: usize,
    route: Route,
    /// What it does to the catalog, which leaves with its last piece.
    entries: Vec<CatalogEntry>,
}

/// Where a record goes.
enum Route {
    /// To group 0, which has everything that it changes.
    First,
    /// To these groups, whole; with the touches that are not for the group.
    Groups(Vec<(GroupId, Vec<u32>)>),
}

impl FlushBuilder {
    /// Goes on right behind the record that `marks` are as of.
    pub(crate) fn new(
        marks: Marks,
        catalog: Rc<RefCell<Catalog>>,
        wal_file_bytes: u64,
        flush_bytes_max: usize,
    ) -> FlushBuilder {
        FlushBuilder {
            decoder: StreamDecoder::new(marks.end, Some(marks.last_record), wal_file_bytes),
            marks,
            catalog,
            flush_bytes_max,
            first: Share::default(),
            others: BTreeMap::new(),
            entries: Vec::new(),
            flags: Vec::new(),
            bytes: 0,
            long: None,
            touches: Vec::new(),
        }
    }

    /// Takes WAL. Call [`FlushBuilder::next`] until it has nothing more before the next push.
    pub(crate) fn push(&mut self, start: Lsn, bytes: Bytes) -> Result<(), FlushError> {
        Ok(self.decoder.push(start, &bytes)?)
    }

    /// The next flush, as long as there is a whole record. `written_at_us`: the wall clock.
    pub(crate) fn next(&mut self, written_at_us: u64) -> Result<Option<FlushParts>, FlushError> {
        if self.long.is_some() {
            return self.piece(written_at_us).map(Some);
        }
        while self.bytes < self.flush_bytes_max {
            let Some(record) = self.decoder.next_record()? else {
                break;
            };
            if self.flush_bytes_max < record.bytes.len() {
                let before = self.bytes;
                let entries = std::mem::take(&mut self.entries);
                let route = self.look(&record, &decode(&record)?)?;
                self.long = Some(Long {
                    record,
                    sent: 0,
                    route,
                    entries: std::mem::replace(&mut self.entries, entries),
                });
                // What came before it is a flush of its own.
                return if before == 0 {
                    self.piece(written_at_us).map(Some)
                } else {
                    Ok(Some(self.take(self.marks.end, written_at_us)))
                };
            }
            let decoded = decode(&record)?;
            let route = self.look(&record, &decoded)?;
            self.pass(&record, &decoded)?;
            self.bytes += record.bytes.len();
            let item = Item::Record {
                end: record.end,
                bytes: record.bytes,
            };
            self.keep(record.end, item, &route);
        }
        Ok((0 < self.bytes).then(|| self.take(self.marks.end, written_at_us)))
    }

    /// The log as of which catalog and marks are.
    pub(crate) fn end(&self) -> Lsn {
        self.marks.end
    }

    /// What the record does to the catalog, and which groups it goes to.
    fn look(&mut self, record: &Record, decoded: &DecodedRecord<'_>) -> Result<Route, FlushError> {
        let unreadable = |what| unreadable(record, what);
        let mut changes = Vec::new();
        wal::state_changes(decoded, &mut changes).map_err(|error| unreadable(error.to_string()))?;
        if let Some(StateChange::DatabaseCopied { database, .. }) = changes
            .iter()
            .find(|change| matches!(change, StateChange::DatabaseCopied { .. }))
        {
            // The library makes every strategy wal_log and refuses to move databases: what came around it must not be lost.
            let what = format!("database {database} is a copy of files, and the volume has no files");
            return Err(unreadable(what));
        }
        let mut catalog = self.catalog.borrow_mut();
        if catalog.stripes.groups_count() == 1 {
            catalog.apply_all(&changes, record.end, &mut self.entries);
            return Ok(Route::First);
        }
        self.touches.clear();
        wal::touches(decoded, &mut self.touches).map_err(|error| unreadable(error.to_string()))?;
        let mut groups = BTreeSet::new();
        catalog.groups_that_lose(&self.touches, &mut groups);
        catalog.apply_all(&changes, record.end, &mut self.entries);
        Ok(route(&self.touches, groups, &catalog))
    }

    /// The marks go on over the record.
    fn pass(&mut self, record: &Record, decoded: &DecodedRecord<'_>) -> Result<(), FlushError> {
        let passed = self.marks.advance(decoded, record.start, record.end);
        passed.map_err(|error| unreadable(record, error.to_string()))
    }

    /// Puts a record, or a piece of one, where it goes.
    fn keep(&mut self, end: Lsn, item: Item, route: &Route) {
        let Route::Groups(groups) = route else {
            self.first.items.push(item);
            return;
        };
        for (group, elsewhere) in groups {
            let share = if *group == GroupId::FIRST {
                &mut self.first
            } else {
                self.others.entry(*group).or_default()
            };
            share.items.push(item.clone());
            if !elsewhere.is_empty() {
                let touches = elsewhere.clone();
                share.elsewhere.push(Elsewhere { end, touches });
            }
        }
    }

    fn take(&mut self, end: Lsn, written_at_us: u64) -> FlushParts {
        let mut marks = Vec::with_capacity(64);
        self.marks.encode(&mut marks);
        self.flags.extend(self.decoder.take_page_flags());
        self.bytes = 0;
        FlushParts {
            end,
            boundary: self.marks.end,
            first: std::mem::take(&mut self.first),
            others: std::mem::take(&mut self.others).into_iter().collect(),
            marks: marks.into(),
            catalog: std::mem::take(&mut self.entries),
            page_flags: std::mem::take(&mut self.flags),
            written_at_us,
        }
    }

    /// The next piece of a long record. Its flush is named as if the record ended with it, counted back from the end.
    fn piece(&mut self, written_at_us: u64) -> Result<FlushParts, FlushError> {
        let mut long = self.long.take().expect("called while a record is being cut");
        let whole = long.record.bytes.len();
        let next = whole.min(long.sent + self.flush_bytes_max);
        let item = Item::Fragment {
            end: long.record.end,
            record_bytes: whole as u32,
            offset: long.sent as u32,
            bytes: long.record.bytes.slice(long.sent..next),
        };
        self.keep(long.record.end, item, &long.route);
        let end = Lsn::from_raw(long.record.end.raw() - (whole - next) as u64);
        if next == whole {
            self.pass(&long.record, &decode(&long.record)?)?;
            self.entries.append(&mut long.entries);
        } else {
            long.sent = next;
            self.long = Some(long);
        }
        Ok(self.take(end, written_at_us))
    }
}

/// The groups of the pages that a record changes, beside those of what it takes away.
fn route(touches: &[Touch], mut groups: BTreeSet<GroupId>, catalog: &Catalog) -> Route {
    let group_of = |touch: &Touch| match touch {
        Touch::Page { key, .. } => Some(catalog.stripes.group_of(*key)),
        Touch::Truncate { .. } | Touch::DropDatabase { .. } => None,
    };
    let of_pages: Vec<Option<GroupId>> = touches.iter().map(group_of).collect();
    groups.extend(of_pages.iter().flatten());
    // A record without pages goes to group 0.
    if groups.iter().all(|group| *group == GroupId::FIRST) {
        return Route::First;
    }
    let elsewhere = |group: GroupId| {
        let others = of_pages
            .iter()
            .zip(0..)
            .filter(|(of, _)| of.is_some_and(|of| of != group));
        (group, others.map(|(_, at)| at).collect())
    };
    Route::Groups(groups.into_iter().map(elsewhere).collect())
}

fn decode(record: &Record) -> Result<DecodedRecord<'_>, FlushError> {
    DecodedRecord::decode(&record.bytes).map_err(|error| unreadable(record, error.to_string()))
}

fn unreadable(record: &Record, what: String) -> FlushError {
    FlushError::Record { end: record.end, what }
}

#[cfg(test)]
mod tests {
    use units::{ForkKey, RelationKey, fork};
    use volume::stripes::Geometry;
    use wal::{PageWriter, encode_record, record_start, resource_manager};
    use wire_format::CatalogKey;

    use super::*;

    const WAL_FILE_BYTES: u64 = 1 << 20;
    const FLUSH_BYTES_MAX: usize = 4096;

    /// A builder that was given a message of so many bytes and a record of this resource manager with as much in it.
    fn given(manager: u8, data_bytes: usize) -> (FlushBuilder, Lsn) {
        let begin = Lsn::from_raw(3 * WAL_FILE_BYTES);
        let marks = Marks {
            end: begin,
            last_record: Lsn::from_raw(begin.raw() - 64),
            ..Marks::default()
        };
        let mut flushes = FlushBuilder::new(marks, Rc::default(), WAL_FILE_BYTES, FLUSH_BYTES_MAX);
        let mut writer = PageWriter::new(begin, 1, 77, WAL_FILE_BYTES, &[]);
        let mut previous = marks.last_record;
        let mut first_end = begin;
        for manager in [resource_manager::LOGICAL_MESSAGE, manager] {
            let start = record_start(writer.end(), WAL_FILE_BYTES);
            let record = encode_record(manager, 0, 0, previous, &vec![7; data_bytes]);
            writer.append(start, &record).expect("it follows the one before");
            (previous, first_end) = (start, if first_end == begin { writer.end() } else { first_end });
        }
        flushes
            .push(begin, writer.into_bytes().into())
            .expect("it begins there");
        (flushes, first_end)
    }

    #[test]
    fn a_long_record_leaves_in_pieces_and_counts_with_the_last() {
        let (mut flushes, first_end) = given(resource_manager::LOGICAL_MESSAGE, 2 * FLUSH_BYTES_MAX);
        let mut pieces = 0;
        while flushes.end() < first_end {
            let flush = flushes.next(0).expect("sound log").expect("a piece");
            assert!(matches!(flush.first.items[..], [Item::Fragment { .. }]));
            assert_eq!(flush.boundary, flushes.end());
            pieces += 1;
        }
        assert_eq!(pieces, 3);
    }

    /// What nobody could redo never leaves, not even the first piece of it, and neither does anything behind it.
    #[test]
    fn a_record_of_an_extension_is_refused_and_the_extension_named() {
        for (data_bytes, flushes_before) in [(100, 0), (2 * FLUSH_BYTES_MAX, 3)] {
            let (mut flushes, first_end) = given(128, data_bytes);
            for _ in 0..flushes_before {
                let flush = flushes.next(0).expect("the first record").expect("a piece of it");
                assert!(flush.end <= first_end);
            }
            let refused = flushes.next(0).expect_err("no flush has it").to_string();
            assert!(refused.contains("resource manager 128"), "{refused}");
            assert!(refused.contains("shared_preload_libraries"), "{refused}");
            assert!(flushes.end() <= first_end);
        }
    }

    /// A catalog whose stripes have two blocks and whose groups ten: a relation of 14 blocks lies in groups 0 and 1.
    fn in_two_groups() -> (Catalog, ForkKey) {
        let geometry = Geometry {
            group_blocks: 10,
            stripe_blocks: 2,
        };
        let mut catalog = Catalog::new(geometry, 3);
        let relation = RelationKey {
            tablespace: 1663,
            database: 5,
            relation: 16384,
        };
        let fork = relation.fork(fork::MAIN);
        let extended = StateChange::ForkExtended {
            fork,
            blocks: 14,
            if_exists: false,
        };
        let mut entries = Vec::new();
        catalog.apply_all(&[extended], Lsn::from_raw(100), &mut entries);
        let keys: Vec<CatalogKey> = entries.iter().map(|entry| entry.key.clone()).collect();
        assert_eq!(
            keys,
            [CatalogKey::ForkBlocks(fork), CatalogKey::Stripes { fork, first: 5 }],
            "one entry of a key at one position, and one for each change of the group"
        );
        (catalog, fork)
    }

    fn routed(route: Route) -> Vec<(u32, Vec<u32>)> {
        match route {
            Route::First => Vec::new(),
            Route::Groups(groups) => groups.into_iter().map(|(group, at)| (group.raw(), at)).collect(),
        }
    }

    #[test]
    fn a_record_goes_whole_to_every_group_of_its_pages() {
        let (catalog, fork) = in_two_groups();
        let page = |key| Touch::Page {
            key,
            from_nothing: false,
        };
        let to = |touches: &[Touch]| routed(route(touches, BTreeSet::new(), &catalog));
        assert_eq!(to(&[page(fork.page(3))]), []);
        assert_eq!(to(&[]), [], "no page: group 0");
        assert_eq!(to(&[page(fork.page(12))]), [(1, vec![])], "group 0 has none of it");
        let status = RelationKey::TRANSACTION_STATUS.fork(fork::MAIN).page(7);
        let both = [
            page(fork.page(12)),
            page(status),
            page(fork.page(3)),
            page(fork.page(11)),
        ];
        assert_eq!(to(&both), [(0, vec![0, 3]), (1, vec![1, 2])]);
    }

    /// protocol.md, hole 16.
    #[test]
    fn what_is_taken_away_is_told_to_every_group_that_has_some_of_it() {
        let (mut catalog, fork) = in_two_groups();
        let taken = |touch: Touch, catalog: &Catalog| {
            let mut groups = BTreeSet::new();
            catalog.groups_that_lose(&[touch], &mut groups);
            routed(route(&[touch], groups, catalog))
        };
        let cut = |from_block| Touch::Truncate { fork, from_block };
        assert_eq!(taken(cut(11), &catalog), [(1, vec![])]);
        assert_eq!(taken(cut(2), &catalog), [(0, vec![]), (1, vec![])]);
        let dropped = Touch::DropDatabase {
            tablespace: 1663,
            database: 5,
        };
        assert_eq!(taken(dropped, &catalog), [(0, vec![]), (1, vec![])]);
        let truncated = StateChange::ForkTruncated { fork, blocks: 3 };
        let mut entries = Vec::new();
        catalog.apply_all(&[truncated], Lsn::from_raw(200), &mut entries);
        assert_eq!(
            entries.len(),
            2,
            "the size, and the end of what group 1 had: {entries:?}"
        );
        assert!(catalog.stripes.is_one_group());
        assert_eq!(catalog.stripes.blocks(), [3, 0, 0]);
    }

    #[test]
    fn init_forks_stay_in_the_group_that_is_read_first() {
        let (mut catalog, fork) = in_two_groups();
        let init = fork.relation.fork(fork::INIT);
        let extended = StateChange::ForkExtended {
            fork: init,
            blocks: 1,
            if_exists: false,
        };
        catalog.apply_all(&[extended], Lsn::from_raw(300), &mut Vec::new());
        assert_eq!(catalog.stripes.group_of(init.page(0)), GroupId::FIRST);
        assert_eq!(catalog.stripes.group_of(fork.page(13)).raw(), 1);
    }

    #[test]
    fn a_database_copied_as_files_is_refused() {
        let (mut flushes, _) = given(resource_manager::DATABASE, 16);
        let refused = flushes.next(0).expect_err("no flush has it").to_string();
        assert!(refused.contains("copy of files"), "{refused}");
    }
}

//! The traces of `notes/protocol.md`, one by one: each was a way to lose something, and is one no more.
//!
//! Tests are named after the holes; `docs/simulation-coverage.md` says which test, here or elsewhere, is whose.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::cast::{ALL, Six, Store, Writer, at, begin, id, lsn};
use timeline::Path;
use units::{Epoch, Lsn, Position};
use volume::{Opened, OpeningError};
use wire_format::message::{Refusal, Request, Response};
use wire_format::{Batch, EncodedBatch, FlushHeader};

/// The next opener, with these copies.
fn open(store: &mut Store, six: &mut Six, names: &str) -> Opened {
    let mut opener = store.take();
    opener.reach(six, names).expect("nothing stands in its way");
    opener.record(store, six).expect("nobody took an epoch meanwhile")
}

#[test]
fn hole_1_a_step_that_is_not_tied_to_what_its_opener_read() {
    let (mut store, mut six, _) = begin();
    let mut second = store.take();
    second.reach(&mut six, "ABCD").expect("the first to ask");
    let mut third = store.take();
    assert_eq!(second.candidate(), Some(lsn(10)));
    assert_eq!(second.record(&mut store, &mut six), Err(OpeningError::Conflict));
    third.reach(&mut six, "CDEF").expect("a later epoch");
    let opened = third.record(&mut store, &mut six).expect("it holds the epoch");
    assert_eq!((opened.branch, opened.last), (lsn(10), at(1, 10)));
    assert_eq!(store.record.timelines.len(), 2, "of two who duelled one reigns");
}

#[test]
fn hole_1_whoever_comes_after_the_step_reads_its_timeline() {
    let (mut store, mut six, _) = begin();
    let mut writer = Writer::after(open(&mut store, &mut six, "ABCD"), &mut six);
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    assert_eq!(writer.shipper.durable(), lsn(20));
    let opened = open(&mut store, &mut six, "DEFC");
    assert_eq!(opened.last, at(2, 20), "what the second acknowledged is history");
}

#[test]
fn hole_2a_a_link_to_an_lsn_of_another_reign() {
    let (mut store, mut six, mut zombie) = begin();
    zombie.flush();
    zombie.deliver(&mut six, "A");
    let mut writer = Writer::after(open(&mut store, &mut six, "BCDEF"), &mut six);
    assert_eq!(six.segment('A').complete(), at(1, 10), "20@1 is no history any more");
    writer.flush();
    writer.flush();
    writer.deliver_newest(&mut six, 'A');
    assert_eq!(six.segment('A').complete(), at(1, 10), "20@1 does not stand for 20@2");
    writer.deliver(&mut six, "BCD");
    assert_eq!(writer.shipper.durable(), lsn(10), "three have 30@2 without a hole");
    writer.deliver(&mut six, "A");
    assert_eq!(writer.shipper.durable(), lsn(30));
}

#[test]
fn hole_2b_a_candidate_of_another_reign() {
    let (mut store, mut six, mut zombie) = begin();
    zombie.flush();
    zombie.deliver(&mut six, "E");
    assert_eq!(open(&mut store, &mut six, "ABCD").branch, lsn(10));
    // The third opener hears E, who slept through the second's reign.
    let opened = open(&mut store, &mut six, "BCDE");
    assert_eq!((opened.branch, opened.last), (lsn(10), at(1, 10)));
}

#[test]
fn hole_2c_a_durable_position_of_a_timeline_that_was_left() {
    let (mut store, mut six, mut writer) = begin();
    for _ in 0..3 {
        writer.flush();
    }
    writer.deliver(&mut six, ALL);
    writer.announce(Duration::from_secs(1));
    writer.deliver(&mut six, ALL);
    assert_eq!(six.segment('A').horizon().durable, at(1, 40));
    // Somebody went back from 40 to 20.
    let epoch = Epoch::from_raw(2);
    store.record = store.record.opened_by(epoch, lsn(40));
    store.record.timelines.last_mut().expect("just opened").branch = lsn(20);
    store.take();
    let opened = open(&mut store, &mut six, "ABCD");
    assert_eq!((opened.branch, opened.last), (lsn(20), at(1, 20)));
    assert_eq!(six.segment('A').complete(), at(1, 20));
}

/// The same with the rule broken: a copy says how far the log was ever durable, whatever the reign.
#[test]
fn hole_2c_believing_a_stale_reigns_durable_position_is_found() {
    let (mut store, mut six, mut writer) = begin();
    for _ in 0..3 {
        writer.flush();
    }
    writer.deliver(&mut six, ALL);
    store.record = store.record.opened_by(Epoch::from_raw(2), lsn(40));
    store.record.timelines.last_mut().expect("just opened").branch = lsn(20);
    store.take();
    let mut opener = store.take();
    opener.lies = Some(|promised| promised.durable = Position::new(promised.path.epoch(), lsn(40)));
    opener.reach(&mut six, ALL).expect("six promises");
    assert_ne!(opener.candidate(), Some(lsn(20)), "20 is where the log ends");
}

#[test]
fn hole_3_a_part_of_a_flush_that_went_elsewhere_is_not_half_recovered() {
    let (mut store, mut six, _) = begin();
    let torn = EncodedBatch::new(Batch {
        volume: store.record.volume,
        group: units::GroupId::FIRST,
        epoch: Epoch::from_raw(1),
        end: lsn(20),
        previous: at(1, 10),
        header: Some(FlushHeader {
            groups: vec![units::GroupId::FIRST, units::GroupId::from_raw(1)],
            boundary: lsn(20),
            written_at_us: 0,
            marks: bytes::Bytes::new(),
            catalog: Vec::new(),
            page_flags: Vec::new(),
        }),
        items: Vec::new(),
        elsewhere: Vec::new(),
    });
    let request = Request::Append {
        segment: id('A'),
        epoch: Epoch::from_raw(1),
        durable: Position::ZERO,
        batch: torn,
    };
    six.ask('A', &request);
    let outcome = store.take().reach(&mut six, "ABCD");
    assert!(matches!(outcome, Err(OpeningError::Groups { .. })), "{outcome:?}");
}

#[test]
fn hole_4_a_promise_outlives_a_restart() {
    let (mut store, mut six, mut writer) = begin();
    let mut opener = store.take();
    opener.reach(&mut six, "CEF").expect("three promises");
    six.restart('C');
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    assert_eq!(writer.shipper.durable(), lsn(10), "C does not count for the old reign");
    assert_eq!(writer.fenced_by, Some(Epoch::from_raw(2)));
}

#[test]
fn hole_5_an_empty_disk_under_its_old_name() {
    let (mut store, mut six, mut writer) = begin();
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    assert_eq!(writer.shipper.durable(), lsn(20));
    six.wipe('D');
    let mut opener = store.take();
    opener.reach(&mut six, "DEF").expect("D is no error, but no help");
    assert_eq!(opener.candidate(), None, "E and F are two promises");
    opener.reach(&mut six, "BC").expect("two more");
    assert_eq!(opener.candidate(), Some(lsn(20)));
}

#[test]
fn hole_5_rot_below_what_was_acknowledged() {
    let (mut store, mut six, mut writer) = begin();
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    six.segment_mut('D').damaged();
    let mut opener = store.take();
    opener.reach(&mut six, "DEF").expect("an answer without a vote");
    assert_eq!(opener.candidate(), None);
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    assert_eq!(writer.shipper.durable(), lsn(20), "and none for the writer either");
}

#[test]
fn hole_6_whoever_was_looked_at_is_fenced() {
    let (mut store, mut six, mut writer) = begin();
    writer.flush();
    writer.deliver(&mut six, "ABC");
    let mut opener = store.take();
    opener.reach(&mut six, "DEF").expect("three answers: nothing above 10");
    writer.deliver(&mut six, "DEF");
    assert_eq!(writer.shipper.durable(), lsn(10), "too late for a fourth copy");
    opener.reach(&mut six, "C").expect("a fourth promise");
    let opened = opener.record(&mut store, &mut six).expect("it holds the epoch");
    assert!(matches!(opened.branch, branch if branch == lsn(10) || branch == lsn(20)));
}

#[test]
fn hole_11_one_epoch_is_one_stream_of_bytes() {
    let (_, mut six, mut writer) = begin();
    writer.flush();
    writer.deliver(&mut six, "A");
    let cut_differently = EncodedBatch::new(Batch {
        volume: six.segment('A').volume(),
        group: units::GroupId::FIRST,
        epoch: Epoch::from_raw(1),
        end: lsn(20),
        previous: at(1, 15),
        header: None,
        items: Vec::new(),
        elsewhere: Vec::new(),
    });
    let request = Request::Append {
        segment: id('A'),
        epoch: Epoch::from_raw(1),
        durable: Position::ZERO,
        batch: cut_differently,
    };
    let answer = six.ask('A', &request);
    assert!(
        matches!(answer, Response::Refused(Refusal::Malformed { .. })),
        "{answer:?}"
    );
}

#[test]
fn hole_12_nothing_of_a_reign_before_its_record() {
    let (mut store, mut six, mut writer) = begin();
    writer.flush();
    writer.deliver(&mut six, "ABC");
    let mut dies = store.take();
    dies.reach(&mut six, "ABCD").expect("four promises");
    assert_eq!(dies.candidate(), Some(lsn(20)));
    let shown = six.may_read('A', 2, 20, at(1, 20));
    assert!(matches!(shown, Err(Refusal::UnknownTimeline { .. })), "{shown:?}");
    // It dies here, and leaves nothing but a used-up epoch.
    let opened = open(&mut store, &mut six, "CDEF");
    assert_eq!(opened.branch, lsn(20), "copied to four, it is missed by nobody");
    let reigns: Vec<u64> = store.record.timelines.iter().map(|one| one.epoch.raw()).collect();
    assert_eq!(reigns, [1, 3]);
}

#[test]
fn hole_13_a_metadata_store_from_an_old_copy() {
    let (mut store, mut six, _) = begin();
    let old_copy = store.record.clone();
    open(&mut store, &mut six, ALL);
    store.record = old_copy;
    let outcome = store.take().reach(&mut six, "ABC");
    assert!(
        matches!(outcome, Err(OpeningError::RecordOutdated { found, .. }) if found == Epoch::from_raw(2)),
        "{outcome:?}"
    );
}

/// The store of the old copy counts up again until it hands out an epoch that reigned already.
#[test]
fn hole_13_an_old_copy_of_the_store_that_hands_out_an_epoch_again() {
    let (mut store, mut six, _) = begin();
    let old_copy = store.record.clone();
    let mut writer = Writer::after(open(&mut store, &mut six, "ABCD"), &mut six);
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    assert_eq!(writer.shipper.durable(), lsn(20));
    store.go_back(1, old_copy);
    let mut again = store.take();
    let outcome = again.reach(&mut six, "DEF");
    assert!(
        matches!(outcome, Err(OpeningError::RecordOutdated { found, .. }) if found == Epoch::from_raw(2)),
        "{outcome:?}"
    );
    assert_eq!(again.candidate(), None);
}

fn root(path: &Path) -> Path {
    Path::new(path.branches()[..1].to_vec()).expect("the root is a path")
}

/// The same with the rule broken: copies say only what the record knows already, in their promises or altogether.
#[test]
fn hole_13_not_hearing_of_the_own_epoch_is_found() {
    let (mut store, mut six, _) = begin();
    let old_copy = store.record.clone();
    let mut writer = Writer::after(open(&mut store, &mut six, "ABCD"), &mut six);
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    store.go_back(1, old_copy.clone());
    let mut again = store.take();
    again.lies = Some(|promised| promised.path = root(&promised.path));
    let outcome = again.reach(&mut six, ALL);
    assert!(
        matches!(outcome, Err(OpeningError::RecordOutdated { .. })),
        "their acknowledgements tell: {outcome:?}"
    );
    store.go_back(1, old_copy);
    let mut again = store.take();
    again.lies = Some(|promised| (promised.path, promised.complete) = (root(&promised.path), at(1, 10)));
    again.reach(&mut six, ALL).expect("six promises");
    assert_eq!(again.candidate(), Some(lsn(10)), "20@2 was acknowledged, and is lost");
}

#[test]
fn hole_14_the_only_holder_is_gone_before_it_is_copied() {
    let (mut store, mut six, mut zombie) = begin();
    zombie.flush();
    zombie.deliver(&mut six, "A");
    let mut second = store.take();
    second.opening.connected(id('A'), &mut Vec::new());
    second.leave("A");
    second.reach(&mut six, "BC").expect("two promises");
    assert_eq!(second.candidate(), None);
    let opened = open(&mut store, &mut six, "BCDE");
    assert_eq!(opened.branch, lsn(10), "nobody was told of 20@1");
    let mut writer = Writer::after(opened, &mut six);
    assert_eq!(six.segment('A').complete(), at(1, 10));
    writer.flush();
    writer.deliver(&mut six, ALL);
    assert_eq!(six.segment('A').complete(), at(3, 20));
}

#[test]
fn hole_19_a_page_last_written_below_the_floor_is_read_at_the_durable_position() {
    let (_, mut six, mut writer) = begin();
    for _ in 0..9 {
        writer.flush();
    }
    writer.deliver(&mut six, ALL);
    writer.announce(Duration::from_secs(1));
    writer.deliver(&mut six, ALL);
    assert_eq!(six.may_read('A', 1, 100, at(1, 10)), Ok(lsn(100)));
    let refused = six.may_read('A', 1, 10, at(1, 10));
    assert!(matches!(refused, Err(Refusal::BelowFloor { .. })), "{refused:?}");
}

#[test]
fn hole_20_the_segment_checks_how_complete_it_is() {
    let (_, mut six, mut writer) = begin();
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    assert_eq!(
        six.may_read('E', 1, 20, at(1, 10)),
        Ok(lsn(10)),
        "as far as it has everything"
    );
    let refused = six.may_read('E', 1, 20, at(1, 20));
    assert!(matches!(refused, Err(Refusal::NotComplete { .. })), "{refused:?}");
}

#[test]
fn hole_21_a_read_across_a_branch() {
    let (mut store, mut six, mut zombie) = begin();
    zombie.flush();
    zombie.deliver(&mut six, "E");
    // E sleeps from here on.
    let opened = open(&mut store, &mut six, "ABCD");
    let asleep = six.may_read('E', 2, 20, at(1, 10));
    assert!(matches!(asleep, Err(Refusal::UnknownTimeline { .. })), "{asleep:?}");
    let mut writer = Writer::after(opened, &mut six);
    writer.flush();
    writer.deliver(&mut six, "ABCD");
    let refused = six.may_read('E', 2, 20, at(2, 20));
    assert!(
        matches!(refused, Err(Refusal::NotComplete { complete, .. }) if complete == at(1, 10)),
        "20@1 is not 20@2: {refused:?}"
    );
    let over = six.may_read('E', 1, 20, at(1, 20));
    assert!(matches!(over, Err(Refusal::StaleEpoch { .. })), "{over:?}");
}

#[test]
fn hole_22_only_what_was_announced_on_the_timeline_is_folded() {
    let (mut store, mut six, mut zombie) = begin();
    zombie.announce(Duration::from_secs(1));
    zombie.flush();
    zombie.deliver(&mut six, "A");
    assert_eq!(six.segment('A').complete(), at(1, 20));
    assert_eq!(six.segment('A').horizon().durable, at(1, 10), "20@1 is not");
    Writer::after(open(&mut store, &mut six, "BCDE"), &mut six);
    let horizon = six.segment('A').horizon();
    assert!(!horizon.path.sees(at(1, 20)));
    assert_eq!(horizon.durable.lsn, lsn(10));
}

#[test]
fn hole_23_a_zombie_does_not_raise_the_floor() {
    let (mut store, mut six, mut zombie) = begin();
    zombie.flush();
    zombie.deliver(&mut six, "ABCD");
    assert_eq!(zombie.shipper.durable(), lsn(20));
    zombie.announce(Duration::from_secs(1));
    store.take().reach(&mut six, "ABC").expect("three promises");
    zombie.deliver(&mut six, "ABC");
    let floors = "ABC".chars().map(|name| six.segment(name).horizon().floor.lsn);
    assert_eq!(floors.max(), Some(Lsn::ZERO));
    assert_eq!(zombie.fenced_by, Some(Epoch::from_raw(2)));
}

struct NoEngine;

impl engine::Engine for NoEngine {
    fn touches(&self, _: &[u8], _: Lsn, _: &mut Vec<engine::Touch>) -> Result<(), engine::EngineError> {
        Ok(())
    }

    fn apply(&self, _: &[u8], _: Lsn, _: units::PageKey, _: &mut units::Page) -> Result<(), engine::EngineError> {
        Ok(())
    }
}

/// A node is killed after a write and before its sync, reads the end of its journal back from the page cache, answers with
/// it, and loses its power.
#[test]
fn hole_28_what_a_restarted_node_answers_with_is_synced_first() {
    let (store, mut six, mut writer) = begin();
    writer.flush();
    writer.deliver(&mut six, "A");
    let request = Request::FetchBatches {
        segment: id('A'),
        path: store.record.path().expect("a path"),
        after: Position::ZERO,
        through: at(1, 20),
        bytes_max: 1 << 20,
    };
    let Response::Batches(batches) = six.ask('A', &request) else {
        panic!("A has two batches");
    };
    let segment = id('A');
    let disk = io::MemoryDisk::new();
    let start = || {
        let config = page_store::StoreConfig::default();
        page_store::PageStore::open(Arc::new(disk.clone()), config, Arc::new(NoEngine)).expect("the store opens")
    };
    let state = page_store::JournalEntry::State {
        segment,
        bytes: six.segment('A').state(),
    };
    let store = start().store;
    store.append(&[state]).expect("there is room");
    store.sync().expect("the disk syncs");
    let entries = batches
        .into_iter()
        .map(|batch| page_store::JournalEntry::Batch { segment, batch });
    store.append(&entries.collect::<Vec<_>>()).expect("there is room");
    drop(store);
    let found = |opened: page_store::Opened| -> BTreeSet<Position> {
        let batches = opened.segments.iter().flat_map(|one| &one.batches);
        batches.map(|batch| batch.end).collect()
    };
    let answered_with = found(start());
    disk.cut_power(0);
    assert_eq!(answered_with, BTreeSet::from([at(1, 10), at(1, 20)]));
    assert_eq!(found(start()), answered_with);
}

/// §2: a segment that slept through two recoveries.
#[test]
fn a_sleeper_takes_nothing_before_it_knows_the_path() {
    let (mut store, mut six, mut zombie) = begin();
    zombie.flush();
    zombie.deliver(&mut six, "F");
    open(&mut store, &mut six, "ABCD");
    let second = open(&mut store, &mut six, "ABCD");
    let batch = EncodedBatch::new(Batch {
        volume: store.record.volume,
        group: units::GroupId::FIRST,
        epoch: Epoch::from_raw(3),
        end: lsn(20),
        previous: second.last,
        header: None,
        items: Vec::new(),
        elsewhere: Vec::new(),
    });
    let request = Request::Append {
        segment: id('F'),
        epoch: Epoch::from_raw(3),
        durable: Position::ZERO,
        batch,
    };
    let answer = six.ask('F', &request);
    assert!(
        matches!(answer, Response::Refused(Refusal::UnknownTimeline { .. })),
        "{answer:?}"
    );
    let mut writer = Writer::after(second, &mut six);
    assert_eq!(six.segment('F').complete(), at(1, 10));
    writer.flush();
    writer.deliver(&mut six, ALL);
    assert_eq!(six.segment('F').complete(), at(3, 20));
    // And stragglers of the first reign change nothing.
    zombie.flush();
    zombie.deliver(&mut six, "F");
    assert_eq!(
        (six.segment('F').complete(), zombie.fenced_by),
        (at(3, 20), Some(Epoch::from_raw(3)))
    );
}

//! A real server whose counters go around their circles: transactions, multixacts, and the offsets of their members.

use std::collections::BTreeSet;

use engine::Touch;
use units::{PageKey, RelationKey, fork};

use super::golden::line;
use super::marks::{check_shutdown_checkpoints, checkpoint_of};
use super::records_of;
use crate::{
    DecodedRecord, MultixactCreation, Record, StateChange, commit_timestamp_page, multixact_member_page,
    multixact_offset_page, state_changes, status_page, touches, transaction_status_page,
};

/// Where the sample begins; see the first line of `wraparound.txt`.
const START: u64 = 0xF0_0000;

const ARRAYS: [RelationKey; 4] = [
    RelationKey::TRANSACTION_STATUS,
    RelationKey::COMMIT_TIMESTAMPS,
    RelationKey::MULTIXACT_OFFSETS,
    RelationKey::MULTIXACT_MEMBERS,
];

fn records() -> Vec<Record> {
    records_of(START, include_bytes!("../../samples/wraparound.wal"))
}

/// The last page of each of [`ARRAYS`].
fn last_pages() -> [PageKey; 4] {
    [
        transaction_status_page(u32::MAX),
        commit_timestamp_page(u32::MAX),
        multixact_offset_page(u32::MAX),
        multixact_member_page(u32::MAX),
    ]
}

/// Pages of transaction status that a record changes, each with whether it makes it anew.
fn status_touches(record: &DecodedRecord<'_>) -> Vec<(PageKey, bool)> {
    let mut found = Vec::new();
    touches(record, &mut found).unwrap();
    let pages = found.into_iter().filter_map(|touch| match touch {
        Touch::Page { key, from_nothing } => Some((key, from_nothing)),
        _ => None,
    });
    pages.filter(|(key, _)| key.fork.relation.is_status_array()).collect()
}

#[test]
fn records_are_what_pg_waldump_says() {
    let lines: Vec<&str> = include_str!("../../samples/wraparound.txt").lines().collect();
    let ours: Vec<String> = records().iter().map(line).collect();
    assert_eq!(ours, lines);
}

#[test]
fn counters_go_around_as_postgresqls_do() {
    let (same_oid, marks) = check_shutdown_checkpoints(&records());
    // After a crash and PostgreSQL's own recovery, and after a clean stop that gave identifiers back.
    assert_eq!(same_oid.len(), 2);
    let state = marks.state;
    assert_eq!(state.next_transaction >> 32, 1);
    assert!(state.oldest_transaction < 1000 && state.oldest_commit_timestamp < 1000);
    assert!(state.next_multixact < 1000 && state.next_multixact_offset < 1000);
    assert_eq!(state.oldest_multixact, state.next_multixact, "all are frozen");
}

/// The first page of every array is made anew before anything else changes it.
#[test]
fn the_first_pages_are_made_anew_before_they_are_used_again() {
    let mut anew = BTreeSet::new();
    let mut last_before = BTreeSet::new();
    for record in records() {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        for (key, from_nothing) in status_touches(&decoded) {
            let is_first = key == status_page(key.fork.relation, 0);
            assert!(is_first || last_pages().contains(&key), "{key}");
            if from_nothing {
                assert!(is_first && decoded.blocks().next().is_none());
                assert!(anew.insert(key), "{key} is made anew once");
            } else if is_first {
                assert!(
                    anew.contains(&key),
                    "{key} is changed at {} before it is made",
                    record.start
                );
            } else {
                last_before.insert(key);
            }
        }
    }
    assert_eq!(anew, ARRAYS.map(|array| array.fork(fork::MAIN).page(0)).into());
    assert_eq!(last_before, last_pages().into());
}

/// One multixact is the last, one has members at both ends; one commit spans both ends of transactions.
#[test]
fn what_spans_the_end_touches_both_sides() {
    let (mut multixacts, mut members, mut commits) = (0, 0, 0);
    for record in records() {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        let touched: BTreeSet<PageKey> = status_touches(&decoded).into_iter().map(|(key, _)| key).collect();
        let has_both = |array: RelationKey| {
            let ends = last_pages().into_iter().filter(|last| last.fork.relation == array);
            let mut ends = ends.chain([status_page(array, 0)]);
            ends.all(|key| touched.contains(&key))
        };
        if let Some(creation) = MultixactCreation::of(&decoded).unwrap() {
            // It says where the members of the first one begin.
            assert_eq!(has_both(RelationKey::MULTIXACT_OFFSETS), creation.multixact == u32::MAX);
            multixacts += u32::from(creation.multixact == u32::MAX);
            assert_ne!(creation.offset, 0, "no members begin at zero");
            let wraps = creation.next_offset() != 0 && creation.next_offset() < creation.offset;
            assert_eq!(has_both(RelationKey::MULTIXACT_MEMBERS), wraps);
            members += u32::from(wraps || creation.next_offset() == 0);
        }
        let is_split = has_both(RelationKey::TRANSACTION_STATUS);
        assert_eq!(is_split, has_both(RelationKey::COMMIT_TIMESTAMPS));
        commits += u32::from(is_split);
    }
    assert_eq!((multixacts, members, commits), (1, 1, 1));
}

/// Only what lies before the first pages goes, and only after the oldest of everything is behind the end.
#[test]
fn truncations_behind_the_end_keep_the_first_pages() {
    let mut truncations = Vec::new();
    for record in records() {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        let mut changes = Vec::new();
        state_changes(&decoded, &mut changes).unwrap();
        for change in changes {
            match change {
                StateChange::TransactionStatusTruncated {
                    first_page,
                    oldest_transaction,
                    ..
                } => truncations.push((first_page, transaction_status_page(oldest_transaction).block)),
                StateChange::CommitTimestampsTruncated {
                    first_page,
                    oldest_transaction,
                } => truncations.push((first_page, commit_timestamp_page(oldest_transaction).block)),
                StateChange::MultixactsTruncated {
                    oldest_multixact,
                    oldest_offset,
                    ..
                } => truncations.push((
                    multixact_offset_page(oldest_multixact).block,
                    multixact_member_page(oldest_offset).block,
                )),
                _ => continue,
            }
            assert_eq!(status_touches(&decoded), []);
        }
    }
    assert_eq!(truncations, [(0, 0); 3]);
    let checkpoints = records();
    let mut checkpoints = checkpoints.iter().filter_map(|record| {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        checkpoint_of(&decoded)
    });
    let (first, _) = checkpoints.next().unwrap();
    let (last, _) = checkpoints.last().unwrap();
    assert!(
        last.oldest_transaction < first.oldest_transaction,
        "it was before the end"
    );
}

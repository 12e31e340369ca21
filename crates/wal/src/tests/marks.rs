//! The counters against the checkpoints that PostgreSQL itself wrote, and around the ends of their number lines.

use units::Lsn;

use super::{sample_records, with_record};
use crate::{
    Checkpoint, DecodeMarksError, DecodedRecord, Marks, Parameters, Record, StateChange, resource_manager,
    state_changes,
};

const START: Lsn = Lsn::from_raw(0x100_0028);
const END: Lsn = Lsn::from_raw(0x100_0060);

pub(super) fn checkpoint_of(record: &DecodedRecord<'_>) -> Option<(Checkpoint, bool)> {
    let mut changes = Vec::new();
    state_changes(record, &mut changes).unwrap();
    changes.iter().find_map(|change| match change {
        StateChange::Checkpoint {
            checkpoint,
            is_shutdown,
        } => Some((*checkpoint, *is_shutdown)),
        _ => None,
    })
}

/// Follows the log from its first checkpoint on, and compares with each shutdown checkpoint. Whether the next object
/// identifier was the same at each of them, and the marks at the end.
pub(super) fn check_shutdown_checkpoints(records: &[Record]) -> (Vec<bool>, Marks) {
    let mut marks: Option<Marks> = None;
    let mut same_oid = Vec::new();
    for record in records {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        let checkpoint = checkpoint_of(&decoded);
        if let (Some(marks), Some((theirs, true))) = (&marks, checkpoint) {
            let ours = marks.shutdown_checkpoint(record.start, theirs.time);
            // A NEXTOID record reserves identifiers ahead; a clean shutdown gives the unused ones back, a crash does not.
            assert!(theirs.next_oid <= ours.next_oid);
            same_oid.push(theirs.next_oid == ours.next_oid);
            // Nor is it logged which of several databases with the same oldest transaction is named, a hint for people.
            let ours = Checkpoint {
                next_oid: theirs.next_oid,
                oldest_transaction_database: theirs.oldest_transaction_database,
                oldest_multixact_database: theirs.oldest_multixact_database,
                ..ours
            };
            assert_eq!(ours, theirs);
            assert_eq!(marks.last_record, decoded.header.previous);
        }
        match (&mut marks, checkpoint) {
            (Some(marks), _) => marks.advance(&decoded, record.start, record.end).unwrap(),
            (None, Some((checkpoint, _))) => {
                let parameters = Parameters {
                    track_commit_timestamp: true,
                    ..Parameters::default()
                };
                marks = Some(Marks::from_checkpoint(
                    &checkpoint,
                    parameters,
                    record.start,
                    record.end,
                ));
            }
            (None, None) => {}
        }
        if let Some(marks) = &marks {
            assert_eq!(marks.end, record.end);
            let mut bytes = Vec::new();
            marks.encode(&mut bytes);
            assert!(bytes.len() <= 72, "{} bytes", bytes.len());
            assert_eq!(Marks::decode(&bytes), Ok(*marks));
        }
    }
    (same_oid, marks.unwrap())
}

#[test]
fn we_know_what_a_shutdown_checkpoint_will_say() {
    let (same_oid, marks) = check_shutdown_checkpoints(&sample_records());
    // First the crash and its recovery by PostgreSQL, then the clean restart.
    assert_eq!(same_oid, [true, false]);
    // The restart changed parameters and gave up commit timestamps.
    assert_eq!(marks.parameters.connections_max, 90);
    assert_eq!(marks.parameters.prepared_transactions_max, 5);
    assert_eq!(marks.parameters.wal_level, 2);
    assert!(!marks.parameters.track_commit_timestamp);
    assert_eq!(marks.state.oldest_commit_timestamp, 0);
}

fn advanced(mut marks: Marks, manager: u8, info: u8, transaction: u32, data: &[u8]) -> Marks {
    with_record(manager, info, transaction, data, |record| {
        marks.advance(record, START, END).unwrap()
    });
    marks
}

fn marks_with(state: Checkpoint) -> Marks {
    Marks {
        state,
        ..Marks::default()
    }
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

/// `next` after a record of `transaction`.
fn check_next(next: u64, transaction: u32, expected: u64) {
    let state = Checkpoint {
        next_transaction: next,
        ..Checkpoint::default()
    };
    let marks = advanced(
        marks_with(state),
        resource_manager::LOGICAL_MESSAGE,
        0,
        transaction,
        &[],
    );
    assert_eq!(marks.state.next_transaction, expected, "{next:x} past {transaction:x}");
}

#[test]
fn the_next_transaction_is_past_every_one_and_counts_its_wraparounds() {
    check_next(700, 700, 701);
    check_next(700, 699, 700);
    check_next(700, 0, 700);
    check_next(700, 710, 711);
    check_next(5 << 32 | 0xFFFF_FFFF, 0xFFFF_FFFF, 6 << 32 | 3);
    check_next(5 << 32 | 0xFFFF_FFF0, 10, 6 << 32 | 11);
    check_next(6 << 32 | 10, 0xFFFF_FFFF, 6 << 32 | 10);
}

#[test]
fn subtransactions_count_also_those_only_assigned() {
    let state = Checkpoint {
        next_transaction: 700,
        ..Checkpoint::default()
    };
    let assignment = numbers(&[699, 2, 720, 721]);
    let marks = advanced(marks_with(state), resource_manager::TRANSACTION, 0x50, 0, &assignment);
    assert_eq!(marks.state.next_transaction, 722);
    let mut commit = 0_u64.to_le_bytes().to_vec();
    commit.extend(numbers(&[1 << 1, 1, 730]));
    let marks = advanced(marks, resource_manager::TRANSACTION, 0x80, 699, &commit);
    assert_eq!(marks.state.next_transaction, 731);
}

#[test]
fn multixacts_move_forward_around_the_circle() {
    let state = Checkpoint {
        next_multixact: 0xFFFF_FFFF,
        next_multixact_offset: 0xFFFF_FFFE,
        ..Checkpoint::default()
    };
    let create = numbers(&[0xFFFF_FFFF, 0xFFFF_FFFE, 3, 5, 0, 6, 0, 7, 0]);
    let marks = advanced(marks_with(state), resource_manager::MULTIXACT, 0x20, 0, &create);
    assert_eq!((marks.state.next_multixact, marks.state.next_multixact_offset), (0, 1));
    assert_eq!(marks.state.next_transaction, 8, "members count as well");
    let older = numbers(&[0xFFFF_FFF0, 0xFFFF_FF00, 1, 5, 0]);
    let again = advanced(marks, resource_manager::MULTIXACT, 0x20, 0, &older);
    assert_eq!(again.state, marks.state);
}

#[test]
fn an_online_checkpoint_lowers_nothing() {
    let state = Checkpoint {
        next_transaction: 900,
        next_oid: 24576,
        next_multixact: 9,
        next_multixact_offset: 20,
        oldest_transaction: 720,
        oldest_multixact: 1,
        ..Checkpoint::default()
    };
    let stale = Checkpoint {
        redo: START,
        next_transaction: 800,
        next_oid: 16384,
        next_multixact: 5,
        next_multixact_offset: 10,
        oldest_transaction: 730,
        oldest_transaction_database: 5,
        oldest_multixact: 1,
        ..Checkpoint::default()
    };
    let marks = advanced(marks_with(state), resource_manager::XLOG, 0x10, 0, &stale.encode());
    let expected = Checkpoint {
        redo: START,
        oldest_transaction: 730,
        oldest_transaction_database: 5,
        ..state
    };
    assert_eq!(marks.state, expected);
    assert_eq!(marks.checkpoint, START);
    let exact = advanced(marks, resource_manager::XLOG, 0x00, 0, &stale.encode());
    assert_eq!(exact.state, stale, "a shutdown checkpoint is believed");
}

#[test]
fn truncations_move_the_oldest() {
    let state = Checkpoint {
        next_transaction: 100_000,
        oldest_transaction: 720,
        oldest_multixact: 1,
        oldest_commit_timestamp: 730,
        newest_commit_timestamp: 99_000,
        ..Checkpoint::default()
    };
    let marks = marks_with(state);
    let clog = advanced(marks, resource_manager::CLOG, 0x10, 0, &numbers(&[1, 40_000, 5]));
    assert_eq!(
        (clog.state.oldest_transaction, clog.state.oldest_transaction_database),
        (40_000, 5)
    );
    let times = advanced(
        marks,
        resource_manager::COMMIT_TIMESTAMP,
        0x10,
        0,
        &numbers(&[1, 50_000]),
    );
    assert_eq!(times.state.oldest_commit_timestamp, 50_000);
    let multixacts = advanced(
        marks,
        resource_manager::MULTIXACT,
        0x30,
        0,
        &numbers(&[5, 1, 4000, 1, 9000]),
    );
    assert_eq!(
        (
            multixacts.state.oldest_multixact,
            multixacts.state.oldest_multixact_database
        ),
        (4000, 5)
    );
}

#[test]
fn tracking_commit_timestamps_begins_with_the_next_transaction() {
    let state = Checkpoint {
        next_transaction: 2 << 32 | 900,
        ..Checkpoint::default()
    };
    let mut parameters = numbers(&[100, 8, 10, 0, 64, 1]);
    parameters.extend([0, 1, 0, 0]);
    let on = advanced(marks_with(state), resource_manager::XLOG, 0x60, 0, &parameters);
    assert_eq!(
        (on.state.oldest_commit_timestamp, on.state.newest_commit_timestamp),
        (900, 900)
    );
    let committed = advanced(on, resource_manager::TRANSACTION, 0x00, 905, &[0; 8]);
    assert_eq!(committed.state.newest_commit_timestamp, 905);
    parameters[25] = 0;
    let off = advanced(committed, resource_manager::XLOG, 0x60, 0, &parameters);
    assert_eq!(
        (off.state.oldest_commit_timestamp, off.state.newest_commit_timestamp),
        (0, 0)
    );
}

#[test]
fn marks_of_another_version_or_length_are_refused() {
    let mut bytes = Vec::new();
    Marks::default().encode(&mut bytes);
    assert_eq!(Marks::decode(&bytes[..bytes.len() - 1]), Err(DecodeMarksError::Short));
    bytes.push(0);
    assert_eq!(Marks::decode(&bytes), Err(DecodeMarksError::Trailing(1)));
    bytes[0] = 2;
    assert_eq!(Marks::decode(&bytes), Err(DecodeMarksError::Version(2)));
}

#[test]
fn the_largest_marks_survive() {
    let state = Checkpoint {
        redo: Lsn::ZERO,
        timeline: u32::MAX,
        previous_timeline: 0,
        full_page_writes: true,
        next_transaction: u64::MAX,
        next_oid: u32::MAX,
        time: -1,
        ..Checkpoint::default()
    };
    let marks = Marks {
        end: Lsn::MAX,
        last_record: Lsn::ZERO,
        checkpoint: Lsn::from_raw(1),
        ..marks_with(state)
    };
    let mut bytes = Vec::new();
    marks.encode(&mut bytes);
    assert_eq!(Marks::decode(&bytes), Ok(marks));
}

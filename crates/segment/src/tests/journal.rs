//! What is forgotten, rolled back and remembered over a restart.

use super::*;

#[test]
fn links_that_the_journal_recycled_are_forgotten_and_completeness_stays() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &long_flushes());
    copy.announce(1, 59 * FLUSH);
    let mut effects = Vec::new();
    let forgotten = copy.segment.forget(position(1, 59 * FLUSH), &mut effects);
    assert_eq!(
        forgotten,
        Position::ZERO,
        "no state that is synced says so: the journal must not go"
    );
    // The disk is full: the state is not taken, and said again the next time.
    let before = SegmentState::decode(copy.state.clone()).expect("the journaled state reads back");
    copy.segment.roll_back(before, &[]);
    let mut effects = Vec::new();
    copy.segment.forget(position(1, 59 * FLUSH), &mut effects);
    assert!(matches!(&effects[..], [Effect::KeepState(_)]), "{effects:?}");
    copy.perform(effects);
    let forgotten = copy.segment.forget(position(1, 59 * FLUSH), &mut Vec::new());
    assert_eq!(
        forgotten,
        position(1, 27 * FLUSH),
        "256 KiB below the durable position stay known"
    );
    assert_eq!(copy.segment.links_held(), 33);
    copy.journal.retain(|link| forgotten < link.end);
    let mut copy = copy.restarted();
    assert_eq!(copy.segment.complete(), position(1, 60 * FLUSH));
    let late = copy.append(1, batch(1, 2 * FLUSH, position(1, FLUSH)));
    assert_eq!(
        late,
        appended(1, position(1, 60 * FLUSH)),
        "a late copy of a forgotten batch is not kept again"
    );
    assert_eq!(copy.segment.links_held(), 33);
    let old = copy.ask(&Request::FetchBatches {
        segment: id(1),
        path: path(&[(1, 0)]),
        after: position(1, 3 * FLUSH),
        through: position(1, 60 * FLUSH),
        bytes_max: 1000,
    });
    assert!(
        matches!(old, Response::Refused(Refusal::LogCollected { .. })),
        "{old:?}"
    );
}

/// Found by simulation, seed 19: the journal still held batches below what was forgotten, but for one that had come early
/// and was recycled with an older file. After a restart less was forgotten than before, and the segment fell back to there.
#[test]
fn what_was_forgotten_before_a_restart_stays_forgotten() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &long_flushes());
    copy.announce(1, 59 * FLUSH);
    let mut effects = Vec::new();
    copy.segment.forget(position(1, 59 * FLUSH), &mut effects);
    copy.perform(effects);
    copy.journal.retain(|link| link.end != position(1, 27 * FLUSH));
    let mut copy = copy.restarted();
    let mut effects = Vec::new();
    copy.segment.forget(position(1, 58 * FLUSH), &mut effects);
    copy.perform(effects);
    assert_eq!(
        copy.segment.forget(Position::ZERO, &mut Vec::new()),
        position(1, 27 * FLUSH)
    );
    assert_eq!(copy.restarted().segment.complete(), position(1, 60 * FLUSH));
}

#[test]
fn what_is_not_durable_is_never_forgotten() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &long_flushes());
    let mut effects = Vec::new();
    copy.segment.forget(position(1, 60 * FLUSH), &mut effects);
    assert_eq!((effects.len(), copy.segment.links_held()), (0, 60));
}

#[test]
fn a_state_of_another_version_is_an_error() {
    let copy = Copy::new();
    let mut bytes = copy.state.to_vec();
    assert!(SegmentState::decode(bytes.clone().into()).is_ok());
    assert!(SegmentState::decode(bytes[..bytes.len() - 1].to_vec().into()).is_err());
    bytes[0] = 9;
    assert!(SegmentState::decode(bytes.into()).is_err());
}

#[test]
fn what_the_journal_did_not_take_never_happened() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10]);
    let mut effects = Vec::new();
    let append = |end, previous| Request::Append {
        segment: id(1),
        epoch: Epoch::from_raw(1),
        durable: Position::ZERO,
        batch: batch(1, end, previous),
    };
    copy.segment.request(&append(20, position(1, 10)), &mut effects);
    let promise = Request::Promise {
        segment: id(1),
        epoch: Epoch::from_raw(5),
        path: path(&[(1, 0)]),
        above: Position::ZERO,
    };
    copy.segment.request(&promise, &mut effects);
    let last = SegmentState::decode(copy.state.clone()).expect("the journaled state reads back");
    copy.segment.roll_back(last, &[position(1, 20)]);
    assert_eq!(
        (copy.segment.complete(), copy.segment.promised()),
        (position(1, 10), Epoch::from_raw(1))
    );
    assert_eq!(
        copy.append(1, batch(1, 20, position(1, 10))),
        appended(1, position(1, 20))
    );
    assert_eq!(copy.journal.len(), 2, "it is journaled this time");
}

/// All six held pieces of a long record up to 60 when the writer died; the next reign branches where the record began. A
/// copy that lags behind it still needs what lies above the branch.
#[test]
fn what_all_copies_had_of_a_left_timeline_says_nothing_about_the_next() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &long_flushes());
    copy.announce_apart(1, 2 * FLUSH, FLUSH, 60 * FLUSH);
    copy.promised(2, path(&[(1, 0)]), Position::ZERO);
    copy.install(path(&[(1, 0), (2, 2 * FLUSH)]));
    assert_eq!(copy.segment.horizon().all_complete, position(1, 2 * FLUSH));
    copy.flushes(2, position(1, 2 * FLUSH), &long_flushes()[2..]);
    copy.announce_apart(2, 59 * FLUSH, FLUSH, 12 * FLUSH);
    assert_eq!(copy.segment.horizon().all_complete, position(2, 12 * FLUSH));
    copy.forget();
    let fetch = Request::FetchBatches {
        segment: id(1),
        path: path(&[(1, 0), (2, 2 * FLUSH)]),
        after: position(2, 12 * FLUSH),
        through: position(2, 60 * FLUSH),
        bytes_max: 1000,
    };
    let mut effects = Vec::new();
    copy.segment.request(&fetch, &mut effects);
    let [Effect::Read(Read::Batches { positions, .. })] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(positions.len(), 48, "everything that the copy which lags still needs");
    let mut copy = copy.restarted();
    copy.install(path(&[(1, 0), (2, 2 * FLUSH)]));
    assert!(copy.segment.horizon().all_complete.lsn <= lsn(12 * FLUSH));
}

/// protocol.md, hole 4: versions that were folded away under a floor must not be asked for after a restart.
#[test]
fn nothing_is_folded_under_a_floor_that_a_restart_forgets() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20, 30]);
    copy.announce(1, 25);
    assert_eq!(
        copy.segment.horizon().floor,
        Position::ZERO,
        "no state that is journaled knows it"
    );
    let mut effects = Vec::new();
    let through = copy.segment.horizon().all_complete;
    copy.segment.forget(through, &mut effects);
    assert!(matches!(&effects[..], [Effect::KeepState(_)]), "{effects:?}");
    assert_eq!(copy.segment.horizon().floor, Position::ZERO, "it is not synced");
    copy.perform(effects);
    assert_eq!(copy.segment.horizon().floor, position(1, 25));
    copy.announce(1, 30);
    let mut copy = copy.restarted();
    assert_eq!(copy.segment.horizon().floor, position(1, 25));
    let below = copy.ask(&read_pages(1, 20, position(1, 10)));
    assert!(
        matches!(below, Response::Refused(Refusal::BelowFloor { .. })),
        "{below:?}"
    );
    // Nothing new: nothing is journaled.
    let mut effects = Vec::new();
    copy.segment.forget(Position::ZERO, &mut effects);
    assert_eq!(effects, []);
}

/// A volume is begun anew after an import that had forgotten its first batches.
#[test]
fn what_was_forgotten_of_another_history_is_not_collected_from_this_one() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &long_flushes());
    copy.announce_apart(1, 59 * FLUSH, 0, 59 * FLUSH);
    copy.forget();
    let root = path(&[(3, 0)]);
    copy.install(root.clone());
    assert_eq!(copy.segment.complete(), Position::ZERO);
    copy.flushes(3, Position::ZERO, &[5, 25]);
    let fetch = Request::FetchBatches {
        segment: id(1),
        path: root,
        after: Position::ZERO,
        through: position(3, 100),
        bytes_max: 1000,
    };
    let mut effects = Vec::new();
    copy.segment.request(&fetch, &mut effects);
    assert!(matches!(&effects[..], [Effect::Read(Read::Batches { positions, .. })] if positions.len() == 2));
}

/// Its journal would only grow: nothing of it can ever be recycled.
#[test]
fn a_damaged_copy_takes_no_more_log_once_the_journal_is_full() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10]);
    copy.segment.set_crowded(true);
    copy.flushes(1, position(1, 10), &[20]);
    assert_eq!(copy.segment.complete(), position(1, 20), "a sound copy goes on");
    copy.segment.damaged();
    let stopped = |response| matches!(response, Response::Refused(Refusal::Stopped { .. }));
    assert!(stopped(copy.append(1, batch(1, 30, position(1, 20)))));
    assert!(
        stopped(copy.install(path(&[(1, 0)]))),
        "or its writer would send it all again"
    );
    assert_eq!(copy.journal.len(), 2);
    let promised = copy.promised(2, path(&[(1, 0)]), Position::ZERO);
    assert_eq!(promised.held.len(), 2, "what it has it still tells");
    assert!(matches!(
        copy.install(path(&[(1, 0), (2, 20)])),
        Response::Installed { .. }
    ));
    copy.segment.set_crowded(false);
    assert_eq!(
        copy.append(2, batch(2, 30, position(1, 20))),
        appended(2, Position::ZERO)
    );
}

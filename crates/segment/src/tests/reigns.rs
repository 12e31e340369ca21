//! What a segment takes and promises, across reigns.

use super::*;

#[test]
fn batches_come_in_any_order_and_more_than_once() {
    let mut copy = Copy::new();
    let second = batch(1, 20, position(1, 10));
    assert_eq!(copy.append(1, second.clone()), appended(1, Position::ZERO), "a hole");
    assert_eq!(
        copy.append(1, batch(1, 10, Position::ZERO)),
        appended(1, position(1, 20))
    );
    assert_eq!(copy.append(1, second), appended(1, position(1, 20)), "again");
    assert_eq!(copy.journal.len(), 2, "a repeated batch is not journaled twice");
}

#[test]
fn a_batch_of_the_same_name_with_another_history_is_refused() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20]);
    let other = copy.append(1, batch(1, 20, Position::ZERO));
    assert!(
        matches!(other, Response::Refused(Refusal::Malformed { .. })),
        "{other:?}"
    );
}

/// protocol.md, hole 6: after the answer the old writer gets nothing more.
#[test]
fn a_promise_tells_what_is_held_and_fences_the_old_writer() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20]);
    copy.append(1, batch(1, 40, position(1, 30)));
    let promised = copy.promised(2, path(&[(1, 0)]), Position::ZERO);
    let held: Vec<Position> = promised.held.iter().map(|flush| flush.end).collect();
    assert_eq!(
        held,
        [position(1, 10), position(1, 20), position(1, 40)],
        "also what lies beyond a hole"
    );
    assert_eq!((promised.complete, promised.vouches), (position(1, 20), true));
    assert_eq!(copy.append(1, batch(1, 30, position(1, 20))), stale(1, 2));
    assert_eq!(copy.announce(1, 20), stale(1, 2));
}

/// protocol.md, hole 4.
#[test]
fn a_promise_survives_a_restart() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10]);
    copy.promised(3, path(&[(1, 0)]), Position::ZERO);
    let mut copy = copy.restarted();
    assert_eq!(copy.append(1, batch(1, 20, position(1, 10))), stale(1, 3));
    assert_eq!(copy.promise(2, path(&[(1, 0)]), Position::ZERO), stale(2, 3));
    let again = copy.promised(3, path(&[(1, 0)]), Position::ZERO);
    assert_eq!(again.complete, position(1, 10));
}

#[test]
fn a_promise_alone_lets_nobody_write() {
    let mut copy = Copy::new();
    copy.promised(2, path(&[(1, 0)]), Position::ZERO);
    let refused = copy.append(2, batch(2, 10, Position::ZERO));
    let unknown = Refusal::UnknownTimeline {
        epoch: Epoch::from_raw(2),
    };
    assert_eq!(refused, Response::Refused(unknown));
    copy.install(path(&[(1, 0), (2, 0)]));
    assert_eq!(
        copy.append(2, batch(2, 10, Position::ZERO)),
        appended(2, position(2, 10))
    );
}

/// DESIGN §4.4, step 4: copies keep the epoch they were first written in.
#[test]
fn the_promised_opener_brings_copies_of_the_old_reign() {
    let mut copy = Copy::new();
    copy.promised(2, path(&[(1, 0)]), Position::ZERO);
    assert_eq!(
        copy.append(2, batch(1, 10, Position::ZERO)),
        appended(2, position(1, 10))
    );
    let later = copy.append(2, batch(3, 20, position(1, 10)));
    assert!(
        matches!(later, Response::Refused(Refusal::Malformed { .. })),
        "{later:?}"
    );
    let unpromised = copy.append(4, batch(1, 20, position(1, 10)));
    assert!(
        matches!(unpromised, Response::Refused(Refusal::UnknownTimeline { .. })),
        "{unpromised:?}"
    );
}

/// protocol.md, hole 2a: what a left timeline wrote above the branch never helps to acknowledge the next one.
#[test]
fn a_branch_takes_back_what_it_left_and_lsns_are_used_again() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20, 30]);
    copy.promised(2, path(&[(1, 0)]), Position::ZERO);
    let installed = copy.install(path(&[(1, 0), (2, 20)]));
    let expected = Response::Installed {
        segment: id(1),
        complete: position(1, 20),
        vouches: true,
    };
    assert_eq!(installed, expected);
    let above = batch(2, 40, position(2, 30));
    assert_eq!(
        copy.append(2, above),
        appended(2, position(1, 20)),
        "30 of epoch 1 is not its predecessor"
    );
    assert_eq!(
        copy.append(2, batch(2, 30, position(1, 20))),
        appended(2, position(2, 40))
    );
    let mut copy = copy.restarted();
    assert_eq!(
        copy.append(2, batch(2, 50, position(2, 40))),
        appended(2, position(2, 50))
    );
}

/// How a volume whose first import broke off is begun anew: another root, which sees nothing of the reign before.
#[test]
fn a_reign_at_the_root_begins_with_nothing_and_ends_the_one_before() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20, 30]);
    copy.ask(&Request::Announce {
        segment: id(1),
        epoch: Epoch::from_raw(1),
        durable: position(1, 30),
        floor: Position::ZERO,
        all_complete: position(1, 30),
        on_every_full: position(1, 30),
    });
    let root = path(&[(3, 0)]);
    let expected = Response::Installed {
        segment: id(1),
        complete: Position::ZERO,
        vouches: true,
    };
    assert_eq!(copy.install(root.clone()), expected);
    assert_eq!(copy.append(1, batch(1, 40, position(1, 30))), stale(1, 3));
    copy.flushes(3, Position::ZERO, &[5, 25]);
    let mut effects = Vec::new();
    let fetch = Request::FetchBatches {
        segment: id(1),
        path: root,
        after: Position::ZERO,
        through: position(3, 100),
        bytes_max: 1000,
    };
    copy.segment.request(&fetch, &mut effects);
    let [Effect::Read(Read::Batches { positions, .. })] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(positions, &[position(3, 5), position(3, 25)]);
    let mut effects = Vec::new();
    copy.segment.request(&read_pages(3, 25, position(3, 25)), &mut effects);
    assert!(matches!(effects[..], [Effect::Read(Read::Pages { .. })]), "{effects:?}");
    let mut copy = copy.restarted();
    assert_eq!(
        copy.append(3, batch(3, 35, position(3, 25))),
        appended(3, position(3, 35))
    );
}

/// protocol.md, hole 21: a segment that slept through an opening learns of it from the next opener.
#[test]
fn a_segment_that_slept_through_an_opening_takes_copies_of_the_reign_it_missed() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20]);
    let promised = copy.promised(3, path(&[(1, 0), (2, 10)]), position(2, 10));
    assert_eq!(promised.complete, position(1, 10), "20 lies above the branch");
    assert_eq!(
        copy.append(3, batch(2, 15, position(1, 10))),
        appended(3, position(2, 15))
    );
}

#[test]
fn a_damaged_segment_neither_votes_nor_acknowledges_nor_serves_pages() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10]);
    copy.segment.damaged();
    assert_eq!(
        copy.append(1, batch(1, 20, position(1, 10))),
        appended(1, Position::ZERO)
    );
    assert!(!copy.promised(2, path(&[(1, 0)]), Position::ZERO).vouches);
    let header = Request::ReadFlushHeader {
        segment: id(1),
        epoch: Epoch::from_raw(1),
        at: lsn(10),
    };
    for read in [read_pages(1, 10, position(1, 10)), header] {
        let answer = copy.ask(&read);
        assert!(
            matches!(answer, Response::Refused(Refusal::Damaged { .. })),
            "{answer:?}"
        );
    }
    let expected = Response::Installed {
        segment: id(1),
        complete: Position::ZERO,
        vouches: false,
    };
    assert_eq!(copy.install(path(&[(1, 0), (2, 10)])), expected);
}

/// protocol.md, holes 11 and 13: a metadata store from an old copy lets two writers reign in one epoch.
#[test]
fn a_reign_has_one_history() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20]);
    copy.install(path(&[(1, 0), (2, 20)]));
    let other = copy.install(path(&[(1, 0), (2, 10)]));
    assert!(
        matches!(other, Response::Refused(Refusal::Malformed { .. })),
        "{other:?}"
    );
    assert_eq!(copy.segment.complete(), position(1, 20));
}

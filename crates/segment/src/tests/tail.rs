//! What a tail keeps, lets go, gives and takes.

use std::collections::BTreeSet;

use super::copying::{answer, born, millis, questions, versions};
use super::*;
use crate::Read;

/// A tail with the log of a first reign up to 30 in its journal, all of it durable.
fn tail() -> Copy {
    let mut copy = Copy::of(SegmentKind::Tail);
    copy.flushes(1, Position::ZERO, &long_flushes());
    copy
}

fn announce(copy: &mut Copy, durable: u64, all_complete: u64, on_every_full: u64) {
    announce_in(1, copy, [durable, all_complete, on_every_full]);
}

fn announce_in(epoch: u64, copy: &mut Copy, [durable, all_complete, on_every_full]: [u64; 3]) {
    copy.ask(&Request::Announce {
        segment: id(1),
        epoch: Epoch::from_raw(epoch),
        durable: position(epoch, durable),
        floor: position(epoch, durable),
        all_complete: position(epoch, all_complete),
        on_every_full: position(epoch, on_every_full),
    });
}

fn asked(copy: &mut Copy, after: Position) -> Effect {
    let mut effects = Vec::new();
    let request = Request::FetchVersions {
        segment: id(1),
        path: path(&[(1, 0)]),
        after,
        from: Default::default(),
        until: Bytes::new(),
        bytes_max: 100,
    };
    copy.segment.request(&request, &mut effects);
    effects.pop().expect("an answer")
}

fn let_go(copy: &Copy) -> Option<Position> {
    copy.segment.horizon().let_go
}

#[test]
fn a_tail_has_no_pages() {
    let mut copy = tail();
    announce(&mut copy, FLUSH, 0, 0);
    let log_only = Response::Refused(Refusal::LogOnly);
    assert_eq!(copy.ask(&read_pages(1, FLUSH, Position::ZERO)), log_only);
    let marks = Request::ReadFlushHeader {
        segment: id(1),
        epoch: Epoch::from_raw(1),
        at: lsn(FLUSH),
    };
    assert_eq!(copy.ask(&marks), log_only);
}

/// protocol.md, hole 29: three tails and one full copy make log durable, and then it is on one full copy only.
#[test]
fn a_tail_keeps_what_one_full_copy_lacks_however_durable_it_is() {
    let mut copy = tail();
    announce(&mut copy, 60 * FLUSH, 10 * FLUSH, 20 * FLUSH);
    // The journal is full: it forgets everything durable, and what it held goes to layers.
    let mut effects = Vec::new();
    copy.segment.forget(position(1, 60 * FLUSH), &mut effects);
    assert_eq!(let_go(&copy), Some(Position::ZERO), "nothing before it is synced");
    copy.perform(effects);
    assert_eq!(let_go(&copy), Some(position(1, 20 * FLUSH)));
    // A full copy that lacks all of it gets nothing here; one that lacks what was not let go gets that, as it came.
    assert_eq!(
        asked(&mut copy, position(1, 19 * FLUSH)),
        Effect::Answer(Response::Refused(Refusal::LogCollected {
            oldest: position(1, 20 * FLUSH)
        }))
    );
    let Effect::Read(Read::Versions(given)) = asked(&mut copy, position(1, 20 * FLUSH)) else {
        panic!("a full copy is left without what it lacks");
    };
    assert_eq!((given.through, given.floor), (position(1, 60 * FLUSH), Position::ZERO));
    let copy = copy.restarted();
    assert_eq!(let_go(&copy), Some(position(1, 20 * FLUSH)), "also after a restart");
}

#[test]
fn a_tail_keeps_what_is_not_durable_and_what_its_journal_still_has() {
    let mut copy = tail();
    announce(&mut copy, 10 * FLUSH, 0, 50 * FLUSH);
    copy.forget();
    assert_eq!(let_go(&copy), Some(Position::ZERO));
    let mut effects = Vec::new();
    copy.segment.forget(position(1, 60 * FLUSH), &mut effects);
    copy.perform(effects);
    assert_eq!(
        let_go(&copy),
        Some(Position::ZERO),
        "the end of group 0's log stays known by name"
    );
    announce(&mut copy, 40 * FLUSH, 0, 50 * FLUSH);
    let mut effects = Vec::new();
    copy.segment.forget(position(1, 60 * FLUSH), &mut effects);
    copy.perform(effects);
    assert_eq!(
        let_go(&copy),
        Some(position(1, 8 * FLUSH)),
        "256 KiB below what is durable"
    );
}

#[test]
fn a_full_copy_lets_nothing_go() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &long_flushes());
    announce(&mut copy, 60 * FLUSH, 60 * FLUSH, 60 * FLUSH);
    copy.forget();
    assert_eq!(let_go(&copy), None);
}

/// A new tail takes only what some full copy may lack; what that is, it asks its peers if the writer cannot say.
#[test]
fn a_new_tail_takes_the_log_from_where_every_full_copy_has_it() {
    let mut copy = born(SegmentKind::Tail, members());
    let reign = path(&[(1, 0), (2, 90)]);
    copy.install(reign.clone());
    assert_eq!(questions(&mut copy, 0), [], "nobody has told it yet");
    let mut effects = Vec::new();
    copy.segment.tick(millis(1100), &mut effects);
    let asks_standing = |effect: &Effect| {
        matches!(
            effect,
            Effect::Fetch {
                request: Request::TellStanding { .. },
                ..
            }
        )
    };
    assert!(effects.iter().any(asks_standing), "{effects:?}");
    announce_in(2, &mut copy, [120, 0, 110]);
    let mut effects = Vec::new();
    copy.segment.tick(millis(1200), &mut effects);
    let take = effects.iter().find_map(|effect| match effect {
        Effect::Take { part, request, .. } => Some((*part, request.clone())),
        _ => None,
    });
    let Some((part, Request::FetchVersions { after, from, .. })) = take else {
        panic!("{effects:?}");
    };
    assert_eq!(
        after,
        position(2, 109),
        "the last batch that every full copy has is given once more"
    );
    answer(
        &mut copy,
        1300,
        part,
        from,
        versions(None, position(2, 120), Position::ZERO),
    );
    assert!(!copy.segment.is_copying());
    assert_eq!(copy.segment.acknowledged(), position(2, 120));
    assert_eq!(let_go(&copy), Some(position(2, 109)), "it never had what lies below");
}

/// Found by simulation: in the middle of a long record every full copy has more than is durable, and gives no more than that.
#[test]
fn a_new_tail_asks_for_nothing_above_what_is_durable() {
    let mut copy = born(SegmentKind::Tail, members());
    copy.install(path(&[(1, 0), (2, 90)]));
    announce_in(2, &mut copy, [100, 100, 110]);
    let mut effects = Vec::new();
    copy.segment.tick(millis(100), &mut effects);
    let after = effects.iter().find_map(|effect| match effect {
        Effect::Take {
            request: Request::FetchVersions { after, .. },
            ..
        } => Some(*after),
        _ => None,
    });
    assert_eq!(after, Some(position(2, 99)));
}

/// Tails may have let go of anything that a new copy needs; those that it was told to copy may all be lost before it is whole.
#[test]
fn a_new_copy_takes_from_those_that_it_was_told_to_copy_and_from_full_ones() {
    let named: Vec<Member> = members().into_iter().skip(4).collect();
    let mut copy = born(SegmentKind::Full, named);
    let mut list = members();
    for tail in &mut list[1..3] {
        tail.kind = SegmentKind::Tail;
    }
    let installed = copy.ask(&Request::Install {
        segment: id(1),
        epoch: Epoch::from_raw(2),
        path: path(&[(1, 0), (2, 90)]),
        members: list,
    });
    assert!(matches!(installed, Response::Installed { .. }), "{installed:?}");
    let asked = (0..6).flat_map(|turn| questions(&mut copy, turn * 11_000));
    let asked: BTreeSet<SegmentId> = asked.map(|(peer, ..)| peer).collect();
    assert_eq!(
        asked,
        (4..=6).map(id).collect(),
        "copies 2 and 3 are tails that nobody named"
    );
}

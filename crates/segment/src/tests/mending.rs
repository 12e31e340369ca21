//! What a copy needs that has lost something, and what it can do without.

use super::*;
use crate::MendStep;

/// Five flushes, all durable, of which the journal loses the third.
fn with_loss() -> (Copy, Position) {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[100, 200, 300, 400, 500]);
    copy.announce_apart(1, 400, 0, 0);
    copy.segment.damaged();
    (copy, position(1, 300))
}

/// Four of them, without the third.
fn with_hole() -> Copy {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[100, 200]);
    copy.flushes(1, position(1, 300), &[400, 500]);
    copy.announce_apart(1, 500, 0, 0);
    copy.segment.damaged();
    copy
}

fn let_go(copy: &mut Copy, lost: Position) {
    let mut effects = Vec::new();
    copy.segment.mend(MendStep::LetGo(lost), &mut effects);
    copy.perform(effects);
}

/// Found by simulation: peers that were short of room had let the batch go, and nobody could mend the file.
#[test]
fn what_peers_have_let_go_is_forgotten_once_a_state_says_so() {
    let (mut copy, lost) = with_loss();
    let_go(&mut copy, lost);
    assert!(copy.segment.claims(lost), "what it did is still needed");
    assert_eq!(
        copy.forget(),
        Position::ZERO,
        "the state that says so was not synced yet"
    );
    assert_eq!(copy.forget(), lost);
    copy.journal.retain(|link| lost < link.end);
    let restarted = copy.restarted();
    assert_eq!(restarted.segment.complete(), position(1, 500));
}

/// A copy that lost layers before its start does not know how much of what it holds it has.
#[test]
fn a_copy_that_started_without_a_vote_can_forget_it_too() {
    let (copy, lost) = with_loss();
    let state = SegmentState::decode(copy.state.clone()).expect("the journaled state reads back");
    let segment = Segment::recover(state, copy.journal.clone(), false);
    let mut copy = Copy { segment, ..copy };
    copy.announce_apart(1, 400, 0, 0);
    assert_eq!(copy.segment.complete(), Position::ZERO);
    let_go(&mut copy, lost);
    copy.forget();
    assert_eq!(copy.forget(), lost);
    let mut effects = Vec::new();
    copy.segment.mend(MendStep::Mended, &mut effects);
    copy.perform(effects);
    assert_eq!(copy.segment.acknowledged(), position(1, 500));
}

/// What fills the hole from the layers of peers brings it again.
#[test]
fn beyond_a_hole_it_alone_is_forgotten() {
    let mut copy = with_hole();
    let_go(&mut copy, position(1, 400));
    assert!(!copy.segment.claims(position(1, 400)));
    assert!(copy.segment.claims(position(1, 500)));
    assert!(copy.segment.claims(position(1, 200)));
    assert_eq!(copy.segment.complete(), position(1, 200));
}

/// A peer on another history may have let go what is not durable on this one.
#[test]
fn what_is_not_known_to_be_durable_stays() {
    let (mut copy, _) = with_loss();
    let last = position(1, 500);
    let_go(&mut copy, last);
    copy.forget();
    assert!(copy.segment.claims(last));
    assert_eq!(copy.segment.links_held(), 5);
}

/// What fills a hole before it may still be taken back: the journal has no room for it.
#[test]
fn nothing_is_forgotten_over_what_is_not_synced() {
    let mut copy = with_hole();
    let before = SegmentState::decode(copy.state.clone()).expect("the journaled state reads back");
    let filling = batch(1, 300, position(1, 200));
    let mut effects = Vec::new();
    let append = Request::Append {
        segment: id(1),
        epoch: Epoch::from_raw(1),
        durable: Position::ZERO,
        batch: filling,
    };
    copy.segment.request(&append, &mut effects);
    copy.segment.mend(MendStep::LetGo(position(1, 400)), &mut effects);
    copy.segment.roll_back(before, &[position(1, 300)]);
    copy.segment.synced();
    copy.forget();
    copy.forget();
    assert_eq!(copy.segment.complete(), position(1, 200));
    assert_eq!(copy.restarted().segment.complete(), position(1, 200));
}

#[test]
fn less_is_needed_if_nothing_newer_is_lost() {
    let (copy, _) = with_loss();
    assert_eq!(copy.segment.sources().through, lsn(500));
    assert_eq!(copy.segment.sources().bounded(None).through, lsn(500));
    assert_eq!(copy.segment.sources().bounded(Some(lsn(200))).through, lsn(200));
    assert_eq!(copy.segment.sources().bounded(Some(lsn(900))).through, lsn(500));
}

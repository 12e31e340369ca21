//! When a copy that was born to take another's place counts, and what an opener hears of it then.

use super::copying::{answer, millis, newborn, questions, read, versions};
use super::*;

/// One pass brings everything up to 110.
fn take_all_through_110(copy: &mut Copy) {
    let (_, part, from, _) = questions(copy, 0)[0].clone();
    answer(copy, 1, part, from, versions(None, position(2, 110), Position::ZERO));
}

#[test]
fn a_copy_of_others_counts_for_nothing_until_it_is_whole() {
    let mut copy = newborn();
    copy.install(path(&[(1, 0), (2, 90)]));
    assert_eq!(
        copy.append(2, batch(2, 120, position(2, 110))),
        appended(2, Position::ZERO)
    );
    copy.announce(2, 120);
    assert!(read(&mut copy, 120, Position::ZERO).is_err());
    let promised = copy.promised(3, path(&[(1, 0), (2, 90)]), Position::ZERO);
    assert!(!promised.vouches, "it has no vote");
    assert_eq!(promised.complete, Position::ZERO);
    // Its reign goes on with a third epoch that took the promise.
    copy.install(path(&[(1, 0), (2, 90), (3, 120)]));
    let questions = questions(&mut copy, 100);
    let [(_, part, from, until)] = &questions[..] else {
        panic!("{questions:?}");
    };
    assert!(from.key.is_empty() && until.is_empty(), "all of it");
    // Complete up to less than what it knows to be durable.
    answer(
        &mut copy,
        110,
        *part,
        from.clone(),
        versions(None, position(2, 110), position(2, 100)),
    );
    assert!(copy.segment.is_copying());
    assert_eq!(copy.segment.acknowledged(), Position::ZERO);
    assert_eq!(copy.segment.complete(), position(2, 110));
    // And now the log that follows, as from a peer's journal.
    copy.append(3, batch(2, 120, position(2, 110)));
    assert!(!copy.segment.is_copying());
    assert_eq!(copy.segment.acknowledged(), position(2, 120));
    let mut copy = copy.restarted();
    assert!(!copy.segment.is_copying(), "it stays whole");
    assert_eq!(copy.segment.acknowledged(), position(2, 120));
    assert!(
        copy.promised(4, path(&[(1, 0), (2, 90), (3, 120)]), Position::ZERO)
            .vouches
    );
}

/// The reign began at 90, long after the last batch of its group: nothing more is to come.
#[test]
fn a_copy_of_a_group_that_nobody_writes_is_whole_with_its_last_batch() {
    let mut copy = newborn();
    let (_, part, from, _) = questions(&mut copy, 0)[0].clone();
    let all = versions(None, position(1, 40), position(1, 30));
    answer(&mut copy, 10, part, from, all);
    assert!(!copy.segment.is_copying());
    assert_eq!(copy.segment.acknowledged(), position(1, 40));
}

/// What was sent while it copied is not sent again, and may be durable nowhere: with two others lost it is the fourth that has it.
#[test]
fn a_copy_that_is_whole_asks_its_peers_for_the_log_that_it_left_out() {
    let mut copy = newborn();
    copy.install(path(&[(1, 0), (2, 90)]));
    copy.announce(2, 110);
    let asked = questions(&mut copy, 0);
    assert_eq!(
        copy.append(2, batch(2, 120, position(2, 110))),
        appended(2, Position::ZERO)
    );
    let (_, part, from, _) = asked[0].clone();
    answer(
        &mut copy,
        1,
        part,
        from,
        versions(None, position(2, 110), Position::ZERO),
    );
    assert!(!copy.segment.is_copying());
    let mut fetches = Vec::new();
    for now in (100..1000).step_by(100) {
        copy.segment.tick(millis(now), &mut fetches);
    }
    let asks = |effect: &Effect| matches!(effect, Effect::Fetch { request: Request::FetchBatches { after, .. }, .. } if *after == position(2, 110));
    assert!(fetches.iter().any(asks), "{fetches:?}");
    let mut effects = Vec::new();
    let found = Response::Batches(vec![batch(2, 120, position(2, 110))]);
    let taken = copy.segment.fetched(millis(1000), Some(found), &mut effects);
    taken.expect("the peer could help");
    assert_eq!(copy.segment.complete(), position(2, 120));
    fetches.clear();
    copy.segment.tick(millis(1100), &mut fetches);
    assert!(!fetches.iter().any(asks), "nothing is missing any more");
}

/// Its peers have nothing more to give: what it has is all that it was told of.
#[test]
fn a_copy_that_starts_again_with_everything_is_whole_without_another_pass() {
    let mut copy = newborn();
    copy.install(path(&[(1, 0), (2, 90)]));
    copy.announce(2, 120);
    take_all_through_110(&mut copy);
    assert!(copy.segment.is_copying(), "it lacks 120");
    let mut copy = copy.restarted();
    copy.append(2, batch(2, 120, position(2, 110)));
    let mut effects = Vec::new();
    let found = Response::Batches(vec![batch(2, 120, position(2, 110))]);
    let taken = copy.segment.fetched(millis(100), Some(found), &mut effects);
    taken.expect("the peer could help");
    copy.segment.tick(millis(200), &mut effects);
    assert!(!copy.segment.is_copying());
    assert_eq!(copy.segment.acknowledged(), position(2, 120));
}

/// An opener may reach only copies that took what they have from layers, and then started again, or whose journal took nothing
/// meanwhile: they know no links below, so they say that nothing below is in doubt.
#[test]
fn what_came_from_layers_is_known_to_be_durable() {
    let mut copy = newborn();
    let before = SegmentState::decode(copy.state.clone()).expect("the journaled state reads back");
    take_all_through_110(&mut copy);
    let mut rolled_back = copy.segment.clone();
    rolled_back.roll_back(before, &[]);
    assert_eq!(rolled_back.horizon().durable, position(2, 110));
    let promised = copy.restarted().promised(3, path(&[(1, 0), (2, 90)]), Position::ZERO);
    assert_eq!(
        (promised.durable, promised.complete),
        (position(2, 110), position(2, 110))
    );
}

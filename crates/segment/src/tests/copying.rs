//! How a copy takes from the layers of its peers what no journal has any more.

use wire_format::message::{VersionCursor, Versions, VersionsAsked};

use super::*;
use crate::{PartId, Taken};

/// A copy that is born to take the place of another one, while epoch 2 reigns.
pub(super) fn newborn() -> Copy {
    born(units::SegmentKind::Full, members())
}

pub(super) fn born(kind: units::SegmentKind, copy_from: Vec<Member>) -> Copy {
    let request = Request::CreateSegment {
        volume: VOLUME,
        group: GroupId::FIRST,
        segment: id(1),
        kind,
        epoch: Epoch::from_raw(2),
        path: path(&[(1, 0), (2, 90)]),
        members: members(),
        copy_from,
    };
    let mut effects = Vec::new();
    let segment = Segment::create(&request, &mut effects).expect("a fresh segment");
    let mut copy = Copy {
        segment,
        state: Bytes::new(),
        journal: Vec::new(),
    };
    copy.perform(effects);
    copy.segment.permit_layers(true);
    copy
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The questions for versions that it asks now.
pub(super) fn questions(copy: &mut Copy, now: u64) -> Vec<(SegmentId, PartId, VersionCursor, Bytes)> {
    let mut effects = Vec::new();
    copy.segment.tick(millis(now), &mut effects);
    copy.perform(effects.clone());
    asked(&effects)
}

pub(super) fn asked(effects: &[Effect]) -> Vec<(SegmentId, PartId, VersionCursor, Bytes)> {
    let question = |effect: &Effect| match effect {
        Effect::Take {
            peer,
            request: Request::FetchVersions { from, until, .. },
            part,
        } => Some((peer.segment, *part, from.clone(), until.clone())),
        _ => None,
    };
    effects.iter().filter_map(question).collect()
}

fn cursor(key: &'static [u8]) -> VersionCursor {
    VersionCursor {
        key: Bytes::from_static(key),
        above: Position::ZERO,
    }
}

pub(super) fn versions(next: Option<VersionCursor>, through: Position, floor: Position) -> Versions {
    Versions {
        runs: Vec::new(),
        content: Bytes::new(),
        next,
        through,
        floor,
        splits: Vec::new(),
        bytes_expected: 0,
    }
}

pub(super) fn answer(copy: &mut Copy, now: u64, part: PartId, from: VersionCursor, versions: Versions) -> Vec<Effect> {
    let taken = Taken::Written {
        from,
        versions,
        bytes: 10,
    };
    let mut effects = Vec::new();
    let told = copy.segment.taken(millis(now), part, taken, &mut effects);
    told.expect("the peer could help");
    copy.perform(effects.clone());
    effects
}

pub(super) fn read(copy: &mut Copy, read_point: u64, needed: Position) -> Result<(), Refusal> {
    let mut effects = Vec::new();
    copy.segment.request(&read_pages(2, read_point, needed), &mut effects);
    match effects.pop() {
        Some(Effect::Read(_)) => Ok(()),
        Some(Effect::Answer(Response::Refused(refusal))) => Err(refusal),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_rest_is_divided_among_several_peers() {
    let mut copy = newborn();
    let first = questions(&mut copy, 0);
    let [(_, part, from, _)] = &first[..] else {
        panic!("{first:?}");
    };
    let divided = Versions {
        splits: vec![Bytes::from_static(b"h"), Bytes::from_static(b"p")],
        ..versions(Some(cursor(b"b")), position(2, 110), position(1, 50))
    };
    let effects = answer(&mut copy, 10, *part, from.clone(), divided);
    let asked = asked(&effects);
    let ranges: Vec<_> = asked
        .iter()
        .map(|(_, _, from, until)| (&from.key[..], &until[..]))
        .collect();
    assert_eq!(ranges, [(&b"b"[..], &b"h"[..]), (b"h", b"p"), (b"p", b"")]);
    let mut peers: Vec<_> = asked.iter().map(|(peer, ..)| *peer).collect();
    peers.sort();
    peers.dedup();
    assert_eq!(peers.len(), 3, "each from another peer");
    // The lowest position of all answers counts, and the highest floor.
    for (at, (_, part, from, _)) in asked.iter().enumerate() {
        assert_eq!(copy.segment.complete(), Position::ZERO);
        let (through, floor) = [(140, 95), (105, 100), (150, 99)][at];
        answer(
            &mut copy,
            20,
            *part,
            from.clone(),
            versions(None, position(2, through), position(2, floor)),
        );
    }
    assert_eq!(copy.segment.complete(), position(2, 105));
    assert_eq!(read(&mut copy, 105, position(2, 105)), Ok(()));
    let below = read(&mut copy, 99, Position::ZERO);
    assert!(matches!(below, Err(Refusal::BelowFloor { .. })), "{below:?}");
}

#[test]
fn an_answer_that_comes_twice_or_late_changes_nothing() {
    let mut copy = newborn();
    let first = questions(&mut copy, 0);
    let (_, part, from, _) = first[0].clone();
    answer(
        &mut copy,
        10,
        part,
        from.clone(),
        versions(Some(cursor(b"b")), position(2, 110), position(1, 50)),
    );
    let late = versions(None, position(2, 200), position(2, 200));
    answer(&mut copy, 20, part, from, late.clone());
    assert_eq!(copy.segment.complete(), Position::ZERO);
    let of_another_pass = PartId {
        pass: part.pass + 1,
        ..part
    };
    answer(&mut copy, 30, of_another_pass, cursor(b"b"), late);
    assert_eq!(copy.segment.complete(), Position::ZERO);
    answer(
        &mut copy,
        40,
        part,
        cursor(b"b"),
        versions(None, position(2, 110), position(1, 50)),
    );
    assert_eq!(copy.segment.complete(), position(2, 110));
}

#[test]
fn a_peer_that_does_not_answer_gives_way_to_another() {
    let mut copy = newborn();
    let first = questions(&mut copy, 0);
    assert_eq!(questions(&mut copy, 5000), [], "it may be slow");
    let second = questions(&mut copy, 11_000);
    assert_ne!(first[0].0, second[0].0);
    let refused = Taken::Refused(Refusal::UnknownSegment { segment: id(3) });
    let mut effects = Vec::new();
    let told = copy.segment.taken(millis(11_100), second[0].1, refused, &mut effects);
    assert!(told.is_err());
    let third = questions(&mut copy, 11_400);
    assert_ne!(second[0].0, third[0].0);
}

#[test]
fn a_restart_in_the_middle_begins_anew() {
    let mut copy = newborn();
    let first = questions(&mut copy, 0);
    let (_, part, from, _) = first[0].clone();
    answer(
        &mut copy,
        10,
        part,
        from,
        versions(Some(cursor(b"b")), position(2, 110), position(1, 50)),
    );
    let mut copy = copy.restarted();
    copy.segment.permit_layers(true);
    assert!(copy.segment.is_copying());
    let again = questions(&mut copy, 0);
    assert!(again[0].2.key.is_empty(), "from the beginning");
}

/// Nothing of its group was ever announced: its peers know of nothing durable, and refuse whoever asks for more than that.
#[test]
fn a_new_copy_that_holds_log_and_was_told_of_nothing_durable_asks_from_the_beginning() {
    let mut copy = newborn();
    assert_eq!(questions(&mut copy, 0).len(), 1);
    // A peer's journal has it all; a restart ends the pass.
    let batches = Some(Response::Batches(vec![batch(1, 50, Position::ZERO)]));
    let mut effects = Vec::new();
    assert_eq!(copy.segment.fetched(millis(10), batches, &mut effects), Ok(()));
    copy.perform(effects);
    let mut copy = copy.restarted();
    copy.segment.permit_layers(true);
    assert_eq!(copy.segment.complete(), position(1, 50));
    assert!(copy.segment.is_copying());
    let mut effects = Vec::new();
    copy.segment.tick(millis(20), &mut effects);
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::Take {
            request: Request::FetchVersions { after, from, .. },
            part,
            ..
        } => Some((*after, *part, from.clone())),
        _ => None,
    });
    let Some((Position::ZERO, part, from)) = asked else {
        panic!("{asked:?}");
    };
    answer(
        &mut copy,
        30,
        part,
        from,
        versions(None, Position::ZERO, Position::ZERO),
    );
    assert!(!copy.segment.is_copying(), "whole");
    assert_eq!(copy.segment.acknowledged(), position(1, 50));
}

#[test]
fn what_cannot_be_written_ends_the_pass() {
    let mut copy = newborn();
    let first = questions(&mut copy, 0);
    let (_, part, from, _) = first[0].clone();
    answer(
        &mut copy,
        10,
        part,
        from,
        versions(Some(cursor(b"b")), position(2, 110), position(1, 50)),
    );
    let mut effects = Vec::new();
    let told = copy.segment.taken(millis(20), part, Taken::Failed, &mut effects);
    assert_eq!(told, Ok(()));
    answer(
        &mut copy,
        30,
        part,
        cursor(b"b"),
        versions(None, position(2, 110), position(1, 50)),
    );
    assert_eq!(copy.segment.complete(), Position::ZERO, "a part of it is lost");
    let again = questions(&mut copy, 10_000);
    assert_eq!(again[0].1.pass, part.pass + 1);
    assert!(again[0].2.key.is_empty());
}

/// What it took was folded by the peers up to their floor: between what it is complete up to and that, versions are missing.
#[test]
fn nothing_is_read_before_it_is_complete_up_to_the_floor_of_those_who_gave() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20]);
    copy.announce(1, 20);
    copy.segment.permit_layers(true);
    copy.append(1, batch(1, 90, position(1, 80)));
    let mut now = 0;
    let mut asked = Vec::new();
    while asked.is_empty() {
        now += 25;
        assert!(now < 5000, "it is stranded, and asks for versions");
        let mut effects = Vec::new();
        copy.segment.tick(millis(now), &mut effects);
        asked = self::asked(&effects);
        if effects.iter().any(|effect| matches!(effect, Effect::Fetch { .. })) {
            let collected = Response::Refused(Refusal::LogCollected {
                oldest: position(1, 80),
            });
            // A refusal is what is expected here.
            let _ = copy.segment.fetched(millis(now), Some(collected), &mut Vec::new());
        }
    }
    let (_, part, from, _) = asked[0].clone();
    answer(
        &mut copy,
        now,
        part,
        from,
        versions(None, position(1, 50), position(1, 60)),
    );
    assert_eq!(copy.segment.complete(), position(1, 50));
    assert_eq!(
        copy.segment.acknowledged(),
        position(1, 50),
        "it kept its vote all the time"
    );
    assert!(!copy.segment.is_stranded());
    let page = |copy: &mut Copy, read_point, needed| {
        let mut effects = Vec::new();
        copy.segment.request(&read_pages(1, read_point, needed), &mut effects);
        matches!(effects.pop(), Some(Effect::Read(_)))
    };
    assert!(!page(&mut copy, 90, position(1, 20)));
    let mut copy = copy.restarted();
    assert!(!page(&mut copy, 90, position(1, 20)), "it remembers that");
    copy.flushes(1, position(1, 50), &[60, 70, 80]);
    assert_eq!(copy.segment.complete(), position(1, 90));
    assert!(page(&mut copy, 90, position(1, 20)));
}

#[test]
fn versions_are_given_up_to_the_last_durable_batch() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20, 30, 40]);
    copy.announce_apart(1, 35, 15, 0);
    let ask = |copy: &mut Copy, path: Path, after| {
        let request = Request::FetchVersions {
            segment: id(1),
            path,
            after,
            from: VersionCursor::default(),
            until: Bytes::new(),
            bytes_max: 100,
        };
        let mut effects = Vec::new();
        copy.segment.request(&request, &mut effects);
        effects.pop().expect("an answer")
    };
    let given = ask(&mut copy, path(&[(1, 0)]), position(1, 10));
    let Effect::Read(Read::Versions(VersionsAsked { through, .. })) = given else {
        panic!("{given:?}");
    };
    assert_eq!(through, position(1, 30), "an opener may leave what is above");
    let no_further = ask(&mut copy, path(&[(1, 0)]), position(1, 30));
    assert!(matches!(
        no_further,
        Effect::Answer(Response::Refused(Refusal::NotComplete { .. }))
    ));
    let of_another_history = ask(&mut copy, path(&[(1, 0), (2, 30)]), Position::ZERO);
    assert!(matches!(of_another_history, Effect::Answer(Response::Refused(_))));
    copy.segment.damaged();
    let damaged = ask(&mut copy, path(&[(1, 0)]), Position::ZERO);
    assert!(matches!(
        damaged,
        Effect::Answer(Response::Refused(Refusal::Damaged { .. }))
    ));
}

/// The journal did not take what said so: then neither may an acknowledgement, but what is missing stays known.
#[test]
fn a_pass_that_could_not_be_journaled_is_not_acknowledged() {
    let mut copy = newborn();
    let before = SegmentState::decode(copy.state.clone()).expect("the journaled state reads back");
    let first = questions(&mut copy, 0);
    let (_, part, from, _) = first[0].clone();
    let taken = Taken::Written {
        from,
        versions: versions(None, position(2, 110), position(2, 100)),
        bytes: 10,
    };
    let told = copy.segment.taken(millis(10), part, taken, &mut Vec::new());
    assert_eq!(told, Ok(()));
    copy.segment.roll_back(before, &[]);
    assert_eq!(copy.segment.acknowledged(), Position::ZERO);
    assert_eq!(copy.segment.complete(), Position::ZERO);
    assert!(copy.segment.is_copying());
    // The next state says it, and only then is it so.
    copy.forget();
    copy.announce(2, 105);
    assert_eq!(copy.segment.complete(), position(2, 110));
    assert!(
        read(&mut copy, 99, Position::ZERO).is_err(),
        "what peers folded is still known"
    );
    assert_eq!(read(&mut copy, 110, Position::ZERO), Ok(()));
}

#[test]
fn only_the_holder_of_the_epoch_has_it_removed() {
    let mut copy = newborn();
    let remove = |epoch| Request::RemoveSegment {
        segment: id(1),
        epoch: Epoch::from_raw(epoch),
    };
    assert_eq!(copy.ask(&remove(1)), stale(1, 2));
    let mut effects = Vec::new();
    copy.segment.request(&remove(2), &mut effects);
    assert_eq!(effects, [Effect::Remove, Effect::Answer(Response::SegmentRemoved)]);
}

/// A copy that is cut off from the writer, but not from its peers.
#[test]
fn a_copy_that_hears_nothing_asks_its_peers_how_far_they_are() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10]);
    let listens = |copy: &mut Copy, now| {
        let mut effects = Vec::new();
        copy.segment.tick(millis(now), &mut effects);
        effects.into_iter().find_map(|effect| match effect {
            Effect::Fetch {
                request: Request::TellStanding { segment },
                ..
            } => Some(segment),
            _ => None,
        })
    };
    assert_eq!(listens(&mut copy, 0), None);
    copy.announce(1, 10);
    assert_eq!(listens(&mut copy, 900), None);
    assert_eq!(
        listens(&mut copy, 1800),
        None,
        "the writer was heard less than a second ago"
    );
    assert!(listens(&mut copy, 2000).is_some());
    let mut peer = Copy::new();
    peer.flushes(1, Position::ZERO, &[10, 20, 30]);
    peer.install(path(&[(1, 0), (2, 30)]));
    peer.flushes(2, position(1, 30), &[40]);
    peer.announce(2, 40);
    let standing = peer.ask(&Request::TellStanding { segment: id(1) });
    let mut effects = Vec::new();
    copy.segment
        .fetched(millis(2010), Some(standing), &mut effects)
        .expect("it says the same history");
    copy.perform(effects);
    let horizon = copy.segment.horizon();
    assert_eq!(
        (horizon.path.epoch(), horizon.durable),
        (Epoch::from_raw(2), position(2, 40))
    );
    // And now it knows what it lacks.
    let mut asked = false;
    for now in (2025..3000).step_by(25) {
        let mut effects = Vec::new();
        copy.segment.tick(millis(now), &mut effects);
        asked |= effects.iter().any(|effect| {
            matches!(effect, Effect::Fetch { request: Request::FetchBatches { after, .. }, .. } if *after == position(1, 10))
        });
    }
    assert!(asked);
    // A promise does not spread: its opener may be dead.
    peer.promise(9, path(&[(1, 0), (2, 30)]), Position::ZERO);
    let standing = peer.ask(&Request::TellStanding { segment: id(1) });
    let mut effects = Vec::new();
    copy.segment
        .fetched(millis(3010), Some(standing), &mut effects)
        .expect("it says the same history");
    assert_eq!(copy.segment.promised(), Epoch::from_raw(2));
}

/// Others share the journal, and a pass brings again what peers hold durably.
#[test]
fn a_stranded_copy_lets_the_journal_go_once_it_is_full() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20]);
    copy.flushes(1, position(1, 50), &[60, 70, 80]);
    copy.announce_apart(1, 70, 0, 0);
    assert_eq!(copy.segment.complete(), position(1, 20));
    copy.segment.set_crowded(true);
    assert!(
        copy.segment.journal_unneeded_through().lsn.raw() <= 20,
        "a hole that a journal may fill pins it"
    );
    let mut now = 0;
    while !copy.segment.is_stranded() {
        now += 25;
        assert!(now < 5000, "it is stranded");
        let mut effects = Vec::new();
        copy.segment.tick(millis(now), &mut effects);
        let collected = Response::Refused(Refusal::LogCollected {
            oldest: position(1, 50),
        });
        if effects.iter().any(|effect| matches!(effect, Effect::Fetch { .. })) {
            // A refusal is what is expected here.
            let _ = copy.segment.fetched(millis(now), Some(collected), &mut Vec::new());
        }
    }
    copy.segment.set_crowded(false);
    assert!(copy.segment.journal_unneeded_through().lsn.raw() <= 20, "there is room");
    copy.segment.set_crowded(true);
    copy.segment.synced();
    assert!(
        copy.segment.journal_unneeded_through().lsn.raw() <= 20,
        "it is complete only with what the journal has"
    );
    copy.segment.forget(Position::ZERO, &mut Vec::new());
    copy.segment.synced();
    assert_eq!(copy.segment.journal_unneeded_through(), position(1, 70));
    assert_eq!(copy.segment.acknowledged(), position(1, 20), "of that nothing goes");
    let held = copy.promised(2, path(&[(1, 0)]), Position::ZERO).held;
    let ends: Vec<Position> = held.iter().map(|flush| flush.end).collect();
    let expected = [80].map(|lsn| position(1, lsn));
    assert_eq!(ends, expected, "an opener may look for what is not known to be durable");
}

//! Lost copies that an opening replaces outright: `notes/protocol.md`, hole 8.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use units::{GroupId, Position, SegmentId, Zone};
use wire_format::message::{Promised, Request, Response};

use super::opening::{LATER, Opener, appended, batch, id, lsn, position, promised, record};
use crate::OpeningEffect;
use crate::outright::{Outright, Rebuilt, outright, short_groups};
use crate::placement::{Lost, StorageNode, Wish};
use crate::record::MemberRecord;

/// The list of a group in which copies 1, 2 and 3 are replaced by 11, 12 and 13: a zone and one more.
fn rebuilt() -> Rebuilt {
    let mut members = record().groups[0].members.clone();
    for (at, member) in members.iter_mut().enumerate().take(3) {
        member.segment = id(11 + at as u8);
        member.node = format!("storage-{}", 11 + at);
    }
    Rebuilt {
        group: GroupId::FIRST,
        members,
        new: (11..=13).map(id).collect(),
    }
}

/// Copies 4, 5 and 6 are left: they have everything up to 30, 30 and 20, and know that 10 is durable.
fn three_are_left() -> Opener {
    let mut opener = Opener::new(6);
    for (copy, complete) in [(4, 30), (5, 30), (6, 20)] {
        let response = Response::Promised(promised(copy, 2, complete, 10));
        opener.hear(copy, response).expect("a promise");
    }
    opener
}

fn created(opener: &mut Opener) -> Vec<(String, Request)> {
    let created = opener.effects.iter().filter_map(|effect| match effect {
        OpeningEffect::Create { node, request } => Some((node.clone(), request.clone())),
        _ => None,
    });
    created.collect()
}

/// What a new copy says of itself.
fn told(copy: u8, vouches: bool, complete: u64) -> Response {
    Response::Promised(Promised {
        vouches,
        complete: if complete == 0 {
            Position::ZERO
        } else {
            position(1, complete)
        },
        held: Vec::new(),
        ..promised(copy, 2, 0, 0)
    })
}

#[test]
fn a_zone_and_one_more_are_replaced_once_the_rest_is_fenced() {
    let mut opener = Opener::new(6);
    opener
        .opening
        .replace(&rebuilt(), &mut opener.effects)
        .expect("a record");
    assert!(created(&mut opener).is_empty(), "nobody has promised yet");

    let mut opener = three_are_left();
    opener.later();
    assert_eq!(opener.swapped(), None, "three of six write nothing");
    let left: BTreeSet<SegmentId> = (4..=6).map(id).collect();
    assert_eq!(opener.opening.short(), BTreeMap::from([(GroupId::FIRST, left.clone())]));
    opener.effects.clear();
    opener
        .opening
        .replace(&rebuilt(), &mut opener.effects)
        .expect("a record");
    let made = created(&mut opener);
    let nodes: Vec<&str> = made.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(nodes, ["storage-11", "storage-12", "storage-13"]);
    for (_, request) in &made {
        let Request::CreateSegment {
            epoch, path, copy_from, ..
        } = request
        else {
            panic!("{request:?}");
        };
        // Hole 9: born with the promise, so that no older writer is served; and the timeline is not recorded yet.
        assert_eq!((epoch.raw(), path.epoch().raw()), (2, 1));
        assert_eq!(
            copy_from.iter().map(|member| member.segment).collect::<BTreeSet<_>>(),
            left
        );
    }
    opener.effects.clear();
    opener
        .opening
        .replace(&rebuilt(), &mut opener.effects)
        .expect("a record");
    assert!(created(&mut opener).is_empty(), "once is enough");
    // A node that was not there in time is asked again.
    opener.tick(LATER + Duration::from_secs(1));
    assert_eq!(created(&mut opener).len(), 3);
}

/// The new list counts only with a new copy that has everything up to the end, and is recorded with the timeline.
#[test]
fn the_new_list_is_recorded_once_a_new_copy_is_complete() {
    let mut opener = three_are_left();
    opener.later();
    opener
        .opening
        .replace(&rebuilt(), &mut opener.effects)
        .expect("a record");
    for copy in [11, 12] {
        opener.opening.connected(id(copy), &mut opener.effects);
    }
    opener.effects.clear();
    opener.hear_later(id(6), appended(6, position(1, 30)));
    // Whole up to nothing: it is asked again and again how far it is.
    opener.hear_later(id(11), told(11, false, 0));
    assert_eq!(opener.swapped(), None);
    opener.effects.clear();
    opener.tick(2 * LATER);
    let asked = opener.sent();
    let again =
        |(segment, request): &(SegmentId, Request)| *segment == id(11) && matches!(request, Request::Promise { .. });
    assert!(asked.iter().any(again), "{asked:?}");
    // Whole up to what was known to be durable: the rest comes from who has it.
    let heard = opener
        .opening
        .response(2 * LATER, id(11), told(11, true, 20), &mut opener.effects);
    heard.expect("a promise");
    assert_eq!(opener.swapped(), None, "it lacks a flush of the end");
    let source = opener.asked_for_batches();
    assert_eq!(source.len(), 1, "{source:?}");
    opener.hear_later(source[0], Response::Batches(vec![batch(30)]));
    opener.hear_later(id(11), appended(11, position(1, 30)));
    let next = opener.swapped().expect("four of the new list are complete");
    assert_eq!(
        next.last().map(|last| (last.epoch.raw(), last.branch)),
        Some((2, lsn(30)))
    );
    let expected = record().groups[0].settled(rebuilt().members);
    assert_eq!(next.groups[0], expected);
    // And that is what it is opened with.
    opener.opening.recorded(true, &mut opener.effects).expect("recorded");
    let members: BTreeSet<SegmentId> = opener.opening.members().iter().map(|member| member.segment).collect();
    assert_eq!(members, expected.members.iter().map(|member| member.segment).collect());
}

/// An old copy that comes back after it was replaced says nothing any more.
#[test]
fn a_replaced_copy_counts_for_nothing() {
    let mut opener = three_are_left();
    opener.later();
    opener.hear_later(id(6), appended(6, position(1, 30)));
    opener
        .opening
        .replace(&rebuilt(), &mut opener.effects)
        .expect("a record");
    opener.opening.connected(id(1), &mut opener.effects);
    opener.hear_later(id(1), Response::Promised(promised(1, 2, 30, 10)));
    assert_eq!(opener.swapped(), None);
}

fn node(number: u8) -> StorageNode {
    StorageNode::new(
        format!("storage-{number}"),
        Zone::ALL[usize::from(number - 1) % 6 / 2],
        String::new(),
    )
}

/// What is done for copies 1, 2 and 3 if the fleet is as `change` leaves it; the nodes of the new list.
fn done(numbers: &[u8], lost: &Lost, change: impl Fn(&mut StorageNode)) -> (Vec<Vec<String>>, usize) {
    let mut nodes: Vec<StorageNode> = numbers.iter().map(|number| node(*number)).collect();
    nodes.iter_mut().for_each(change);
    let is_useful = |member: &MemberRecord| (4..=6).any(|copy| member.segment == id(copy));
    let short = short_groups(&record(), is_useful);
    let mut identities = 100..;
    let Outright { rebuilt, without_spare } = outright(&record(), &nodes, lost, &short, || {
        id(identities.next().expect("enough"))
    });
    let names = |rebuilt: Rebuilt| rebuilt.members.into_iter().map(|member| member.node).collect();
    (rebuilt.into_iter().map(names).collect(), without_spare.len())
}

fn is_first_three(node: &StorageNode) -> bool {
    ["storage-1", "storage-2", "storage-3"].contains(&node.name.as_str())
}

#[test]
fn lost_copies_are_made_anew_in_their_zone_if_somebody_wants_it_or_in_time() {
    let all = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    let lost = Lost::default();
    assert_eq!(
        done(&all, &lost, |_| ()),
        (Vec::new(), 0),
        "nobody asked, and it is not late"
    );
    // 7 and 8 stand in zone a, 9 in zone b. All three are dead.
    let overdue =
        |node: &mut StorageNode| (node.is_alive, node.is_overdue) = (!is_first_three(node), is_first_three(node));
    let (rebuilt, _) = done(&all, &lost, overdue);
    assert_eq!(
        rebuilt,
        [[
            "storage-7",
            "storage-8",
            "storage-9",
            "storage-4",
            "storage-5",
            "storage-6"
        ]]
    );
    // The zone is gone as a whole: the one beside it is enough, and the others wait for a node.
    let (rebuilt, without_spare) = done(&[1, 2, 3, 4, 5, 6, 9], &lost, overdue);
    assert_eq!(
        rebuilt,
        [[
            "storage-1",
            "storage-2",
            "storage-9",
            "storage-4",
            "storage-5",
            "storage-6"
        ]]
    );
    assert_eq!(without_spare, 2);
    let (rebuilt, without_spare) = done(&[1, 2, 3, 4, 5, 6], &lost, overdue);
    assert_eq!((rebuilt.len(), without_spare), (0, 3), "nobody can take them");
    // They came back with empty disks, and somebody asks for one of them.
    let wiped = Lost {
        copies: (1..=3).map(id).collect(),
        overdue: BTreeSet::new(),
    };
    let asked = |node: &mut StorageNode| {
        if node.name == "storage-3" {
            node.wish = Wish::Replace([id(3)].into());
        }
    };
    let (rebuilt, _) = done(&[1, 2, 3, 4, 5, 6], &wiped, asked);
    assert_eq!(
        rebuilt,
        [[
            "storage-1",
            "storage-2",
            "storage-3",
            "storage-4",
            "storage-5",
            "storage-6"
        ]]
    );
}

/// A change was under way when the copies were lost: either list has what was acknowledged, and the one with more left stays.
#[test]
fn of_two_lists_the_one_with_more_left_stays() {
    let mut record = record();
    let joining = MemberRecord {
        segment: id(7),
        node: "storage-7".to_owned(),
        ..record.groups[0].members[0].clone()
    };
    record.groups[0] = record.groups[0].joint(id(1), joining);
    let useful = |member: &MemberRecord| (4..=7).any(|copy| member.segment == id(copy));
    let short = short_groups(&record, useful);
    assert_eq!(short.len(), 1, "the old list has three");
    let plan = outright(&record, &[], &Lost::default(), &short, || id(100));
    let [rebuilt] = &plan.rebuilt[..] else {
        panic!("{plan:?}");
    };
    assert!(rebuilt.new.is_empty());
    assert_eq!(rebuilt.members[0].segment, id(7));
}

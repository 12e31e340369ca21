//! Which copies move where.

use std::collections::BTreeSet;

use units::{GroupId, SegmentId, VolumeId, Zone};

use crate::creation;
use crate::placement::{Lost, Plan, StorageNode, Wish, plan, strays};
use crate::record::{MemberRecord, VolumeRecord};

fn segment(number: u8) -> SegmentId {
    SegmentId::from_bytes([number; 16])
}

fn zone(number: u8) -> Zone {
    Zone::ALL[usize::from((number - 1) % 6) / 2]
}

fn node(number: u8) -> StorageNode {
    StorageNode {
        name: format!("storage-{number}"),
        zone: zone(number),
        address: format!("127.0.0.1:{number}"),
        is_alive: true,
        is_overdue: false,
        wish: Wish::Keep,
        disk_used_bytes: 50 << 30,
        disk_total_bytes: 100 << 30,
        held_bytes: 0,
        sync_time: None,
    }
}

/// A volume on storage-1 to storage-6.
fn volume() -> VolumeRecord {
    let member = |number: u8| MemberRecord {
        segment: segment(number),
        node: format!("storage-{number}"),
        address: String::new(),
        zone: zone(number),
        kind: units::SegmentKind::Full,
    };
    creation::record(VolumeId::from_bytes([1; 16]), (1..=6).map(member).collect())
}

fn moves(plan: &Plan) -> Vec<(SegmentId, &str)> {
    let one = |replacement: &'_ crate::placement::Replacement| replacement.leaving;
    plan.replacements
        .iter()
        .map(|replacement| (one(replacement), replacement.to.name.as_str()))
        .collect()
}

/// Six nodes and `spares`, after `change`.
fn nodes(spares: &[u8], change: impl Fn(&mut StorageNode)) -> Vec<StorageNode> {
    let mut nodes: Vec<StorageNode> = (1..=6).chain(spares.iter().copied()).map(node).collect();
    nodes.iter_mut().for_each(change);
    nodes
}

fn named(name: &'static str, change: impl Fn(&mut StorageNode)) -> impl Fn(&mut StorageNode) {
    move |node| {
        if node.name == name {
            change(node);
        }
    }
}

#[test]
fn nothing_moves_while_all_is_well() {
    let record = volume();
    assert_eq!(plan(&record, &nodes(&[7], |_| ()), &Lost::default()), Plan::default());
    let asleep = nodes(&[7], named("storage-1", |node| node.is_alive = false));
    assert_eq!(
        plan(&record, &asleep, &Lost::default()),
        Plan::default(),
        "not for long enough"
    );
}

#[test]
fn a_spare_of_the_same_zone_takes_over() {
    // 7 and 13 stand in zone a, 9 in zone b.
    let gone = nodes(
        &[7, 9],
        named("storage-2", |node| (node.is_alive, node.is_overdue) = (false, true)),
    );
    let planned = plan(&volume(), &gone, &Lost::default());
    assert_eq!(moves(&planned), [(segment(2), "storage-7")]);
    assert!(planned.replacements[0].is_reversible);
    let other_zone = nodes(
        &[9],
        named("storage-2", |node| (node.is_alive, node.is_overdue) = (false, true)),
    );
    let planned = plan(&volume(), &other_zone, &Lost::default());
    assert!(
        planned.replacements.is_empty(),
        "not in another zone, and not beside another copy"
    );
    assert_eq!(
        planned.without_spare,
        [(GroupId::FIRST, "storage-2".to_owned(), Zone::A)]
    );
}

#[test]
fn neither_a_full_disk_nor_a_node_that_is_away_or_leaves_takes_copies() {
    let unfit: [fn(&mut StorageNode); 3] = [
        |node| node.disk_used_bytes = 99 << 30,
        |node| node.is_alive = false,
        |node| node.wish = Wish::Drain,
    ];
    for make_unfit in unfit {
        let mut all = nodes(&[7, 13], named("storage-2", |node| node.wish = Wish::Drain));
        make_unfit(&mut all[6]);
        let planned = plan(&volume(), &all, &Lost::default());
        assert_eq!(moves(&planned), [(segment(2), "storage-13")]);
        assert!(!planned.replacements[0].is_reversible, "it is to be empty");
    }
}

#[test]
fn a_node_that_lost_its_copy_gets_a_new_one_if_nobody_else_can() {
    let lost = Lost {
        copies: BTreeSet::from([segment(2)]),
        overdue: BTreeSet::new(),
    };
    let overdue = Lost {
        overdue: lost.copies.clone(),
        ..lost.clone()
    };
    assert_eq!(
        plan(&volume(), &nodes(&[7], |_| ()), &lost),
        Plan::default(),
        "not for long enough"
    );
    assert_eq!(
        moves(&plan(&volume(), &nodes(&[], |_| ()), &overdue)),
        [(segment(2), "storage-2")]
    );
    assert_eq!(
        moves(&plan(&volume(), &nodes(&[7], |_| ()), &overdue)),
        [(segment(2), "storage-7")]
    );
    let wished = |wish: Wish| nodes(&[], named("storage-2", move |node| node.wish = wish.clone()));
    let asked = wished(Wish::Replace(BTreeSet::from([segment(2)])));
    assert_eq!(
        moves(&plan(&volume(), &asked, &lost)),
        [(segment(2), "storage-2")],
        "at once, since somebody asked"
    );
    let of_others = wished(Wish::Replace(BTreeSet::from([segment(9)])));
    assert_eq!(
        plan(&volume(), &of_others, &lost),
        Plan::default(),
        "that copy is replaced already"
    );
    let drained = plan(&volume(), &wished(Wish::Drain), &lost);
    assert!(
        drained.replacements.is_empty() && drained.without_spare.len() == 1,
        "it is to be empty"
    );
}

#[test]
fn one_copy_of_a_group_moves_at_a_time_and_copies_are_spread() {
    let mut record = volume();
    let mut second = record.groups[0].clone();
    second.group = 1;
    for member in &mut second.members {
        member.segment = segment(member.segment.bytes()[0] + 100);
    }
    record.groups.push(second);
    let both = nodes(&[7, 13], |node| {
        if node.zone == Zone::A && node.name.len() == "storage-1".len() && node.name != "storage-7" {
            node.wish = Wish::Drain;
        }
    });
    let planned = plan(&record, &both, &Lost::default());
    assert_eq!(
        moves(&planned),
        [(segment(1), "storage-7"), (segment(101), "storage-13")]
    );
    record.groups[0] = record.groups[0].joint(segment(1), record.groups[0].members[0].clone());
    let planned = plan(&record, &both, &Lost::default());
    assert_eq!(planned.replacements.len(), 1, "group 0 has a change under way");
}

/// Until the new copy is whole the new list has no more votes than those that stay.
#[test]
fn a_replacement_waits_while_the_copies_that_stay_are_no_write_quorum() {
    let wished = |node: &mut StorageNode| node.wish = Wish::Drain;
    let zone_c_away = |node: &mut StorageNode| {
        if ["storage-5", "storage-6"].contains(&node.name.as_str()) {
            node.is_alive = false;
        }
        if node.name == "storage-2" {
            wished(node);
        }
    };
    let planned = plan(&volume(), &nodes(&[7], zone_c_away), &Lost::default());
    assert_eq!(planned, Plan::default(), "a healthy copy can wait until zone c is back");
    let gone_as_well = |node: &mut StorageNode| {
        zone_c_away(node);
        (node.is_alive, node.is_overdue) = match node.name.as_str() {
            "storage-2" | "storage-5" => (false, true),
            _ => (true, false),
        };
    };
    let planned = plan(&volume(), &nodes(&[7], gone_as_well), &Lost::default());
    assert_eq!(moves(&planned), [(segment(2), "storage-7")], "four stay");
    let lost = Lost {
        copies: [segment(1), segment(3)].into(),
        overdue: [segment(1)].into(),
    };
    let drained = nodes(&[7], named("storage-2", wished));
    let planned = plan(&volume(), &drained, &lost);
    assert_eq!(moves(&planned), [(segment(1), "storage-7")], "the lost copies first");
}

#[test]
fn what_no_list_names_and_nobody_makes_is_a_stray_whoever_left_for_it() {
    let mut record = volume();
    let joining = MemberRecord {
        segment: segment(7),
        node: "storage-7".to_owned(),
        ..record.groups[0].members[0].clone()
    };
    let group = record.groups[0].joint(segment(1), joining);
    record.groups[0] = group;
    let (kept_by_a_list, made, others) = ((1..=7).map(segment), segment(8), [segment(9), segment(10)]);
    let held = kept_by_a_list.chain([made]).chain(others);
    let held = held.map(|segment| ("storage-1", segment));
    let found = strays(&record, held, |segment| segment == made);
    assert_eq!(found, others.map(|segment| ("storage-1", segment)));
}

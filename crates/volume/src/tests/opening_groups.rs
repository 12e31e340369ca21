//! The opening of a volume with several groups: which are looked at, and where the log ends.

use std::time::Duration;

use units::{Epoch, GroupId, Lsn, Position, SegmentId, VolumeId, Zone};
use wire_format::message::{HeldFlush, Promised, Request, Response};
use wire_format::{Batch, EncodedBatch};

use crate::outright::Rebuilt;
use crate::record::{GroupRecord, MemberRecord};
use crate::{Opening, OpeningEffect, VolumeRecord, creation};

fn lsn(raw: u64) -> Lsn {
    Lsn::from_raw(raw)
}

fn position(epoch: u64, raw: u64) -> Position {
    Position::new(Epoch::from_raw(epoch), lsn(raw))
}

fn id(group: u32, copy: u8) -> SegmentId {
    SegmentId::from_bytes([group as u8 * 16 + copy; 16])
}

fn members(group: u32) -> Vec<MemberRecord> {
    let member = |copy: u8| MemberRecord {
        segment: id(group, copy),
        node: format!("storage-{copy}"),
        address: String::new(),
        zone: Zone::ALL[usize::from(copy - 1) / 2],
        kind: units::SegmentKind::Full,
    };
    (1..=6).map(member).collect()
}

/// Three groups.
fn record() -> VolumeRecord {
    let mut record = creation::record(VolumeId::from_bytes([9; 16]), members(0));
    record.groups.extend((1..=2).map(|group| GroupRecord {
        group,
        membership_version: 1,
        members: members(group),
        joining: None,
    }));
    record
}

/// Flushes that end at 10, 20, 30 and so on; the groups beside group 0 of each.
type Flushes<'a> = &'a [&'a [u32]];

fn previous(flushes: Flushes<'_>, at: usize, group: u32) -> Position {
    let before = (0..at).rev().find(|at| group == 0 || flushes[*at].contains(&group));
    before.map_or(Position::ZERO, |before| position(1, 10 * (before as u64 + 1)))
}

/// What a copy of a group answers that holds its parts of the first `count` flushes.
fn promised(flushes: Flushes<'_>, group: u32, copy: u8, count: usize, durable: u64) -> Response {
    let mut held = Vec::new();
    for (at, others) in flushes.iter().enumerate().take(count) {
        if group == 0 || others.contains(&group) {
            let groups = std::iter::once(&0)
                .chain(*others)
                .map(|group| GroupId::from_raw(*group));
            held.push(HeldFlush {
                end: position(1, 10 * (at as u64 + 1)),
                previous: previous(flushes, at, group),
                boundary: lsn(10 * (at as u64 + 1)),
                groups: if group == 0 { groups.collect() } else { Vec::new() },
            });
        }
    }
    Response::Promised(Promised {
        segment: id(group, copy),
        epoch: Epoch::from_raw(2),
        vouches: true,
        path: record().path().expect("a path"),
        complete: held.last().map_or(Position::ZERO, |flush| flush.end),
        durable: position(1, durable),
        held,
    })
}

struct Opener {
    opening: Opening,
    effects: Vec<OpeningEffect>,
    now: Duration,
}

impl Opener {
    /// Four copies of group 0 hold all the flushes; the first is known to be durable.
    fn new(flushes: Flushes<'_>) -> Opener {
        let mut opener = Opener {
            opening: Opening::new(Epoch::from_raw(2), record()).expect("a record with a path"),
            effects: Vec::new(),
            now: Duration::ZERO,
        };
        for copy in 1..=4 {
            opener.connect(0, copy);
            opener.hear(0, copy, promised(flushes, 0, copy, flushes.len(), 10));
        }
        opener.later();
        opener
    }

    fn connect(&mut self, group: u32, copy: u8) {
        self.opening.connected(id(group, copy), &mut self.effects);
    }

    fn hear(&mut self, group: u32, copy: u8, response: Response) {
        let heard = self
            .opening
            .response(self.now, id(group, copy), response, &mut self.effects);
        heard.expect("no error");
    }

    fn later(&mut self) {
        self.now += Duration::from_millis(30);
        self.opening.tick(self.now, &mut self.effects).expect("no error");
    }

    /// The groups whose copies are to be connected to.
    fn wanted(&mut self) -> Vec<SegmentId> {
        let connects = self.effects.iter().filter_map(|effect| match effect {
            OpeningEffect::Connect(_, members) => Some(members[0].segment),
            _ => None,
        });
        connects.collect()
    }

    fn branch(&self) -> Option<Lsn> {
        self.effects.iter().find_map(|effect| match effect {
            OpeningEffect::CompareAndSwap(record) => record.last().map(|last| last.branch),
            _ => None,
        })
    }

    fn sent(&mut self) -> Vec<(SegmentId, Request)> {
        let sent = self.effects.drain(..).filter_map(|effect| match effect {
            OpeningEffect::Send { segment, request } => Some((segment, request)),
            _ => None,
        });
        sent.collect()
    }
}

#[test]
fn groups_that_no_flush_in_flight_names_are_left_alone() {
    let mut opener = Opener::new(&[&[1, 2], &[], &[]]);
    assert_eq!(opener.wanted(), [], "what is durable needs no look");
    assert_eq!(opener.branch(), Some(lsn(30)));
}

/// protocol.md, hole 3: half a flush becomes history if nobody knows that another part existed.
#[test]
fn the_log_ends_before_a_flush_of_which_a_part_is_nowhere() {
    let flushes: Flushes<'_> = &[&[], &[1], &[], &[1, 2], &[]];
    let mut opener = Opener::new(flushes);
    assert_eq!(opener.wanted(), [id(1, 1), id(2, 1)], "each group that a flush names");
    for copy in 1..=4 {
        opener.connect(1, copy);
        opener.hear(1, copy, promised(flushes, 1, copy, 5, 0));
        opener.connect(2, copy);
        opener.hear(2, copy, promised(flushes, 2, copy, 0, 0));
    }
    opener.later();
    assert_eq!(
        opener.branch(),
        Some(lsn(30)),
        "nobody has group 2's part of the flush that ends at 40"
    );
}

/// protocol.md, hole 6: whoever has not promised may still acknowledge.
#[test]
fn a_named_group_is_fenced_by_three_promises_before_its_parts_are_counted() {
    let flushes: Flushes<'_> = &[&[], &[1]];
    let mut opener = Opener::new(flushes);
    for copy in 1..=2 {
        opener.connect(1, copy);
        opener.hear(1, copy, promised(flushes, 1, copy, 2, 0));
        opener.later();
        assert_eq!(opener.branch(), None, "{copy} promises");
    }
    opener.connect(1, 3);
    opener.hear(1, 3, promised(flushes, 1, 3, 0, 0));
    opener.later();
    assert_eq!(opener.branch(), None, "its part lies on two copies only");
    assert!(opener.opening.missing().contains(&"storage-5".to_owned()));
}

/// Step 4, in every group: what is history lies on a write quorum.
#[test]
fn the_parts_of_every_named_group_are_brought_to_four_copies() {
    let flushes: Flushes<'_> = &[&[1], &[1]];
    let mut opener = Opener::new(flushes);
    for copy in 1..=4 {
        opener.connect(1, copy);
        opener.hear(1, copy, promised(flushes, 1, copy, if copy == 1 { 2 } else { 1 }, 0));
    }
    opener.later();
    assert_eq!(opener.branch(), None);
    let batch = EncodedBatch::new(Batch {
        volume: record().volume,
        group: GroupId::from_raw(1),
        epoch: Epoch::from_raw(1),
        end: lsn(20),
        previous: position(1, 10),
        header: None,
        items: Vec::new(),
        elsewhere: Vec::new(),
    });
    let mut brought = Vec::new();
    while opener.branch().is_none() {
        for (segment, request) in opener.sent() {
            let Some(copy) = (1..=6).find(|copy| segment == id(1, *copy)) else {
                continue;
            };
            match request {
                Request::FetchBatches { through, .. } => {
                    assert_eq!(through, position(1, 20));
                    opener.hear(1, copy, Response::Batches(vec![batch.clone()]));
                }
                Request::Append { .. } => {
                    brought.push(copy);
                    let appended = Response::Appended {
                        segment,
                        epoch: Epoch::from_raw(2),
                        complete: position(1, 20),
                    };
                    opener.hear(1, copy, appended);
                }
                _ => {}
            }
        }
    }
    assert_eq!(brought, [2, 3, 4]);
    assert_eq!(opener.branch(), Some(lsn(20)));
    opener.effects.clear();
    opener.opening.recorded(true, &mut opener.effects).expect("recorded");
    let told = opener.sent();
    assert!(
        told.iter()
            .all(|(segment, _)| (1..=6).any(|copy| *segment == id(0, copy)))
    );
    let installed = Response::Installed {
        segment: id(0, 1),
        complete: position(1, 20),
        vouches: true,
    };
    opener.hear(0, 1, installed);
    let header = Response::FlushHeader {
        end: position(1, 20),
        previous: position(1, 10),
        boundary: lsn(20),
        marks: bytes::Bytes::new(),
    };
    opener.hear(0, 1, header);
    let opened = opener.effects.iter().find_map(|effect| match effect {
        OpeningEffect::Opened(opened) => Some(opened),
        _ => None,
    });
    let others: Vec<_> = opened
        .expect("it is open")
        .others
        .iter()
        .map(|group| group.last)
        .collect();
    assert_eq!(
        others,
        [Some(position(1, 20)), None],
        "group 2 is asked when it is first used"
    );
}

/// A flush in flight named the group, until somebody told that the flush is durable: then the group has no part of the end, but
/// what was acknowledged of it may lie on copies that are replaced.
#[test]
fn a_replaced_group_without_a_part_of_the_end_gets_what_it_had() {
    let flushes: Flushes<'_> = &[&[], &[1], &[]];
    let mut opener = Opener::new(flushes);
    assert_eq!(opener.wanted(), [id(1, 1)]);
    opener.connect(0, 5);
    opener.hear(0, 5, promised(flushes, 0, 5, 3, 30));
    for copy in 4..=6 {
        opener.connect(1, copy);
        opener.hear(1, copy, promised(flushes, 1, copy, 2, 0));
    }
    opener.later();
    assert_eq!(
        opener.opening.short().keys().collect::<Vec<_>>(),
        [&GroupId::from_raw(1)]
    );
    let mut list = members(1);
    (0..3).for_each(|at| list[at].segment = id(1, 11 + at as u8));
    let rebuilt = Rebuilt {
        group: GroupId::from_raw(1),
        members: list,
        new: (11..=13).map(|copy| id(1, copy)).collect(),
    };
    let replaced = opener.opening.replace(&rebuilt, &mut opener.effects);
    replaced.expect("a record");
    for copy in 11..=13 {
        opener.connect(1, copy);
        opener.hear(1, copy, promised(flushes, 1, copy, 0, 0));
    }
    opener.later();
    assert_eq!(opener.branch(), None, "the new copies have nothing");
    let appended = Response::Appended {
        segment: id(1, 11),
        epoch: Epoch::from_raw(2),
        complete: position(1, 20),
    };
    opener.hear(1, 11, appended);
    assert_eq!(opener.branch(), Some(lsn(30)), "four of the new list have it");
}

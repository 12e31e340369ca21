//! The shipper with several groups: what a flush of two needs, groups that sleep, limits that they share.

use std::time::Duration;

use bytes::Bytes;
use quorum::Membership;
use timeline::{Branch, Path};
use units::{Epoch, GroupId, Lsn, Position, SegmentId, VolumeId, Zone};
use wire_format::message::{Request, Response};
use wire_format::{Item, Member};

use crate::{FlushParts, GroupMembers, Share, Shipper, ShipperEffect, ShipperLimits};

const NOW: Duration = Duration::ZERO;

fn lsn(raw: u64) -> Lsn {
    Lsn::from_raw(raw)
}

fn position(epoch: u64, raw: u64) -> Position {
    Position::new(Epoch::from_raw(epoch), lsn(raw))
}

/// Copy 1 to 6 of a group; all first copies stand on one node, and so on.
fn id(group: u32, copy: u8) -> SegmentId {
    SegmentId::from_bytes([group as u8 * 16 + copy; 16])
}

fn member(group: u32, copy: u8) -> Member {
    Member {
        segment: id(group, copy),
        node: format!("storage-{copy}"),
        address: String::new(),
        zone: Zone::ALL[usize::from(copy - 1) / 2 % 3],
        kind: units::SegmentKind::Full,
    }
}

fn six(group: u32) -> Vec<Member> {
    (1..=6).map(|copy| member(group, copy)).collect()
}

fn ids(members: &[Member]) -> Vec<SegmentId> {
    members.iter().map(|member| member.segment).collect()
}

fn limits() -> ShipperLimits {
    ShipperLimits {
        window_bytes_max: 1000,
        small_flushes_max: usize::MAX,
        retained_bytes_max: 1 << 20,
    }
}

/// A second reign that begins at 100, group 0 awake, and groups 1 and 2 in the record.
struct Writer {
    shipper: Shipper,
    effects: Vec<ShipperEffect>,
}

impl Writer {
    fn new(limits: ShipperLimits) -> Writer {
        let branch = |epoch, parent| Branch {
            epoch: Epoch::from_raw(epoch),
            parent,
        };
        let path = Path::new(vec![branch(1, Position::ZERO), branch(2, position(1, 100))]).expect("a path");
        let volume = VolumeId::from_bytes([9; 16]);
        let mut shipper = Shipper::new(volume, path, six(0), position(1, 100), lsn(100), limits);
        for group in [1, 2] {
            shipper.add_group(GroupMembers {
                group: GroupId::from_raw(group),
                membership: Membership::new(ids(&six(group))),
                members: six(group),
                last: None,
            });
        }
        let mut writer = Writer {
            shipper,
            effects: Vec::new(),
        };
        (1..=6).for_each(|copy| writer.install(0, copy, position(1, 100), true));
        writer.effects.clear();
        writer
    }

    /// With every copy of group 1 awake, whose last batch ends at 40.
    fn with_group(limits: ShipperLimits) -> Writer {
        let mut writer = Writer::new(limits);
        writer.shipper.wake(GroupId::from_raw(1), &mut writer.effects);
        (1..=6).for_each(|copy| writer.install(1, copy, position(1, 40), true));
        writer.effects.clear();
        writer
    }

    /// A seventh copy of group 1 is to take the first one's place: both lists count.
    fn join_seventh(&mut self) {
        let old = six(1);
        let all: Vec<Member> = old.iter().cloned().chain([member(1, 7)]).collect();
        let membership = Membership::joint(ids(&old), ids(&all[1..]));
        let group = GroupId::from_raw(1);
        self.shipper.change_members(group, membership, all, &mut self.effects);
    }

    fn hear(&mut self, group: u32, copy: u8, response: &Response) {
        self.shipper.response(NOW, id(group, copy), response, &mut self.effects);
    }

    fn install(&mut self, group: u32, copy: u8, complete: Position, vouches: bool) {
        let segment = id(group, copy);
        self.shipper.connected(segment, &mut self.effects);
        let installed = Response::Installed {
            segment,
            complete,
            vouches,
        };
        self.hear(group, copy, &installed);
    }

    fn appended(&mut self, group: u32, copies: std::ops::RangeInclusive<u8>, complete: u64) {
        for copy in copies {
            let response = Response::Appended {
                segment: id(group, copy),
                epoch: Epoch::from_raw(2),
                complete: position(2, complete),
            };
            self.hear(group, copy, &response);
        }
    }

    fn submit(&mut self, end: u64, others: &[u32]) {
        self.submit_bytes(end, others, 1);
    }

    fn submit_bytes(&mut self, end: u64, others: &[u32], bytes: usize) {
        let share = Share::of(vec![Item::Record {
            end: lsn(end),
            bytes: Bytes::from(vec![0; bytes]),
        }]);
        let parts = FlushParts {
            end: lsn(end),
            boundary: lsn(end),
            others: others
                .iter()
                .map(|group| (GroupId::from_raw(*group), share.clone()))
                .collect(),
            ..FlushParts::default()
        };
        self.shipper.submit(parts, &mut self.effects).expect("a small flush");
    }

    /// (copy, end, previous, groups) of every batch sent.
    fn sent(&mut self) -> Vec<(SegmentId, u64, Position, usize)> {
        let sent = self.effects.drain(..).filter_map(|effect| match effect {
            ShipperEffect::Send {
                segment,
                request: Request::Append { batch, .. },
            } => {
                let batch = batch.batch();
                let groups = batch.header.as_ref().map_or(0, |header| header.groups.len());
                Some((segment, batch.end.raw(), batch.previous, groups))
            }
            _ => None,
        });
        sent.collect()
    }

    /// The durable positions announced to a group's copies.
    fn announced(&mut self, group: u32, at_ms: u64) -> Vec<Position> {
        self.effects.clear();
        self.shipper.tick(Duration::from_millis(at_ms), &mut self.effects);
        let announced = self.effects.drain(..).filter_map(|effect| match effect {
            ShipperEffect::Send {
                segment,
                request: Request::Announce { durable, .. },
            } if (1..=6).any(|copy| segment == id(group, copy)) => Some(durable),
            _ => None,
        });
        announced.collect()
    }
}

#[test]
fn a_flush_of_two_groups_is_durable_once_each_has_its_quorum() {
    let mut writer = Writer::with_group(limits());
    writer.submit(110, &[1]);
    writer.submit(120, &[]);
    let sent = writer.sent();
    assert_eq!(sent.len(), 18, "two flushes to group 0, one to group 1");
    let header = sent.iter().find(|(segment, ..)| *segment == id(0, 1)).expect("a batch");
    assert_eq!(
        *header,
        (id(0, 1), 110, position(1, 100), 2),
        "its header names two groups"
    );
    let part = sent.iter().find(|(segment, ..)| *segment == id(1, 1)).expect("a batch");
    assert_eq!(
        *part,
        (id(1, 1), 110, position(1, 40), 0),
        "linked to the group's own last batch"
    );
    writer.appended(0, 1..=6, 120);
    assert_eq!(writer.shipper.durable(), lsn(100), "group 1's part is nowhere");
    writer.appended(1, 1..=3, 110);
    assert_eq!(writer.shipper.durable(), lsn(100));
    writer.appended(1, 4..=4, 110);
    assert_eq!(writer.shipper.durable(), lsn(120));
    assert_eq!(writer.shipper.group_durable(GroupId::from_raw(1)), Some(lsn(110)));
}

#[test]
fn a_quorum_of_the_other_group_does_not_help_group_zero() {
    let mut writer = Writer::with_group(limits());
    writer.submit(110, &[1]);
    writer.appended(1, 1..=6, 110);
    writer.appended(0, 1..=3, 110);
    assert_eq!(writer.shipper.durable(), lsn(100));
    writer.appended(0, 4..=4, 110);
    assert_eq!(writer.shipper.durable(), lsn(110));
}

/// protocol.md, hole 3: a group that was not named is fenced at its first use.
#[test]
fn a_sleeping_group_is_woken_by_its_first_flush_and_three_copies_tell_where_it_ends() {
    let mut writer = Writer::new(limits());
    let group = GroupId::from_raw(1);
    assert_eq!(writer.shipper.group_durable(group), None);
    writer.submit(110, &[1]);
    assert_eq!(
        writer.effects,
        [ShipperEffect::Connect(group, six(1))],
        "nothing is sent yet"
    );
    writer.effects.clear();
    writer.submit(120, &[]);
    assert_eq!(writer.sent(), [], "what is behind it waits, too");
    assert_eq!(writer.shipper.sent_end(), lsn(120));
    writer.install(1, 1, position(1, 20), true);
    writer.install(1, 2, Position::ZERO, false);
    writer.install(1, 3, position(1, 40), true);
    assert_eq!(writer.sent(), [], "two copies vouch, which is not enough");
    assert_eq!(writer.shipper.group_durable(group), None);
    writer.install(1, 4, position(1, 40), true);
    let sent = writer.sent();
    let to_group: Vec<_> = sent.iter().filter(|(segment, ..)| *segment == id(1, 4)).collect();
    assert_eq!(
        to_group,
        [&(id(1, 4), 110, position(1, 40), 0)],
        "the longest of the three"
    );
    assert_eq!(sent.iter().filter(|(segment, ..)| *segment == id(0, 1)).count(), 2);
    assert_eq!(writer.shipper.group_durable(group), Some(lsn(40)));
    assert!(!writer.shipper.is_awake(GroupId::from_raw(2)));
}

/// protocol.md, hole 20: an idle group is complete, whatever other groups write.
#[test]
fn an_idle_group_hears_of_its_own_last_batch_and_then_nothing() {
    let mut writer = Writer::with_group(limits());
    writer.submit(110, &[1]);
    writer.submit(120, &[]);
    writer.appended(1, 1..=6, 110);
    writer.appended(0, 1..=6, 120);
    writer.shipper.raise_floor(lsn(105));
    assert_eq!(writer.announced(1, 1000), [position(2, 110); 6]);
    assert_eq!(writer.announced(1, 2000), [], "only the floor is still below it");
    writer.shipper.raise_floor(lsn(120));
    assert_eq!(writer.announced(1, 5000).len(), 6, "that is told now and then");
    assert_eq!(writer.announced(1, 20_000), [], "it was told everything");
    assert_eq!(
        writer.announced(0, 21_000).len(),
        6,
        "group 0 is told that the writer reigns"
    );
    writer.shipper.disconnected(id(1, 2));
    writer.install(1, 2, position(1, 40), true);
    assert_eq!(writer.announced(1, 22_000).len(), 6, "one may not have heard");
    assert_eq!(writer.announced(2, 23_000), [], "group 2 sleeps");
}

/// Nobody writes the group, so that nothing but an announcement asks a new copy how far it is.
#[test]
fn a_group_is_announced_to_until_its_new_copy_is_complete() {
    let mut writer = Writer::with_group(limits());
    writer.shipper.raise_floor(lsn(100));
    writer.announced(1, 1000);
    assert_eq!(writer.announced(1, 2000), []);
    writer.join_seventh();
    writer.install(1, 7, Position::ZERO, false);
    for at in 3..10 {
        assert_eq!(writer.announced(1, 1000 * at).len(), 6, "the new one has nothing yet");
    }
    let announced = Response::Announced {
        segment: id(1, 7),
        complete: position(1, 40),
        vouches: true,
    };
    writer.hear(1, 7, &announced);
    assert_eq!(writer.announced(1, 10_000).len(), 6, "that is news");
    assert_eq!(writer.announced(1, 11_000), []);
    let new = writer
        .shipper
        .standing_of(GroupId::from_raw(1))
        .into_iter()
        .find(|copy| copy.member.segment == id(1, 7));
    assert_eq!(new.map(|copy| copy.complete), Some(lsn(40)));
}

/// Found by simulation: a copy joined while a long record was on its way. Its pieces lay on all others, and were kept nowhere for it.
#[test]
fn a_new_copy_is_sent_what_every_other_has_but_nobody_knows_to_be_durable() {
    let mut writer = Writer::with_group(limits());
    for end in [110, 120] {
        writer.submit(end, &[1]);
        writer.appended(1, 1..=6, end);
    }
    writer.appended(0, 1..=6, 110);
    writer.join_seventh();
    writer.effects.clear();
    writer.install(1, 7, position(1, 40), true);
    let ends = |writer: &mut Writer| writer.sent().iter().map(|(_, end, ..)| *end).collect::<Vec<u64>>();
    assert_eq!(ends(&mut writer), [120], "110 is durable: it has that from its peers");
    writer.appended(1, 7..=7, 120);
    writer.appended(0, 1..=6, 120);
    writer.shipper.disconnected(id(1, 7));
    writer.install(1, 7, position(1, 40), true);
    assert!(ends(&mut writer).is_empty(), "now all of it is durable");
}

#[test]
fn kept_batches_of_all_groups_share_one_limit() {
    let kept = ShipperLimits {
        window_bytes_max: u64::MAX,
        retained_bytes_max: 3000,
        ..limits()
    };
    let mut writer = Writer::with_group(kept);
    writer.shipper.disconnected(id(1, 6));
    for end in (110..=200).step_by(10) {
        writer.submit_bytes(end, &[1], 1000);
        writer.appended(0, 1..=6, end);
        writer.appended(1, 1..=5, end);
    }
    assert_eq!(writer.shipper.durable(), lsn(200));
    writer.sent();
    writer.install(1, 6, position(1, 40), true);
    let ends: Vec<u64> = writer.sent().iter().map(|(_, end, ..)| *end).collect();
    assert_eq!(ends, [190, 200], "the rest it gets from its peers");
}

#[test]
fn only_so_much_is_on_its_way_to_one_node_whatever_the_group() {
    let flying = ShipperLimits {
        window_bytes_max: u64::MAX,
        retained_bytes_max: 2000,
        ..limits()
    };
    let mut writer = Writer::with_group(flying);
    for end in (110..=150).step_by(10) {
        writer.submit_bytes(end, &[1], 1000);
    }
    let to_node: Vec<u64> = writer
        .sent()
        .iter()
        .filter(|(segment, ..)| *segment == id(1, 6) || *segment == id(0, 6))
        .map(|(_, end, ..)| *end)
        .collect();
    assert!(to_node.len() < 7, "{to_node:?}");
    writer.appended(0, 6..=6, 130);
    writer.appended(1, 6..=6, 120);
    let next: Vec<u64> = writer.sent().iter().map(|(_, end, ..)| *end).collect();
    assert!(next.contains(&130) || next.contains(&140), "{next:?}");
    writer.shipper.disconnected(id(1, 6));
    let of_zero = writer.shipper.complete_of(id(0, 6));
    assert_eq!(of_zero, Some(lsn(130)));
}

/// protocol.md, hole 7: while a member is replaced, four of both lists count.
#[test]
fn both_lists_count_while_a_member_is_replaced() {
    let mut writer = Writer::with_group(limits());
    let mut with_seven = six(1);
    with_seven.push(member(1, 7));
    let after: Vec<SegmentId> = (1..=7).filter(|copy| *copy != 6).map(|copy| id(1, copy)).collect();
    let joint = Membership::joint(ids(&six(1)), after.clone());
    let group = GroupId::from_raw(1);
    writer
        .shipper
        .change_members(group, joint, with_seven.clone(), &mut writer.effects);
    assert!(
        writer
            .effects
            .contains(&ShipperEffect::Connect(group, vec![member(1, 7)]))
    );
    let told = |effect: &&ShipperEffect| matches!(effect, ShipperEffect::Send { request: Request::Install { members, .. }, .. } if *members == with_seven);
    assert_eq!(
        writer.effects.iter().filter(told).count(),
        6,
        "every copy hears of its new peer"
    );
    writer.effects.clear();
    writer.submit(110, &[1]);
    writer.appended(0, 1..=6, 110);
    for copy in [1, 2, 3, 6] {
        writer.appended(1, copy..=copy, 110);
    }
    assert_eq!(writer.shipper.durable(), lsn(100), "three of the list to come");
    writer.appended(1, 4..=4, 110);
    assert_eq!(writer.shipper.durable(), lsn(110));
    let settled: Vec<Member> = with_seven
        .into_iter()
        .filter(|member| member.segment != id(1, 6))
        .collect();
    writer
        .shipper
        .change_members(group, Membership::new(after), settled, &mut writer.effects);
    writer.submit(120, &[1]);
    writer.appended(0, 1..=6, 120);
    writer.appended(1, 6..=6, 120);
    writer.appended(1, 1..=3, 120);
    assert_eq!(writer.shipper.durable(), lsn(110), "the copy that left counts no more");
    assert_eq!(writer.shipper.complete_of(id(1, 6)), None);
    writer.install(1, 7, position(2, 110), true);
    writer.appended(1, 7..=7, 120);
    assert_eq!(writer.shipper.durable(), lsn(120));
}

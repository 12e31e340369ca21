//! A volume of full segments and tails: 1, 3 and 5 are full, 2, 4 and 6 are tails, a pair in each zone.

use units::{Lsn, Position, SegmentId, SegmentKind};
use wire_format::message::{Refusal, Request, Response};

use super::opening::{Opener, appended, id, position, promised, record};
use super::shipper::{Writer, limits};
use crate::membership::Change;
use crate::record::MemberRecord;
use crate::{SegmentKinds, ShipperEffect, VolumeRecord, creation};

fn mixed() -> VolumeRecord {
    creation::with_segments(record(), SegmentKinds::FullAndTail)
}

fn promise(opener: &mut Opener, copies: &[(u8, u64)]) {
    for (copy, complete) in copies {
        let promised = promised(*copy, 2, *complete, 0);
        opener.hear(*copy, Response::Promised(promised)).expect("a promise");
    }
}

/// Who has to make a page of it is not there: the end of the log is known, and nothing can be read.
#[test]
fn three_tails_open_nothing() {
    let mut opener = Opener::of(mixed(), 6);
    promise(&mut opener, &[(2, 30), (4, 30), (6, 30)]);
    opener.later();
    assert_eq!(
        opener
            .sent()
            .iter()
            .filter(|(_, request)| !matches!(request, Request::Promise { .. }))
            .count(),
        0
    );
    assert_eq!(opener.swapped(), None);
}

/// Three tails and the full copy 3 had acknowledged 30; 3 is gone. The end is found, and 1 gets what only tails have.
#[test]
fn a_full_copy_gets_what_only_tails_have() {
    let mut opener = Opener::of(mixed(), 6);
    promise(&mut opener, &[(1, 10), (2, 30), (4, 30), (6, 30)]);
    opener.later();
    assert_eq!(opener.swapped(), None, "no full copy is complete");
    assert!(opener.asked_for_batches().iter().all(|source| *source != id(1)));
    opener
        .hear(1, appended(1, position(1, 30)))
        .expect("an acknowledgement");
    let branch = opener
        .swapped()
        .and_then(|record| record.last().map(|last| last.branch));
    assert_eq!(branch, Some(Lsn::from_raw(30)));
    opener
        .opening
        .recorded(true, &mut opener.effects)
        .expect("the record is changed");
    for copy in [2, 4, 6, 1] {
        assert_eq!(opener.asked_for_marks(), [], "a tail cannot tell the marks");
        let installed = Response::Installed {
            segment: id(copy),
            complete: position(1, 30),
            vouches: true,
        };
        opener.hear(copy, installed).expect("no error");
    }
    assert_eq!(opener.asked_for_marks(), [id(1)]);
}

#[test]
fn three_full_copies_open_the_volume_without_a_tail() {
    let mut opener = Opener::of(mixed(), 6);
    promise(&mut opener, &[(1, 30), (3, 30)]);
    opener.later();
    assert_eq!(opener.swapped(), None);
    promise(&mut opener, &[(5, 30)]);
    opener.later();
    assert!(opener.swapped().is_some());
}

/// No journal has what a copy lacks: it takes that from layers by itself, and is asked again how far it is.
#[test]
fn a_copy_that_no_journal_can_help_is_asked_how_far_it_got() {
    let mut opener = Opener::of(mixed(), 6);
    promise(&mut opener, &[(1, 10), (2, 30), (4, 30)]);
    opener.later();
    let sources = opener.asked_for_batches();
    let [source] = sources[..] else {
        panic!("{sources:?}");
    };
    let collected = Refusal::LogCollected {
        oldest: position(1, 20),
    };
    let source = if source == id(2) { 2 } else { 4 };
    opener
        .hear(source, Response::Refused(collected))
        .expect("another may help");
    let asked =
        |(segment, request): &(SegmentId, Request)| *segment == id(1) && matches!(request, Request::Promise { .. });
    assert!(opener.sent().iter().any(asked));
    promise(&mut opener, &[(1, 30), (6, 30)]);
    assert!(opener.swapped().is_some());
}

fn kind(copy: u8) -> SegmentKind {
    if copy % 2 == 1 {
        SegmentKind::Full
    } else {
        SegmentKind::Tail
    }
}

fn announced(writer: &mut Writer) -> Option<Position> {
    let effects = std::mem::take(&mut writer.effects);
    effects.into_iter().find_map(|effect| match effect {
        ShipperEffect::Send {
            request: Request::Announce { on_every_full, .. },
            ..
        } => Some(on_every_full),
        _ => None,
    })
}

#[test]
fn log_is_durable_on_every_full_copy_or_on_four_and_tails_hear_what_every_full_one_has() {
    let mut writer = Writer::of(limits(), kind);
    writer.submit(110, 110);
    for copy in [2, 4, 6] {
        writer.appended(copy..=copy, 110);
    }
    assert_eq!(writer.shipper.durable(), Lsn::from_raw(100), "three tails");
    writer.appended(1..=1, 110);
    assert_eq!(writer.shipper.durable(), Lsn::from_raw(110), "four");
    writer.submit(120, 120);
    for copy in [1, 3] {
        writer.appended(copy..=copy, 120);
    }
    assert_eq!(writer.shipper.durable(), Lsn::from_raw(110));
    let second = std::time::Duration::from_secs(1);
    writer.effects.clear();
    writer.shipper.tick(second, &mut writer.effects);
    assert_eq!(
        announced(&mut writer),
        Some(position(2, 100)),
        "5 has not told it has more"
    );
    writer.appended(5..=5, 120);
    assert_eq!(writer.shipper.durable(), Lsn::from_raw(120), "every full copy");
    writer.effects.clear();
    writer.shipper.tick(2 * second, &mut writer.effects);
    assert_eq!(announced(&mut writer), Some(position(2, 120)));
}

/// Like by like: the new list has as many full copies as the old one.
#[test]
fn a_tail_takes_only_the_place_of_a_tail() {
    let record = mixed();
    let group = &record.groups[0];
    let joining = |kind| MemberRecord {
        segment: id(9),
        kind,
        ..group.members[0].clone()
    };
    assert!(Change::new(group, id(1), joining(SegmentKind::Tail), true).is_none());
    assert!(Change::new(group, id(2), joining(SegmentKind::Tail), true).is_some());
    let request = creation::create_copy(&record, group, &joining(SegmentKind::Full)).expect("a path");
    let Request::CreateSegment { kind, copy_from, .. } = request else {
        panic!("{request:?}");
    };
    assert_eq!(kind, SegmentKind::Full);
    let copied: Vec<SegmentId> = copy_from.iter().map(|member| member.segment).collect();
    assert_eq!(copied, [id(1), id(3), id(5)], "tails have no pages to give");
}

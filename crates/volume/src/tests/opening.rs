//! The opening: promises, copies, the record, the marks.

use std::time::Duration;

use timeline::{Branch, Path};
use units::{Epoch, GroupId, Lsn, Position, SegmentId, VolumeId, Zone};
use wire_format::message::{HeldFlush, Promised, Refusal, Request, Response};
use wire_format::{Batch, EncodedBatch};

use super::marks::recorded;
use crate::record::MemberRecord;
use crate::{Opening, OpeningEffect, OpeningError, VolumeRecord, creation};

/// Late enough that no further answer is waited for.
pub(super) const LATER: Duration = Duration::from_secs(1);

pub(super) fn lsn(raw: u64) -> Lsn {
    Lsn::from_raw(raw)
}

pub(super) fn position(epoch: u64, raw: u64) -> Position {
    Position::new(Epoch::from_raw(epoch), lsn(raw))
}

pub(super) fn id(copy: u8) -> SegmentId {
    SegmentId::from_bytes([copy; 16])
}

pub(super) fn record() -> VolumeRecord {
    let member = |copy: u8| MemberRecord {
        segment: id(copy),
        node: format!("storage-{copy}"),
        address: String::new(),
        zone: Zone::ALL[usize::from(copy - 1) / 2],
        kind: units::SegmentKind::Full,
    };
    creation::record(VolumeId::from_bytes([9; 16]), (1..=6).map(member).collect())
}

/// What a copy answers that holds the import's flushes up to `complete`, each ten bytes long.
pub(super) fn promised(copy: u8, epoch: u64, complete: u64, durable: u64) -> Promised {
    let previous = |end: u64| {
        if end == 10 {
            Position::ZERO
        } else {
            position(1, end - 10)
        }
    };
    let flush = |end: u64| HeldFlush {
        end: position(1, end),
        previous: previous(end),
        boundary: lsn(end),
        groups: vec![GroupId::FIRST],
    };
    Promised {
        segment: id(copy),
        epoch: Epoch::from_raw(epoch),
        vouches: true,
        path: record().path().expect("a path"),
        complete: position(1, complete),
        durable: position(1, durable),
        held: (1..=complete / 10)
            .map(|flush_number| flush(flush_number * 10))
            .collect(),
    }
}

pub(super) struct Opener {
    pub(super) opening: Opening,
    pub(super) effects: Vec<OpeningEffect>,
}

impl Opener {
    pub(super) fn new(copies: u8) -> Opener {
        Opener::of(record(), copies)
    }

    pub(super) fn of(record: VolumeRecord, copies: u8) -> Opener {
        let mut opener = Opener {
            opening: Opening::new(Epoch::from_raw(2), record).expect("a record with a path"),
            effects: Vec::new(),
        };
        for copy in 1..=copies {
            opener.opening.connected(id(copy), &mut opener.effects);
        }
        opener
    }

    pub(super) fn hear(&mut self, copy: u8, response: Response) -> Result<(), OpeningError> {
        self.opening
            .response(Duration::ZERO, id(copy), response, &mut self.effects)
    }

    pub(super) fn hear_later(&mut self, copy: SegmentId, response: Response) {
        let heard = self.opening.response(LATER, copy, response, &mut self.effects);
        heard.expect("an answer that is no error");
    }

    pub(super) fn later(&mut self) {
        self.tick(LATER);
    }

    pub(super) fn tick(&mut self, now: Duration) {
        self.opening.tick(now, &mut self.effects).expect("no error");
    }

    /// Who was asked for the marks since the last look.
    pub(super) fn asked_for_marks(&mut self) -> Vec<SegmentId> {
        let sent = self.sent().into_iter();
        let asked = sent.filter(|(_, request)| matches!(request, Request::ReadFlushHeader { .. }));
        asked.map(|(segment, _)| segment).collect()
    }

    /// Who was asked for batches since the last look.
    pub(super) fn asked_for_batches(&mut self) -> Vec<SegmentId> {
        let sent = self.sent().into_iter();
        let asked = sent.filter(|(_, request)| matches!(request, Request::FetchBatches { .. }));
        asked.map(|(segment, _)| segment).collect()
    }

    pub(super) fn swapped(&self) -> Option<&VolumeRecord> {
        self.effects.iter().find_map(|effect| match effect {
            OpeningEffect::CompareAndSwap(record) => Some(record),
            _ => None,
        })
    }

    pub(super) fn sent(&mut self) -> Vec<(SegmentId, Request)> {
        let sent = self.effects.drain(..).filter_map(|effect| match effect {
            OpeningEffect::Send { segment, request } => Some((segment, request)),
            _ => None,
        });
        sent.collect()
    }
}

/// A batch of the import, ten bytes long.
pub(super) fn batch(end: u64) -> EncodedBatch {
    EncodedBatch::new(Batch {
        volume: record().volume,
        group: GroupId::FIRST,
        epoch: Epoch::from_raw(1),
        end: lsn(end),
        previous: position(1, end - 10),
        header: None,
        items: Vec::new(),
        elsewhere: Vec::new(),
    })
}

/// A copy tells the opener of epoch 2 how far it is.
pub(super) fn appended(copy: u8, complete: Position) -> Response {
    Response::Appended {
        segment: id(copy),
        epoch: Epoch::from_raw(2),
        complete,
    }
}

/// Found by simulation, seed 13: after a power cut of all copies nobody remembers a durable position, and the first flush
/// of all follows none that a timeline sees. The new timeline then began at 0/0, without everything acknowledged.
#[test]
fn the_first_flush_of_a_volume_is_found_without_a_known_durable_position() {
    for durable in [0, 20] {
        let mut opener = Opener::new(4);
        for copy in 1..=4 {
            opener
                .hear(copy, Response::Promised(promised(copy, 2, 30, durable)))
                .expect("a promise");
        }
        opener.later();
        let record = opener.swapped().expect("four are complete");
        assert_eq!(
            record.last().map(|last| last.branch),
            Some(lsn(30)),
            "durable known: {durable}"
        );
    }
}

#[test]
fn two_promises_open_nothing() {
    let mut opener = Opener::new(6);
    for copy in 1..=2 {
        opener
            .hear(copy, Response::Promised(promised(copy, 2, 30, 0)))
            .expect("a promise");
    }
    let damaged = Promised {
        vouches: false,
        ..promised(3, 2, 30, 0)
    };
    opener.hear(3, Response::Promised(damaged)).expect("an answer");
    opener.later();
    assert_eq!(opener.swapped(), None, "a damaged copy does not count");
    assert_eq!(opener.opening.missing(), ["storage-4", "storage-5", "storage-6"]);
}

/// DESIGN §4.4, step 4: three copies have the end, the fourth gets it before anything is recorded.
#[test]
fn a_fourth_copy_is_made_before_the_record_changes() {
    let mut opener = Opener::new(4);
    for (copy, complete) in [(1, 30), (2, 30), (3, 30), (4, 10)] {
        opener
            .hear(copy, Response::Promised(promised(copy, 2, complete, 0)))
            .expect("a promise");
    }
    opener.sent();
    opener.later();
    assert_eq!(opener.swapped(), None);
    let sent = opener.sent();
    let [(source, Request::FetchBatches { after, through, .. })] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_ne!(*source, id(4));
    assert_eq!((*after, *through), (position(1, 10), position(1, 30)));
    let copied = appended(4, position(1, 30));
    opener.hear(4, copied).expect("an acknowledgement");
    assert!(opener.swapped().is_some());
}

#[test]
fn a_later_epoch_ends_an_opening() {
    let mut opener = Opener::new(6);
    let refusal = Refusal::StaleEpoch {
        asked: Epoch::from_raw(2),
        promised: Epoch::from_raw(3),
    };
    let error = opener.hear(1, Response::Refused(refusal));
    assert_eq!(error, Err(OpeningError::Superseded { by: Epoch::from_raw(3) }));
}

/// protocol.md, hole 13.
#[test]
fn a_copy_that_knows_more_than_the_record_stops_the_opening() {
    let branch = Branch {
        epoch: Epoch::from_raw(2),
        parent: position(1, 30),
    };
    let path = record()
        .path()
        .and_then(|path: Path| Ok(path.extended(branch)?))
        .expect("a path");
    let mut opener = Opener::new(6);
    opener.opening = Opening::new(Epoch::from_raw(3), record()).expect("a record with a path");
    let knows_more = Promised {
        path,
        ..promised(1, 3, 30, 0)
    };
    let damaged = Promised {
        vouches: false,
        ..knows_more.clone()
    };
    opener
        .hear(1, Response::Promised(damaged))
        .expect("a damaged copy's word counts for nothing");
    let error = opener
        .hear(1, Response::Promised(knows_more))
        .expect_err("the store went back in time");
    assert!(error.to_string().contains("metadata.redb"), "{error}");
}

/// A damaged copy may say that anything is durable: the end of the log is where those end that vouch.
#[test]
fn what_a_damaged_copy_believes_to_be_durable_counts_for_nothing() {
    let mut opener = Opener::new(5);
    for copy in 1..=4 {
        opener
            .hear(copy, Response::Promised(promised(copy, 2, 30, 10)))
            .expect("a promise");
    }
    let damaged = Promised {
        vouches: false,
        ..promised(5, 2, 0, 900)
    };
    opener.hear(5, Response::Promised(damaged)).expect("an answer");
    opener.later();
    let record = opener.swapped().expect("four are complete");
    assert_eq!(record.last().map(|last| last.branch), Some(lsn(30)));
}

/// Found by simulation: the others were asked only for what they hold above what one copy knew to be durable, which then turned
/// out to be damaged. The new timeline began below, without log that was acknowledged.
#[test]
fn what_a_copy_told_while_it_vouched_stays_known() {
    let mut opener = Opener::new(5);
    opener
        .hear(1, Response::Promised(promised(1, 2, 30, 30)))
        .expect("a promise");
    opener.sent();
    for copy in 2..=5 {
        opener.opening.connected(id(copy), &mut opener.effects);
    }
    let asked = opener.sent().into_iter();
    let above = asked.filter_map(|(_, request)| match request {
        Request::Promise { above, .. } => Some(above),
        _ => None,
    });
    assert_eq!(above.collect::<Vec<_>>(), vec![position(1, 30); 4]);
    let damaged = Promised {
        vouches: false,
        ..promised(1, 2, 0, 30)
    };
    opener.hear(1, Response::Promised(damaged)).expect("an answer");
    for copy in 2..=5 {
        let nothing_above = Promised {
            held: Vec::new(),
            ..promised(copy, 2, 30, 10)
        };
        opener.hear(copy, Response::Promised(nothing_above)).expect("a promise");
    }
    opener.later();
    let record = opener.swapped().expect("four are complete");
    assert_eq!(record.last().map(|last| last.branch), Some(lsn(30)));
}

/// A node that lost its breath for a moment is asked again; nobody else may be able to answer.
#[test]
fn a_copy_that_refused_is_asked_again() {
    let mut opener = Opener::new(3);
    opener.sent();
    let stopped = Refusal::Stopped {
        what: "the sync failed".to_owned(),
    };
    opener.hear(2, Response::Refused(stopped)).expect("a refusal");
    assert_eq!(opener.sent(), []);
    opener.later();
    let sent = opener.sent();
    assert!(
        matches!(&sent[..], [(segment, Request::Promise { .. })] if *segment == id(2)),
        "{sent:?}"
    );
}

/// The copy with most of the log promises, and never gives any of it.
#[test]
fn a_copy_that_does_not_give_its_batches_is_given_up() {
    let mut opener = Opener::new(4);
    for (copy, complete) in [(1, 30), (2, 20), (3, 30), (4, 30)] {
        opener
            .hear(copy, Response::Promised(promised(copy, 2, complete, 0)))
            .expect("a promise");
    }
    opener.sent();
    for (millis, asked) in [
        (1000, Some(1)),
        (1900, None),
        (2000, Some(3)),
        (3000, Some(4)),
        (4000, Some(1)),
    ] {
        opener.tick(Duration::from_millis(millis));
        let sources: Vec<SegmentId> = opener.asked_for_batches();
        assert_eq!(
            sources,
            asked.map(id).into_iter().collect::<Vec<_>>(),
            "after {millis} ms"
        );
    }
    let copied = appended(2, position(1, 30));
    opener.hear(2, copied).expect("an acknowledgement");
    assert!(opener.swapped().is_some());
}

/// It would never become complete, and keep the sources from those that can.
#[test]
fn a_copy_that_does_not_vouch_is_not_brought_up() {
    let mut opener = Opener::new(4);
    for (copy, complete) in [(1, 30), (2, 30), (3, 30), (4, 10)] {
        let promised = Promised {
            vouches: copy != 4,
            ..promised(copy, 2, complete, 0)
        };
        opener.hear(copy, Response::Promised(promised)).expect("an answer");
    }
    opener.later();
    assert_eq!(opener.asked_for_batches(), []);
}

/// protocol.md, hole 13: the store counted up again until it handed out an epoch that reigned already.
#[test]
fn a_copy_that_knows_the_own_epoch_before_it_was_told_stops_the_opening() {
    let own = |branch| {
        let branch = Branch {
            epoch: Epoch::from_raw(2),
            parent: position(1, branch),
        };
        let path = record().path().expect("a path");
        path.extended(branch).expect("a path")
    };
    let knows = |copy, branch| {
        Response::Promised(Promised {
            path: own(branch),
            ..promised(copy, 2, 30, 0)
        })
    };
    let outdated = |found: u64| {
        Err(OpeningError::RecordOutdated {
            found: Epoch::from_raw(found),
            recorded: Epoch::from_raw(1),
        })
    };
    assert_eq!(Opener::new(6).hear(1, knows(1, 30)), outdated(2));
    // Told by this opening itself, it may know, but not another history of the same reign.
    let mut opener = recorded(&[1, 2]);
    assert_eq!(opener.hear(1, knows(1, 30)), Ok(()));
    assert_eq!(opener.hear(1, knows(1, 20)), outdated(2));
}

/// What is complete in another history is not complete in this one: a copy that slept takes the path of a reign of the same
/// epoch between its promise and its copies.
#[test]
fn a_copy_that_is_complete_on_another_path_does_not_count() {
    let mut opener = Opener::new(4);
    for (copy, complete) in [(1, 30), (2, 30), (3, 30), (4, 10)] {
        opener
            .hear(copy, Response::Promised(promised(copy, 2, complete, 0)))
            .expect("a promise");
    }
    opener.later();
    let elsewhere = appended(4, position(2, 40));
    let error = opener.hear(4, elsewhere);
    assert!(matches!(error, Err(OpeningError::RecordOutdated { .. })), "{error:?}");
    assert_eq!(opener.swapped(), None);
}

/// It was damaged after its promise, and acknowledges nothing any more.
#[test]
fn a_copy_that_what_it_is_sent_does_not_help_is_left_alone_for_a_while() {
    let mut opener = Opener::new(4);
    for (copy, complete) in [(1, 30), (2, 30), (3, 30), (4, 10)] {
        opener
            .hear(copy, Response::Promised(promised(copy, 2, complete, 0)))
            .expect("a promise");
    }
    opener.later();
    let nothing = appended(4, Position::ZERO);
    let source = opener.asked_for_batches()[0];
    opener.hear_later(source, Response::Batches(Vec::new()));
    let other = opener.asked_for_batches()[0];
    assert_ne!(other, source, "who had nothing to give is not asked again at once");
    opener.hear_later(other, Response::Batches(vec![batch(20)]));
    opener.sent();
    opener.hear_later(id(4), nothing);
    assert_eq!(opener.asked_for_batches(), []);
    opener.tick(LATER + Duration::from_millis(60));
    assert_eq!(opener.asked_for_batches().len(), 1);
}

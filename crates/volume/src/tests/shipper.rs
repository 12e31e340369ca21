//! The shipper: links, the durable LSN, copies that come and go.

use std::time::Duration;

use bytes::Bytes;
use timeline::{Branch, Path};
use units::{Epoch, Lsn, Position, SegmentId, SegmentKind, VolumeId, Zone};
use wire_format::Member;
use wire_format::frame::{BATCH_BYTES_MAX, FRAME_BYTES_MAX, encode_request, encode_response};
use wire_format::message::{Refusal, Request, Response};

use crate::{FlushParts, FlushTooLong, SMALL_FLUSH_BYTES, Shipper, ShipperEffect, ShipperLimits};

const NOW: Duration = Duration::ZERO;

fn lsn(raw: u64) -> Lsn {
    Lsn::from_raw(raw)
}

fn position(epoch: u64, raw: u64) -> Position {
    Position::new(Epoch::from_raw(epoch), lsn(raw))
}

fn id(copy: u8) -> SegmentId {
    SegmentId::from_bytes([copy; 16])
}

fn flush(end: u64, boundary: u64) -> FlushParts {
    FlushParts {
        end: lsn(end),
        boundary: lsn(boundary),
        ..FlushParts::default()
    }
}

/// A second reign that begins at 100, with all six copies connected and told of it.
pub(super) struct Writer {
    pub(super) shipper: Shipper,
    pub(super) effects: Vec<ShipperEffect>,
}

impl Writer {
    pub(super) fn new(limits: ShipperLimits) -> Writer {
        Writer::of(limits, |_| SegmentKind::Full)
    }

    pub(super) fn of(limits: ShipperLimits, kind: impl Fn(u8) -> SegmentKind) -> Writer {
        let branch = |epoch, parent| Branch {
            epoch: Epoch::from_raw(epoch),
            parent,
        };
        let path = Path::new(vec![branch(1, Position::ZERO), branch(2, position(1, 100))]).expect("a path");
        let member = |copy: u8| Member {
            segment: id(copy),
            node: format!("storage-{copy}"),
            address: String::new(),
            zone: Zone::ALL[usize::from(copy - 1) / 2],
            kind: kind(copy),
        };
        let members = (1..=6).map(member).collect();
        let volume = VolumeId::from_bytes([9; 16]);
        let mut writer = Writer {
            shipper: Shipper::new(volume, path, members, position(1, 100), lsn(100), limits),
            effects: Vec::new(),
        };
        (1..=6).for_each(|copy| writer.connect(copy, position(1, 100)));
        writer.effects.clear();
        writer
    }

    pub(super) fn hear(&mut self, copy: u8, response: Response) {
        self.shipper.response(NOW, id(copy), &response, &mut self.effects);
    }

    pub(super) fn connect(&mut self, copy: u8, complete: Position) {
        self.shipper.connected(id(copy), &mut self.effects);
        self.hear(
            copy,
            Response::Installed {
                segment: id(copy),
                complete,
                vouches: true,
            },
        );
    }

    pub(super) fn appended(&mut self, copies: std::ops::RangeInclusive<u8>, complete: u64) {
        for copy in copies {
            let epoch = Epoch::from_raw(2);
            self.hear(
                copy,
                Response::Appended {
                    segment: id(copy),
                    epoch,
                    complete: position(2, complete),
                },
            );
        }
    }

    pub(super) fn submit(&mut self, end: u64, boundary: u64) {
        let submitted = self.shipper.submit(flush(end, boundary), &mut self.effects);
        submitted.expect("a small flush");
    }

    fn submit_bytes(&mut self, end: u64, bytes: usize) {
        self.try_bytes(end, bytes).expect("a flush that fits a message");
    }

    fn try_bytes(&mut self, end: u64, bytes: usize) -> Result<(), FlushTooLong> {
        let marks = Bytes::from(vec![0; bytes]);
        let parts = FlushParts {
            marks,
            ..flush(end, end)
        };
        self.shipper.submit(parts, &mut self.effects)
    }

    /// (copy, end, previous) of every batch sent.
    fn sent(&mut self) -> Vec<(SegmentId, Lsn, Position)> {
        let sent = self.effects.drain(..).filter_map(|effect| match effect {
            ShipperEffect::Send {
                segment,
                request: Request::Append { batch, .. },
            } => Some((segment, batch.batch().end, batch.batch().previous)),
            _ => None,
        });
        sent.collect()
    }
}

pub(super) fn limits() -> ShipperLimits {
    ShipperLimits {
        window_bytes_max: 100,
        small_flushes_max: usize::MAX,
        retained_bytes_max: 1 << 20,
    }
}

#[test]
fn flushes_are_pipelined_and_linked() {
    let mut writer = Writer::new(limits());
    writer.submit(110, 110);
    writer.submit(120, 120);
    let sent = writer.sent();
    assert_eq!(sent.len(), 12, "each to six copies, without waiting");
    assert!(
        sent[..6]
            .iter()
            .all(|(_, end, previous)| (*end, *previous) == (lsn(110), position(1, 100)))
    );
    assert!(
        sent[6..]
            .iter()
            .all(|(_, end, previous)| (*end, *previous) == (lsn(120), position(2, 110)))
    );
}

#[test]
fn four_complete_copies_make_a_flush_durable() {
    let mut writer = Writer::new(limits());
    writer.submit(110, 110);
    writer.appended(1..=3, 110);
    assert_eq!(writer.shipper.durable(), lsn(100));
    writer.appended(3..=3, 110);
    assert_eq!(
        writer.shipper.durable(),
        lsn(100),
        "the same copy twice is still one copy"
    );
    writer.effects.clear();
    writer.appended(4..=4, 110);
    assert_eq!(writer.effects, [ShipperEffect::DurableAdvanced(lsn(110))]);
    writer.effects.clear();
    writer.appended(5..=6, 110);
    assert_eq!(writer.effects, [], "told once");
}

/// protocol.md, hole 26.
#[test]
fn the_durable_lsn_waits_for_the_end_of_a_record() {
    let mut writer = Writer::new(limits());
    writer.submit(110, 100);
    writer.submit(120, 100);
    writer.appended(1..=6, 120);
    assert_eq!(writer.shipper.durable(), lsn(100));
    writer.submit(130, 130);
    writer.appended(1..=4, 130);
    assert_eq!(writer.shipper.durable(), lsn(130));
}

/// protocol.md, hole 2: an LSN of a reign that this history does not see counts for nothing.
#[test]
fn another_timelines_position_makes_nothing_durable() {
    let mut writer = Writer::new(limits());
    writer.submit(110, 110);
    for copy in 1..=6 {
        writer.hear(
            copy,
            Response::Announced {
                segment: id(copy),
                complete: position(1, 110),
                vouches: true,
            },
        );
    }
    assert_eq!(writer.shipper.durable(), lsn(100));
}

#[test]
fn a_copy_that_comes_back_gets_what_it_lacks_in_order() {
    let mut writer = Writer::new(limits());
    writer.shipper.disconnected(id(6));
    for end in [110, 120, 130] {
        writer.submit(end, end);
    }
    writer.appended(1..=5, 130);
    writer.sent();
    writer.connect(6, position(2, 110));
    let ends: Vec<(SegmentId, Lsn)> = writer.sent().into_iter().map(|(copy, end, _)| (copy, end)).collect();
    assert_eq!(ends, [(id(6), lsn(120)), (id(6), lsn(130))]);
}

#[test]
fn the_window_closes_above_the_durable_lsn_and_opens_again() {
    let mut writer = Writer::new(limits());
    writer.submit(500, 500);
    assert!(!writer.shipper.can_submit(), "one flush may exceed it");
    writer.appended(1..=4, 500);
    assert!(writer.shipper.can_submit());
}

#[test]
fn small_flushes_wait_for_those_in_flight_and_large_ones_do_not_count() {
    let mut writer = Writer::new(ShipperLimits {
        window_bytes_max: 1 << 20,
        small_flushes_max: 2,
        retained_bytes_max: 1 << 20,
    });
    writer.submit(110, 110);
    assert!(writer.shipper.can_submit());
    writer.submit(120, 120);
    assert!(!writer.shipper.can_submit());
    writer.appended(1..=4, 110);
    assert!(writer.shipper.can_submit());
    writer.submit_bytes(130, SMALL_FLUSH_BYTES);
    assert!(writer.shipper.can_submit(), "one small and one large");
    writer.submit(140, 140);
    assert!(!writer.shipper.can_submit());
}

/// What is durable is let go for a copy that stays away; what is not, never.
#[test]
fn only_durable_flushes_are_forgotten_for_a_copy_that_stays_away() {
    let mut writer = Writer::new(ShipperLimits {
        window_bytes_max: 1000,
        small_flushes_max: usize::MAX,
        retained_bytes_max: 1,
    });
    writer.shipper.disconnected(id(6));
    for end in [110, 120, 130] {
        writer.submit(end, end);
    }
    writer.appended(1..=5, 120);
    writer.sent();
    writer.connect(6, position(1, 100));
    let ends: Vec<Lsn> = writer.sent().into_iter().map(|(_, end, _)| end).collect();
    assert_eq!(ends, [lsn(130)], "its peers have the rest");
}

/// A node that is paused while the other five go on.
#[test]
fn only_so_much_is_on_its_way_to_a_copy_that_does_not_answer() {
    let mut writer = Writer::new(ShipperLimits {
        window_bytes_max: 1000,
        small_flushes_max: usize::MAX,
        retained_bytes_max: 1000,
    });
    let mut sent_to_paused = Vec::new();
    for flush in 1..=100 {
        let end = 100 + flush * 10;
        writer.submit(end, end);
        writer.appended(1..=5, end);
        sent_to_paused.extend(writer.effects.iter().filter_map(|effect| match effect {
            ShipperEffect::Send {
                segment,
                request: Request::Append { batch, .. },
            } if *segment == id(6) => Some(batch.clone()),
            _ => None,
        }));
        let sent = writer.sent();
        let to_others = sent.iter().filter(|(copy, ..)| *copy != id(6)).count();
        assert_eq!(to_others, 5, "the others get every flush at once");
    }
    let batch_bytes = sent_to_paused[0].bytes().len();
    let bytes: usize = sent_to_paused.iter().map(|batch| batch.bytes().len()).sum();
    assert!(bytes < 1000 + batch_bytes, "{bytes} bytes on their way");
    // It wakes, and takes what came. The next it is sent is the oldest that was not let go; peers have the rest.
    let had = sent_to_paused.last().expect("some").batch().end;
    writer.appended(6..=6, had.raw());
    let sent = writer.sent();
    assert!(sent.iter().all(|(copy, ..)| *copy == id(6)));
    assert!(sent.len() < 1000 / batch_bytes + 2, "{sent:?}");
    assert!(had < sent[0].1 && sent.is_sorted_by(|one, next| one.1 < next.1));
    // Once it has everything, it gets every flush at once, like the others.
    writer.appended(6..=6, 1100);
    writer.sent();
    writer.submit(1110, 1110);
    assert_eq!(writer.sent().len(), 6);
}

/// Found by simulation: the answer to a message of before made the shipper believe that the copy had what it had just refused.
#[test]
fn a_copy_that_refused_is_sent_that_again_whatever_it_answers_meanwhile() {
    let mut writer = Writer::new(limits());
    writer.submit(110, 110);
    writer.sent();
    let full = Refusal::Stopped {
        what: "the disk is full".to_owned(),
    };
    writer.hear(1, Response::Refused(full));
    let installed = Response::Installed {
        segment: id(1),
        complete: position(1, 100),
        vouches: true,
    };
    writer.hear(1, installed.clone());
    assert_eq!(writer.sent(), [], "it is left alone for a while");
    writer.shipper.tick(Duration::from_secs(1), &mut writer.effects);
    writer.hear(1, installed);
    assert_eq!(writer.sent(), [(id(1), lsn(110), position(1, 100))]);
}

#[test]
fn a_later_epoch_fences_the_writer() {
    let mut writer = Writer::new(limits());
    let refusal = Refusal::StaleEpoch {
        asked: Epoch::from_raw(2),
        promised: Epoch::from_raw(3),
    };
    writer.hear(1, Response::Refused(refusal));
    assert_eq!(writer.effects, [ShipperEffect::Fenced { by: Epoch::from_raw(3) }]);
}

/// protocol.md, hole 27: without a word to the copies it would never hear that it is fenced.
#[test]
fn a_writer_with_nothing_to_say_still_asks_whether_it_reigns() {
    let mut writer = Writer::new(limits());
    let mut effects = Vec::new();
    writer.shipper.tick(Duration::from_secs(10), &mut effects);
    effects.clear();
    writer.shipper.tick(Duration::from_millis(10_100), &mut effects);
    assert_eq!(effects, [], "nothing is new");
    writer.shipper.tick(Duration::from_secs(11), &mut effects);
    let announced = |effect: &&ShipperEffect| {
        matches!(
            effect,
            ShipperEffect::Send {
                request: Request::Announce { .. },
                ..
            }
        )
    };
    assert_eq!(effects.iter().filter(announced).count(), 6);
}

/// Every node would cut its connection for it, and be sent it again for ever.
#[test]
fn a_flush_that_fits_no_message_is_an_error_and_never_sent() {
    let mut writer = Writer::new(limits());
    let error = writer.try_bytes(110, FRAME_BYTES_MAX).expect_err("longer than a frame");
    assert_eq!(error.end, lsn(110));
    assert_eq!(
        (writer.sent().len(), writer.shipper.sent_end()),
        (0, lsn(100)),
        "nothing of it was sent"
    );
    let longest = BATCH_BYTES_MAX - 200;
    assert_eq!(writer.try_bytes(110, longest), Ok(()));
    // And what is sent fits, also as a peer's answer.
    let (segment, batch) = writer
        .effects
        .iter()
        .find_map(|effect| match effect {
            ShipperEffect::Send {
                segment,
                request: Request::Append { batch, .. },
            } => Some((*segment, batch.clone())),
            _ => None,
        })
        .expect("it is sent");
    let append = Request::Append {
        segment,
        epoch: Epoch::from_raw(2),
        durable: Position::ZERO,
        batch: batch.clone(),
    };
    for frame in [
        encode_request(u64::MAX, &append),
        encode_response(u64::MAX, &Response::Batches(vec![batch])),
    ] {
        let bytes: usize = frame.iter().map(Bytes::len).sum();
        assert!(bytes <= FRAME_BYTES_MAX, "{bytes}");
    }
}

#[test]
fn a_damaged_copy_takes_log_and_does_not_count() {
    let mut writer = Writer::new(limits());
    writer.submit(110, 110);
    writer.appended(1..=6, 110);
    assert!(writer.shipper.writable() && writer.shipper.readable());
    let nothing = |copy| Response::Appended {
        segment: id(copy),
        epoch: Epoch::from_raw(2),
        complete: Position::ZERO,
    };
    (1..=2).for_each(|copy| writer.hear(copy, nothing(copy)));
    assert!(writer.shipper.writable(), "four are left");
    writer.hear(
        3,
        Response::Announced {
            segment: id(3),
            complete: Position::ZERO,
            vouches: false,
        },
    );
    assert!(!writer.shipper.writable() && writer.shipper.readable());
    assert!(writer.shipper.standing().iter().all(|copy| copy.live), "all take log");
    writer.hear(4, nothing(4));
    assert!(!writer.shipper.readable());
    // Mended.
    writer.appended(1..=4, 110);
    assert!(writer.shipper.writable() && writer.shipper.readable());
}

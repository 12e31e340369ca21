//! The end of an opening: the engine's marks, and who tells them.

use std::time::Duration;

use bytes::Bytes;
use units::SegmentKind;
use wire_format::message::{Refusal, Request, Response};

use super::opening::{Opener, appended, batch, id, lsn, position, promised, record};
use crate::OpeningEffect;

/// An opener of a volume whose record is changed: these copies know the path, and the first was asked for the marks.
pub(super) fn recorded(installed: &[u8]) -> Opener {
    let mut opener = Opener::new(4);
    for copy in 1..=4 {
        opener
            .hear(copy, Response::Promised(promised(copy, 2, 30, 0)))
            .expect("a promise");
    }
    opener.later();
    opener.opening.recorded(true, &mut opener.effects).expect("recorded");
    opener.sent();
    for copy in installed {
        let installed = Response::Installed {
            segment: id(*copy),
            complete: position(1, 30),
            vouches: true,
        };
        opener.hear(*copy, installed).expect("installed");
    }
    assert_eq!(opener.asked_for_marks(), [id(installed[0])]);
    opener
}

fn marks() -> Response {
    Response::FlushHeader {
        end: position(1, 30),
        previous: position(1, 20),
        boundary: lsn(30),
        marks: Bytes::from_static(b"marks"),
    }
}

/// The copy that was asked for the marks is gone: another one tells them.
#[test]
fn the_marks_are_asked_of_another_copy() {
    let mut opener = recorded(&[1, 2]);
    opener.opening.disconnected(id(1), &mut opener.effects);
    assert_eq!(opener.asked_for_marks(), [id(2)]);
    opener.hear(2, marks()).expect("the marks");
    let opened = opener
        .effects
        .iter()
        .any(|effect| matches!(effect, OpeningEffect::Opened(opened) if opened.last == position(1, 30)));
    assert!(opened);
}

/// Found by simulation: the one full copy among those that were complete turned out to be damaged when it was asked for the marks,
/// and nobody brought another one up.
#[test]
fn a_copy_that_is_behind_is_brought_up_if_nobody_else_can_tell_the_marks() {
    let tail = |copy: u8| (2..=4).contains(&copy);
    let mut record = record();
    for (copy, member) in (1..).zip(&mut record.groups[0].members) {
        if tail(copy) {
            member.kind = SegmentKind::Tail;
        }
    }
    let mut opener = Opener::of(record, 5);
    for copy in 1..=5 {
        let complete = if copy == 5 { 20 } else { 30 };
        opener
            .hear(copy, Response::Promised(promised(copy, 2, complete, 0)))
            .expect("a promise");
    }
    opener.later();
    opener.opening.recorded(true, &mut opener.effects).expect("recorded");
    let installed = |copy: u8, complete: u64| Response::Installed {
        segment: id(copy),
        complete: position(1, complete),
        vouches: true,
    };
    for copy in 1..=5 {
        let complete = if copy == 5 { 20 } else { 30 };
        opener.hear(copy, installed(copy, complete)).expect("an answer");
    }
    assert_eq!(opener.asked_for_marks(), [id(1)]);
    let damaged = Refusal::Damaged {
        what: "a layer".to_owned(),
    };
    opener.hear(1, Response::Refused(damaged)).expect("a refusal");
    let asked = opener.asked_for_batches();
    let [source] = &asked[..] else {
        panic!("{asked:?}");
    };
    let (source, missing) = (source.bytes()[0], batch(30));
    opener
        .hear(source, Response::Batches(vec![missing]))
        .expect("an answer");
    opener.hear(5, appended(5, position(1, 30))).expect("an answer");
    assert!(
        opener
            .sent()
            .iter()
            .any(|(segment, request)| *segment == id(5) && matches!(request, Request::Install { .. })),
        "it is told the path once more"
    );
    opener.hear(5, installed(5, 30)).expect("an answer");
    assert_eq!(opener.asked_for_marks(), [id(5)]);
}

/// A copy whose reading threads hang promises, takes the path, and never tells the marks.
#[test]
fn a_copy_that_does_not_tell_the_marks_is_given_up() {
    let mut opener = recorded(&[1, 2, 3]);
    opener.tick(Duration::from_millis(900));
    assert_eq!(opener.asked_for_marks(), []);
    for (millis, asked) in [(1000, 2), (2000, 3), (3000, 1), (4000, 2)] {
        opener.tick(Duration::from_millis(millis));
        assert_eq!(opener.asked_for_marks(), [id(asked)], "after {millis} ms");
    }
}

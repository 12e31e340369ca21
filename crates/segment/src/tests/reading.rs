//! Which reads a segment permits.

use super::*;

/// protocol.md, holes 19 to 21.
#[test]
fn a_read_is_permitted_only_where_everything_it_needs_is_synced() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10, 20]);
    let permitted = |segment: &mut Segment, request: &Request| {
        let mut effects = Vec::new();
        segment.request(request, &mut effects);
        match effects.pop() {
            Some(Effect::Read(Read::Pages { read_point, .. })) => Ok(read_point),
            Some(Effect::Answer(Response::Refused(refusal))) => Err(refusal),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        permitted(&mut copy.segment, &read_pages(1, 20, position(1, 20))),
        Ok(lsn(20))
    );
    let behind = permitted(&mut copy.segment, &read_pages(1, 30, position(1, 30)));
    assert!(matches!(behind, Err(Refusal::NotComplete { .. })), "{behind:?}");

    let mut unsynced = Vec::new();
    let request = Request::Append {
        segment: id(1),
        epoch: Epoch::from_raw(1),
        durable: Position::ZERO,
        batch: batch(1, 30, position(1, 20)),
    };
    copy.segment.request(&request, &mut unsynced);
    let unsynced = permitted(&mut copy.segment, &read_pages(1, 30, position(1, 30)));
    assert!(matches!(unsynced, Err(Refusal::NotComplete { .. })), "{unsynced:?}");
    copy.segment.synced();
    assert_eq!(
        permitted(&mut copy.segment, &read_pages(1, 30, position(1, 30))),
        Ok(lsn(30))
    );

    copy.announce(1, 25);
    let below = permitted(&mut copy.segment, &read_pages(1, 20, position(1, 10)));
    assert!(matches!(below, Err(Refusal::BelowFloor { .. })), "{below:?}");
    let foreign = permitted(&mut copy.segment, &read_pages(7, 30, position(1, 10)));
    assert!(matches!(foreign, Err(Refusal::UnknownTimeline { .. })), "{foreign:?}");
    copy.promised(2, path(&[(1, 0)]), Position::ZERO);
    copy.install(path(&[(1, 0), (2, 30)]));
    let over = permitted(&mut copy.segment, &read_pages(1, 30, position(1, 10)));
    assert!(matches!(over, Err(Refusal::StaleEpoch { .. })), "{over:?}");
}

/// A copy that has the flush at 30, but not the one at 20, must not make a page of 10 and 30.
#[test]
fn a_read_never_looks_beyond_a_hole() {
    let mut copy = Copy::new();
    copy.flushes(1, Position::ZERO, &[10]);
    copy.append(1, batch(1, 30, position(1, 20)));
    let mut effects = Vec::new();
    let request = read_pages(1, 30, position(1, 10));
    copy.segment.request(&request, &mut effects);
    let [Effect::Read(Read::Pages { read_point, .. })] = &effects[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(*read_point, lsn(10));
}

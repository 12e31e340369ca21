//! Messages and frames, round and round.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use timeline::{Branch, Path};
use units::{ClusterId, Epoch, GroupId, Lsn, Page, Position, SegmentId, SegmentKind, VolumeId, Zone};

use super::{batch, catalog_key, lsn, page_key};
use crate::frame::{self, FRAME_BYTES_MAX, take_frame};
use crate::log::{LogAsked, LogPart, LoggedFlush};
use crate::message::{
    HeldFlush, Hello, HelloAnswer, Member, NodeStatus, Promised, ScrubStatus, SegmentHealth, SegmentStatus, Standing,
    VersionCursor, Versions,
};
use crate::versions::{BlockName, Extent, Run};
use crate::{CatalogEntry, CodecError, EncodedBatch, Refusal, Request, Response};

fn position() -> impl Strategy<Value = Position> {
    any::<(u64, u64)>().prop_map(|(epoch, lsn)| Position::new(Epoch::from_raw(epoch), Lsn::from_raw(lsn)))
}

fn epoch() -> impl Strategy<Value = Epoch> {
    any::<u64>().prop_map(Epoch::from_raw)
}

fn segment() -> impl Strategy<Value = SegmentId> {
    any::<[u8; 16]>().prop_map(SegmentId::from_bytes)
}

fn path() -> impl Strategy<Value = Path> {
    prop::collection::vec((1..1000u64, 0..1_000_000u64), 1..4).prop_map(|steps| {
        let mut branches: Vec<Branch> = Vec::new();
        let mut parent = Position::ZERO;
        for (epochs, bytes) in steps {
            let epoch = Epoch::from_raw(parent.epoch.raw() + epochs);
            branches.push(Branch { epoch, parent });
            let lsn = if branches.len() == 1 {
                bytes
            } else {
                parent.lsn.raw() + bytes
            };
            parent = Position::new(epoch, Lsn::from_raw(lsn));
        }
        Path::new(branches).expect("epochs and branches rise")
    })
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let member = (segment(), "[a-z]{1,9}-[1-9]", 0..3usize, kind()).prop_map(|(segment, node, zone, kind)| Member {
        segment,
        node,
        address: "127.0.0.1:7001".to_owned(),
        zone: Zone::ALL[zone],
        kind,
    });
    prop::collection::vec(member, 0..6)
}

fn kind() -> impl Strategy<Value = SegmentKind> {
    prop_oneof![Just(SegmentKind::Full), Just(SegmentKind::Tail)]
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (
            segment(),
            any::<([u8; 16], u32)>(),
            kind(),
            epoch(),
            path(),
            members(),
            members()
        )
            .prop_map(|(segment, (volume, group), kind, epoch, path, members, copy_from)| {
                Request::CreateSegment {
                    segment,
                    volume: VolumeId::from_bytes(volume),
                    group: GroupId::from_raw(group),
                    kind,
                    epoch,
                    path,
                    members,
                    copy_from,
                }
            }),
        (segment(), epoch()).prop_map(|(segment, epoch)| Request::RemoveSegment { segment, epoch }),
        segment().prop_map(|segment| Request::TellStanding { segment }),
        (segment(), path(), position(), cursor(), super::bytes(9), any::<u32>()).prop_map(
            |(segment, path, after, from, until, bytes_max)| Request::FetchVersions {
                segment,
                path,
                after,
                from,
                until,
                bytes_max,
            }
        ),
        (segment(), epoch(), path(), position()).prop_map(|(segment, epoch, path, above)| Request::Promise {
            segment,
            epoch,
            path,
            above
        }),
        (segment(), epoch(), path(), members()).prop_map(|(segment, epoch, path, members)| Request::Install {
            segment,
            epoch,
            path,
            members,
        }),
        (segment(), epoch(), position(), batch()).prop_map(|(segment, epoch, durable, batch)| Request::Append {
            segment,
            epoch,
            durable,
            batch: EncodedBatch::new(batch),
        }),
        (segment(), epoch(), position(), position(), position(), position()).prop_map(
            |(segment, epoch, durable, floor, all_complete, on_every_full)| Request::Announce {
                segment,
                epoch,
                durable,
                floor,
                all_complete,
                on_every_full,
            }
        ),
        (segment(), path(), position(), position(), any::<u32>()).prop_map(
            |(segment, path, after, through, bytes_max)| Request::FetchBatches {
                segment,
                path,
                after,
                through,
                bytes_max,
            }
        ),
        (segment(), epoch(), lsn(), position(), page_key(), any::<u32>()).prop_map(
            |(segment, epoch, read_point, needed, first, count)| Request::ReadPages {
                segment,
                epoch,
                read_point,
                needed,
                first,
                count,
            }
        ),
        (
            segment(),
            epoch(),
            lsn(),
            position(),
            prop::option::of(catalog_key()),
            any::<u32>()
        )
            .prop_map(|(segment, epoch, read_point, needed, after, entries_max)| {
                Request::ScanCatalog {
                    segment,
                    epoch,
                    read_point,
                    needed,
                    after,
                    entries_max,
                }
            }),
        (segment(), epoch(), lsn()).prop_map(|(segment, epoch, at)| Request::ReadFlushHeader { segment, epoch, at }),
        (segment(), path(), lsn(), any::<u32>(), lsn(), any::<u32>()).prop_map(
            |(segment, path, after, offset, through, bytes_max)| Request::ReadLog {
                segment,
                asked: LogAsked {
                    path,
                    after,
                    offset,
                    through,
                    bytes_max,
                },
            }
        ),
        Just(Request::Status),
        Just(Request::Scrub),
    ]
}

fn log_part() -> impl Strategy<Value = LogPart> {
    (lsn(), batch()).prop_map(|(through, batch)| LogPart {
        through,
        flushes: batch
            .header
            .iter()
            .map(|header| LoggedFlush::of(batch.end, header))
            .collect(),
        items: batch.items,
    })
}

fn cursor() -> impl Strategy<Value = VersionCursor> {
    (super::bytes(9), position()).prop_map(|(key, above)| VersionCursor { key, above })
}

fn extent() -> impl Strategy<Value = Extent> {
    prop::collection::vec(position(), 0..3).prop_map(|positions| {
        let mut extent = Extent::default();
        positions.iter().for_each(|position| extent.add(*position));
        extent
    })
}

fn run() -> impl Strategy<Value = Run> {
    let block = (super::bytes(9), 0..50u32, any::<u32>()).prop_map(|(first_key, bytes, checksum)| BlockName {
        first_key,
        bytes,
        checksum,
    });
    (prop::collection::vec(block, 0..3), super::bytes(9), extent()).prop_map(|(blocks, last_key, extent)| Run {
        blocks,
        last_key,
        extent,
    })
}

fn versions() -> impl Strategy<Value = Versions> {
    (
        prop::collection::vec(run(), 0..3),
        prop::option::of(cursor()),
        position(),
        position(),
        prop::collection::vec(super::bytes(20), 0..3),
        any::<u64>(),
    )
        .prop_map(|(runs, next, through, floor, splits, bytes_expected)| {
            let bytes: u32 = runs.iter().flat_map(|run| &run.blocks).map(|block| block.bytes).sum();
            Versions {
                runs,
                content: vec![7; bytes as usize].into(),
                next,
                through,
                floor,
                splits,
                bytes_expected,
            }
        })
}

fn standing() -> impl Strategy<Value = Standing> {
    (
        segment(),
        path(),
        position(),
        position(),
        position(),
        position(),
        position(),
    )
        .prop_map(
            |(segment, path, complete, durable, floor, all_complete, on_every_full)| Standing {
                segment,
                path,
                complete,
                durable,
                floor,
                all_complete,
                on_every_full,
            },
        )
}

fn refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        (epoch(), epoch()).prop_map(|(asked, promised)| Refusal::StaleEpoch { asked, promised }),
        Just(Refusal::LogOnly),
        segment().prop_map(|segment| Refusal::UnknownSegment { segment }),
        epoch().prop_map(|epoch| Refusal::UnknownTimeline { epoch }),
        (position(), position()).prop_map(|(complete, needed)| Refusal::NotComplete { complete, needed }),
        (lsn(), position()).prop_map(|(read_point, floor)| Refusal::BelowFloor { read_point, floor }),
        position().prop_map(|oldest| Refusal::LogCollected { oldest }),
        ".{0,20}".prop_map(|what| Refusal::Damaged { what }),
        ".{0,20}".prop_map(|what| Refusal::Stopped { what }),
        ".{0,20}".prop_map(|what| Refusal::Redo { what }),
        ".{0,20}".prop_map(|what| Refusal::Malformed { what }),
    ]
}

fn promised() -> impl Strategy<Value = Promised> {
    let groups = prop::collection::vec(any::<u32>().prop_map(GroupId::from_raw), 0..3);
    let held = (position(), position(), lsn(), groups).prop_map(|(end, previous, boundary, groups)| HeldFlush {
        end,
        previous,
        boundary,
        groups,
    });
    (
        segment(),
        epoch(),
        any::<bool>(),
        path(),
        position(),
        position(),
        prop::collection::vec(held, 0..4),
    )
        .prop_map(|(segment, epoch, vouches, path, complete, durable, held)| Promised {
            segment,
            epoch,
            vouches,
            path,
            complete,
            durable,
            held,
        })
}

fn node_status() -> impl Strategy<Value = NodeStatus> {
    let one = (
        segment(),
        any::<([u8; 16], u32, u64, bool, bool)>(),
        epoch(),
        position(),
        position(),
        position(),
        (any::<(bool, bool)>(), position(), any::<(u64, u64)>()),
    )
        .prop_map(
            |(segment, (volume, group, layer_bytes, vouches, stranded), promised, complete, durable, floor, copy)| {
                let ((copying, mending), copied_through, (copied_bytes, copied_bytes_expected)) = copy;
                SegmentStatus {
                    segment,
                    volume: VolumeId::from_bytes(volume),
                    group: GroupId::from_raw(group),
                    kind: if vouches { SegmentKind::Full } else { SegmentKind::Tail },
                    promised,
                    complete,
                    durable,
                    floor,
                    layer_bytes,
                    vouches,
                    stranded,
                    copying,
                    copied_through,
                    copied_bytes,
                    copied_bytes_expected,
                    mending,
                }
            },
        );
    (
        prop::collection::vec(one, 0..3),
        any::<(u64, u64, u64)>(),
        prop::option::of(".{0,20}"),
        scrub_status(),
    )
        .prop_map(
            |(segments, (journal_bytes, memory_table_bytes, pages_read), stopped, scrub)| NodeStatus {
                segments,
                journal_bytes,
                memory_table_bytes,
                pages_read,
                stopped,
                scrub,
            },
        )
}

fn scrub_status() -> impl Strategy<Value = ScrubStatus> {
    let numbers = any::<([u64; 3], [u64; 4], bool)>();
    (numbers, prop::option::of(".{0,20}")).prop_map(
        |(([asked, ended, ended_at], [bytes, bytes_expected, damaged, mended], is_under_way), failed)| ScrubStatus {
            asked,
            ended,
            ended_at,
            is_under_way,
            bytes,
            bytes_expected,
            damaged,
            mended,
            failed,
        },
    )
}

fn response() -> impl Strategy<Value = Response> {
    let page = any::<u8>().prop_map(|fill| Page::from_bytes(&[fill; units::PAGE_BYTES]).expect("one page of bytes"));
    let entry = (catalog_key(), lsn(), prop::option::of(super::bytes(50)));
    let entry = entry.prop_map(|(key, lsn, value)| CatalogEntry { key, lsn, value });
    prop_oneof![
        Just(Response::SegmentCreated),
        Just(Response::SegmentRemoved),
        versions().prop_map(Response::Versions),
        standing().prop_map(Response::Standing),
        promised().prop_map(Response::Promised),
        (segment(), position(), any::<bool>()).prop_map(|(segment, complete, vouches)| Response::Installed {
            segment,
            complete,
            vouches
        }),
        (segment(), epoch(), position()).prop_map(|(segment, epoch, complete)| Response::Appended {
            segment,
            epoch,
            complete,
        }),
        (segment(), position(), any::<bool>()).prop_map(|(segment, complete, vouches)| Response::Announced {
            segment,
            complete,
            vouches,
        }),
        prop::collection::vec(batch().prop_map(EncodedBatch::new), 0..3).prop_map(Response::Batches),
        log_part().prop_map(Response::Log),
        prop::collection::vec(page, 0..3).prop_map(Response::Pages),
        prop::collection::vec(entry, 0..4).prop_map(Response::Catalog),
        (position(), position(), lsn(), super::bytes(60)).prop_map(|(end, previous, boundary, marks)| {
            Response::FlushHeader {
                end,
                previous,
                boundary,
                marks,
            }
        }),
        node_status().prop_map(Response::Status),
        refusal().prop_map(Response::Refused),
    ]
}

fn joined(parts: [Bytes; 2]) -> BytesMut {
    let mut buffer = BytesMut::new();
    parts.iter().for_each(|part| buffer.extend_from_slice(part));
    buffer
}

proptest! {
    #[test]
    fn requests_read_back_however_the_bytes_arrive(request in request(), number in any::<u64>(), cut in any::<prop::sample::Index>()) {
        let whole = joined(frame::encode_request(number, &request));
        let mut buffer = BytesMut::from(&whole[..cut.index(whole.len())]);
        prop_assert_eq!(take_frame(&mut buffer, FRAME_BYTES_MAX), Ok(None));
        buffer.extend_from_slice(&whole[buffer.len()..]);
        buffer.extend_from_slice(b"next");
        let taken = take_frame(&mut buffer, FRAME_BYTES_MAX).unwrap().expect("the frame is whole");
        prop_assert_eq!(frame::decode_request(taken), Ok((number, request)));
        prop_assert_eq!(&buffer[..], b"next");
    }

    #[test]
    fn responses_read_back(response in response(), number in any::<u64>()) {
        let mut buffer = joined(frame::encode_response(number, &response));
        let taken = take_frame(&mut buffer, FRAME_BYTES_MAX).unwrap().expect("the frame is whole");
        prop_assert_eq!(frame::decode_response(taken), Ok((number, response)));
    }

    #[test]
    fn a_damaged_request_is_an_error_or_unfinished(request in request(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
        let mut buffer = joined(frame::encode_request(1, &request));
        let at = at.index(buffer.len());
        buffer[at] ^= 1 << bit;
        if let Ok(Some(taken)) = take_frame(&mut buffer, FRAME_BYTES_MAX) {
            prop_assert!(frame::decode_request(taken).is_err());
        }
    }

    #[test]
    fn arbitrary_heads_give_a_value_or_an_error(head in prop::collection::vec(any::<u8>(), 0..300), attached in 0..4usize) {
        let body = [&head[..], &[0; 4][..attached]].concat();
        let mut bytes = BytesMut::new();
        for number in [body.len() as u32, head.len() as u32, crc32c::crc32c(&head)] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&body);
        let taken = take_frame(&mut bytes, FRAME_BYTES_MAX).unwrap().expect("the frame is whole");
        if let Ok((number, response)) = frame::decode_response(taken.clone()) {
            let mut again = joined(frame::encode_response(number, &response));
            let again = take_frame(&mut again, FRAME_BYTES_MAX).unwrap().expect("the frame is whole");
            prop_assert_eq!(frame::decode_response(again), Ok((number, response)));
        }
        // Errors are as good as values here: only a panic would fail.
        let _ = frame::decode_hello(taken.clone());
        let _ = frame::decode_hello_answer(taken.clone());
        let _ = frame::decode_request(taken);
    }
}

#[test]
fn a_segment_is_in_one_word_what_matters_most() {
    let position = |lsn| Position::new(Epoch::from_raw(1), Lsn::from_raw(lsn));
    let sound = SegmentStatus {
        segment: SegmentId::from_bytes([1; 16]),
        volume: VolumeId::from_bytes([2; 16]),
        group: GroupId::FIRST,
        kind: SegmentKind::Full,
        promised: Epoch::from_raw(1),
        complete: position(7),
        durable: position(7),
        floor: Position::ZERO,
        layer_bytes: 0,
        vouches: true,
        stranded: false,
        copying: false,
        copied_through: position(7),
        copied_bytes: 0,
        copied_bytes_expected: 0,
        mending: false,
    };
    assert_eq!(sound.health(), SegmentHealth::Complete);
    let behind = SegmentStatus {
        durable: position(8),
        ..sound
    };
    assert_eq!(behind.health(), SegmentHealth::CatchingUp);
    let stranded = SegmentStatus {
        stranded: true,
        ..behind
    };
    assert_eq!(stranded.health(), SegmentHealth::Stranded);
    let copying = SegmentStatus {
        copying: true,
        ..stranded
    };
    assert_eq!(copying.health(), SegmentHealth::Copying);
    let damaged = SegmentStatus {
        vouches: false,
        ..copying
    };
    assert_eq!(damaged.health(), SegmentHealth::Damaged);
    let mending = SegmentStatus {
        mending: true,
        ..damaged
    };
    assert_eq!(mending.health(), SegmentHealth::Mending);
}

#[test]
fn a_frame_longer_than_the_limit_is_refused_before_it_arrives() {
    let mut header = BytesMut::from(&[0xFF; 12][..]);
    let refused = CodecError::Malformed("frame length");
    assert_eq!(take_frame(&mut header, FRAME_BYTES_MAX), Err(refused));
}

#[test]
fn greetings_read_back_and_another_version_is_told_apart() {
    let hello = |version| Hello {
        version,
        cluster: ClusterId::from_bytes([1; 16]),
        secret: [2; 32],
        name: "instance-1".to_owned(),
    };
    let read = |hello: &Hello| {
        let taken = take_frame(&mut joined(frame::encode_hello(hello)), 4096);
        frame::decode_hello(taken.unwrap().expect("the frame is whole")).unwrap()
    };
    let ours = hello(frame::PROTOCOL_VERSION);
    assert_eq!(read(&ours), ours);
    assert_eq!(
        read(&hello(frame::PROTOCOL_VERSION + 1)).version,
        frame::PROTOCOL_VERSION + 1
    );
    for answer in [
        HelloAnswer::Welcome {
            name: "storage-3".to_owned(),
        },
        HelloAnswer::Refused {
            reason: "another cluster".to_owned(),
        },
    ] {
        let taken = take_frame(&mut joined(frame::encode_hello_answer(&answer)), 4096);
        let taken = taken.unwrap().expect("the frame is whole");
        assert_eq!(frame::decode_hello_answer(taken), Ok(answer));
    }
}

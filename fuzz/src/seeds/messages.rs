//! Messages between processes.

use bytes::Bytes;
use units::{ClusterId, Epoch, GroupId, Lsn, Page};
use wire_format::broker::{AnswerHeader, BrokerQuestion, BrokerRequest, ForkSize, Status};
use wire_format::message::{
    HeldFlush, Hello, HelloAnswer, NodeStatus, Promised, Refusal, Request, Response, ScrubStatus, SegmentStatus,
    Standing, VersionCursor, Versions,
};
use wire_format::versions::{BlockName, Extent, Run};
use wire_format::{CatalogEntry, CatalogKey, frame};

use super::log::marks;
use super::values::{FORK, SEGMENT, VOLUME, at, batch, members, path};
use super::{part, unsealed};

fn requests() -> Vec<Request> {
    let (segment, epoch, lsn) = (SEGMENT, Epoch::from_raw(3), Lsn::from_raw);
    vec![
        Request::CreateSegment {
            volume: VOLUME,
            group: GroupId::FIRST,
            segment,
            kind: units::SegmentKind::Tail,
            epoch,
            path: path(),
            members: members(),
            copy_from: members(),
        },
        Request::RemoveSegment { segment, epoch },
        Request::TellStanding { segment },
        Request::FetchVersions {
            segment,
            path: path(),
            after: at(1, 1000),
            from: VersionCursor {
                key: Bytes::from_static(&[5]),
                above: at(1, 1500),
            },
            until: Bytes::from_static(&[6]),
            bytes_max: 4 << 20,
        },
        Request::Promise {
            segment,
            epoch,
            path: path(),
            above: at(1, 1000),
        },
        Request::Install {
            segment,
            epoch,
            path: path(),
            members: members(),
        },
        Request::Append {
            segment,
            epoch,
            durable: at(1, 500),
            batch: batch(),
        },
        Request::Announce {
            segment,
            epoch,
            durable: at(1, 500),
            floor: at(1, 400),
            all_complete: at(1, 450),
            on_every_full: at(1, 460),
        },
        Request::FetchBatches {
            segment,
            path: path(),
            after: at(1, 0),
            through: at(3, 5000),
            bytes_max: 1 << 20,
        },
        Request::ReadPages {
            segment,
            epoch,
            read_point: lsn(4000),
            needed: at(1, 3000),
            first: FORK.page(0),
            count: 4,
        },
        Request::ScanCatalog {
            segment,
            epoch,
            read_point: lsn(4000),
            needed: at(1, 3000),
            after: Some(CatalogKey::ForkBlocks(FORK)),
            entries_max: 100,
        },
        Request::ReadFlushHeader {
            segment,
            epoch,
            at: lsn(4000),
        },
        Request::Status,
        Request::Scrub,
    ]
}

fn refusals() -> Vec<Refusal> {
    let (one, two) = (Epoch::from_raw(1), Epoch::from_raw(2));
    let what = || "what it is".to_owned();
    vec![
        Refusal::StaleEpoch {
            asked: one,
            promised: two,
        },
        Refusal::UnknownSegment { segment: SEGMENT },
        Refusal::UnknownTimeline { epoch: two },
        Refusal::NotComplete {
            complete: at(1, 10),
            needed: at(1, 20),
        },
        Refusal::BelowFloor {
            read_point: Lsn::from_raw(5),
            floor: at(1, 10),
        },
        Refusal::LogCollected { oldest: at(1, 10) },
        Refusal::Damaged { what: what() },
        Refusal::Stopped { what: what() },
        Refusal::Redo { what: what() },
        Refusal::Malformed { what: what() },
    ]
}

fn responses() -> Vec<Response> {
    let epoch = Epoch::from_raw(3);
    let held = HeldFlush {
        end: at(3, 5000),
        previous: at(1, 2000),
        boundary: Lsn::from_raw(4900),
        groups: vec![GroupId::FIRST],
    };
    let status = SegmentStatus {
        segment: SEGMENT,
        volume: VOLUME,
        group: GroupId::FIRST,
        kind: units::SegmentKind::Tail,
        promised: epoch,
        complete: at(3, 5000),
        durable: at(3, 4000),
        floor: at(1, 100),
        layer_bytes: 1 << 30,
        vouches: true,
        stranded: false,
        copying: true,
        copied_through: at(1, 10),
        copied_bytes: 5,
        copied_bytes_expected: 6,
        mending: false,
    };
    let entry = CatalogEntry {
        key: CatalogKey::ForkBlocks(FORK),
        lsn: Lsn::from_raw(1500),
        value: Some(Bytes::from_static(&[3, 0, 0, 0])),
    };
    let mut responses = vec![
        Response::SegmentCreated,
        Response::SegmentRemoved,
        Response::Versions(Versions {
            runs: vec![Run {
                blocks: vec![BlockName {
                    first_key: Bytes::from_static(&[5]),
                    bytes: 5,
                    checksum: 7,
                }],
                last_key: Bytes::from_static(&[6]),
                extent: {
                    let mut extent = Extent::default();
                    extent.add(at(1, 1500));
                    extent
                },
            }],
            content: Bytes::from_static(b"block"),
            next: Some(VersionCursor::default()),
            through: at(3, 4000),
            floor: at(1, 100),
            splits: vec![Bytes::from_static(&[5])],
            bytes_expected: 6,
        }),
        Response::Standing(Standing {
            segment: SEGMENT,
            path: path(),
            complete: at(3, 5000),
            durable: at(3, 4000),
            floor: at(1, 100),
            all_complete: at(1, 100),
            on_every_full: at(1, 200),
        }),
        Response::Promised(Promised {
            segment: SEGMENT,
            epoch,
            vouches: true,
            path: path(),
            complete: at(3, 5000),
            durable: at(3, 4000),
            held: vec![held],
        }),
        Response::Installed {
            segment: SEGMENT,
            complete: at(1, 10),
            vouches: true,
        },
        Response::Appended {
            segment: SEGMENT,
            epoch,
            complete: at(3, 10),
        },
        Response::Announced {
            segment: SEGMENT,
            complete: at(3, 10),
            vouches: true,
        },
        Response::Batches(vec![batch()]),
        Response::Pages(vec![Page::zeroed()]),
        Response::Catalog(vec![entry]),
        Response::FlushHeader {
            end: at(3, 5000),
            previous: at(1, 2000),
            boundary: Lsn::from_raw(4900),
            marks: marks().into(),
        },
        Response::Status(NodeStatus {
            segments: vec![status],
            journal_bytes: 5,
            memory_table_bytes: 6,
            pages_read: 7,
            stopped: Some("the disk is full".to_owned()),
            scrub: ScrubStatus {
                asked: 2,
                ended: 1,
                failed: Some("no answer".to_owned()),
                ..ScrubStatus::default()
            },
        }),
    ];
    responses.extend(refusals().into_iter().map(Response::Refused));
    responses
}

/// Every message, as the two parts of its frame.
fn encoded_messages() -> Vec<[Bytes; 2]> {
    let hello = Hello {
        version: frame::PROTOCOL_VERSION,
        cluster: ClusterId::from_bytes([2; 16]),
        secret: [3; 32],
        name: "instance-1".to_owned(),
    };
    let welcome = HelloAnswer::Welcome {
        name: "storage-1".to_owned(),
    };
    let refused = HelloAnswer::Refused {
        reason: "another cluster".to_owned(),
    };
    let mut frames = vec![frame::encode_hello(&hello)];
    frames.extend([welcome, refused].iter().map(frame::encode_hello_answer));
    frames.extend(
        (1..)
            .zip(&requests())
            .map(|(number, one)| frame::encode_request(number, one)),
    );
    frames.extend(
        (1..)
            .zip(&responses())
            .map(|(number, one)| frame::encode_response(number, one)),
    );
    frames
}

pub(super) fn all_frames() -> Vec<Vec<u8>> {
    let short = encoded_messages().into_iter().filter(|parts| parts[0].len() < 2000);
    let stream: Vec<u8> = short.flat_map(|parts| parts.concat()).collect();
    vec![[&[50, 0][..], &stream].concat()]
}

pub(super) fn all_messages() -> Vec<Vec<u8>> {
    /// What stands before a frame's head: its length, that of the head, the head's checksum.
    const HEADER_BYTES: usize = 12;
    let message = |[head, attachment]: [Bytes; 2]| {
        let body = if attachment.is_empty() {
            Vec::new()
        } else {
            unsealed(&attachment)
        };
        [part(&head[HEADER_BYTES..]), body].concat()
    };
    encoded_messages().into_iter().map(message).collect()
}

pub(super) fn broker() -> Vec<Vec<u8>> {
    let request = |question| BrokerRequest { number: 5, question }.encode().to_vec();
    let answer = AnswerHeader {
        number: 5,
        status: Status::Ok,
        value: 7,
        payload_bytes: 8192,
    };
    vec![
        request(BrokerQuestion::ReadPage {
            key: FORK.page(9),
            needed: Lsn::from_raw(1000),
            count: 3,
        }),
        request(BrokerQuestion::ForkBlocks {
            fork: FORK,
            needed: Lsn::from_raw(1000),
        }),
        request(BrokerQuestion::ListForks {
            tablespace: Some(1663),
            database: Some(5),
            after: FORK,
        }),
        ForkSize { fork: FORK, blocks: 9 }.encode().to_vec(),
        answer.encode().to_vec(),
        CatalogKey::ForkBlocks(FORK).encode(),
        CatalogKey::Blob("pg_twophase/000002D1".to_owned()).encode(),
    ]
}

pub(super) fn walsender() -> Vec<u8> {
    let mut bytes = vec![40];
    let mut message = |kind: u8, body: &[u8]| {
        bytes.push(kind);
        bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
    };
    message(b'R', &[0; 4]);
    message(b'S', b"server_version\x0015.20\0");
    message(b'K', &[0; 8]);
    message(b'N', b"SNOTICE\0C00000\0Mnotice\0\0");
    message(b'Z', b"I");
    message(b'T', &[0, 0]);
    message(b'D', &[0, 2, 0, 0, 0, 1, b'x', 0xFF, 0xFF, 0xFF, 0xFF]);
    message(b'C', b"SELECT 1\0");
    message(b'W', &[0, 0, 0]);
    message(b'd', &[&b"w"[..], &[0; 24], b"log"].concat());
    message(b'd', &[&b"k"[..], &[0; 16], &[1]].concat());
    message(b'c', b"");
    message(b'E', b"SFATAL\0C57P01\0Mthe end\0\0");
    bytes
}

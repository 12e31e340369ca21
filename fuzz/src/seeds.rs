//! What mutations begin with: sound input for every target, made here from real values and from PostgreSQL's real log.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{Engine, Touch};
use redo::PostgreSql;
use segment::SegmentState;
use timeline::{Branch, Path};
use units::{ClusterId, Epoch, GroupId, Lsn, Page, PageKey, Position, RelationKey, SegmentId, VolumeId, Zone, fork};
use volume::record::{self, VolumeRecord};
use wal::{DecodedRecord, Marks, Record, StreamDecoder};
use wire_format::broker::{AnswerHeader, BrokerQuestion, BrokerRequest, ForkSize, Status};
use wire_format::message::{
    HeldFlush, Hello, HelloAnswer, Member, NodeStatus, Promised, Refusal, Request, Response, SegmentStatus,
};
use wire_format::{Batch, CatalogEntry, CatalogKey, EncodedBatch, FlushHeader, Item, frame};

use crate::store;

/// Real log of PostgreSQL 15, WAL files of 1 MiB.
const WORKLOAD: &[u8] = include_bytes!("../../crates/wal/samples/workload.wal");
/// Where it begins.
pub(crate) const WORKLOAD_START: Lsn = Lsn::from_raw(7 << 20);
const WAL_FILE_BYTES: u64 = 1 << 20;
/// Longer records teach a mutator nothing.
const RECORD_BYTES_MAX: usize = 1200;

/// Sound input for the target of this name.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "wal-stream" => vec![[&[0, 0, 200], &WORKLOAD[..20_000]].concat()],
        "wal-layout" => layouts(),
        "wal-record" => records_of_each_kind()
            .into_iter()
            .map(|record| record.bytes.to_vec())
            .collect(),
        "wal-marks" => vec![marks()],
        "redo-apply" => pages_and_records(),
        "redo-image" => images(),
        "control-file" => vec![include_bytes!("control_file.bin").to_vec()],
        "wire-frames" => all_frames(),
        "wire-messages" => all_messages(),
        "wire-batch" => vec![unsealed(batch().bytes())],
        "wire-broker" => broker(),
        "segment-state" => vec![segment_state()],
        "volume-record" => vec![volume_record()],
        "store-journal" => vec![journal()],
        "store-layer" => vec![store::layer_with_image(), store::layer_with_index()],
        "store-manifest" => store::manifest_seeds(),
        "replication" => vec![walsender()],
        other => unreachable!("there is no target {other}"),
    }
}

fn workload() -> Vec<Record> {
    let mut decoder = StreamDecoder::new(WORKLOAD_START, None, WAL_FILE_BYTES);
    decoder.push(WORKLOAD_START, WORKLOAD).expect("it begins there");
    let mut records = Vec::new();
    while let Some(record) = decoder.next_record().expect("the sample is sound") {
        records.push(record);
    }
    records
}

/// Resource manager and operation: what decides which code reads it.
fn kind(record: &Record) -> (u8, u8) {
    (record.bytes[17], record.bytes[16])
}

/// The shortest record of each kind, unless it is long.
fn records_of_each_kind() -> Vec<Record> {
    let mut shortest: BTreeMap<(u8, u8), Record> = BTreeMap::new();
    for record in workload() {
        let known = shortest.entry(kind(&record)).or_insert_with(|| record.clone());
        if record.bytes.len() < known.bytes.len() {
            *known = record;
        }
    }
    shortest
        .into_values()
        .filter(|record| record.bytes.len() <= RECORD_BYTES_MAX)
        .collect()
}

fn layouts() -> Vec<Vec<u8>> {
    let record = |manager: u8, info: u8, repeat: u8, data: &[u8]| {
        let length = (data.len() as u16).to_le_bytes();
        [&[manager, info, repeat], &length[..], data].concat()
    };
    vec![
        [&[0][..], &record(10, 0, 0, b"abc"), &record(0, 0x20, 255, &[7; 90])].concat(),
        // A switch record, and what follows it.
        [&[31][..], &record(0, 0x40, 0, b""), &record(11, 0x10, 3, b"after")].concat(),
    ]
}

fn marks() -> Vec<u8> {
    let mut marks = Marks::default();
    for record in workload().iter().take(500) {
        let decoded = DecodedRecord::decode(&record.bytes).expect("the sample is sound");
        marks
            .advance(&decoded, record.start, record.end)
            .expect("the sample is sound");
    }
    let mut bytes = Vec::new();
    marks.encode(&mut bytes);
    bytes
}

fn part(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_le_bytes(), bytes].concat()
}

/// For each kind of record, one with the page it was applied to.
fn pages_and_records() -> Vec<Vec<u8>> {
    let mut pages: BTreeMap<PageKey, Page> = BTreeMap::new();
    let mut seeds: BTreeMap<(u8, u8), Vec<u8>> = BTreeMap::new();
    for record in workload() {
        let mut touches = Vec::new();
        if PostgreSql.touches(&record.bytes, record.end, &mut touches).is_err() {
            continue;
        }
        for touch in touches {
            let Touch::Page { key, .. } = touch else {
                continue;
            };
            let before = pages.get(&key).cloned().unwrap_or_else(Page::zeroed);
            let mut page = before.clone();
            if PostgreSql.apply(&record.bytes, record.end, key, &mut page).is_err() {
                continue;
            }
            pages.insert(key, page);
            let seed = page_and_record(&record.bytes, &before);
            let known = seeds.entry(kind(&record)).or_insert_with(|| seed.clone());
            let is_better = (before.bytes().iter().any(|byte| *byte != 0), usize::MAX - seed.len());
            if record.bytes.len() <= RECORD_BYTES_MAX && (known.len() < 100 || seed.len() < known.len()) && is_better.0
            {
                *known = seed;
            }
        }
    }
    seeds.into_values().filter(|seed| seed.len() <= 10_000).collect()
}

/// The record, the page up to the end of its line pointers, and from there on what is not zero.
fn page_and_record(record: &[u8], page: &Page) -> Vec<u8> {
    let bytes = page.bytes();
    let lower = usize::from(u16::from_le_bytes([bytes[12], bytes[13]])).clamp(24, bytes.len());
    let back = bytes[lower..]
        .iter()
        .position(|byte| *byte != 0)
        .unwrap_or(bytes.len() - lower);
    [part(record), part(&bytes[..lower]), part(&bytes[lower + back..])].concat()
}

/// A short record with a page image of each compression.
fn images() -> Vec<Vec<u8>> {
    let mut seeds: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for record in workload() {
        let decoded = DecodedRecord::decode(&record.bytes).expect("the sample is sound");
        for block in decoded.blocks() {
            if let Some(image) = &block.image {
                let known = seeds.entry(format!("{:?}", image.compression)).or_default();
                if known.is_empty() || record.bytes.len() < known.len() {
                    *known = record.bytes.to_vec();
                }
            }
        }
    }
    seeds.into_values().collect()
}

const SEGMENT: SegmentId = SegmentId::from_bytes([7; 16]);
const VOLUME: VolumeId = VolumeId::from_bytes([1; 16]);
const FORK: units::ForkKey = RelationKey {
    tablespace: 1663,
    database: 5,
    relation: 16384,
}
.fork(fork::MAIN);

fn at(epoch: u64, lsn: u64) -> Position {
    Position::new(Epoch::from_raw(epoch), Lsn::from_raw(lsn))
}

fn path() -> Path {
    let branch = |epoch, parent| Branch {
        epoch: Epoch::from_raw(epoch),
        parent,
    };
    Path::new(vec![branch(1, Position::ZERO), branch(3, at(1, 2000))]).expect("each leaves the one before")
}

fn members() -> Vec<Member> {
    let member = |(number, zone): (u8, Zone)| Member {
        segment: SegmentId::from_bytes([number; 16]),
        node: format!("storage-{number}"),
        address: format!("127.0.0.1:700{number}"),
        zone,
    };
    (1..)
        .zip([Zone::A, Zone::A, Zone::B, Zone::B, Zone::C, Zone::C])
        .map(member)
        .collect()
}

fn batch() -> EncodedBatch {
    let record = Bytes::from_static(b"a record that is not one of PostgreSQL's");
    let lsn = Lsn::from_raw;
    EncodedBatch::new(Batch {
        volume: VOLUME,
        group: GroupId::FIRST,
        epoch: Epoch::from_raw(1),
        end: lsn(5000),
        previous: at(1, 1000),
        header: Some(FlushHeader {
            groups: vec![GroupId::FIRST],
            boundary: lsn(4000),
            written_at_us: 1_700_000_000_000_000,
            marks: marks().into(),
            catalog: vec![
                CatalogEntry {
                    key: CatalogKey::ForkBlocks(FORK),
                    lsn: lsn(1500),
                    value: Some(Bytes::from_static(&[3, 0, 0, 0])),
                },
                CatalogEntry {
                    key: CatalogKey::Blob("global/pg_filenode.map".to_owned()),
                    lsn: lsn(1600),
                    value: None,
                },
            ],
            page_flags: vec![(lsn(0), 4)],
        }),
        items: vec![
            Item::Record {
                end: lsn(1500),
                bytes: record.clone(),
            },
            Item::Fragment {
                end: lsn(6000),
                record_bytes: 80,
                offset: 0,
                bytes: record,
            },
        ],
    })
}

/// Without its checksum, which the targets put there.
fn unsealed(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 4].to_vec()
}

fn requests() -> Vec<Request> {
    let (segment, epoch, lsn) = (SEGMENT, Epoch::from_raw(3), Lsn::from_raw);
    vec![
        Request::CreateSegment {
            volume: VOLUME,
            group: GroupId::FIRST,
            segment,
            epoch,
            path: path(),
            members: members(),
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
        promised: epoch,
        complete: at(3, 5000),
        durable: at(3, 4000),
        floor: at(1, 100),
        layer_bytes: 1 << 30,
        vouches: true,
        stranded: false,
    };
    let entry = CatalogEntry {
        key: CatalogKey::ForkBlocks(FORK),
        lsn: Lsn::from_raw(1500),
        value: Some(Bytes::from_static(&[3, 0, 0, 0])),
    };
    let mut responses = vec![
        Response::SegmentCreated,
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
        },
        Response::Appended {
            segment: SEGMENT,
            epoch,
            complete: at(3, 10),
        },
        Response::Announced {
            segment: SEGMENT,
            complete: at(3, 10),
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

fn all_frames() -> Vec<Vec<u8>> {
    let short = encoded_messages().into_iter().filter(|parts| parts[0].len() < 2000);
    let stream: Vec<u8> = short.flat_map(|parts| parts.concat()).collect();
    vec![[&[50, 0][..], &stream].concat()]
}

fn all_messages() -> Vec<Vec<u8>> {
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

fn broker() -> Vec<Vec<u8>> {
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

fn segment_state() -> Vec<u8> {
    let state = SegmentState {
        volume: VOLUME,
        group: GroupId::FIRST,
        segment: SEGMENT,
        promised: Epoch::from_raw(3),
        path: path(),
        members: members(),
        complete: at(3, 5000),
        durable: at(3, 4000),
        floor: at(1, 100),
        all_complete: at(3, 3000),
    };
    state.encode().to_vec()
}

fn volume_record() -> Vec<u8> {
    let member = |member: Member| record::MemberRecord {
        segment: member.segment,
        node: member.node,
        address: member.address,
        zone: member.zone,
    };
    let timeline = |epoch, parent: Position| record::OpenedTimeline {
        epoch: Epoch::from_raw(epoch),
        parent: parent.epoch,
        branch: parent.lsn,
        seal: None,
    };
    let record = VolumeRecord {
        format_version: record::RECORD_VERSION,
        volume: VOLUME,
        timelines: vec![timeline(1, Position::ZERO), timeline(3, at(1, 2000))],
        groups: vec![record::GroupRecord {
            group: 0,
            membership_version: 1,
            members: members().into_iter().map(member).collect(),
            joining: None,
        }],
        floor: Lsn::from_raw(100),
        log_floor: Lsn::from_raw(50),
        pins: vec!["0/5".to_owned()],
    };
    record.to_text().into_bytes()
}

/// A state, a batch of records, bytes that are no entry.
fn journal() -> Vec<u8> {
    let records = records_of_each_kind();
    let mut seed = Vec::new();
    let mut add = |kind: u8, payload: &[u8]| {
        seed.extend_from_slice(&[kind, 0, 0]);
        seed.extend_from_slice(&part(payload));
    };
    let mut previous = Position::ZERO;
    for (number, records) in (1..).zip(records.chunks(20)) {
        let items = (1..).zip(records).map(|(at, record)| Item::Record {
            end: Lsn::from_raw(number * 1000 + at),
            bytes: record.bytes.clone(),
        });
        let end = at(1, number * 1000 + 20);
        let batch = EncodedBatch::new(Batch {
            previous,
            end: end.lsn,
            items: items.collect(),
            ..batch().batch().as_ref().clone()
        });
        add(3, &unsealed(batch.bytes()));
        previous = end;
    }
    add(0, &segment_state());
    add(1, b"torn");
    seed
}

fn walsender() -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use super::seeds;
    use crate::store;

    /// The store's files are written by the targets themselves: if they did not fit the format, nothing would be fuzzed.
    #[test]
    fn the_seeds_of_the_store_are_read() {
        let batches = store::journal_opens(&seeds("store-journal")[0]);
        assert!(batches.is_some_and(|count| 1 < count), "{batches:?}");
        assert!(store::layer_gives_page(&seeds("store-layer")[0]));
        assert!(store::layer_gives_page(&seeds("store-layer")[1]));
    }
}

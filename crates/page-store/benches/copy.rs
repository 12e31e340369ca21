//! Copying a segment from one store to another, as a wiped node does: through the messages of peers, from file to file.
//!
//! `cargo bench -p page-store --bench copy -- MIB DIRECTORY` makes about `MIB` mebibytes of layers below `DIRECTORY` (a disk, not
//! memory), takes them from there into a second store, and copies the same files as `cp` and `sync` would. Both begin with cold
//! caches if the system lets them be dropped (as root). Printed: bytes a second, and processor time by side.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use engine::{Engine, EngineError, Touch};
use io::RealDisk;
use page_store::{Horizon, JournalEntry, PageStore, PassPart, Progress, StoreConfig};
use timeline::{Branch, Path};
use units::{Epoch, ForkKey, GroupId, Lsn, PAGE_BYTES, Page, PageKey, Position, RelationKey, SegmentId, VolumeId};
use wire_format::message::{Response, VersionCursor, VersionsAsked};
use wire_format::{Batch, EncodedBatch, FlushHeader, Item, frame};

const SEGMENT: SegmentId = SegmentId::from_bytes([7; 16]);
const EPOCH: Epoch = Epoch::from_raw(1);
const FORK: ForkKey = ForkKey {
    relation: RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    },
    fork: 0,
};
/// What a segment asks for at once.
const ANSWER_BYTES: u32 = 4 << 20;
const RECORDS_PER_FLUSH: u64 = 512;

/// Records that name their page, and are laid over it. One in eight makes a page from nothing, like those of `COPY`; the others
/// are as long as those of pgbench.
struct Overlay;

impl Overlay {
    fn record(number: u64) -> Bytes {
        // The pages of a table that grows, most changes among those that came last.
        let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let new = number / 8;
        let (block, bytes) = match number % 8 {
            0 => (new, 4000),
            _ => (new.saturating_sub(mixed >> 44), 60 + (mixed >> 16) as usize % 120),
        };
        let mut record = Vec::with_capacity(8 + bytes);
        record.extend_from_slice(&(block as u32).to_le_bytes());
        record.push(u8::from(number.is_multiple_of(8)));
        // Rows: half of every sixteen bytes is the same everywhere, as ids and fillers are.
        let mut state = mixed;
        while record.len() < 5 + bytes {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            record.extend_from_slice(&state.to_le_bytes());
            record.extend_from_slice(b"filler  ");
        }
        record.into()
    }

    fn block(record: &[u8]) -> u32 {
        u32::from_le_bytes(record[..4].try_into().expect("four bytes"))
    }
}

impl Engine for Overlay {
    fn touches(&self, record: &[u8], _: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        touches.push(Touch::Page {
            key: FORK.page(Overlay::block(record)),
            from_nothing: record[4] == 1,
        });
        Ok(())
    }

    fn apply(&self, record: &[u8], end: Lsn, _: PageKey, page: &mut Page) -> Result<(), EngineError> {
        let at = end.raw() as usize % (PAGE_BYTES / 2);
        let content = &record[5..];
        page.bytes_mut()[at..at + content.len()].copy_from_slice(content);
        Ok(())
    }
}

fn path() -> Path {
    let branch = Branch {
        epoch: EPOCH,
        parent: Position::ZERO,
    };
    Path::new(vec![branch]).expect("a path")
}

fn open(directory: &FilePath) -> PageStore {
    std::fs::create_dir_all(directory).expect("room");
    let disk = Arc::new(RealDisk::new(directory));
    let opened = PageStore::open(disk, StoreConfig::default(), Arc::new(Overlay));
    let store = opened.expect("its files").store;
    let state = JournalEntry::State {
        segment: SEGMENT,
        bytes: Bytes::from_static(b"state"),
    };
    store.append(&[state]).expect("room");
    store.sync().expect("a good disk");
    store
}

/// A store with about so many bytes of layers. Answers with up to where it has everything.
fn fill(store: &PageStore, bytes: u64) -> Position {
    let mut previous = Position::ZERO;
    for flush in 1.. {
        let end = Position::new(EPOCH, Lsn::from_raw(flush * 1_000_000));
        let record = |at: u64| Item::Record {
            end: Lsn::from_raw(end.lsn.raw() - RECORDS_PER_FLUSH + 1 + at),
            bytes: Overlay::record(flush * RECORDS_PER_FLUSH + at),
        };
        let batch = EncodedBatch::new(Batch {
            volume: VolumeId::from_bytes([1; 16]),
            group: GroupId::FIRST,
            epoch: EPOCH,
            end: end.lsn,
            previous,
            header: Some(FlushHeader {
                groups: vec![GroupId::FIRST],
                boundary: end.lsn,
                written_at_us: 0,
                marks: Bytes::new(),
                catalog: Vec::new(),
                page_flags: Vec::new(),
            }),
            items: (0..RECORDS_PER_FLUSH).map(record).collect(),
            elsewhere: Vec::new(),
        });
        let entry = JournalEntry::Batch {
            segment: SEGMENT,
            batch,
        };
        store.append(&[entry]).expect("room");
        previous = end;
        if !flush.is_multiple_of(16) {
            continue;
        }
        store.sync().expect("a good disk");
        store.set_horizon(
            SEGMENT,
            Horizon {
                path: path(),
                durable: end,
                floor: end,
                recycle_through: end,
                let_go: None,
            },
        );
        while store.maintain(&|| ()).expect("a good disk") != Progress::Idle {}
        if bytes <= store.status().layer_bytes[&SEGMENT] {
            break;
        }
    }
    store.write_tables().expect("a good disk");
    previous
}

/// Time that this thread had a processor.
fn processor_time() -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells it");
    Duration::from_nanos(told.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number"))
}

/// Processor time of a side so far.
#[derive(Default)]
struct Side {
    processor: Duration,
    elapsed: Duration,
}

impl Side {
    fn does<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let (processor, began) = (processor_time(), Instant::now());
        let done = work();
        self.processor += processor_time() - processor;
        self.elapsed += began.elapsed();
        done
    }
}

fn drop_caches() {
    let synced = std::process::Command::new("sync").status();
    if !synced.is_ok_and(|status| status.success()) || std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
        println!("caches could not be dropped: they are warm");
    }
}

fn copy(source: &PageStore, target: &PageStore, through: Position) -> (Side, Side) {
    let (mut giver, mut taker) = (Side::default(), Side::default());
    let mut from = Some(VersionCursor::default());
    let part = PassPart {
        pass: 1,
        part: 0,
        parts: 1,
    };
    while let Some(begin) = from {
        let asked = VersionsAsked {
            path: path(),
            after: Position::ZERO,
            from: begin.clone(),
            until: Bytes::new(),
            bytes_max: ANSWER_BYTES,
            through,
            floor: Position::ZERO,
        };
        let message = giver.does(|| {
            let versions = source.versions(SEGMENT, &asked).expect("a good disk");
            frame::encode_response(1, &Response::Versions(versions))
        });
        // What sockets do is measured with real nodes.
        let mut received = BytesMut::with_capacity(message.iter().map(Bytes::len).sum());
        message.iter().for_each(|part| received.extend_from_slice(part));
        from = taker.does(|| {
            let frame = frame::take_frame(&mut received, frame::FRAME_BYTES_MAX).expect("a frame");
            let (_, response) = frame::decode_response(frame.expect("all of it")).expect("a message");
            let Response::Versions(versions) = response else {
                unreachable!("it was one of versions")
            };
            let taken = target.take_versions(SEGMENT, part, &begin, &versions);
            assert!(taken.expect("a good disk"), "what comes next");
            versions.next
        });
    }
    (giver, taker)
}

/// What `cp` of each file into another folder does, with `sync` of each.
fn plain_copy(from: &FilePath, to: &FilePath) -> u64 {
    std::fs::create_dir_all(to).expect("room");
    let files = std::fs::read_dir(from).expect("its layers");
    let copied = files.map(|file| {
        let file = file.expect("its layers");
        let bytes = std::fs::copy(file.path(), to.join(file.file_name())).expect("room");
        let copy = std::fs::File::open(to.join(file.file_name())).expect("it was just made");
        copy.sync_all().expect("a good disk");
        bytes
    });
    copied.sum()
}

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    let mebibytes: u64 = arguments.next().map_or(64, |given| given.parse().expect("mebibytes"));
    let directory = arguments
        .next()
        .map_or_else(|| std::env::temp_dir().join("borealis-copy"), PathBuf::from);
    for folder in ["source", "target", "plain"] {
        let _ = std::fs::remove_dir_all(directory.join(folder));
    }
    let source = open(&directory.join("source"));
    let through = fill(&source, mebibytes << 20);
    let status = source.status();
    let bytes = status.layer_bytes[&SEGMENT];
    println!("{} layers, {} MiB", status.layers_count, bytes >> 20);
    let rate = |bytes: u64, elapsed: Duration| bytes as f64 / 1e6 / elapsed.as_secs_f64();

    drop_caches();
    let began = Instant::now();
    let copied = plain_copy(&directory.join("source/layers"), &directory.join("plain"));
    println!("plain copy: {:.0} MB/s", rate(copied, began.elapsed()));

    drop_caches();
    let target = open(&directory.join("target"));
    let began = Instant::now();
    let (giver, taker) = copy(&source, &target, through);
    let elapsed = began.elapsed();
    println!(
        "as a peer: {:.0} MB/s, one answer after the other",
        rate(bytes, elapsed)
    );
    for (name, side) in [("gives", giver), ("takes", taker)] {
        let per_gigabyte = side.processor.as_secs_f64() / (bytes as f64 / 1e9);
        let rate = rate(bytes, side.elapsed);
        println!("{name}: {per_gigabyte:.2} s of a processor for a gigabyte, {rate:.0} MB/s");
    }
    let layers = target.status();
    println!(
        "{} layers, {} MiB",
        layers.layers_count,
        layers.layer_bytes[&SEGMENT] >> 20
    );
    let read = |store: &PageStore| store.read_pages(SEGMENT, &path(), through.lsn, FORK.page(0), 100);
    assert!(
        read(&source).expect("pages") == read(&target).expect("pages"),
        "another page"
    );
}

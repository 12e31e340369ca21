//! Real sockets, real files, and an engine that is no more than a toy.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use engine::{Engine, EngineError, Touch};
use node_link::handshake;
use timeline::{Branch, Path};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use units::{Epoch, ForkKey, GroupId, Lsn, Page, PageKey, Position, RelationKey, SegmentId, VolumeId, Zone};
use wire_format::message::{Member, Refusal, SegmentHealth, SegmentStatus};
use wire_format::{Batch, EncodedBatch, FlushHeader, Item, Request, Response};

use crate::{StorageConfig, StorageError};

const FORK: ForkKey = ForkKey {
    relation: RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    },
    fork: 0,
};

/// A record is one byte, which it writes to the first byte of block 0.
struct Toy;

impl Engine for Toy {
    fn touches(&self, _record: &[u8], _end: Lsn, touches: &mut Vec<Touch>) -> Result<(), EngineError> {
        touches.push(Touch::Page {
            key: FORK.page(0),
            from_nothing: false,
        });
        Ok(())
    }

    fn apply(&self, record: &[u8], _end: Lsn, _key: PageKey, page: &mut Page) -> Result<(), EngineError> {
        page.bytes_mut()[0] = record[0];
        Ok(())
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("borealis-storage-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(path.join("secret"), "ab".repeat(32)).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

fn config(folder: &FilePath, copy: u8, address: &str) -> StorageConfig {
    StorageConfig {
        name: format!("storage-{copy}"),
        zone: "a".to_owned(),
        directory: folder.join(format!("storage-{copy}")),
        listen: address.to_owned(),
        cluster: "0123456789abcdef0123456789abcdef".to_owned(),
        cluster_secret_file: folder.join("secret"),
        memory_bytes: 64 << 20,
        journal_retained_bytes_max: 64 << 20,
        repair_bytes_per_second_busy: 32 << 20,
        connections_max: 16,
        scrub_interval_seconds: 24 * 60 * 60,
        scrub_bytes_per_second: 16 << 20,
    }
}

/// For what happens at once where nothing else goes on: a busy machine with a slow disk may take its time.
const SOON: Duration = Duration::from_secs(60);

/// A node in a thread of its own, as a process would run it.
struct Running {
    stop: watch::Sender<bool>,
    /// Whatever can still write to the directory holds it, too.
    engine: Arc<dyn Engine>,
    thread: Option<std::thread::JoinHandle<Result<(), StorageError>>>,
}

impl Running {
    fn start(config: StorageConfig) -> Running {
        let (stop, stopping) = watch::channel(false);
        let engine: Arc<dyn Engine> = Arc::new(Toy);
        let its_engine = engine.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(crate::run(config, its_engine, None, stopping))
        });
        Running {
            stop,
            engine,
            thread: Some(thread),
        }
    }

    fn end(mut self) -> Result<(), StorageError> {
        let _ = self.stop.send(true);
        let ended = self.thread.take().unwrap().join().unwrap();
        // Its other threads let go of the directory when they have done what they are at.
        let began = Instant::now();
        while 1 < Arc::strong_count(&self.engine) {
            assert!(began.elapsed() < SOON, "a thread goes on after the node's end");
            std::thread::sleep(Duration::from_millis(2));
        }
        ended
    }
}

struct Caller {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Caller {
    async fn connect(config: &StorageConfig) -> Caller {
        let hello = config.hello().unwrap();
        let began = Instant::now();
        while began.elapsed() < SOON {
            if let Ok(mut stream) = TcpStream::connect(&config.listen).await {
                handshake::greet(&mut stream, &hello).await.unwrap();
                return Caller {
                    stream,
                    buffer: BytesMut::new(),
                };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} does not listen on {}", config.name, config.listen);
    }

    async fn ask(&mut self, request: Request) -> Response {
        for part in handshake::request_frame(7, &request) {
            self.stream.write_all(&part).await.unwrap();
        }
        loop {
            if let Some((number, response)) = handshake::take_response(&mut self.buffer).unwrap() {
                assert_eq!(number, 7);
                return response;
            }
            assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "cut off");
        }
    }
}

fn segment(copy: u8) -> SegmentId {
    SegmentId::from_bytes([copy; 16])
}

fn first_path() -> Path {
    let branch = Branch {
        epoch: Epoch::from_raw(1),
        parent: Position::ZERO,
    };
    Path::new(vec![branch]).unwrap()
}

fn create(copy: u8, members: &[Member]) -> Request {
    Request::CreateSegment {
        volume: VolumeId::from_bytes([1; 16]),
        group: GroupId::FIRST,
        segment: segment(copy),
        kind: units::SegmentKind::Full,
        epoch: Epoch::from_raw(1),
        path: first_path(),
        members: members.to_vec(),
        copy_from: Vec::new(),
    }
}

fn position(raw: u64) -> Position {
    Position::new(Epoch::from_raw(1), Lsn::from_raw(raw))
}

fn append(copy: u8, end: u64, previous: Position, durable: Position) -> Request {
    let batch = Batch {
        volume: VolumeId::from_bytes([1; 16]),
        group: GroupId::FIRST,
        epoch: Epoch::from_raw(1),
        end: Lsn::from_raw(end),
        previous,
        header: Some(FlushHeader {
            groups: vec![GroupId::FIRST],
            boundary: Lsn::from_raw(end),
            written_at_us: 0,
            marks: Bytes::from_static(b"marks"),
            catalog: Vec::new(),
            page_flags: Vec::new(),
        }),
        items: vec![Item::Record {
            end: Lsn::from_raw(end),
            bytes: Bytes::copy_from_slice(&[end as u8]),
        }],
        elsewhere: Vec::new(),
    };
    Request::Append {
        segment: segment(copy),
        epoch: Epoch::from_raw(1),
        durable,
        batch: EncodedBatch::new(batch),
    }
}

fn read(copy: u8, at: u64) -> Request {
    Request::ReadPages {
        segment: segment(copy),
        epoch: Epoch::from_raw(1),
        read_point: Lsn::from_raw(at),
        needed: position(at),
        first: FORK.page(0),
        count: 1,
    }
}

fn appended(copy: u8, complete: u64) -> Response {
    Response::Appended {
        segment: segment(copy),
        epoch: Epoch::from_raw(1),
        complete: position(complete),
    }
}

#[tokio::test]
async fn what_was_acknowledged_and_promised_is_there_after_a_restart() {
    let folder = Folder::new("restart");
    let config = config(&folder.0, 1, &free_address().await);
    let node = Running::start(config.clone());
    let mut caller = Caller::connect(&config).await;
    assert_eq!(caller.ask(create(1, &[])).await, Response::SegmentCreated);
    assert_eq!(
        caller.ask(append(1, 10, Position::ZERO, Position::ZERO)).await,
        appended(1, 10)
    );
    assert_eq!(
        caller.ask(append(1, 20, position(10), Position::ZERO)).await,
        appended(1, 20)
    );
    let promise = Request::Promise {
        segment: segment(1),
        epoch: Epoch::from_raw(2),
        path: first_path(),
        above: Position::ZERO,
    };
    let promised = caller.ask(promise.clone()).await;
    assert!(
        matches!(&promised, Response::Promised(promised) if promised.held.len() == 2),
        "{promised:?}"
    );
    let second = Running::start(config.clone());
    assert!(second.end().is_err(), "a second process in the same directory");
    drop(caller);
    node.end().unwrap();

    let node = Running::start(config.clone());
    let mut caller = Caller::connect(&config).await;
    assert_eq!(caller.ask(promise).await, promised);
    let fenced = caller.ask(append(1, 30, position(20), Position::ZERO)).await;
    assert!(
        matches!(fenced, Response::Refused(Refusal::StaleEpoch { .. })),
        "{fenced:?}"
    );
    let Response::Pages(pages) = caller.ask(read(1, 20)).await else {
        panic!("no page");
    };
    assert_eq!(pages[0].bytes()[0], 20);
    let Response::FlushHeader { end, marks, .. } = caller
        .ask(Request::ReadFlushHeader {
            segment: segment(1),
            epoch: Epoch::from_raw(1),
            at: Lsn::from_raw(15),
        })
        .await
    else {
        panic!("no flush header");
    };
    assert_eq!((end, &marks[..]), (position(10), &b"marks"[..]));
    node.end().unwrap();
}

#[tokio::test]
async fn a_copy_that_missed_log_gets_it_from_a_peer() {
    let folder = Folder::new("peers");
    let configs = [
        config(&folder.0, 1, &free_address().await),
        config(&folder.0, 2, &free_address().await),
    ];
    let members: Vec<Member> = (1..=2)
        .map(|copy| Member {
            segment: segment(copy),
            node: configs[usize::from(copy) - 1].name.clone(),
            address: configs[usize::from(copy) - 1].listen.clone(),
            zone: Zone::A,
            kind: units::SegmentKind::Full,
        })
        .collect();
    let nodes = configs.clone().map(Running::start);
    let mut one = Caller::connect(&configs[0]).await;
    let mut other = Caller::connect(&configs[1]).await;
    assert_eq!(one.ask(create(1, &members)).await, Response::SegmentCreated);
    assert_eq!(other.ask(create(2, &members)).await, Response::SegmentCreated);
    let mut previous = Position::ZERO;
    for end in [10, 20, 30] {
        assert_eq!(
            one.ask(append(1, end, previous, Position::ZERO)).await,
            appended(1, end)
        );
        previous = position(end);
    }
    let hole = other.ask(append(2, 30, position(20), position(20))).await;
    assert!(
        matches!(hole, Response::Appended { complete, .. } if complete == Position::ZERO),
        "{hole:?}"
    );
    let began = Instant::now();
    loop {
        let Response::Pages(pages) = other.ask(read(2, 30)).await else {
            assert!(began.elapsed() < SOON, "the hole is never filled");
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        assert_eq!(pages[0].bytes()[0], 30);
        break;
    }
    for node in nodes {
        node.end().unwrap();
    }
}

/// Members on `count` nodes, one segment each.
async fn some_nodes(folder: &FilePath, count: u8) -> (Vec<StorageConfig>, Vec<Member>) {
    let mut configs = Vec::new();
    let mut members = Vec::new();
    for copy in 1..=count {
        let config = StorageConfig {
            journal_retained_bytes_max: 1 << 20,
            ..config(folder, copy, &free_address().await)
        };
        members.push(Member {
            segment: segment(copy),
            node: config.name.clone(),
            address: config.listen.clone(),
            zone: Zone::A,
            kind: units::SegmentKind::Full,
        });
        configs.push(config);
    }
    (configs, members)
}

/// What the first segment of a node says of itself.
async fn status_of(caller: &mut Caller) -> SegmentStatus {
    let Response::Status(status) = caller.ask(Request::Status).await else {
        panic!("no status");
    };
    status.segments.into_iter().next().expect("it has a segment")
}

/// A flush of `step` bytes whose one record packs badly.
fn long_batch(end: u64, step: u64) -> EncodedBatch {
    let Request::Append { batch, .. } = append(1, end, position(end - step), Position::ZERO) else {
        unreachable!("it is an append");
    };
    let mut batch = (**batch.batch()).clone();
    let mut record = vec![(end % 251) as u8; 30_000];
    let rest = record.iter_mut().enumerate().skip(1);
    rest.for_each(|(at, byte)| *byte = (at * at / 7 + end as usize) as u8);
    batch.items = vec![Item::Record {
        end: Lsn::from_raw(end),
        bytes: record.into(),
    }];
    EncodedBatch::new(batch)
}

/// Every caller's copy gets the second of these flushes and all that follow; the copies do not wait for each other.
async fn append_long(callers: Vec<Caller>, step: u64, flushes: u64) -> Vec<Caller> {
    async fn to_one(copy: u8, mut caller: Caller, step: u64, flushes: u64) -> Caller {
        for flush in 2..=flushes {
            let request = Request::Append {
                segment: segment(copy),
                epoch: Epoch::from_raw(1),
                durable: position(step * (flush - 1)),
                batch: long_batch(step * flush, step),
            };
            assert_eq!(caller.ask(request).await, appended(copy, step * flush));
        }
        caller
    }
    let running: Vec<_> = (1..)
        .zip(callers)
        .map(|(copy, caller)| tokio::spawn(to_one(copy, caller, step, flushes)))
        .collect();
    let mut callers = Vec::new();
    for caller in running {
        callers.push(caller.await.expect("no copy refuses"));
    }
    callers
}

/// A segment that is born after its peers forgot the log, and one that slept while they did.
#[tokio::test]
async fn a_new_copy_and_one_that_slept_get_from_layers_what_no_journal_has() {
    const FLUSHES: u64 = 200;
    const STEP: u64 = 32 << 10;
    let folder = Folder::new("copies");
    let (configs, members) = some_nodes(&folder.0, 5).await;
    let old = &members[..4];
    let mut nodes: Vec<Running> = configs.iter().cloned().map(Running::start).collect();
    let mut callers = Vec::new();
    for (copy, config) in (1..).zip(&configs[..4]) {
        let mut caller = Caller::connect(config).await;
        assert_eq!(caller.ask(create(copy, old)).await, Response::SegmentCreated);
        assert_eq!(
            caller.ask(append(copy, STEP, Position::ZERO, Position::ZERO)).await,
            appended(copy, STEP)
        );
        callers.push(caller);
    }
    // The fourth sleeps.
    callers.pop();
    nodes.remove(3).end().unwrap();
    let end = STEP * FLUSHES;
    let mut callers = append_long(callers, STEP, FLUSHES).await;
    let announce = |copy: u8| Request::Announce {
        segment: segment(copy),
        epoch: Epoch::from_raw(1),
        durable: position(end),
        floor: position(end),
        all_complete: Position::ZERO,
        on_every_full: Position::ZERO,
    };
    // The journals are longer than they may be: they forget the beginning soon.
    let began = Instant::now();
    let fetch = |copy: u8| Request::FetchBatches {
        segment: segment(copy),
        path: first_path(),
        after: Position::ZERO,
        through: position(end),
        bytes_max: 1,
    };
    for (copy, caller) in (1..).zip(&mut callers) {
        assert!(matches!(caller.ask(announce(copy)).await, Response::Announced { .. }));
        while !matches!(
            caller.ask(fetch(copy)).await,
            Response::Refused(Refusal::LogCollected { .. })
        ) {
            assert!(began.elapsed() < SOON, "the journal is never given up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    nodes.push(Running::start(configs[3].clone()));
    let mut slept = Caller::connect(&configs[3]).await;
    let mut new = Caller::connect(&configs[4]).await;
    let mut request = create(5, &members);
    if let Request::CreateSegment { copy_from, .. } = &mut request {
        *copy_from = old.to_vec();
    }
    assert_eq!(new.ask(request.clone()).await, Response::SegmentCreated);
    assert_eq!(new.ask(request).await, Response::SegmentCreated, "asked twice");
    let status = status_of(&mut new).await;
    assert!(status.copying || status.complete == position(end), "{status:?}");
    // Nobody tells either of them anything: they ask their peers.
    for (copy, caller) in [(4, &mut slept), (5, &mut new)] {
        let began = Instant::now();
        loop {
            let status = status_of(caller).await;
            if status.health() == SegmentHealth::Complete && status.complete == position(end) {
                break;
            }
            assert!(status.vouches && began.elapsed() < SOON, "{status:?}");
            assert!(!status.copying || status.complete == Position::ZERO, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // What it is complete up to is told before that is synced; no page is given before.
        let page = loop {
            match caller.ask(read(copy, end)).await {
                Response::Pages(mut pages) => break pages.remove(0),
                Response::Refused(Refusal::NotComplete { .. }) if began.elapsed() < SOON => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(page.bytes()[0], (end % 251) as u8);
    }
    // The copy whose place was taken goes.
    let remove = Request::RemoveSegment {
        segment: segment(4),
        epoch: Epoch::from_raw(1),
    };
    assert_eq!(slept.ask(remove.clone()).await, Response::SegmentRemoved);
    assert_eq!(slept.ask(remove).await, Response::SegmentRemoved, "asked twice");
    assert!(matches!(
        slept.ask(read(4, end)).await,
        Response::Refused(Refusal::UnknownSegment { .. })
    ));
    for node in nodes {
        node.end().unwrap();
    }
    let node = Running::start(configs[3].clone());
    let mut slept = Caller::connect(&configs[3]).await;
    let Response::Status(status) = slept.ask(Request::Status).await else {
        panic!("no status");
    };
    assert!(status.segments.is_empty(), "{status:?}");
    node.end().unwrap();
}

#[tokio::test]
async fn a_directory_of_another_node_or_version_is_refused() {
    let folder = Folder::new("identity");
    let first = config(&folder.0, 1, &free_address().await);
    let node = Running::start(first.clone());
    drop(Caller::connect(&first).await);
    node.end().unwrap();
    let mut foreign = config(&folder.0, 2, &first.listen);
    foreign.directory = first.directory.clone();
    let refused = Running::start(foreign).end().unwrap_err().to_string();
    assert!(refused.contains("belongs to storage-1"), "{refused}");
    let file = first.directory.join("node.json");
    let newer = std::fs::read_to_string(&file)
        .unwrap()
        .replace("\"format_version\": 1", "\"format_version\": 99");
    std::fs::write(&file, newer).unwrap();
    let refused = Running::start(first).end().unwrap_err().to_string();
    assert!(refused.contains("format version 99"), "{refused}");
}

/// Whoever waits for an answer that was dropped would wait for ever; an end it hears of.
#[tokio::test]
async fn a_caller_that_does_not_read_its_answers_is_cut_off() {
    let folder = Folder::new("stuck");
    let config = config(&folder.0, 1, &free_address().await);
    let node = Running::start(config.clone());
    let mut caller = Caller::connect(&config).await;
    let requests = handshake::request_frame(7, &Request::Status).concat().repeat(1000);
    let mut cut_off = false;
    for _ in 0..1000 {
        cut_off = caller.stream.write_all(&requests).await.is_err();
        if cut_off {
            break;
        }
    }
    assert!(cut_off, "a million answers are kept or were dropped");
    let status = Caller::connect(&config).await.ask(Request::Status).await;
    assert!(matches!(status, Response::Status(_)));
    node.end().unwrap();
}

mod connections;
mod mending;

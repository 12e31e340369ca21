//! What is written over the files of a node that runs, as a failing disk would, and what becomes of it.

use std::os::unix::fs::FileExt;

use wire_format::message::NodeStatus;

use super::*;

/// Nobody reads it, nothing restarts, and yet the vote is gone.
#[tokio::test]
async fn rot_at_rest_costs_the_vote_without_a_read() {
    let folder = Folder::new("scrub");
    let config = StorageConfig {
        scrub_interval_seconds: 1,
        ..config(&folder.0, 1, &free_address().await)
    };
    let node = Running::start(config.clone());
    let mut caller = Caller::connect(&config).await;
    assert_eq!(caller.ask(create(1, &[])).await, Response::SegmentCreated);
    let mut previous = Position::ZERO;
    for end in 1..50 {
        caller.ask(append(1, end, previous, Position::ZERO)).await;
        previous = position(end);
    }
    let vouches = async |caller: &mut Caller| match caller.ask(Request::Status).await {
        Response::Status(status) => status.segments[0].vouches,
        other => panic!("no status: {other:?}"),
    };
    // Some passes find nothing.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(vouches(&mut caller).await);
    let journal = config.directory.join("journal");
    let mut files: Vec<_> = std::fs::read_dir(&journal)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.retain(|file| !file.file_name().unwrap().to_string_lossy().starts_with("spare"));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(files.pop().unwrap())
        .unwrap();
    file.write_all_at(b"rot", 700).unwrap();
    file.sync_all().unwrap();
    let began = Instant::now();
    while vouches(&mut caller).await {
        assert!(began.elapsed() < SOON, "the rot is not found");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(matches!(
        caller.ask(append(1, 50, previous, Position::ZERO)).await,
        Response::Appended {
            complete: Position::ZERO,
            ..
        }
    ));
    node.end().unwrap();
}

const STEP: u64 = 32 << 10;
const FLUSHES: u64 = 320;
const END: u64 = STEP * FLUSHES;

async fn node_status(caller: &mut Caller) -> NodeStatus {
    match caller.ask(Request::Status).await {
        Response::Status(status) => status,
        other => panic!("no status: {other:?}"),
    }
}

/// Four nodes whose log is in layers, for the most part.
async fn with_layers(configs: &[StorageConfig], members: &[Member]) -> Vec<Caller> {
    let mut callers = Vec::new();
    for (copy, config) in (1..).zip(configs) {
        let mut caller = Caller::connect(config).await;
        assert_eq!(caller.ask(create(copy, members)).await, Response::SegmentCreated);
        let first = append(copy, STEP, Position::ZERO, Position::ZERO);
        assert_eq!(caller.ask(first).await, appended(copy, STEP));
        callers.push(caller);
    }
    let mut callers = append_long(callers, STEP, FLUSHES).await;
    for (copy, caller) in (1..).zip(&mut callers) {
        // Versions are kept, since older reads may come.
        let announce = Request::Announce {
            segment: segment(copy),
            epoch: Epoch::from_raw(1),
            durable: position(END),
            floor: position(STEP),
            all_complete: Position::ZERO,
            on_every_full: Position::ZERO,
        };
        assert!(matches!(caller.ask(announce).await, Response::Announced { .. }));
        let began = Instant::now();
        while status_of(caller).await.layer_bytes < 128 << 10 {
            assert!(began.elapsed() < SOON, "no table is written");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    callers
}

/// What is done to a file of this length.
type Harm = fn(&std::fs::File, u64);

/// The layer files of a node, the longest first.
fn layer_files(config: &StorageConfig) -> Vec<PathBuf> {
    let files = std::fs::read_dir(config.directory.join("layers")).unwrap();
    let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    files.sort_by_key(|file| std::cmp::Reverse(std::fs::metadata(file).unwrap().len()));
    files
}

/// Bits that flip; a block of which a part was written; two blocks in each other's places; a write that never arrived, so that
/// what was there before still is; a file that is cut off. Each is found, told, and mended from a peer while the node runs.
#[tokio::test]
async fn whatever_happens_to_a_layer_is_found_told_and_mended() {
    let folder = Folder::new("mend");
    let (configs, members) = some_nodes(&folder.0, 4).await;
    let mut nodes: Vec<Running> = configs.iter().cloned().map(Running::start).collect();
    let mut callers = with_layers(&configs, &members).await;
    let caller = &mut callers[0];
    let harms: [(&str, Harm); 5] = [
        ("a flipped bit", |file, length| {
            let mut byte = [0];
            file.read_exact_at(&mut byte, length / 2).unwrap();
            file.write_all_at(&[byte[0] ^ 16], length / 2).unwrap();
        }),
        ("a torn block", |file, length| {
            file.write_all_at(&[0; 2048], length / 2).unwrap()
        }),
        ("two blocks in each other's places", |file, _| {
            let (mut one, mut other) = (vec![0; 8192], vec![0; 8192]);
            file.read_exact_at(&mut one, 0).unwrap();
            file.read_exact_at(&mut other, 16384).unwrap();
            file.write_all_at(&one, 16384).unwrap();
            file.write_all_at(&other, 0).unwrap();
        }),
        ("a write that never arrived", |file, length| {
            let mut before = vec![0; 4096];
            file.read_exact_at(&mut before, 0).unwrap();
            file.write_all_at(&before, length - 4096).unwrap();
        }),
        ("a file that is cut off", |file, length| {
            file.set_len(length / 2).unwrap()
        }),
    ];
    for (damaged, (name, harm)) in (1..).zip(harms) {
        let path = layer_files(&configs[0]).remove(0);
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        harm(&file, file.metadata().unwrap().len());
        file.sync_all().unwrap();
        let Response::Status(asked) = caller.ask(Request::Scrub).await else {
            panic!("no status");
        };
        let began = Instant::now();
        let status = loop {
            let status = node_status(caller).await;
            if asked.scrub.asked <= status.scrub.ended && status.segments[0].vouches && status.scrub.damaged == damaged
            {
                break status;
            }
            assert!(began.elapsed() < SOON, "{name}: {status:?}");
            assert!(
                !matches!(status.segments[0].health(), SegmentHealth::Damaged),
                "{name}: {status:?}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!((status.scrub.mended, status.scrub.failed), (damaged, None), "{name}");
        assert!(0 < status.scrub.ended_at && 128 << 10 < status.scrub.bytes, "{name}");
        assert!(!path.exists(), "{name}: the damaged file is still there");
        // As of any time.
        for flush in [2, 3, 41, 270, FLUSHES] {
            let Response::Pages(pages) = caller.ask(read(1, STEP * flush)).await else {
                panic!("{name}: no page");
            };
            assert_eq!(pages[0].bytes()[0], (STEP * flush % 251) as u8, "{name}");
        }
        let Response::Standing(standing) = caller.ask(Request::TellStanding { segment: segment(1) }).await else {
            panic!("{name}: no standing");
        };
        assert_eq!(standing.complete, position(END), "{name}: it has its vote again");
    }
    nodes.remove(0).end().unwrap();
    nodes.insert(0, Running::start(configs[0].clone()));
    let mut caller = Caller::connect(&configs[0]).await;
    let status = node_status(&mut caller).await;
    assert!(status.segments[0].vouches, "{status:?}");
    assert!(matches!(caller.ask(read(1, END)).await, Response::Pages(_)));
    for node in nodes {
        node.end().unwrap();
    }
}

/// Found at a start, with no peer there to help: no vote until one is.
#[tokio::test]
async fn a_layer_that_a_start_finds_lost_waits_for_a_peer() {
    let folder = Folder::new("mend-start");
    let (configs, members) = some_nodes(&folder.0, 4).await;
    let mut nodes: Vec<Running> = configs.iter().cloned().map(Running::start).collect();
    drop(with_layers(&configs, &members).await);
    for node in nodes.drain(..) {
        node.end().unwrap();
    }
    let path = layer_files(&configs[0]).remove(0);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    nodes.push(Running::start(configs[0].clone()));
    let mut caller = Caller::connect(&configs[0]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let status = status_of(&mut caller).await;
    assert_eq!(status.health(), SegmentHealth::Mending, "{status:?}");
    assert!(matches!(
        caller.ask(read(1, END)).await,
        Response::Refused(Refusal::Damaged { .. })
    ));
    nodes.extend(configs[1..].iter().cloned().map(Running::start));
    let began = Instant::now();
    while !status_of(&mut caller).await.vouches {
        assert!(began.elapsed() < SOON, "it is never mended");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let Response::Pages(pages) = caller.ask(read(1, END)).await else {
        panic!("no page");
    };
    assert_eq!(pages[0].bytes()[0], (END % 251) as u8);
    for node in nodes {
        node.end().unwrap();
    }
}

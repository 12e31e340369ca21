//! Redo against PostgreSQL itself: with `wal_consistency_checking` every record carries the page as PostgreSQL left it.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use engine::{Engine, Touch};
use redo::PostgreSql;
use redo::mask::mask;
use stock_postgresql::{Scratch, Server, command, run};
use units::{Lsn, PAGE_BYTES, Page, PageKey, RelationKey, fork};
use wal::{DecodedRecord, StreamDecoder, resource_manager};

const WAL_FILE_BYTES: u64 = 16 << 20;
const EVERY_RECORD_CHECKED: &str = "
wal_consistency_checking = 'all'
full_page_writes = off
";
const AS_IN_PRODUCTION: &str = "
full_page_writes = on
wal_compression = lz4
";
const SETTINGS: &str = "
shared_buffers = 4MB
fsync = off
autovacuum_naptime = 1s
autovacuum_vacuum_threshold = 20
autovacuum_freeze_max_age = 100000
vacuum_freeze_min_age = 10
max_prepared_transactions = 10
track_commit_timestamp = on
checkpoint_timeout = 1h
max_wal_size = 20GB
wal_keep_size = 20GB
bgwriter_lru_maxpages = 0
";
/// `SEQ_MAGIC`, at the end of a sequence's page.
const SEQUENCE_MAGIC: [u8; 4] = [0x17, 0x17, 0, 0];
/// What the workload must have reached, so that the test cannot pass by reaching nothing.
const EXPECTED: &[&str] = &[
    "Heap/INSERT",
    "Heap/INSERT+INIT",
    "Heap/DELETE",
    "Heap/UPDATE",
    "Heap/UPDATE+INIT",
    "Heap/HOT_UPDATE",
    "Heap/HEAP_CONFIRM",
    "Heap/LOCK",
    "Heap/INPLACE",
    "Heap2/PRUNE",
    "Heap2/VACUUM",
    "Heap2/FREEZE_PAGE",
    "Heap2/VISIBLE",
    "Heap2/MULTI_INSERT",
    "Heap2/MULTI_INSERT+INIT",
    "Heap2/LOCK_UPDATED",
    "Btree/INSERT_LEAF",
    "Btree/INSERT_UPPER",
    "Btree/INSERT_META",
    "Btree/INSERT_POST",
    "Btree/SPLIT_L",
    "Btree/SPLIT_R",
    "Btree/DEDUP",
    "Btree/DELETE",
    "Btree/VACUUM",
    "Btree/MARK_PAGE_HALFDEAD",
    "Btree/UNLINK_PAGE",
    "Btree/UNLINK_PAGE_META",
    "Btree/META_CLEANUP",
    "Btree/NEWROOT",
    "Sequence/LOG",
    "Generic/Generic",
];
/// These carry no images; what they made is compared with the files at the end.
const EXPECTED_WITHOUT_IMAGES: &[&str] = &[
    "XLOG/FPI",
    "Storage/TRUNCATE",
    "Transaction/COMMIT",
    "Transaction/ABORT",
    "Transaction/COMMIT_PREPARED",
    "Transaction/ABORT_PREPARED",
    "CLOG/ZEROPAGE",
    "CommitTs/ZEROPAGE",
    "MultiXact/CREATE_ID",
    "MultiXact/ZERO_OFF_PAGE",
    "MultiXact/ZERO_MEM_PAGE",
];

#[derive(Default, Debug)]
struct Tally {
    applied: u64,
    compared: u64,
    different: u64,
}

fn status_files(data: &Path, pages: &mut HashMap<PageKey, Page>) {
    for (folder, array) in [
        ("pg_xact", RelationKey::TRANSACTION_STATUS),
        ("pg_multixact/offsets", RelationKey::MULTIXACT_OFFSETS),
        ("pg_multixact/members", RelationKey::MULTIXACT_MEMBERS),
        ("pg_commit_ts", RelationKey::COMMIT_TIMESTAMPS),
    ] {
        for entry in std::fs::read_dir(data.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let segment = u32::from_str_radix(path.file_name().unwrap().to_str().unwrap(), 16).unwrap();
            for (at, bytes) in std::fs::read(&path).unwrap().chunks_exact(PAGE_BYTES).enumerate() {
                let key = array.fork(fork::MAIN).page(segment * 32 + at as u32);
                pages.insert(key, Page::from_bytes(bytes).unwrap());
            }
        }
    }
}

fn wal_file_name(start: Lsn) -> String {
    let number = start.raw() / WAL_FILE_BYTES;
    format!("00000001{:08X}{:08X}", number / 256, number % 256)
}

#[test]
fn every_page_is_what_postgresql_made_of_it() {
    let replayed = replay_workload("oracle", EVERY_RECORD_CHECKED);
    let Replayed { tallies, worst, .. } = &replayed;
    let different: u64 = tallies.values().map(|tally| tally.different).sum();
    assert_eq!(different, 0, "first differences:\n{}", worst.join("\n"));
    let missing: Vec<_> = EXPECTED
        .iter()
        .filter(|kind| tallies.get(**kind).is_none_or(|tally| tally.compared == 0))
        .collect();
    assert!(missing.is_empty(), "the workload did not reach {missing:?}");

    let unseen: Vec<_> = EXPECTED_WITHOUT_IMAGES
        .iter()
        .filter(|kind| tallies.get(**kind).is_none_or(|tally| tally.applied == 0))
        .collect();
    assert!(unseen.is_empty(), "the workload did not reach {unseen:?}");
    compare_files(&replayed);
}

/// Redo meets images of pages wherever a checkpoint went before, as on every real server.
#[test]
fn images_and_changes_together_end_in_the_same_files() {
    let replayed = replay_workload("production", AS_IN_PRODUCTION);
    assert!(replayed.worst.is_empty(), "{}", replayed.worst.join("\n"));
    compare_files(&replayed);
}

/// What redo made of a workload's log, beside the stopped server that wrote it.
struct Replayed {
    server: Server,
    _scratch: Scratch,
    pages: HashMap<PageKey, Page>,
    tallies: BTreeMap<String, Tally>,
    worst: Vec<String>,
}

fn replay_workload(name: &str, settings: &str) -> Replayed {
    let scratch = Scratch::new(name);
    let server = Server::initdb(scratch.path("data"), &[], &format!("{SETTINGS}{settings}"));
    server.start();
    server.query("SELECT pg_switch_wal()");
    server.query("CHECKPOINT");
    let start: Lsn = server.query("SELECT pg_current_wal_insert_lsn()").parse().unwrap();
    let start = Lsn::from_raw(start.raw() - start.raw() % WAL_FILE_BYTES);
    let mut pages = HashMap::new();
    status_files(server.data(), &mut pages);
    server.script(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workload.sql"));
    server.program("pgbench", &["-i", "-q", "-s", "1", "--foreign-keys"]);
    server.query("CHECKPOINT");
    server.program("pgbench", &["-n", "-c", "4", "-j", "2", "-t", "500"]);
    server.stop();
    // The checkpoint of the stop is the last record, and changes no page.
    let end = last_checkpoint(&server);

    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut worst = Vec::new();
    let mut decoder = StreamDecoder::new(start, None, WAL_FILE_BYTES);
    let mut at = start;
    while at < end {
        let bytes = std::fs::read(server.data().join("pg_wal").join(wal_file_name(at))).expect("a WAL file");
        let take = (end.raw() - at.raw()).min(WAL_FILE_BYTES) as usize;
        decoder.push(at, &bytes[..take]).expect("WAL follows WAL");
        at = at.advanced_by(WAL_FILE_BYTES);
        while let Some(record) = decoder.next_record().expect("sound WAL") {
            replay(&record, &mut pages, &mut tallies, &mut worst);
        }
    }
    for (kind, tally) in &tallies {
        println!(
            "{kind:32} applied {:7} compared {:7} different {}",
            tally.applied, tally.compared, tally.different
        );
    }
    Replayed {
        server,
        _scratch: scratch,
        pages,
        tallies,
        worst,
    }
}

/// Where the record of the last checkpoint begins.
fn last_checkpoint(server: &Server) -> Lsn {
    let text = run(command("pg_controldata").arg("-D").arg(server.data()));
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix("Latest checkpoint location:"));
    value.expect("a checkpoint").trim().parse().expect("its place")
}

/// What the clean stop wrote to files is what redo made.
fn compare_files(Replayed { server, pages, .. }: &Replayed) {
    let mut files = HashMap::new();
    status_files(server.data(), &mut files);
    for (key, page) in &files {
        let ours = pages.get(key).map_or(Page::zeroed(), Clone::clone);
        assert_eq!(
            first_difference(&ours, page),
            None,
            "{key} differs from PostgreSQL's file"
        );
    }
    println!("{} transaction-status pages are equal", files.len());
    for (fork, compared_min) in [(fork::MAIN, 1000), (fork::VISIBILITY, 10)] {
        let compared = relation_files(server.data(), fork, pages);
        println!("{compared} pages of fork {fork} are equal");
        assert!(
            compared_min <= compared,
            "only {compared} pages of fork {fork} were compared"
        );
    }
}

fn first_difference(one: &Page, other: &Page) -> Option<usize> {
    let mut pairs = one.bytes().iter().zip(other.bytes());
    pairs.position(|(one, other)| one != other)
}

/// Compares every page of a fork that redo made, and whose relation still exists, with the file that the clean stop
/// left. This sees what no image shows: bits of visibility maps that records clear without naming the page.
fn relation_files(data: &Path, fork: u8, pages: &HashMap<PageKey, Page>) -> u64 {
    let mut files: HashMap<PathBuf, Option<Vec<u8>>> = HashMap::new();
    let mut compared = 0;
    let known = pages.iter().filter(|(key, _)| key.fork.fork == fork);
    for (key, ours) in known.filter(|(key, _)| !key.fork.relation.is_status_array()) {
        let relation = key.fork.relation;
        let suffix = if fork == fork::VISIBILITY { "_vm" } else { "" };
        let path = match relation.tablespace {
            1664 => format!("global/{}{suffix}", relation.relation),
            _ => format!("base/{}/{}{suffix}", relation.database, relation.relation),
        };
        let file = files
            .entry(data.join(&path))
            .or_insert_with_key(|path| std::fs::read(path).ok());
        let Some(file) = file else { continue };
        let at = key.block as usize * PAGE_BYTES;
        let page = file.get(at..at + PAGE_BYTES).expect("the page is in its file");
        let (mut ours, mut page) = (ours.clone(), Page::from_bytes(page).expect("a page of bytes"));
        if page.bytes()[PAGE_BYTES - 8..][..4] == SEQUENCE_MAGIC {
            // The log runs ahead of a sequence's page by up to 32 values.
            continue;
        }
        for page in [&mut ours, &mut page] {
            let special = u16::from_le_bytes([page.bytes()[16], page.bytes()[17]]);
            match (fork, PAGE_BYTES - usize::from(special)) {
                // A map has no line pointers: all of it counts, but for LSN and checksum.
                (fork::VISIBILITY, _) => page.bytes_mut()[..10].fill(0),
                (_, 16) => mask(page, key.block, resource_manager::BTREE),
                (_, 0) => mask(page, key.block, resource_manager::HEAP),
                _ => mask(page, key.block, resource_manager::GENERIC),
            }
        }
        assert_eq!(first_difference(&ours, &page), None, "{key} differs from {path}");
        compared += 1;
    }
    compared
}

fn replay(
    record: &wal::Record,
    pages: &mut HashMap<PageKey, Page>,
    tallies: &mut BTreeMap<String, Tally>,
    worst: &mut Vec<String>,
) {
    let decoded = DecodedRecord::decode(&record.bytes).expect("a record");
    let kind = decoded.kind().expect("a known kind").to_string();
    let mut touches = Vec::new();
    PostgreSql
        .touches(&record.bytes, record.end, &mut touches)
        .expect("its pages");
    let tally = tallies.entry(kind.clone()).or_default();
    for touch in touches {
        match touch {
            Touch::Truncate { fork, from_block } => {
                pages.retain(|key, _| key.fork != fork || key.block < from_block);
            }
            Touch::DropDatabase { tablespace, database } => {
                pages.retain(|key, _| {
                    (key.fork.relation.tablespace, key.fork.relation.database) != (tablespace, database)
                });
            }
            Touch::Page { key, from_nothing } => {
                let block = decoded.blocks().find(|block| block.key == key);
                let after = block.and_then(|block| block.image).filter(|image| !image.apply);
                let after = after.map(|image| redo::restore(&image).expect("an image"));
                let known = from_nothing || key.fork.relation.is_status_array() || pages.contains_key(&key);
                if !known {
                    // It existed before the log began: from here on it is known.
                    pages.extend(after.map(|after| (key, after)));
                    continue;
                }
                let page = pages.entry(key).or_insert_with(Page::zeroed);
                if let Err(error) = PostgreSql.apply(&record.bytes, record.end, key, page) {
                    tally.different += 1;
                    worst.push(error.to_string());
                    pages.remove(&key);
                    continue;
                }
                tally.applied += 1;
                // Bits of a visibility map are cleared before it is logged: an image may be ahead of its place in the log.
                if let Some(mut after) = after.filter(|_| key.fork.fork != fork::VISIBILITY) {
                    let mut ours = page.clone();
                    let manager = decoded.header.resource_manager;
                    mask(&mut ours, key.block, manager);
                    mask(&mut after, key.block, manager);
                    tally.compared += 1;
                    let first = first_difference(&ours, &after);
                    if let Some(first) = first {
                        tally.different += 1;
                        if worst.len() < 20 {
                            worst.push(format!("{kind} ending at {}: {key}, first at byte {first}", record.end));
                        }
                        pages.insert(key, after);
                    }
                }
            }
        }
    }
}

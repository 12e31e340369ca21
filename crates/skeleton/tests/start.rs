//! Stock PostgreSQL starts on a skeleton without recovery, and has what its own recovery would have given it: wherever
//! the log of a killed server happens to end.

#[path = "stock/crashed.rs"]
mod crashed;
mod stock;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crashed::{control_file, inputs, log_end, two_phase_files};
use skeleton::Skeleton;
use stock::{Scratch, Server};
use units::Lsn;
use wal::{Checkpoint, WAL_PAGE_BYTES, record_end, record_start};

/// `sizeof` the checkpoint record, which is put behind the end of the log.
const CHECKPOINT_RECORD_BYTES: u64 = 114;
/// A message's record less its text, and the record of the commit that follows it.
const MESSAGE_BYTES: u64 = 24 + 5 + 25;
const COMMIT_BYTES: u64 = 34;
/// Shorter messages have a shorter header.
const MESSAGE_TEXT_BYTES_MIN: u64 = 300;

/// What has to be as it was acknowledged.
const FACTS: &str = "SELECT sum(balance), count(*), (SELECT string_agg(gid, ',' ORDER BY gid) FROM pg_prepared_xacts),
    (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(delta) FROM pgbench_history),
    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT count(*) FROM pg_class) FROM accounts";

/// Writes messages until the log ends at `target`, in bytes from the beginning of a run of `unit` bytes.
fn end_log_at(server: &Server, target: u64, unit: u64, file_bytes: u64) {
    for _ in 0..10 {
        let end = server.flushed();
        if end.raw() % unit == target {
            return;
        }
        let behind = |end: Lsn, bytes: u64| record_end(record_start(end, file_bytes), bytes, file_bytes);
        let after = |text: u64| behind(behind(end, MESSAGE_BYTES + text), COMMIT_BYTES);
        let text = (MESSAGE_TEXT_BYTES_MIN..MESSAGE_TEXT_BYTES_MIN + 2 * unit)
            .step_by(8)
            .find(|text| after(*text).raw() % unit == target);
        let text = text.expect("the target can be reached");
        server.query(&format!(
            "SELECT pg_logical_emit_message(true, '', repeat('x', {text}))"
        ));
    }
    panic!("something else writes into the log");
}

fn write(skeleton: &Skeleton, relation_files: &[String], from: &Path, to: PathBuf) -> Server {
    for folder in &skeleton.directories {
        std::fs::create_dir_all(to.join(folder)).expect("a folder");
    }
    for file in relation_files {
        std::fs::copy(from.join(file), to.join(file)).expect("a relation file");
    }
    for (name, bytes) in &skeleton.files {
        std::fs::write(to.join(name), bytes).expect("a file");
    }
    for piece in &skeleton.wal {
        use std::os::unix::fs::FileExt;
        let open = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(to.join(&piece.path));
        let file = open.expect("a WAL file");
        file.set_len(piece.file_bytes).expect("its length");
        file.write_all_at(&piece.bytes, piece.offset).expect("its bytes");
    }
    Server::on(to)
}

/// What recovery and we say alike: all but place and time.
fn counters(checkpoint: Checkpoint) -> Checkpoint {
    Checkpoint {
        redo: Lsn::from_raw(0),
        time: 0,
        ..checkpoint
    }
}

/// Kills a loaded server when its log ends at `target`, starts another one on a skeleton of it, and compares.
fn check(name: &str, wal_file_megabytes: u64, target: u64, unit: u64) {
    let scratch = Scratch::new(&format!("skeleton-{name}"));
    let file_bytes = wal_file_megabytes << 20;
    let crashed = Server::initdb(scratch.path("crashed"), wal_file_megabytes);
    crashed.start();
    crashed.script(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workload.sql"));
    crashed.program("pgbench", &["-i", "-q", "-s", "1", "postgres"]);
    let mut open = crashed.leave_open("INSERT INTO accounts VALUES (30000, 5000000)");
    crashed.program("pgbench", &["-n", "-c", "4", "-t", "50", "postgres"]);
    let facts = crashed.query(FACTS);
    end_log_at(&crashed, target, unit, file_bytes);
    assert!(crashed.kill());
    open.wait().expect("psql ends with its server");

    let end = log_end(&crashed.data);
    assert_eq!(end.marks.end.raw() % unit, target, "the log ends at {}", end.marks.end);
    let recovered = crashed.copy(scratch.path("recovered"));
    assert!(recovered.start().contains("redo done at"), "PostgreSQL itself recovers");
    recovered.stop();
    let told = control_file(&recovered.data).checkpoint();
    assert_eq!(
        counters(end.marks.shutdown_checkpoint(end.marks.end, 0)),
        counters(told)
    );
    assert_eq!(end.prepared, two_phase_files(&recovered.data));
    assert_eq!(end.prepared.len(), 2);

    let log_ends = end.marks.end;
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is past 1970")
        .as_secs();
    let (inputs, relation_files) = inputs(end, &recovered.data, time as i64);
    assert!(!inputs.init_forks.is_empty(), "there are unlogged relations");
    let skeleton = Skeleton::build(inputs).expect("a skeleton");
    assert_eq!(skeleton.checkpoint.bytes.len() as u64, CHECKPOINT_RECORD_BYTES);
    let server = write(&skeleton, &relation_files, &recovered.data, scratch.path("skeleton"));
    let log = server.start();
    assert!(log.contains("database system was shut down at"), "{log}");
    for word in ["redo", "automatic recovery", "interrupted", "WARNING", "FATAL", "ERROR"] {
        assert!(!log.contains(word), "{log}");
    }
    assert_eq!(server.query(FACTS), facts);
    check_contents(&server);
    check_log(&server, &skeleton, log_ends);
    check_crash(&server);
}

/// Prepared transactions, unlogged tables, sequences, multixacts, other databases; and every index fits its table.
fn check_contents(server: &Server) {
    assert_eq!(
        server.query("SELECT count(*) FROM notes"),
        "0",
        "unlogged tables begin anew"
    );
    server.query("INSERT INTO notes VALUES (1, 'new')");
    assert_eq!(server.query("SELECT 3 < nextval('tickets')"), "t");
    assert_eq!(
        server.query("SELECT count(*) FROM pg_get_multixact_members((SELECT xmax FROM accounts WHERE id = 7))"),
        "2"
    );
    let locked = "SELECT count(*) FROM (SELECT FROM accounts WHERE id = 7 FOR UPDATE SKIP LOCKED) AS free";
    assert_eq!(server.query(locked), "0", "prepared transactions hold their locks");
    server.query("COMMIT PREPARED 'before'");
    server.query("ROLLBACK PREPARED 'after'");
    let later = "SELECT string_agg(id::text, ',' ORDER BY id) FROM accounts WHERE 10000 < id";
    assert_eq!(server.query(later), "10001,10004");
    assert_eq!(server.query(locked), "1");
    server.program("pgbench", &["-n", "-c", "2", "-t", "50", "postgres"]);
    server.program("pg_amcheck", &["--all", "--install-missing", "--heapallindexed"]);
}

/// The log is one chain from the last page of the killed server over the checkpoint to what the new one wrote.
fn check_log(server: &Server, skeleton: &Skeleton, log_ends: Lsn) {
    let wal = server.data.join("pg_wal");
    let wal = wal.to_str().expect("ASCII");
    let page = Lsn::from_raw(log_ends.raw() - log_ends.raw() % WAL_PAGE_BYTES);
    for from in [page, skeleton.checkpoint.start] {
        let list = server.tool("pg_waldump", &["-p", wal, "-n", "400", "-s", &from.to_string()]);
        let after = list.split_once("CHECKPOINT_SHUTDOWN").map(|(_, after)| after);
        let after = after.unwrap_or_else(|| panic!("no checkpoint in the log from {from} on:\n{list}"));
        assert!(
            after.contains("COMMIT"),
            "nothing was written behind the checkpoint:\n{list}"
        );
        assert!(
            after.contains(&format!("prev {}", printed(skeleton.checkpoint.start))),
            "{after}"
        );
    }
}

/// As `pg_waldump` prints it.
fn printed(lsn: Lsn) -> String {
    format!("{:X}/{:08X}", lsn.raw() >> 32, lsn.raw() as u32)
}

/// The checkpoint is one that PostgreSQL can recover from.
fn check_crash(server: &Server) {
    let facts = server.query(FACTS);
    assert!(server.kill());
    let log = server.start();
    assert!(log.contains("redo done at"), "{log}");
    assert_eq!(server.query(FACTS), facts);
    server.stop();
    assert!(control_file(&server.data).is_shut_down());
}

#[test]
fn the_log_ends_in_the_middle_of_a_page() {
    check("middle", 16, 4096, WAL_PAGE_BYTES);
}

#[test]
fn the_checkpoint_starts_a_page() {
    check("page-start", 1, 0, WAL_PAGE_BYTES);
}

#[test]
fn the_checkpoint_crosses_a_page() {
    check("across-page", 1, WAL_PAGE_BYTES - 48, WAL_PAGE_BYTES);
}

#[test]
fn the_checkpoint_starts_a_wal_file() {
    check("file-start", 1, 0, 1 << 20);
}

#[test]
fn the_checkpoint_crosses_a_wal_file_in_its_header() {
    check("across-file", 1, (1 << 20) - 16, 1 << 20);
}

#[test]
fn the_checkpoint_begins_right_behind_a_long_page_header() {
    check("first-page", 1, 40 + 88, 1 << 20);
}

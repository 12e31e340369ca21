//! Stock PostgreSQL starts on a skeleton without recovery, and has what its own recovery would have given it: wherever
//! the log of a killed server happens to end.

mod crashed;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crashed::{control_file, inputs, log_end, two_phase_files};
use skeleton::Skeleton;
use stock_postgresql::{Scratch, Server, command, run};
use units::Lsn;
use wal::{
    COMMIT_TIMESTAMPS_PER_PAGE, Checkpoint, MULTIXACT_MEMBERS_PER_PAGE, MULTIXACT_OFFSETS_PER_PAGE, Marks,
    TRANSACTIONS_PER_PAGE, WAL_PAGE_BYTES, record_end, record_start,
};

/// `sizeof` the checkpoint record, which is put behind the end of the log.
const CHECKPOINT_RECORD_BYTES: u64 = 114;
/// A message's record less its text, and the record of the commit that follows it.
const MESSAGE_BYTES: u64 = 24 + 5 + 25;
const COMMIT_BYTES: u64 = 34;
/// Shorter messages have a shorter header.
const MESSAGE_TEXT_BYTES_MIN: u64 = 300;

/// Nothing that writes WAL by itself: the tests put its end where they want it.
const SETTINGS: &str = "autovacuum = off
checkpoint_timeout = 1h
bgwriter_delay = 10s
max_wal_size = 1GB
max_prepared_transactions = 10
";

/// What has to be as it was acknowledged.
const FACTS: &str = "SELECT sum(balance), count(*), (SELECT string_agg(gid, ',' ORDER BY gid) FROM pg_prepared_xacts),
    (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(delta) FROM pgbench_history),
    (SELECT max(pg_xact_commit_timestamp(xmin)) FROM pgbench_history WHERE current_setting('track_commit_timestamp')::bool),
    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT count(*) FROM pg_class) FROM accounts";

/// Who has locked the row that two prepared transactions share.
const LOCKERS: &str = "SELECT string_agg(xid || ' ' || mode, ',' ORDER BY xid::text)
    FROM pg_get_multixact_members((SELECT xmax FROM accounts WHERE id = 7))";

fn flushed(server: &Server) -> Lsn {
    let text = server.query("SELECT pg_current_wal_flush_lsn() - '0/0'");
    Lsn::from_raw(text.parse().expect("a number"))
}

/// Writes messages until the log ends at `target`, in bytes from the beginning of a run of `unit` bytes.
fn end_log_at(server: &Server, target: u64, unit: u64) {
    let file_bytes = control_file(server.data()).wal_file_bytes();
    stop_background_writer(server);
    for _ in 0..10 {
        let end = flushed(server);
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

/// Every 15 seconds it writes a record of what runs, which would move the end of the log. It is stopped where it holds no lock:
/// while it waits for its next turn.
fn stop_background_writer(server: &Server) {
    let about = |what: &str| {
        let about = format!("SELECT {what} FROM pg_stat_activity WHERE backend_type = 'background writer'");
        server.query(&about)
    };
    let pid = about("pid");
    let signal = |name: &str| run(Command::new("kill").args([name, &pid]));
    signal("-STOP");
    while !about("wait_event").starts_with("BgWriter") {
        signal("-CONT");
        std::thread::sleep(Duration::from_millis(10));
        signal("-STOP");
    }
}

fn write(skeleton: &Skeleton, relation_files: &[String], from: &Path, to: PathBuf, settings: &str) -> Server {
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
    Server::on(to, &format!("{SETTINGS}{settings}"))
}

/// What recovery and we say alike: all but place and time.
fn counters(checkpoint: Checkpoint) -> Checkpoint {
    Checkpoint {
        redo: Lsn::from_raw(0),
        time: 0,
        ..checkpoint
    }
}

/// A server, and how it is killed.
struct Case {
    name: &'static str,
    wal_file_megabytes: u64,
    settings: &'static str,
    /// After `initdb`.
    prepare: fn(&Server),
    /// After the load, right before the kill.
    finish: fn(&Server),
    /// What the marks of the killed server must show.
    expect: fn(&Marks),
}

impl Case {
    fn named(name: &'static str) -> Case {
        Case {
            name,
            wal_file_megabytes: 16,
            settings: "",
            prepare: |_| {},
            finish: |_| {},
            expect: |_| {},
        }
    }
}

/// Kills a loaded server, starts another one on a skeleton of it, and compares.
fn check(case: &Case) {
    let scratch = Scratch::new(&format!("skeleton-{}", case.name));
    let wal_file = format!("--wal-segsize={}", case.wal_file_megabytes);
    let settings = format!("{SETTINGS}{}", case.settings);
    let crashed = Server::initdb(scratch.path("crashed"), &[&wal_file], &settings);
    (case.prepare)(&crashed);
    crashed.start();
    crashed.script(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workload.sql"));
    crashed.program("pgbench", &["-i", "-q", "-s", "1", "postgres"]);
    let mut open = crashed.leave_open("INSERT INTO accounts VALUES (30000, 5000000)");
    crashed.program("pgbench", &["-n", "-c", "4", "-t", "50", "postgres"]);
    (case.finish)(&crashed);
    let (facts, lockers) = (crashed.query(FACTS), crashed.query(LOCKERS));
    assert!(crashed.kill());
    open.wait().expect("psql ends with its server");

    let end = log_end(crashed.data());
    (case.expect)(&end.marks);
    let recovered = crashed.copy(scratch.path("recovered"));
    assert!(recovered.start().contains("redo done at"), "PostgreSQL itself recovers");
    recovered.stop();
    let told = control_file(recovered.data()).checkpoint();
    assert_eq!(
        counters(end.marks.shutdown_checkpoint(end.marks.end, 0)),
        counters(told)
    );
    assert_eq!(end.prepared, two_phase_files(recovered.data()));
    assert_eq!(end.prepared.len(), 2);

    let log_ends = end.marks.end;
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("it is past 1970")
        .as_secs();
    let (inputs, relation_files) = inputs(end, recovered.data(), time as i64);
    assert!(!inputs.init_forks.is_empty(), "there are unlogged relations");
    let skeleton = Skeleton::build(inputs).expect("a skeleton");
    assert_eq!(skeleton.checkpoint.bytes.len() as u64, CHECKPOINT_RECORD_BYTES);
    let data = scratch.path("skeleton");
    let server = write(&skeleton, &relation_files, recovered.data(), data, case.settings);
    let log = server.start();
    assert!(log.contains("database system was shut down at"), "{log}");
    for word in ["redo", "automatic recovery", "interrupted", "WARNING", "FATAL", "ERROR"] {
        assert!(!log.contains(word), "{log}");
    }
    assert_eq!(server.query(FACTS), facts);
    assert_eq!(server.query(LOCKERS), lockers);
    check_contents(&server);
    check_log(&server, &skeleton, log_ends);
    check_crash(&server);
}

/// Prepared transactions, unlogged tables, sequences; and every index fits its table.
fn check_contents(server: &Server) {
    assert_eq!(
        server.query("SELECT count(*) FROM notes"),
        "0",
        "unlogged tables begin anew"
    );
    server.query("INSERT INTO notes VALUES (1, 'new')");
    assert_eq!(server.query("SELECT 3 < nextval('tickets')"), "t");
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
    let wal = server.data().join("pg_wal");
    let wal = wal.to_str().expect("ASCII");
    let page = Lsn::from_raw(log_ends.raw() - log_ends.raw() % WAL_PAGE_BYTES);
    for from in [page, skeleton.checkpoint.start] {
        let list = run(command("pg_waldump").args(["-p", wal, "-n", "400", "-s", &from.to_string()]));
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
    assert!(control_file(server.data()).is_shut_down());
}

const WAL_FILE_BYTES: u64 = 1 << 20;

/// A case whose log ends `$target` bytes into a page, or into a WAL file.
macro_rules! log_ends_at {
    ($test:ident, $name:literal, $target:expr, $unit:expr) => {
        #[test]
        fn $test() {
            check(&Case {
                wal_file_megabytes: 1,
                finish: |server| end_log_at(server, $target, $unit),
                expect: |marks| assert_eq!(marks.end.raw() % $unit, $target, "the log ends at {}", marks.end),
                ..Case::named($name)
            });
        }
    };
}

log_ends_at!(the_checkpoint_starts_a_page, "page-start", 0, WAL_PAGE_BYTES);
log_ends_at!(
    the_checkpoint_crosses_a_page,
    "across-page",
    WAL_PAGE_BYTES - 48,
    WAL_PAGE_BYTES
);
log_ends_at!(the_checkpoint_starts_a_wal_file, "file-start", 0, WAL_FILE_BYTES);
log_ends_at!(
    the_checkpoint_crosses_a_wal_file_in_its_header,
    "across-file",
    WAL_FILE_BYTES - 16,
    WAL_FILE_BYTES
);
log_ends_at!(
    the_checkpoint_stands_on_a_files_first_page,
    "first-page",
    40 + 88,
    WAL_FILE_BYTES
);

#[test]
fn commit_timestamps_and_logical_wal_survive() {
    check(&Case {
        settings: "track_commit_timestamp = on\nwal_level = logical\nmax_connections = 33\n",
        expect: |marks| {
            assert!(marks.parameters.track_commit_timestamp);
            assert_ne!(marks.state.oldest_commit_timestamp, 0);
            assert_eq!((marks.parameters.wal_level, marks.parameters.connections_max), (2, 33));
        },
        ..Case::named("commit-timestamps")
    });
}

/// The next transaction's status page, and that of the next multixact, do not exist yet.
#[test]
fn the_next_transaction_and_multixact_begin_a_page() {
    check(&Case {
        finish: |server| {
            use_up_multixacts(server, MULTIXACT_OFFSETS_PER_PAGE);
            use_up_transactions(server, TRANSACTIONS_PER_PAGE);
        },
        expect: |marks| {
            assert_eq!(marks.state.next_transaction, TRANSACTIONS_PER_PAGE.into());
            assert_eq!(marks.state.next_multixact, MULTIXACT_OFFSETS_PER_PAGE);
        },
        ..Case::named("page-boundaries")
    });
}

/// Transactions, their timestamps, multixacts and their members are past 2^32 soon after the oldest ones.
#[test]
fn transactions_and_multixacts_wrap_around() {
    check(&Case {
        settings: "track_commit_timestamp = on\n",
        prepare: stand_before_the_wraparound,
        expect: |marks| {
            let state = &marks.state;
            assert!(state.newest_commit_timestamp < state.oldest_commit_timestamp);
            assert!(state.next_multixact_offset < MEMBERS_LEFT.wrapping_neg());
            assert_eq!(state.next_transaction >> 32, 1, "{state:?}");
            assert!((state.next_transaction as u32) < state.oldest_transaction);
            assert!(state.next_multixact < state.oldest_multixact);
        },
        finish: |server| {
            let (transactions, multixacts) = (TRANSACTIONS_LEFT, MULTIXACTS_LEFT);
            let script = server.data().with_extension("sql");
            std::fs::write(&script, "SELECT FROM accounts WHERE id = 7 FOR SHARE").expect("a script");
            let count = transactions.max(multixacts).to_string();
            server.program(
                "pgbench",
                &["-n", "-f", script.to_str().expect("ASCII"), "-t", &count, "postgres"],
            );
        },
        ..Case::named("wraparound")
    });
}

const TRANSACTIONS_LEFT: u32 = 500;
const MULTIXACTS_LEFT: u32 = 20;
/// Every multixact has two at least.
const MEMBERS_LEFT: u32 = 200;

/// A server that has frozen all it has and stands shortly before the end of transactions and multixacts.
fn stand_before_the_wraparound(server: &Server) {
    server.start();
    for database in ["postgres", "template1"] {
        server.program("vacuumdb", &["--freeze", database]);
    }
    server.stop();
    let transaction = TRANSACTIONS_LEFT.wrapping_neg();
    let multixact = MULTIXACTS_LEFT.wrapping_neg();
    let member = MEMBERS_LEFT.wrapping_neg();
    for (folder, number) in [
        ("pg_xact", transaction / TRANSACTIONS_PER_PAGE / 32),
        ("pg_commit_ts", transaction / COMMIT_TIMESTAMPS_PER_PAGE / 32),
        ("pg_multixact/offsets", multixact / MULTIXACT_OFFSETS_PER_PAGE / 32),
        ("pg_multixact/members", member / MULTIXACT_MEMBERS_PER_PAGE / 32),
    ] {
        let file = server.data().join(folder).join(format!("{number:04X}"));
        std::fs::write(file, vec![0; 32 * 8192]).expect("a status file");
    }
    server.own_files();
    let data = server.data().to_str().expect("ASCII");
    let transaction = transaction.to_string();
    let timestamps = format!("{transaction},{transaction}");
    let multixacts = format!("{multixact},{multixact}");
    let mut reset = command("pg_resetwal");
    reset.args(["-x", &transaction, "-u", &transaction, "-c", &timestamps]);
    run(reset.args(["-m", &multixacts, "-O", &member.to_string(), "-D", data]));
    server.start();
    // Now they say that they are frozen up to here.
    for database in ["postgres", "template1"] {
        server.program("vacuumdb", &["--freeze", database]);
    }
    server.stop();
}

fn number(server: &Server, sql: &str) -> u32 {
    server.query(sql).parse().expect("a number")
}

/// Every locker of a row that a prepared transaction has locked makes a new multixact of the two.
fn use_up_multixacts(server: &Server, until: u32) {
    let lock = "SELECT FROM accounts WHERE id = 7 FOR SHARE";
    server.query(lock);
    let last = number(server, "SELECT xmax FROM accounts WHERE id = 7");
    let script = server.data().with_extension("sql");
    std::fs::write(&script, lock).expect("a script");
    let count = (until - 1 - last).to_string();
    server.program(
        "pgbench",
        &["-n", "-f", script.to_str().expect("ASCII"), "-t", &count, "postgres"],
    );
}

/// Most of them are subtransactions that roll back.
fn use_up_transactions(server: &Server, until: u32) {
    let next = "SELECT pg_snapshot_xmax(pg_current_snapshot())";
    let rolled_back = until - number(server, next) - 10;
    server.query(&format!(
        "DO $$ BEGIN FOR i IN 1..{rolled_back} LOOP
            BEGIN
                UPDATE accounts SET balance = 0 WHERE id = 3;
                RAISE EXCEPTION 'roll back';
            EXCEPTION WHEN raise_exception THEN
            END;
        END LOOP; END $$"
    ));
    while number(server, next) < until {
        server.query("UPDATE accounts SET balance = balance WHERE id = 3");
    }
}

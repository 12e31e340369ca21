//! Commits wait for their quorum, whatever happens; what does not work is refused; nobody outlives the instance process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Cluster, NOT_STARTED};

const PATIENCE: Duration = Duration::from_secs(60);

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

const GUARDED: &[&str] = &[
    "borealis.broker_socket={dir}/broker",
    "borealis.compare=on",
    "borealis.synchronous_name=quorum",
    "synchronous_standby_names=quorum",
    "max_prepared_transactions=4",
];

/// A session that runs statements in the background.
fn session(cluster: &Cluster, statements: &str) -> Child {
    let mut psql = cluster.client("psql");
    psql.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-c", statements]);
    psql.stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("psql exists")
}

/// The instance process's part: receives the log, and says that it is safe.
fn quorum(cluster: &Cluster) -> Child {
    let dir = cluster.dir.join("received");
    std::fs::create_dir_all(&dir).expect("writable");
    std::os::unix::fs::chown(&dir, Some(users("postgres")), None).expect("we are root");
    let mut receiver = cluster.client("pg_receivewal");
    receiver
        .env("PGAPPNAME", "quorum")
        .args(["--synchronous", "-D"])
        .arg(&dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    receiver.spawn().expect("pg_receivewal exists")
}

fn users(name: &str) -> u32 {
    let output = Command::new("id").args(["-u", name]).output().expect("id exists");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("a number")
}

const WAITING: &str = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";

/// Neither a session's own setting nor cancel nor terminate gets a commit past the quorum.
#[test]
fn a_commit_is_not_cut_short() {
    let cluster = Cluster::start("guard", 6211, GUARDED);
    let first = quorum(&cluster);
    cluster.sql("create table t (a int)");
    // The receiver is behind `runuser`: ask the server to end its connection, and keep it from coming back.
    stop(&cluster, first);
    let mut cancelled = session(&cluster, "set synchronous_commit = off; insert into t values (1)");
    let mut terminated = session(&cluster, "set synchronous_commit = local; insert into t values (2)");
    wait_until("both wait", || cluster.sql(WAITING) == "2");
    let pid = |value: i32| {
        format!("select pid from pg_stat_activity where query like '%values ({value})' and pid <> pg_backend_pid()")
    };
    cluster.sql(&format!("select pg_cancel_backend(({}))", pid(1)));
    cluster.sql(&format!("select pg_terminate_backend(({}))", pid(2)));
    wait_until("the terminated client is gone", || {
        terminated.try_wait().expect("a child").is_some()
    });
    assert!(
        !terminated.wait().expect("it ended").success(),
        "the terminated session reported a commit"
    );
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(cluster.sql(WAITING), "2", "{}", cluster.log());
    assert!(
        cancelled.try_wait().expect("a child").is_none(),
        "the cancelled session got an answer"
    );
    assert_eq!(cluster.sql("select count(*) from t"), "0", "visible before its quorum");

    let second = quorum(&cluster);
    assert!(cancelled.wait().expect("it ends").success(), "{}", cluster.log());
    wait_until("both are visible", || cluster.sql("select count(*) from t") == "2");
    wait_until("the terminated backend ends", || cluster.sql(&pid(2)).is_empty());
    assert!(
        !cluster.log().contains("might not have been replicated"),
        "{}",
        cluster.log()
    );
    cluster.sql("begin; insert into t values (3); prepare transaction 'p'");
    cluster.sql("commit prepared 'p'; set synchronous_commit = off; insert into t values (4); show synchronous_commit");
    assert_eq!(
        cluster.sql("set synchronous_commit = off; insert into t values (5); show synchronous_commit"),
        "off"
    );
    // Refused, and caught: what goes on in the same transaction can be cancelled like anything.
    let error = cluster.sql_error(
        "set statement_timeout = '300ms';
         do $$ begin
             begin execute 'commit prepared ''none'''; exception when others then null; end;
             perform pg_sleep(1000);
         end $$",
    );
    assert!(error.contains("statement timeout"), "{error}");
    stop(&cluster, second);
}

/// A writer without room waits for the volume, can be told to stop waiting, and goes on when the volume does.
#[test]
fn a_writer_without_room_waits_for_the_volume() {
    let mut settings = GUARDED.to_vec();
    settings.extend([
        "borealis.overlay_size=1MB",
        "borealis.spill_size_max=2MB",
        // Sessions that look on must not need a buffer of the loader's.
        "shared_buffers=32MB",
        "autovacuum=off",
    ]);
    let cluster = Cluster::start("room", 6214, &settings);
    let first = quorum(&cluster);
    cluster.sql("create table t (a int, f text)");
    stop(&cluster, first);
    // Frozen rows of a table made in the same transaction: their pages have no command ids, and wait for their log alone.
    let load = "begin; create table u as select * from t; truncate u; \
         copy u from program 'seq 1 200000 | sed s/$/,xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx/' csv freeze; \
         select count(*) from u; rollback";
    let waiting = "select count(*) from pg_stat_activity where wait_event_type = 'Extension' and query like 'begin;%'";
    let pid = "select pid from pg_stat_activity where query like 'begin;%' and pid <> pg_backend_pid()";
    // Which of the two is said depends on whether the page was written with interrupts held off.
    for (end, said) in [
        ("pg_cancel_backend", "canceling statement"),
        ("pg_terminate_backend", "terminating connection"),
    ] {
        let loader = session(&cluster, load);
        wait_until("the load waits", || cluster.sql(waiting) == "1");
        cluster.sql(&format!("select {end}(({pid}))"));
        let output = loader.wait_with_output().expect("it ends");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            error.contains("waited for the volume") || error.contains(said),
            "{end}: {error}"
        );
        assert!(!output.status.success(), "{end}");
        wait_until("its session is gone", || cluster.sql(pid).is_empty());
    }
    let loader = session(&cluster, load);
    wait_until("the load waits", || cluster.sql(waiting) == "1");
    let second = quorum(&cluster);
    let output = loader.wait_with_output().expect("it ends");
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("200000"),
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        cluster.log()
    );
    assert!(!cluster.log().contains("PANIC"), "{}", cluster.log());
    stop(&cluster, second);
}

fn stop(cluster: &Cluster, mut receiver: Child) {
    let pids = Command::new("pgrep")
        .args(["-P", &receiver.id().to_string()])
        .output()
        .expect("pgrep exists");
    for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
        Command::new("kill").arg(pid).status().expect("kill exists");
    }
    receiver.wait().expect("it ends");
    wait_until("no standby", || {
        cluster.sql("select count(*) from pg_stat_replication") == "0"
    });
}

/// What cannot work yet says so instead of going wrong later.
#[test]
fn what_does_not_work_is_refused() {
    let cluster = Cluster::start(
        "refuse",
        6212,
        &["borealis.broker_socket={dir}/broker", "borealis.compare=on"],
    );
    cluster.sql("create table t (a int, b int[], c point, r int4range)");
    for statement in [
        "alter database template1 set tablespace pg_default",
        "select pg_backup_start('mine')",
        "select pg_backup_stop()",
    ] {
        let error = cluster.sql_error(statement);
        assert!(
            error.contains("not supported by this version of Borealis yet"),
            "{statement}: {error}"
        );
    }
    cluster.sql("create index on t (a); create temp table v (b int[]); create index on v using gin (b); alter table t add unique (a)");
    cluster.sql(
        "create index on t using hash (a); create index on t using gin (b); create index on t using gist (c);
         create index on t using spgist (c); create index on t using brin (a);
         alter table t add exclude using gist (r with &&)",
    );
    cluster.sql("create database other strategy file_copy");
    assert_eq!(cluster.sql_in("other", "select count(*) > 300 from pg_class"), "t");
    for set in [
        "alter system set fsync = on",
        "set Wal_Sender_Timeout = 1",
        "select set_config('Wal_Sender_Timeout', '1', false)",
        "alter role postgres set wal_sender_timeout = 1",
        "alter database postgres set dynamic_library_path = 'x'",
    ] {
        let error = cluster.sql_error(set);
        assert!(error.contains("is set by Borealis: "), "{set}: {error}");
    }
    cluster.sql("alter system reset fsync; alter system set work_mem = '8MB'; set work_mem = '9MB'; select set_config('work_mem', '10MB', false)");
    cluster.stop();
}

/// Startup packet of a client that calls itself `name`; whether the server lets it in.
fn is_let_in(cluster: &Cluster, name: &str) -> bool {
    let mut stream = UnixStream::connect(cluster.dir.join(".s.PGSQL.6213")).expect("the server listens");
    let fields = format!("user\0postgres\0database\0postgres\0application_name\0{name}\0\0");
    let mut packet = ((fields.len() + 8) as u32).to_be_bytes().to_vec();
    packet.extend(196_608_u32.to_be_bytes());
    packet.extend(fields.as_bytes());
    stream.write_all(&packet).expect("the server reads");
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    stream.set_read_timeout(Some(PATIENCE)).expect("a real socket");
    loop {
        let read = stream.read(&mut buffer).expect("the server answers");
        answer.extend(&buffer[..read]);
        let text = String::from_utf8_lossy(&answer);
        if text.contains("invalid value for parameter \"application_name\"") {
            return false;
        }
        // "Ready for query", idle.
        if answer.ends_with(b"Z\0\0\0\x05I") {
            return true;
        }
        assert!(read > 0, "closed: {text}");
    }
}

/// The instance process dies, and nothing of its server answers any more; while it lives, nobody else uses its name.
#[test]
fn the_server_belongs_to_its_instance_process() {
    let settings = [
        "borealis.broker_socket={dir}/broker",
        "borealis.compare=on",
        "borealis.synchronous_name=quorum",
        NOT_STARTED,
    ];
    let cluster = Cluster::start("life", 6213, &settings);
    let postgres = format!("/usr/lib/postgresql/15/bin/postgres -D {0}/data", cluster.dir.display());
    let run = |pid: &str| {
        format!(
            "{postgres} -c borealis.instance_pid={pid} >> {}/log 2>&1 & wait",
            cluster.dir.display()
        )
    };
    let start = |script: &str| {
        let mut instance = Command::new("setpriv");
        instance.args([
            "--reuid=postgres",
            "--regid=postgres",
            "--clear-groups",
            "sh",
            "-c",
            script,
        ]);
        instance.spawn().expect("setpriv exists")
    };
    start(&run("1")).wait().expect("it ends");
    assert!(
        cluster.log().contains("not the instance process 1"),
        "{}",
        cluster.log()
    );

    let mut instance = start(&run("$$"));
    wait_until("the server answers", || {
        cluster
            .client("pg_isready")
            .output()
            .is_ok_and(|output| output.status.success())
    });
    assert!(is_let_in(&cluster, "anybody"));
    assert!(!is_let_in(&cluster, "quorum"));
    assert!(!is_let_in(&cluster, "QUORUM"));
    let copy = cluster.client("pg_basebackup").args(["-D", "/tmp/never"]).output();
    let said = String::from_utf8_lossy(&copy.expect("pg_basebackup exists").stderr).into_owned();
    assert!(
        said.contains("replication connections") && said.contains("Use pg_dump"),
        "{said}"
    );
    let mut sleeper = session(&cluster, "select pg_sleep(1000)");
    let pids = || cluster.sql("select pid from pg_stat_activity");
    wait_until("somebody sleeps", || {
        cluster.sql("select count(*) from pg_stat_activity where wait_event = 'PgSleep'") == "1"
    });
    let pids: Vec<String> = pids().lines().map(str::to_owned).collect();
    assert!(pids.len() > 4);
    instance.kill().expect("we started it");
    instance.wait().expect("it ended");
    let alive =
        |pid: &String| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres");
    wait_until("all are gone", || !pids.iter().any(alive));
    sleeper.wait().expect("its server is gone");
}

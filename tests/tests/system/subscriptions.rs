//! A cluster subscribes to another server: every change arrives once, whatever becomes of the writer.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use stock_postgresql::{Scratch, Server};
use system_tests::{Cluster, SOON, random_below};

const PUBLISHER: &str = "wal_level = logical
max_prepared_transactions = 10
max_replication_slots = 20
max_wal_senders = 20
logical_decoding_work_mem = 64kB
";
/// A worker that failed, or whose writer died, is not to be waited for.
const SUBSCRIBER: [&str; 2] = ["max_prepared_transactions=10", "wal_retrieve_retry_interval=200ms"];
const ROWS: u32 = 20_000;
/// Each transaction changes tables of both publications. `heard` has no key: what arrives twice stands there twice.
const TABLES: [&str; 4] = ["whole", "whole_heard", "prepared", "prepared_heard"];
const LOAD: &str = r"\set id random(1, 20000)
\set kind random(1, 4)
BEGIN;
UPDATE whole SET balance = balance + 1 WHERE id = :id;
UPDATE prepared SET balance = balance + 1 WHERE id = :id;
INSERT INTO whole_heard SELECT nextval('numbers'), repeat('x', :id % 300);
INSERT INTO prepared_heard SELECT nextval('numbers'), repeat('x', :id % 300);
\if :kind = 1
PREPARE TRANSACTION 'load :client_id';
COMMIT PREPARED 'load :client_id';
\elif :kind = 2
PREPARE TRANSACTION 'load :client_id';
ROLLBACK PREPARED 'load :client_id';
\else
COMMIT;
\endif
";
/// How often tables are copied anew before the test gives up.
const COPIES_MAX: u32 = 10;
const PREPARED: &str = "SELECT count(*) FROM pg_prepared_xacts";

/// A stock server that publishes `whole` and `prepared`, each with its `_heard`.
struct Publisher {
    server: Server,
    scratch: Scratch,
}

impl Publisher {
    fn start(name: &str, cluster: &Cluster) -> Result<Publisher> {
        let scratch = Scratch::new(name);
        let server = Server::initdb(scratch.path("publisher"), &[], PUBLISHER);
        server.start();
        server.query("CREATE SEQUENCE numbers");
        for name in ["whole", "prepared"] {
            let tables = format!(
                "CREATE TABLE {name} (id int PRIMARY KEY, balance int); CREATE TABLE {name}_heard (n bigint, said text)"
            );
            cluster.sql(&tables)?;
            server.query(&tables);
            server.query(&format!(
                "INSERT INTO {name} SELECT n, 0 FROM generate_series(1, {ROWS}) n;
                 INSERT INTO {name}_heard SELECT nextval('numbers'), 'at first' FROM generate_series(1, {ROWS}) n;
                 CREATE PUBLICATION {name} FOR TABLE {name}, {name}_heard"
            ));
        }
        Ok(Publisher { server, scratch })
    }

    fn subscription(&self, name: &str, options: &str) -> String {
        let socket = self.server.data().display();
        let connection = format!("host={socket} user=postgres dbname=postgres");
        format!("CREATE SUBSCRIPTION {name} CONNECTION '{connection}' PUBLICATION {name} {options}")
    }

    /// Subscribes to everything, and kills the writer twice while tables are copied.
    fn copied_while_the_writer_dies(&self, cluster: &Cluster) -> Result<()> {
        for _ in 0..COPIES_MAX {
            cluster.sql(&self.subscription("whole", ""))?;
            cluster.sql(&self.subscription("prepared", "WITH (two_phase = true, streaming = true)"))?;
            for _ in 0..2 {
                std::thread::sleep(random_below(Duration::from_millis(500)));
                cluster.kill_writer()?;
            }
            let is_stranded = Cell::new(false);
            cluster.wait_for("the first copies", SOON, |cluster| {
                is_stranded.set(self.has_stranded_copies(cluster)?);
                Ok(is_stranded.get() || are_copied(cluster)?)
            })?;
            if !is_stranded.get() {
                return Ok(());
            }
            eprintln!("a copy is stranded: everything is copied anew");
            for name in ["whole", "prepared"] {
                // Not while the publisher still serves the writer that died.
                cluster.wait_for("the subscription to be dropped", SOON, |cluster| {
                    Ok(cluster.sql(&format!("DROP SUBSCRIPTION IF EXISTS {name}")).is_ok())
                })?;
            }
            cluster.sql(&format!("TRUNCATE {}", TABLES.join(", ")))?;
        }
        bail!("{COPIES_MAX} times a copy was stranded: that is not chance any more")
    }

    /// Whether a copy has no slot to go on from. PostgreSQL 15 drops it on the publisher before the transaction that says so is
    /// committed (`tablesync.c`, `process_syncing_tables_for_sync`): a server that dies in between, a stock one like ours, asks for
    /// it for ever, and the subscription has to be made anew.
    fn has_stranded_copies(&self, cluster: &Cluster) -> Result<bool> {
        let copied =
            "SELECT format('pg_%s_sync_%s_', srsubid, srrelid) FROM pg_subscription_rel WHERE srsubstate = 'f'";
        let copied = cluster.sql(copied)?;
        let slots = self.server.query("SELECT slot_name FROM pg_replication_slots");
        let has_slot = |name: &str| slots.lines().any(|slot| slot.starts_with(name));
        Ok(copied.lines().any(|name| !has_slot(name)))
    }

    /// Loads the publisher while `during` goes on.
    fn under_load(&self, during: impl FnOnce() -> Result<()>) -> Result<()> {
        let script = self.scratch.path("load.sql");
        std::fs::write(&script, LOAD)?;
        let script = script.to_str().context("the temporary directory has a plain name")?;
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    self.server
                        .program("pgbench", &["-n", "-c", "2", "-R", "400", "-T", "1", "-f", script]);
                }
            });
            let done = during();
            is_over.store(true, Ordering::Relaxed);
            ensure!(load.join().is_ok(), "the load of the publisher failed");
            done
        })
    }

    /// Waits until the cluster has what the publisher has, no row more and no row less.
    fn wait_until_equal(&self, cluster: &Cluster, tables: &[&str]) -> Result<()> {
        for table in tables {
            let digest = format!("SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM {table} t");
            let published = self.server.query(&digest);
            cluster.wait_for(&format!("{table} to be {published}"), SOON, |cluster| {
                Ok(cluster.sql(&digest)? == published)
            })?;
        }
        Ok(())
    }

    /// Prepares a transaction, and waits until it is prepared on the cluster, too.
    fn prepare(&self, cluster: &Cluster, name: &str) -> Result<()> {
        self.server.query(&format!(
            "BEGIN; INSERT INTO prepared_heard VALUES (-1, '{name}'); PREPARE TRANSACTION '{name}'"
        ));
        cluster.wait_for("it to be prepared", SOON, |cluster| Ok(cluster.sql(PREPARED)? == "1"))?;
        Ok(())
    }

    fn slots(&self) -> String {
        self.server.query("SELECT count(*) FROM pg_replication_slots")
    }
}

/// Waits until every table of every subscription is copied, and those that want it are told of prepared transactions.
fn wait_until_copied(cluster: &Cluster) -> Result<()> {
    cluster.wait_for("the first copies", SOON, are_copied)?;
    Ok(())
}

fn are_copied(cluster: &Cluster) -> Result<bool> {
    let pending = "SELECT (SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r')
                        + (SELECT count(*) FROM pg_subscription WHERE subtwophasestate = 'p')";
    Ok(cluster.sql(pending)? == "0")
}

fn progress(cluster: &Cluster) -> Result<String> {
    cluster.sql("SELECT external_id, remote_lsn FROM pg_replication_origin_status WHERE remote_lsn <> '0/0' ORDER BY 1")
}

fn heard(cluster: &Cluster) -> Result<u64> {
    Ok(cluster
        .sql("SELECT (SELECT count(*) FROM whole_heard) + (SELECT count(*) FROM prepared_heard)")?
        .parse()?)
}

/// The worker that applies what a subscription brings, once there is one.
fn worker(cluster: &Cluster, subscription: &str) -> Result<i32> {
    let pid = format!("SELECT pid FROM pg_stat_subscription WHERE subname = '{subscription}' AND relid IS NULL");
    cluster.wait_for("a worker", SOON, |cluster| Ok(!cluster.sql(&pid)?.is_empty()))?;
    Ok(cluster.sql(&pid)?.parse()?)
}

#[test]
fn every_change_arrives_once_though_the_writer_dies() -> Result<()> {
    let cluster = Cluster::up("subscriptions", &SUBSCRIBER)?;
    let publisher = Publisher::start("publisher", &cluster)?;
    publisher.under_load(|| {
        publisher.copied_while_the_writer_dies(&cluster)?;
        // It stays prepared on both sides, whoever dies, and is so large that it is sent before it is prepared.
        publisher.server.query(
            "BEGIN; INSERT INTO prepared_heard SELECT -n, 'long' FROM generate_series(1, 10000) n;
             PREPARE TRANSACTION 'long'",
        );
        let writer = cluster.writer()?["name"].as_str().context("its name")?.to_owned();
        for order in [
            vec!["kill", "writer"],
            vec!["kill", &writer],
            vec!["failover"],
            vec!["kill", "writer"],
        ] {
            let before = heard(&cluster)?;
            cluster.wait_for("changes of this reign", SOON, |cluster| {
                Ok(before + 100 < heard(cluster)?)
            })?;
            cluster.replace_writer(&order)?;
        }
        Ok(())
    })?;
    publisher.wait_until_equal(&cluster, &TABLES)?;
    ensure!(
        cluster.sql(PREPARED)? == "1",
        "what is prepared on the publisher is not prepared here"
    );
    publisher.server.query("COMMIT PREPARED 'long'");
    publisher.wait_until_equal(&cluster, &TABLES)?;
    ensure!(cluster.sql(PREPARED)? == "0", "committed, and still prepared");
    Ok(())
}

#[test]
fn a_subscription_is_altered_and_dropped_like_any() -> Result<()> {
    let cluster = Cluster::up("altered", &SUBSCRIBER)?;
    let publisher = Publisher::start("altered", &cluster)?;
    cluster.sql(&publisher.subscription("whole", ""))?;
    wait_until_copied(&cluster)?;
    let tables = ["whole", "whole_heard"];
    publisher.server.query("INSERT INTO whole_heard VALUES (1, 'before')");
    publisher.wait_until_equal(&cluster, &tables)?;

    // While it is disabled it knows how far it is, the next writer too.
    cluster.sql("ALTER SUBSCRIPTION whole DISABLE")?;
    cluster.wait_for("no worker", SOON, |cluster| {
        Ok(cluster.sql("SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL")? == "0")
    })?;
    let known = progress(&cluster)?;
    ensure!(
        known.lines().count() == 1,
        "not the progress of one subscription: {known}"
    );
    publisher.server.query(
        "INSERT INTO whole_heard VALUES (2, 'disabled'); CREATE TABLE late (n int);
        INSERT INTO late SELECT generate_series(1, 1000); ALTER PUBLICATION whole ADD TABLE late",
    );
    cluster.kill_writer()?;
    let kept = progress(&cluster)?;
    ensure!(kept == known, "progress was {known}, and is {kept}");
    cluster.sql("CREATE TABLE late (n int)")?;
    cluster.sql("ALTER SUBSCRIPTION whole ENABLE")?;
    cluster.sql("ALTER SUBSCRIPTION whole REFRESH PUBLICATION")?;
    wait_until_copied(&cluster)?;
    publisher.server.query("INSERT INTO late VALUES (1001)");
    publisher.wait_until_equal(&cluster, &["whole", "whole_heard", "late"])?;

    // A transaction that cannot be applied is passed over, and only that.
    cluster.sql("INSERT INTO whole VALUES (-1, 0)")?;
    publisher
        .server
        .query("INSERT INTO whole VALUES (-1, 0); INSERT INTO whole_heard VALUES (3, 'skipped')");
    publisher
        .server
        .query("INSERT INTO whole_heard VALUES (4, 'behind it')");
    let failed = "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats";
    cluster.wait_for("a conflict", SOON, |cluster| Ok(cluster.sql(failed)? == "t"))?;
    let writer = cluster.writer()?["name"].as_str().context("its name")?.to_owned();
    let log = cluster.log(&writer)?;
    let (_, finish) = log
        .rsplit_once("finished at ")
        .context("the log says where the transaction ends")?;
    let finish: String = finish
        .chars()
        .take_while(|next| next.is_ascii_hexdigit() || *next == '/')
        .collect();
    cluster.sql(&format!("ALTER SUBSCRIPTION whole SKIP (lsn = '{finish}')"))?;
    cluster.wait_for("what is behind it", SOON, |cluster| {
        Ok(cluster.sql("SELECT max(n) FROM whole_heard WHERE n < 5 AND said <> 'at first'")? == "4")
    })?;
    ensure!(
        cluster.sql("SELECT count(*) FROM whole_heard WHERE said = 'skipped'")? == "0",
        "the transaction was not passed over"
    );

    worker(&cluster, "whole")?;
    cluster.sql("DROP SUBSCRIPTION whole")?;
    ensure!(publisher.slots() == "0", "a slot of a dropped subscription");
    cluster.kill_writer()?;
    let left = cluster.sql(
        "SELECT (SELECT count(*) FROM pg_subscription), (SELECT count(*) FROM pg_subscription_rel),
                (SELECT count(*) FROM pg_replication_origin), (SELECT count(*) FROM pg_replication_origin_status)",
    )?;
    ensure!(left == "0|0|0|0", "left of a dropped subscription: {left}");
    Ok(())
}

/// A worker ends a prepared transaction on the publisher's word alone. It waits as it does for any commit: told to end, told
/// to cancel, and even though `synchronous_commit` of its subscription was changed in between.
#[test]
fn a_worker_commits_nothing_without_its_quorum() -> Result<()> {
    let cluster = Cluster::up("worker", &SUBSCRIBER)?;
    let publisher = Publisher::start("worker", &cluster)?;
    cluster.sql(&publisher.subscription("whole", ""))?;
    cluster.sql(&publisher.subscription("prepared", "WITH (two_phase = true)"))?;
    wait_until_copied(&cluster)?;
    publisher.prepare(&cluster, "one")?;

    let workers = [worker(&cluster, "whole")?, worker(&cluster, "prepared")?];
    let signal = |signal| {
        let mut processes = workers.iter().filter_map(|pid| Pid::from_raw(*pid));
        processes.try_for_each(|process| kill_process(process, signal))
    };
    signal(Signal::STOP)?;
    cluster.sql("ALTER SUBSCRIPTION whole SET (synchronous_commit = local)")?;
    cluster.sql("ALTER SUBSCRIPTION prepared SET (synchronous_commit = local)")?;
    publisher.server.query("INSERT INTO whole VALUES (-1, 0)");
    publisher.server.query("COMMIT PREPARED 'one'");
    cluster.lose_quorum()?;
    signal(Signal::CONT)?;
    let pids = format!("pid IN ({}, {})", workers[0], workers[1]);
    let waiting = format!("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND {pids}");
    cluster.wait_for("both to wait", SOON, |cluster| Ok(cluster.sql(&waiting)? == "2"))?;
    cluster.sql(&format!(
        "SELECT pg_cancel_backend(pid), pg_terminate_backend(pid) FROM pg_stat_activity WHERE {pids}"
    ))?;
    std::thread::sleep(Duration::from_secs(1));
    ensure!(cluster.sql(&waiting)? == "2", "a worker gave up waiting");
    let visible =
        "SELECT (SELECT count(*) FROM whole WHERE id < 0) + (SELECT count(*) FROM prepared_heard WHERE n < 0)";
    ensure!(
        cluster.sql(visible)? == "0",
        "a commit without quorum is visible to others"
    );
    ensure!(cluster.sql(PREPARED)? == "1", "the transaction is no longer prepared");

    cluster.regain_quorum()?;
    publisher.wait_until_equal(&cluster, &TABLES)?;
    ensure!(cluster.sql(PREPARED)? == "0", "committed, and still prepared");
    cluster.wait_for("both to obey", SOON, |cluster| {
        Ok(cluster.sql(&format!("SELECT count(*) FROM pg_stat_activity WHERE {pids}"))? == "0")
    })?;

    // A worker outlives its postmaster by a moment. It must not use it to tell the publisher what it has.
    publisher.prepare(&cluster, "two")?;
    worker(&cluster, "whole")?;
    cluster.lose_quorum()?;
    let now = || publisher.server.query("SELECT pg_current_wal_lsn()");
    let before_whole = now();
    publisher.server.query("INSERT INTO whole VALUES (-2, 0)");
    let before_prepared = now();
    publisher.server.query("COMMIT PREPARED 'two'");
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE wait_event = 'SyncRep' AND backend_type = 'logical replication worker'";
    cluster.wait_for("both to wait", SOON, |cluster| Ok(cluster.sql(waiting)? == "2"))?;
    cluster.borealis(&["kill", "writer"])?;
    let senders = "SELECT count(*) FROM pg_stat_replication";
    cluster.wait_for("both to be gone", SOON, |_| Ok(publisher.server.query(senders) == "0"))?;
    let confirmed = publisher.server.query(&format!(
        "SELECT count(*) FROM pg_replication_slots
         WHERE confirmed_flush_lsn > CASE slot_name WHEN 'whole' THEN pg_lsn '{before_whole}' ELSE '{before_prepared}' END"
    ));
    ensure!(
        confirmed == "0",
        "a worker confirmed what its postmaster's death left without a quorum"
    );
    cluster.regain_quorum()?;
    publisher.wait_until_equal(&cluster, &TABLES)?;
    Ok(())
}

/// Then the worker begins no transaction, whose end would let go of what it holds for one.
#[test]
fn a_worker_told_to_roll_back_what_is_not_there_can_still_be_stopped() -> Result<()> {
    let cluster = Cluster::up("not-there", &SUBSCRIBER)?;
    let publisher = Publisher::start("not-there", &cluster)?;
    cluster.sql(&publisher.subscription("prepared", "WITH (two_phase = true)"))?;
    wait_until_copied(&cluster)?;
    publisher.prepare(&cluster, "one")?;
    let gid = cluster.sql("SELECT gid FROM pg_prepared_xacts")?;
    cluster.sql(&format!("ROLLBACK PREPARED '{gid}'"))?;
    publisher.server.query("ROLLBACK PREPARED 'one'");
    let end = publisher.server.query("SELECT pg_current_wal_lsn()");
    let heard = format!("SELECT bool_and('{end}' <= confirmed_flush_lsn) FROM pg_replication_slots");
    cluster.wait_for("it to be heard", SOON, |_| Ok(publisher.server.query(&heard) == "t"))?;
    worker(&cluster, "prepared")?;
    cluster.script("SET statement_timeout = '60s'; DROP SUBSCRIPTION prepared;")?;
    ensure!(publisher.slots() == "0", "a slot of a dropped subscription");
    Ok(())
}

//! What a commit says beside its rows: when it was, how far the log it was replayed from had come, and messages.

use anyhow::{Result, ensure};
use system_tests::Cluster;

#[test]
fn origins_and_commit_timestamps_survive_the_writer() -> Result<()> {
    let settings = ["track_commit_timestamp=on", "max_prepared_transactions=5"];
    let cluster = Cluster::up("replayed", &settings)?;
    cluster.script(
        "CREATE TABLE t (id int);
         SELECT pg_replication_origin_create('one'), pg_replication_origin_create('two'),
                pg_replication_origin_create('gone'), pg_replication_origin_create('never');
         SELECT pg_replication_origin_advance('two', '7/70');
         SELECT pg_replication_origin_advance('two', '6/60');
         SELECT pg_replication_origin_advance('gone', '5/50');
         SELECT pg_replication_origin_drop('gone');
         SELECT pg_replication_origin_session_setup('one');
         BEGIN; SELECT pg_replication_origin_xact_setup('0/100', '2001-02-03 04:05:06+00'); INSERT INTO t VALUES (1); COMMIT;
         BEGIN; SELECT pg_replication_origin_xact_setup('0/200', '2002-02-03 04:05:06+00'); INSERT INTO t VALUES (2); ABORT;
         BEGIN; SELECT pg_replication_origin_xact_setup('0/300', '2003-02-03 04:05:06+00');
         INSERT INTO t VALUES (3); SAVEPOINT s; INSERT INTO t VALUES (4); PREPARE TRANSACTION 'p';
         SELECT pg_replication_origin_session_reset();
         SELECT pg_logical_emit_message(true, 'kept', 'a'), pg_logical_emit_message(false, 'kept', repeat('b', 100000));
         BEGIN; SELECT pg_logical_emit_message(true, 'kept', 'c'); ROLLBACK;",
    )?;
    let facts = "SELECT roname, pg_replication_origin_progress(roname, true) FROM pg_replication_origin ORDER BY 1;
         SELECT id, pg_xact_commit_timestamp(xmin) AT TIME ZONE 'UTC', (pg_xact_commit_timestamp_origin(xmin)).roident
           FROM t ORDER BY 1;
         SELECT count(*) FROM pg_replication_origin_status";
    let before = cluster.sql(facts)?;
    ensure!(
        before.contains("one|0/300\n") && before.contains("two|6/60\n") && before.contains("1|2001-02-03 04:05:06|1\n"),
        "{before}"
    );
    for command in [&["kill", "writer"][..], &["failover"]] {
        cluster.replace_writer(command)?;
        let after = cluster.sql(facts)?;
        ensure!(after == before, "after {command:?}:\n{after}\nbefore:\n{before}");
    }
    // A commit right before the end, of a transaction that another writer prepared.
    cluster.script(
        "SELECT pg_replication_origin_session_setup('one');
         BEGIN; SELECT pg_replication_origin_xact_setup('0/400', '2004-02-03 04:05:06+00'); INSERT INTO t VALUES (5); COMMIT;
         SELECT pg_replication_origin_session_reset();
         COMMIT PREPARED 'p';",
    )?;
    let before = cluster.sql(facts)?;
    ensure!(
        before.contains("one|0/400\n") && before.contains("5|2004-02-03 04:05:06|1"),
        "{before}"
    );
    cluster.replace_writer(&["kill", "writer"])?;
    let after = cluster.sql(facts)?;
    ensure!(
        after == before,
        "after a commit and a kill:\n{after}\nbefore:\n{before}"
    );

    // Many more transactions than stand on a page of timestamps, and the last of them.
    cluster.script(
        "CREATE PROCEDURE many() LANGUAGE plpgsql AS $$
         BEGIN FOR i IN 1..2500 LOOP INSERT INTO t VALUES (100 + i); COMMIT; END LOOP; END $$;
         SET synchronous_commit = local; CALL many();",
    )?;
    let before = cluster.sql(facts)?;
    cluster.replace_writer(&["kill", "writer"])?;
    let after = cluster.sql(facts)?;
    ensure!(after == before, "timestamps of many transactions differ");
    ensure!(
        !after.lines().any(|line| line.contains("||")),
        "a row has no commit timestamp"
    );
    Ok(())
}

//! Ordinary SQL right before and after a writer's restart, with buffers so small that pages really leave them.

use anyhow::{Result, ensure};
use system_tests::{Cluster, SOON};

/// Small enough that every table below is read back from storage many times.
const TINY: &[&str] = &[
    "shared_buffers=1MB",
    "borealis.overlay_size=8MB",
    "max_prepared_transactions=10",
    "autovacuum_naptime=1s",
];

const BEFORE: &str = "
CREATE EXTENSION amcheck;
CREATE EXTENSION pg_visibility;
CREATE TABLE rows (id int PRIMARY KEY, word text, n int);
INSERT INTO rows SELECT i, md5(i::text), i % 97 FROM generate_series(1, 60000) i;
CREATE INDEX rows_word ON rows (word);
CREATE TABLE toasted (id int PRIMARY KEY, body text);
ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT i, repeat(md5(i::text), 1000) FROM generate_series(1, 100) i;
CREATE SEQUENCE counter;
SELECT nextval('counter') FROM generate_series(1, 100);
CREATE UNLOGGED TABLE forgotten AS SELECT generate_series(1, 5000) n;
CREATE INDEX ON forgotten (n);
-- Savepoints and their rollbacks.
BEGIN;
INSERT INTO rows VALUES (100001, 'kept', 1);
SAVEPOINT a; INSERT INTO rows VALUES (100002, 'rolled back', 1); ROLLBACK TO a;
SAVEPOINT b; INSERT INTO rows VALUES (100003, 'kept', 1); RELEASE b;
COMMIT;
-- An aborted bulk load, and what it leaves to vacuum.
BEGIN; INSERT INTO rows SELECT i, md5(i::text), 5 FROM generate_series(200001, 260000) i; ROLLBACK;
VACUUM rows;
-- Two-phase.
BEGIN; INSERT INTO rows VALUES (100010, 'prepared and committed', 1); PREPARE TRANSACTION 'first'; COMMIT PREPARED 'first';
BEGIN; INSERT INTO rows VALUES (100011, 'prepared', 1); UPDATE rows SET n = 1000 WHERE id = 7; PREPARE TRANSACTION 'second';
BEGIN; INSERT INTO rows VALUES (100012, 'prepared', 1); PREPARE TRANSACTION 'third';
-- Truncation, rewrites, rebuilt indexes.
CREATE TABLE cut (n int); INSERT INTO cut SELECT generate_series(1, 20000); TRUNCATE cut; INSERT INTO cut VALUES (1), (2);
CREATE TABLE rewritten AS SELECT i AS id, repeat('r', 100) AS pad FROM generate_series(1, 20000) i;
CREATE INDEX rewritten_id ON rewritten (id);
DELETE FROM rewritten WHERE id % 2 = 0;
VACUUM FULL rewritten;
CLUSTER rewritten USING rewritten_id;
REINDEX INDEX CONCURRENTLY rewritten_id;
CREATE INDEX CONCURRENTLY rewritten_pad ON rewritten (pad, id);
-- Databases.
CREATE DATABASE other;
CREATE DATABASE gone; DROP DATABASE gone;
";

/// What must be the same before and after.
const FACTS: &str = "
SELECT count(*), sum(hashtext(word)), sum(n) FROM rows;
SELECT count(*), sum(length(body)), sum(hashtext(body)) FROM toasted;
SELECT count(*) FROM cut;
SELECT count(*), min(id), max(id) FROM rewritten;
SELECT count(*) FROM pg_prepared_xacts;
SELECT datname FROM pg_database ORDER BY 1;
SELECT pg_relation_size('rows') > 3000000, pg_total_relation_size('toasted') > 3000000, pg_relation_size('cut');
SELECT count(*) FROM pg_check_visible('rows'), pg_check_frozen('rows');
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(word) FROM rows WHERE word > '8';
";

fn amcheck(cluster: &Cluster) -> Result<()> {
    cluster.client("pg_amcheck", &["--heapallindexed", "--jobs", "2", "postgres"])?;
    Ok(())
}

fn restart_writer(cluster: &Cluster) -> Result<()> {
    let epoch = cluster.epoch()?;
    cluster.borealis(&["kill", "writer"])?;
    cluster.wait_for("the writer to be back", SOON, |cluster| {
        let status = cluster.status()?;
        let later = status["volume"]["epoch"].as_u64().is_some_and(|now| epoch < now);
        Ok(later && status["instances"][0]["state"] == "available")
    })?;
    Ok(())
}

#[test]
fn what_ordinary_sql_made_is_the_same_after_a_restart() -> Result<()> {
    let cluster = Cluster::up("ordinary", TINY)?;
    cluster.script(BEFORE)?;
    let facts = cluster.script(FACTS)?;
    ensure!(facts.starts_with("60003|"), "{facts}");
    amcheck(&cluster)?;
    let last: u64 = cluster.sql("SELECT nextval('counter')")?.parse()?;

    let sizes = "SELECT pg_database_size('other'), pg_database_size('other') > 6000000,
        pg_tablespace_size('pg_default') BETWEEN 40000000 AND 400000000, pg_tablespace_size('pg_global') > 400000";
    let sizes_before = cluster.sql(sizes)?;
    ensure!(sizes_before.ends_with("|t|t|t"), "{sizes_before}");

    restart_writer(&cluster)?;
    let sizes_after = cluster.sql(sizes)?;
    ensure!(
        sizes_after == sizes_before,
        "nobody is connected to the other database: before {sizes_before}, after {sizes_after}"
    );
    let after = cluster.script(FACTS)?;
    ensure!(after == facts, "before:\n{facts}\nafter:\n{after}");
    amcheck(&cluster)?;
    ensure!(
        cluster.sql("SELECT count(*) FROM forgotten")? == "0",
        "an unlogged table begins anew"
    );
    cluster.sql("INSERT INTO forgotten VALUES (1)")?;
    let next: u64 = cluster.sql("SELECT nextval('counter')")?.parse()?;
    ensure!(
        last < next && next <= last + 33,
        "the sequence went from {last} to {next}"
    );
    ensure!(
        cluster.sql("SELECT n FROM rows WHERE id = 7")? != "1000",
        "a prepared change is visible before its commit"
    );
    cluster.sql("COMMIT PREPARED 'second'")?;
    cluster.sql("ROLLBACK PREPARED 'third'")?;
    let prepared = "SELECT (SELECT n FROM rows WHERE id = 7), count(*) FROM rows WHERE id IN (100010, 100011, 100012)";
    ensure!(cluster.sql(prepared)? == "1000|2", "{}", cluster.sql(prepared)?);

    restart_writer(&cluster)?;
    ensure!(
        cluster.sql(prepared)? == "1000|2",
        "after another restart: {}",
        cluster.sql(prepared)?
    );
    amcheck(&cluster)?;
    Ok(())
}

/// Command ids that redo does not know: a cursor must not see what its own transaction did later, nor an INSERT … SELECT
/// its own rows, even if their pages leave the buffers in between.
#[test]
fn a_transaction_sees_itself_rightly_through_evictions() -> Result<()> {
    let cluster = Cluster::up("command-ids", TINY)?;
    // Autovacuum would lock what is to be evicted.
    cluster.sql(
        "CREATE TABLE t (id int, v int) WITH (autovacuum_enabled = off);
         INSERT INTO t SELECT i, 0 FROM generate_series(1, 30000) i",
    )?;
    let seen = cluster.sql(
        "BEGIN;
         DECLARE c CURSOR FOR SELECT count(*), sum(v) FROM t;
         UPDATE t SET v = v + 1;
         DECLARE d CURSOR FOR SELECT count(*), sum(v) FROM t;
         DELETE FROM t WHERE id % 3 = 0;
         SELECT borealis_evict_all() >= 0;
         FETCH c; FETCH d;
         SELECT count(*), sum(v) FROM t;
         INSERT INTO t SELECT id + 100000, v FROM t;
         SELECT borealis_evict_all() >= 0;
         SELECT count(*) FROM t;
         COMMIT;",
    )?;
    ensure!(seen == "t\n30000|0\n30000|30000\n20000|20000\nt\n40000", "{seen}");
    ensure!(
        cluster.sql("SELECT count(*), sum(v) FROM t")? == "40000|40000",
        "after the commit"
    );
    Ok(())
}

fn size_of_volume(cluster: &Cluster) -> Result<u64> {
    cluster.status_with("the volume's size", |status| status["volume"]["size_bytes"].as_u64())
}

#[test]
fn many_tables_in_one_transaction_and_large_copies() -> Result<()> {
    let cluster = Cluster::up("many", TINY)?;
    let create: String = (0..2000)
        .map(|n| format!("CREATE TABLE t{n} (id int PRIMARY KEY);"))
        .collect();
    let drop: String = (0..2000).map(|n| format!("DROP TABLE t{n};")).collect();
    let before = size_of_volume(&cluster)?;
    let locks = "ALTER SYSTEM SET max_locks_per_transaction = 256";
    cluster.sql(locks)?;
    restart_writer(&cluster)?;
    ensure!(
        cluster.sql("SHOW max_locks_per_transaction")? == "256",
        "what ALTER SYSTEM set is lost"
    );
    cluster.script(&format!(
        "BEGIN;{create}COMMIT;BEGIN;{drop}COMMIT;BEGIN;{create}ROLLBACK;"
    ))?;
    cluster.script(
        "CREATE TABLE big (id int, v int);
         COPY big FROM PROGRAM 'seq 1 500000 | sed s/$/,7/' CSV;
         CREATE INDEX ON big (id);
         VACUUM big;",
    )?;
    ensure!(
        cluster.sql("SELECT count(*), sum(v) FROM big")? == "500000|3500000",
        "rows of the copy"
    );
    restart_writer(&cluster)?;
    ensure!(
        cluster.sql("SELECT count(*), sum(v) FROM big")? == "500000|3500000",
        "after a restart"
    );
    ensure!(
        cluster.sql("SELECT count(*) FROM pg_class WHERE relname ~ '^t[0-9]+$'")? == "0",
        "dropped tables"
    );
    cluster.sql("DROP TABLE big")?;
    cluster.wait_for("the volume to shrink", SOON, |cluster| {
        Ok(size_of_volume(cluster)? < before + (16 << 20))
    })?;
    Ok(())
}

/// What a client learns of an error beside its text: drivers look at the constraint's name, editors at the position.
#[test]
fn errors_of_utility_statements_are_postgresqls_own() -> Result<()> {
    let cluster = Cluster::up("errors", &[])?;
    cluster.sql("CREATE TABLE words (id int CONSTRAINT words_key PRIMARY KEY, n int)")?;
    cluster.sql("INSERT INTO words VALUES (1, 1)")?;
    for (statements, wanted) in [
        (
            "PREPARE again AS INSERT INTO words VALUES (1); EXECUTE again",
            "CONSTRAINT NAME:  words_key",
        ),
        (
            "ALTER TABLE words ADD CONSTRAINT large CHECK (1 < id)",
            "CONSTRAINT NAME:  large",
        ),
        (
            "CREATE TABLE wrong (n int DEFAULT (n))",
            "LINE 1: CREATE TABLE wrong (n int DEFAULT (n))",
        ),
        (
            "COPY words FROM PROGRAM 'printf \"2\\t2\\n3\\tx\\n\"'",
            "CONTEXT:  COPY words, line 2, column n: \"x\"",
        ),
        (
            "DO 'BEGIN PERFORM 1 / (SELECT n - 1 FROM words); END'",
            "PL/pgSQL function inline_code_block line 1 at PERFORM",
        ),
    ] {
        let output = cluster.client_output("psql", &["-X", "-q", "-v", "VERBOSITY=verbose", "-c", statements])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains(wanted), "{statements}: no {wanted:?} in\n{said}");
    }
    Ok(())
}

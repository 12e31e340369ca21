//! Compare mode: PostgreSQL's own files are kept beside the volume, and every page read back must be the same.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::Cluster;

const COMPARED: &[&str] = &[
    "borealis.compare=on",
    "shared_buffers=1MB",
    "borealis.overlay_size=2MB",
    "autovacuum_naptime=1s",
    "max_prepared_transactions=5",
];

const SCHEMA: &str = "
CREATE TABLE rows (id int PRIMARY KEY, word text, n int) WITH (fillfactor = 80);
INSERT INTO rows SELECT i, md5(i::text), i % 97 FROM generate_series(1, 30000) i;
CREATE INDEX rows_word ON rows (word);
CREATE INDEX CONCURRENTLY rows_n ON rows (n, id);
CREATE TABLE toasted (id int PRIMARY KEY, body text);
ALTER TABLE toasted ALTER body SET STORAGE EXTERNAL;
INSERT INTO toasted SELECT i, repeat(md5(i::text), 500) FROM generate_series(1, 200) i;
CREATE SEQUENCE counter;
SELECT count(nextval('counter')) FROM generate_series(1, 100);
CREATE TABLE cut AS SELECT generate_series(1, 20000) AS n;
TRUNCATE cut;
INSERT INTO cut VALUES (1);
CREATE MATERIALIZED VIEW view AS SELECT n, count(*) FROM rows GROUP BY n;
";

const CHANGES: &str = "
UPDATE rows SET n = n + 1 WHERE id % 3 = 0;
DELETE FROM rows WHERE id BETWEEN 5000 AND 9000;
SELECT borealis_evict_all();
BEGIN; SELECT count(*) FROM (SELECT 1 FROM rows WHERE id < 500 FOR UPDATE) locked; SAVEPOINT s;
UPDATE rows SET word = 'undone' WHERE id < 200; ROLLBACK TO s; UPDATE rows SET word = 'done' || id WHERE id < 100; COMMIT;
BEGIN; UPDATE rows SET n = -1 WHERE id = 11; PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p';
VACUUM (INDEX_CLEANUP ON) rows;
INSERT INTO rows SELECT i, md5(i::text), 5 FROM generate_series(5000, 9000) i;
BEGIN; INSERT INTO rows SELECT i, md5(i::text), 5 FROM generate_series(200001, 220000) i; ROLLBACK;
VACUUM FREEZE rows;
SELECT borealis_evict_all();
REINDEX INDEX rows_word;
REINDEX INDEX CONCURRENTLY rows_n;
UPDATE toasted SET body = repeat(md5(body), 400) WHERE id % 2 = 0;
VACUUM FULL toasted;
REFRESH MATERIALIZED VIEW view;
CLUSTER rows USING rows_pkey;
ALTER TABLE rows ADD COLUMN late int DEFAULT 7;
ANALYZE;
CHECKPOINT;
SELECT borealis_evict_all();
";

const SCANS: &str = "
SELECT count(*), sum(hashtext(word)), sum(n), sum(late) FROM rows;
SELECT count(*), sum(hashtext(body)) FROM toasted;
SELECT nextval('counter') > 100;
SET enable_seqscan = off; SET enable_bitmapscan = off;
SELECT count(word) FROM rows WHERE word > '0';
SELECT count(*) FROM rows WHERE n >= -1;
";

/// Fails if PostgreSQL found a page that differs. It panics then, and is up again by itself.
fn no_difference(cluster: &Cluster, after: &str) -> Result<()> {
    let name = cluster.writer()?["name"].as_str().context("name")?.to_owned();
    let log = cluster.log(&name)?;
    let bad: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("PANIC") || line.contains("differs at offset"))
        .collect();
    ensure!(bad.is_empty(), "{after}: {bad:#?}");
    Ok(())
}

#[test]
fn every_page_read_back_is_the_one_that_postgresql_has_in_its_file() -> Result<()> {
    let cluster = Cluster::up("compare", COMPARED)?;
    ensure!(cluster.sql("SHOW borealis.compare")? == "on", "the mode is not on");
    let epoch = cluster.epoch()?;
    for (what, script) in [("schema", SCHEMA), ("changes", CHANGES), ("scans", SCANS)] {
        let done = cluster.script(script);
        no_difference(&cluster, what)?;
        done?;
    }
    let load = (|| {
        cluster.pgbench(&["-i", "-q", "-s", "2"])?;
        cluster.pgbench(&["-n", "-c", "4", "-j", "2", "-t", "1300"])?;
        cluster.script(
            "VACUUM ANALYZE;
             SELECT borealis_evict_all();
             CREATE INDEX ON pgbench_history (aid, mtime);
             CREATE INDEX ON pgbench_accounts (abalance);
             SELECT borealis_evict_all();",
        )?;
        cluster.pgbench(&["-n", "-c", "4", "-j", "2", "-t", "400"])
    })();
    no_difference(&cluster, "pgbench")?;
    load?;
    let balances = "SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history) FROM pgbench_accounts";
    let equal = cluster.sql(balances);
    no_difference(&cluster, "the last scan")?;
    ensure!(equal? == "t", "the bank's balances differ");
    ensure!(cluster.epoch()? == epoch, "the writer started anew in between");
    let counters: Value = serde_json::from_str(&cluster.sql("SELECT borealis_counters()")?)?;
    let count = |name: &str| counters[name].as_u64().with_context(|| format!("{name} in {counters}"));
    let (compared, from_volume) = (count("pages_compared")?, count("pages_read_from_volume")?);
    ensure!(
        10_000 < compared && 5_000 < from_volume,
        "too few pages were compared to show anything: {counters}"
    );
    Ok(())
}

//! The workload that proves redo, on a cluster with tiny caches in compare mode and on stock PostgreSQL: the same answers,
//! the same rows, sound indexes, also right after the writer was killed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use oracle::workload::{Connection, Scenario, scenarios};
use stock_postgresql::{Scratch, Server};
use system_tests::Cluster;

/// What scenarios need, alike on both servers.
const SETTINGS: &[&str] = &[
    "shared_buffers=1MB",
    "autovacuum_naptime=1s",
    "autovacuum_vacuum_threshold=20",
    "autovacuum_freeze_max_age=100000",
    "vacuum_freeze_min_age=10",
    "max_prepared_transactions=10",
    "track_commit_timestamp=on",
    "allow_in_place_tablespaces=on",
];
/// The scenarios that need nothing that a cluster refuses: no other settings, no backup of files, no move of a database.
const SCENARIOS: &[&str] = &["brin", "core", "gin", "gist", "hash", "locks", "spgist"];
/// The scenario of sessions that meet on every table: what is left of them is a matter of chance, and stock is not asked.
const MEETING: &str = "locks";
/// Tables on which sessions of the other scenarios meet: scenario, and how the table's row begins.
const MET: &[(&str, &str)] = &[
    ("brin", "shared|"),
    ("gin", "shared|"),
    ("gist", "shared|"),
    ("hash", "shared|"),
    ("spgist", "points|"),
    ("spgist", "texts|"),
];
/// The writer is killed after this one, too.
const KILL_AFTER: &str = "gist";

/// Every table of a database, with the number of its rows and a digest of them.
const ROWS: &str = "
SELECT format('SELECT %L, count(*), sum(hashtext(t::text)::bigint) FROM %s t', c.oid::regclass, c.oid::regclass)
  FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
 WHERE relkind IN ('r', 'm') AND relpersistence = 'p' AND nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
 ORDER BY c.oid::regclass::text
\\gexec
";

/// Looks into every page of every index, which must be of the kind that its index has.
const PAGES: &str = "
CREATE EXTENSION IF NOT EXISTS pageinspect;
SELECT amname, count(*) FROM pg_class c JOIN pg_am a ON a.oid = relam,
  generate_series(0, pg_relation_size(c.oid) / 8192 - 1) block, get_raw_page(c.oid::regclass::text, block::int) page
 WHERE relkind = 'i' AND relpersistence = 'p' AND relname NOT LIKE 'pg\\_%' AND page <> decode(repeat('00', 8192), 'hex') AND CASE amname
   WHEN 'btree' THEN block = 0 OR (bt_page_stats(c.oid::regclass::text, block)).type IS NOT NULL
   WHEN 'hash' THEN hash_page_type(page) IS NOT NULL
   WHEN 'brin' THEN brin_page_type(page) IS NOT NULL
   WHEN 'gin' THEN (gin_page_opaque_info(page)).flags IS NOT NULL
   WHEN 'gist' THEN (gist_page_opaque_info(page)).flags IS NOT NULL
   ELSE (page_header(page)).special < 8192 END
 GROUP BY amname ORDER BY amname;
";

fn no_difference(cluster: &Cluster) -> Result<()> {
    let name = cluster.writer()?["name"].as_str().context("name")?.to_owned();
    let log = cluster.log(&name)?;
    let bad: Vec<&str> = log.lines().filter(|line| line.contains("differs at offset")).collect();
    ensure!(bad.is_empty(), "{bad:#?}");
    Ok(())
}

#[test]
fn the_oracles_workload_gives_the_same_answers_as_on_stock_postgresql() -> Result<()> {
    let scratch = Scratch::new("workload");
    let lines: String = SETTINGS
        .iter()
        .map(|setting| format!("{}\n", setting.replacen('=', " = ", 1)))
        .collect();
    let stock = Server::initdb(
        scratch.path("data"),
        &[],
        &format!("{lines}fsync = off\nmax_wal_size = 4GB\n"),
    );
    stock.start();
    let own = ["borealis.compare=on", "borealis.overlay_size=1MB"];
    let cluster = Cluster::up("workload", &[SETTINGS, &own].concat())?;
    let here = Connection {
        host: "127.0.0.1".to_owned(),
        port: cluster.port(),
        user: "postgres".to_owned(),
        password: Some(cluster.password().to_owned()),
    };
    let there = Connection::to(&stock);
    let wanted = scenarios()?.into_iter();
    let wanted: Vec<Scenario> = wanted
        .filter(|scenario| SCENARIOS.contains(&scenario.name.as_str()))
        .collect();
    ensure!(
        wanted.len() == SCENARIOS.len(),
        "not all of {SCENARIOS:?} are there: {wanted:#?}"
    );
    let mut rows: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for scenario in &wanted {
        let name = scenario.name.as_str();
        let ran = scenario.run(&here);
        no_difference(&cluster)?;
        let ours = ran.with_context(|| format!("{name} on the cluster"))?;
        let kept = rows.entry(name).or_insert(digests(&here, name)?);
        if name != MEETING {
            let theirs = scenario.run(&there)?;
            ensure!(
                ours == theirs,
                "{name}: the cluster answers {ours:#?}, stock PostgreSQL {theirs:#?}"
            );
            same(name, &alone(name, kept), &alone(name, &digests(&there, name)?))?;
        }
        if name == KILL_AFTER {
            cluster.kill_writer()?;
            same(name, &digests(&here, name)?, kept)?;
        }
    }
    no_difference(&cluster)?;
    cluster.kill_writer()?;
    for (name, rows) in &rows {
        same(name, &digests(&here, name)?, rows)?;
        let pages = file(&here, name, PAGES)?;
        ensure!(!pages.trim().is_empty(), "{name}: no index was looked into");
    }
    here.program(
        "pg_amcheck",
        "postgres",
        &["--all", "--heapallindexed", "--parent-check", "--install-missing"],
    )?;
    stock.stop();
    Ok(())
}

fn file(connection: &Connection, database: &str, statements: &str) -> Result<String> {
    let scratch = Scratch::new("statements");
    let path = scratch.path("statements.sql");
    std::fs::write(&path, statements)?;
    connection.file(database, &path)
}

fn digests(connection: &Connection, database: &str) -> Result<BTreeSet<String>> {
    let said = file(connection, database, ROWS)?;
    Ok(said.lines().map(str::to_owned).collect())
}

/// Without the tables on which sessions meet.
fn alone(scenario: &str, rows: &BTreeSet<String>) -> BTreeSet<String> {
    let is_met = |row: &str| {
        MET.iter()
            .any(|(name, table)| *name == scenario && row.starts_with(table))
    };
    rows.iter().filter(|row| !is_met(row)).cloned().collect()
}

fn same(database: &str, found: &BTreeSet<String>, wanted: &BTreeSet<String>) -> Result<()> {
    let surplus: Vec<&String> = found.difference(wanted).collect();
    let missing: Vec<&String> = wanted.difference(found).collect();
    ensure!(
        surplus.is_empty() && missing.is_empty(),
        "{database}: there are {surplus:#?} instead of {missing:#?}"
    );
    Ok(())
}

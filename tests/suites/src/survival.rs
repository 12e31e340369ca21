//! What the suites leave behind outlives the writer: every database is dumped, the writer killed, every database dumped
//! again. All that was in PostgreSQL's memory is gone then; each page comes from the storage nodes.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use system_tests::Cluster;

/// A sequence may go on up to 32 values further, as after any crash.
const SEQUENCE: &str = "SELECT pg_catalog.setval(";

/// Fails if a database is not the same after the writer's death, or if amcheck finds fault with it.
pub fn check(cluster: &Cluster) -> Result<()> {
    let before = dumps(cluster)?;
    cluster.kill_writer()?;
    let after = dumps(cluster)?;
    for (database, dump) in &before {
        let again = after.get(database).map_or(&[][..], Vec::as_slice);
        let mut lines = dump.iter().zip(again);
        let first = lines.find(|(line, again)| line != again);
        ensure!(
            first.is_none() && dump.len() == again.len(),
            "database {database} has changed by a restart: {} lines of its dump were {}; first {first:?}",
            again.len(),
            dump.len()
        );
    }
    cluster.client(
        "pg_amcheck",
        &["--all", "--install-missing", "--heapallindexed", "--jobs", "2"],
    )?;
    Ok(())
}

/// `pg_dump` of every database, as lines.
fn dumps(cluster: &Cluster) -> Result<BTreeMap<String, Vec<String>>> {
    let databases = cluster.sql("SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate")?;
    let mut dumps = BTreeMap::new();
    for database in databases.lines() {
        // Unlogged tables are empty after a restart.
        let text = cluster.client("pg_dump", &["--no-unlogged-table-data", database])?;
        let kept = text.lines().filter(|line| !is_new_each_time(line)).map(str::to_owned);
        dumps.insert(database.to_owned(), kept.collect());
    }
    Ok(dumps)
}

/// Newer releases of `pg_dump` write a random word around their dumps.
fn is_new_each_time(line: &str) -> bool {
    line.starts_with(SEQUENCE) || line.starts_with("\\restrict ") || line.starts_with("\\unrestrict ")
}

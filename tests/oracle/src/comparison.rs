//! What has no after-image: the state that the log makes beside the one that a clean stop left in files.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use units::{Page, RelationKey, fork};
use wal::resource_manager;

use crate::replay::{Replay, first_masked_difference};
use crate::state::ClusterState;
use crate::workload::Connection;

/// What catalogs say of relations' files; taken while the server runs.
#[derive(Default)]
pub struct Catalog {
    /// The resource manager that writes a relation's pages.
    managers: BTreeMap<RelationKey, u8>,
}

impl Catalog {
    /// Asks every database, template0 as well.
    pub fn read(connection: &Connection) -> Result<Catalog> {
        const DATABASES: &str = "SELECT datname FROM pg_database ORDER BY oid";
        /// A shared relation's database is zero, a mapped relation's file is not in pg_class.
        const RELATIONS: &str = "
            SELECT CASE WHEN reltablespace = 0 THEN dattablespace ELSE reltablespace END,
                CASE WHEN relisshared THEN 0 ELSE pg_database.oid END, pg_relation_filenode(pg_class.oid),
                CASE WHEN relkind = 'S' THEN 'sequence' ELSE coalesce(amname, 'heap') END
            FROM pg_class LEFT JOIN pg_am ON pg_am.oid = relam JOIN pg_database ON datname = current_database()
            WHERE pg_relation_filenode(pg_class.oid) IS NOT NULL";
        connection.query("postgres", "ALTER DATABASE template0 ALLOW_CONNECTIONS true")?;
        let mut catalog = Catalog::default();
        for database in connection.query("postgres", DATABASES)?.lines() {
            for line in connection.query(database, RELATIONS)?.lines() {
                let fields: Vec<&str> = line.split('|').collect();
                let [tablespace, database, relation, method] = fields[..] else {
                    anyhow::bail!("{line}: four fields were asked for");
                };
                let relation = RelationKey {
                    tablespace: tablespace.parse()?,
                    database: database.parse()?,
                    relation: relation.parse()?,
                };
                let manager = manager_of(method).with_context(|| format!("access method {method} is not known"))?;
                catalog.managers.insert(relation, manager);
            }
        }
        Ok(catalog)
    }
}

/// The resource manager behind an access method.
fn manager_of(method: &str) -> Option<u8> {
    Some(match method {
        "heap" => resource_manager::HEAP,
        "btree" => resource_manager::BTREE,
        "hash" => resource_manager::HASH,
        "gin" => resource_manager::GIN,
        "gist" => resource_manager::GIST,
        "spgist" => resource_manager::SPGIST,
        "brin" => resource_manager::BRIN,
        "bloom" => resource_manager::GENERIC,
        "sequence" => resource_manager::SEQUENCE,
        _ => return None,
    })
}

/// What was compared, and what differs.
#[derive(Default)]
pub struct Comparison {
    /// How many pages of each sort were equal.
    pub equal: BTreeMap<&'static str, u64>,
    /// Every difference.
    pub differences: Vec<String>,
}

/// Compares the state that the log makes with the files.
pub fn compare(replay: &Replay, files: &ClusterState, catalog: &Catalog) -> Comparison {
    let ours = &replay.state;
    let mut comparison = Comparison::default();
    for (key, page) in &files.pages {
        let relation = key.fork.relation;
        let is_status = relation.is_status_array();
        let is_unlogged = files.forks.contains_key(&relation.fork(fork::INIT)) && key.fork.fork != fork::INIT;
        // The free space map is logged only where a relation is truncated.
        if is_unlogged || key.fork.fork == fork::FREE_SPACE {
            continue;
        }
        let zeroed = Page::zeroed();
        let made = ours.pages.get(key).unwrap_or(&zeroed);
        let (sort, first) = if is_status {
            ("transaction status", first_difference(made, page, 0))
        } else if replay.hollow_maps.contains(key) {
            ("visibility map, logged without its bits", first_surplus_bit(made, page))
        } else if key.fork.fork == fork::VISIBILITY {
            // A map has no line pointers: all of it counts, but for LSN and checksum.
            ("visibility map", first_difference(made, page, 10))
        } else {
            let Some(manager) = catalog.managers.get(&relation).copied() else {
                comparison
                    .differences
                    .push(format!("{key} is a file's, but no relation's"));
                continue;
            };
            if manager == resource_manager::SEQUENCE {
                // The log runs ahead of a sequence's page by up to 32 values.
                continue;
            }
            if is_empty_unlogged(page) && made.is_zeroed() {
                // Relations are extended ahead of the log.
                continue;
            }
            ("relation", first_masked_difference(made, page, key.block, manager))
        };
        match first {
            None => *comparison.equal.entry(sort).or_default() += 1,
            Some(first) => {
                let what = format!("{key} ({sort}) differs from its file, first at byte {first}");
                comparison.differences.push(what);
            }
        }
    }
    comparison
}

/// A page that was initialised and never logged.
fn is_empty_unlogged(page: &Page) -> bool {
    page.bytes()[..8] == [0; 8]
}

/// The first byte of a map that claims more than the file's: such a claim would hide rows.
fn first_surplus_bit(made: &Page, file: &Page) -> Option<usize> {
    const BITS_AT: usize = 24;
    let mut pairs = made.bytes().iter().zip(file.bytes()).skip(BITS_AT);
    pairs.position(|(made, file)| made & !file != 0).map(|at| at + BITS_AT)
}

fn first_difference(one: &Page, other: &Page, from: usize) -> Option<usize> {
    let mut pairs = one.bytes().iter().zip(other.bytes()).skip(from);
    pairs.position(|(one, other)| one != other).map(|at| at + from)
}

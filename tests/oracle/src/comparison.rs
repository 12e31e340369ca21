//! What has no after-image: the state that the log makes beside the one that a clean stop left in files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use anyhow::{Context, Result};
use units::{ForkKey, Page, PageKey, RelationKey, fork};
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
    let mut comparison = Comparison::default();
    let keys: BTreeSet<&PageKey> = files.pages.keys().chain(replay.state.pages.keys()).collect();
    for key in keys {
        comparison.page(replay, files, catalog, key);
    }
    comparison.sizes(&replay.state, files);
    let (ours, files) = (&replay.state, files);
    comparison.values("relation map", &ours.relation_maps, &files.relation_maps);
    comparison.values("tablespace", &ours.tablespaces, &files.tablespaces);
    comparison.values("prepared transaction", &ours.prepared, &files.prepared);
    comparison.values("replication origin", &ours.origins, &files.origins);
    let databases = |state: &ClusterState| state.databases.iter().map(|database| (*database, ())).collect();
    comparison.values::<_, ()>("database", &databases(ours), &databases(files));
    comparison
}

impl Comparison {
    fn page(&mut self, replay: &Replay, files: &ClusterState, catalog: &Catalog, key: &PageKey) {
        let zeroed = Page::zeroed();
        let relation = key.fork.relation;
        let made = replay.state.pages.get(key).unwrap_or(&zeroed);
        let file = files.pages.get(key);
        if file.is_none() && relation.is_status_array() {
            // What is not needed any more is taken away.
            return;
        }
        let file = file.unwrap_or(&zeroed);
        if is_unlogged(files, key.fork) || (made.is_zeroed() && is_empty_unlogged(file) && !relation.is_status_array())
        {
            return;
        }
        let (sort, first) = if relation.is_status_array() {
            ("transaction status", first_difference(made, file, 0))
        } else if replay.hollow_maps.contains(key) {
            ("visibility map, logged without its bits", first_surplus_bit(made, file))
        } else if key.fork.fork == fork::VISIBILITY {
            // A map has no line pointers: all of it counts, but for LSN and checksum.
            ("visibility map", first_difference(made, file, 10))
        } else {
            let Some(manager) = catalog.managers.get(&relation).copied() else {
                self.differences.push(format!("{key} belongs to no relation"));
                return;
            };
            if manager == resource_manager::SEQUENCE {
                // The log runs ahead of a sequence's page by up to 32 values.
                return;
            }
            ("relation", first_masked_difference(made, file, key.block, manager))
        };
        match first {
            None => *self.equal.entry(sort).or_default() += 1,
            Some(first) => {
                let what = format!("{key} ({sort}) differs from its file, first at byte {first}");
                self.differences.push(what);
            }
        }
    }

    /// Forks exist on both sides; a file may be longer than the log knows by blocks that were never logged.
    fn sizes(&mut self, ours: &ClusterState, files: &ClusterState) {
        let forks: BTreeSet<&ForkKey> = ours.forks.keys().chain(files.forks.keys()).collect();
        for fork in forks.into_iter().filter(|fork| !fork.relation.is_status_array()) {
            let (made, file) = (ours.forks.get(fork), files.forks.get(fork));
            if is_unlogged(files, *fork) {
                continue;
            }
            // Maps come to be, empty, without a record, and an empty one needs no file.
            let blocks = |side: Option<&u32>| side.copied().or((fork.fork != fork::MAIN).then_some(0));
            let mut surplus = files
                .pages
                .range(fork.page(made.copied().unwrap_or(0))..=fork.page(u32::MAX));
            let is_equal = match (blocks(made), blocks(file)) {
                (Some(made), Some(file)) => {
                    made == file || (made < file && surplus.all(|(_, page)| is_empty_unlogged(page)))
                }
                _ => false,
            };
            if is_equal {
                *self.equal.entry("size").or_default() += 1;
            } else {
                let what = format!("{fork} has {made:?} blocks by the log, {file:?} in its files");
                self.differences.push(what);
            }
        }
    }

    fn values<K: Ord + Debug, V: PartialEq + Debug>(
        &mut self,
        sort: &'static str,
        ours: &BTreeMap<K, V>,
        files: &BTreeMap<K, V>,
    ) {
        let keys: BTreeSet<&K> = ours.keys().chain(files.keys()).collect();
        for key in keys {
            if ours.get(key) == files.get(key) {
                *self.equal.entry(sort).or_default() += 1;
            } else {
                let (made, file) = (ours.get(key), files.get(key));
                self.differences
                    .push(format!("{sort} {key:?}: {made:?} by the log, {file:?} in its file"));
            }
        }
    }
}

/// Pages of an unlogged relation are not logged but for its init fork; the free space map only where a relation is
/// truncated.
fn is_unlogged(files: &ClusterState, fork: ForkKey) -> bool {
    let has_init_fork = files.forks.contains_key(&fork.relation.fork(fork::INIT));
    fork.fork == fork::FREE_SPACE || (has_init_fork && fork.fork != fork::INIT)
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

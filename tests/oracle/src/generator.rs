//! Random statements out of a seed: tables with indexes of every access method, and several sessions that do to them
//! whatever makes PostgreSQL write log.
//!
//! A seed gives the same files for ever; how the sessions interleave is the server's business. With one session the
//! answers are the same on every server, too: no statement asks for a clock or for chance. Statements may fail, for
//! instance because another session was faster; that is part of the workload.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use crate::seed::Seeded;
use crate::workload::Scenario;

/// The scenario's name, and its database's.
pub const NAME: &str = "generated";
const TABLES: usize = 5;
/// Indexes that a table may have, each under a name of its own.
const INDEXES_PER_TABLE: usize = 4;
/// Rows that one statement inserts, and each table has at the beginning.
const ROWS_MAX: usize = 400;
const STATEMENTS_PER_TRANSACTION_MAX: usize = 6;

/// Every access method, with operator classes that split, merge and summarise in their own ways.
const INDEXES: &[&str] = &[
    "btree (n)",
    "btree (v) WITH (fillfactor = 30)",
    "btree (id, n) INCLUDE (pad)",
    "btree (n) WHERE n % 3 = 0",
    "btree (lower(v) text_pattern_ops)",
    "btree (n) WITH (deduplicate_items = off)",
    "hash (n)",
    "hash (v) WITH (fillfactor = 20)",
    "gin (a)",
    "gin (a) WITH (fastupdate = off)",
    "gin (j)",
    "gin (j jsonb_path_ops) WITH (gin_pending_list_limit = 64)",
    "gin (v gin_trgm_ops)",
    "gin (n, v)",
    "gist (p)",
    "gist (p) WITH (fillfactor = 20, buffering = on)",
    "gist (r)",
    "gist (v gist_trgm_ops)",
    "gist (n, p)",
    "spgist (p)",
    "spgist (p kd_point_ops)",
    "spgist (v)",
    "spgist (r)",
    "brin (n) WITH (pages_per_range = 2, autosummarize = on)",
    "brin (n int4_bloom_ops) WITH (pages_per_range = 1)",
    "brin (n int4_minmax_multi_ops) WITH (pages_per_range = 4)",
    "brin (r) WITH (pages_per_range = 2)",
    "bloom (n, v)",
];

/// What the statements of a run are made from.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// All chance comes from here.
    pub seed: u64,
    /// How many sessions.
    pub sessions: usize,
    /// How many statements each, or transactions of several.
    pub statements: usize,
}

/// Writes the files of a scenario into a folder.
pub fn write(plan: Plan, folder: &Path) -> Result<Scenario> {
    let mut seeded = Seeded::new(plan.seed);
    let put = |name: String, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    };
    put(format!("{NAME}.sql"), &beginning(&mut seeded))?;
    for session in 1..=plan.sessions {
        let mut statements = Session {
            seeded: Seeded::new(plan.seed ^ (session as u64) << 48),
            session,
        };
        let mut text = "\\set ON_ERROR_STOP off\nSET lock_timeout = '2s'; SET deadlock_timeout = '50ms';\n".to_owned();
        for _ in 0..plan.statements {
            text.push_str(&statements.next());
            text.push('\n');
        }
        put(format!("{NAME}.session-{session}.sql"), &text)?;
    }
    put(format!("{NAME}.end.sql"), &end())?;
    Scenario::in_folder(folder, NAME)
}

fn beginning(seeded: &mut Seeded) -> String {
    let mut text = "\
CREATE EXTENSION btree_gin; CREATE EXTENSION btree_gist; CREATE EXTENSION pg_trgm; CREATE EXTENSION bloom;
SET allow_in_place_tablespaces = on; CREATE TABLESPACE generated LOCATION '';
CREATE SEQUENCE ids START 100000; CREATE SEQUENCE counted;
CREATE TABLE parted (id bigint, p int, v text) PARTITION BY LIST (p);
CREATE TABLE parted_0 PARTITION OF parted FOR VALUES IN (0); CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2) TABLESPACE generated; CREATE INDEX ON parted (id);
CREATE FUNCTION a_row(i bigint, OUT n int, OUT v text, OUT p point, OUT r int4range, OUT a int[], OUT j jsonb)
LANGUAGE sql IMMUTABLE AS $$
  SELECT (hashint8(i) & 1023), md5((i % 500)::text) || repeat(chr(97 + (i % 26)::int), (i % 90)::int),
    point((i * 7919) % 1009, (i * 104729) % 997), int4range((i % 800)::int, (i % 800 + i % 13)::int),
    ARRAY[i % 10, i % 100, hashint8(i) & 255]::int[], jsonb_build_object('k' || i % 20, i % 7, 'tag', md5((i % 60)::text)) $$;
"
    .to_owned();
    for table in 0..TABLES {
        let rows = seeded.between(1, ROWS_MAX);
        text.push_str(&format!(
            "CREATE TABLE t{table} (id bigint PRIMARY KEY, n int, v text, p point, r int4range, a int[], j jsonb, w int, pad text);\n\
             INSERT INTO t{table} SELECT i, (a_row(i)).*, i % 17, repeat('p', i % 40) FROM generate_series(1, {rows}) i;\n"
        ));
        for index in 0..INDEXES_PER_TABLE {
            let method = seeded.choose(INDEXES);
            text.push_str(&format!("CREATE INDEX t{table}_{index} ON t{table} USING {method};\n"));
        }
    }
    text.push_str("CREATE MATERIALIZED VIEW seen AS SELECT n % 50 AS n, count(*) FROM t0 GROUP BY 1; CREATE UNIQUE INDEX ON seen (n);\n");
    text
}

/// What is left, for comparison with another server.
fn end() -> String {
    let mut text = String::new();
    for table in 0..TABLES {
        text.push_str(&format!(
            "SELECT count(*), sum(hashtext(t::text)::bigint) FROM t{table} t;\n"
        ));
    }
    text.push_str("SELECT count(*), sum(hashtext(t::text)::bigint) FROM parted t;\n");
    text
}

struct Session {
    seeded: Seeded,
    session: usize,
}

impl Session {
    /// A statement, or a transaction of several.
    fn next(&mut self) -> String {
        match self.seeded.below(10) {
            0..=3 => self.row_statement(),
            4..=6 => self.transaction(),
            7 => self.maintenance(),
            8 => self.definition(),
            _ => self.cluster(),
        }
    }

    fn table(&mut self) -> String {
        format!("t{}", self.seeded.below(TABLES))
    }

    fn index(&mut self) -> String {
        format!("{}_{}", self.table(), self.seeded.below(INDEXES_PER_TABLE))
    }

    fn transaction(&mut self) -> String {
        let mut text = "BEGIN;".to_owned();
        let mut savepoints = 0;
        for _ in 0..self.seeded.between(1, STATEMENTS_PER_TRANSACTION_MAX) {
            if self.seeded.once_in(3) {
                savepoints += 1;
                text.push_str(&format!(" SAVEPOINT s{savepoints};"));
            }
            let statement = if self.seeded.once_in(8) {
                self.definition()
            } else {
                self.row_statement()
            };
            text.push_str(&format!(" {statement}"));
            if 0 < savepoints && self.seeded.once_in(4) {
                text.push_str(&format!(" ROLLBACK TO s{};", self.seeded.between(1, savepoints)));
            }
        }
        let prepared = format!("{}", self.session);
        text.push_str(&match self.seeded.below(8) {
            0 | 1 => " ROLLBACK;".to_owned(),
            2 => format!(" PREPARE TRANSACTION '{prepared}'; COMMIT PREPARED '{prepared}';"),
            3 => format!(" PREPARE TRANSACTION '{prepared}'; ROLLBACK PREPARED '{prepared}';"),
            _ => " COMMIT;".to_owned(),
        });
        text
    }

    /// Changes rows; may stand in a transaction.
    fn row_statement(&mut self) -> String {
        let table = self.table();
        let rows = self.seeded.between(1, ROWS_MAX);
        let some = self.condition();
        let columns = "id, n, v, p, r, a, j, w, pad";
        match self.seeded.below(20) {
            0..=3 => format!(
                "INSERT INTO {table} ({columns}) SELECT i, (a_row(i)).*, i % 17, 'new' \
                 FROM (SELECT nextval('ids') AS i FROM generate_series(1, {rows})) s;"
            ),
            4 => self.copy(&table),
            5 => format!(
                "INSERT INTO {table} ({columns}) SELECT i, (a_row(i)).*, 0, 'again' FROM generate_series(1, {rows}) i \
                 ON CONFLICT (id) DO UPDATE SET pad = 'conflict';"
            ),
            6 => format!(
                "INSERT INTO {table} ({columns}) SELECT i, (a_row(i)).*, 0, '' FROM generate_series(1, {rows}) i ON CONFLICT DO NOTHING;"
            ),
            7 | 8 => format!("UPDATE {table} SET pad = left(pad || 'hot', 60) WHERE {some};"),
            9 | 10 => format!("UPDATE {table} SET n = n + 1, v = v || 'u', a = a || {rows} WHERE {some};"),
            11 => format!(
                "UPDATE {table} SET p = point(p[1], p[0]), r = int4range({rows}, {rows} + n), j = j || '{{\"u\": {rows}}}' WHERE {some};"
            ),
            12 => format!("DELETE FROM {table} WHERE {some};"),
            13 => format!("DELETE FROM {table} WHERE id > 100000 AND n < {};", 2 * rows),
            14 => {
                let strength = *self.seeded.choose(&["UPDATE", "NO KEY UPDATE", "SHARE", "KEY SHARE"]);
                format!("SELECT count(*) FROM (SELECT id FROM {table} WHERE {some} ORDER BY id FOR {strength}) s;")
            }
            15 => format!(
                "INSERT INTO parted SELECT i, i % 3, repeat('part', i % 20) FROM generate_series({rows}, {rows} + 200) i;"
            ),
            16 => format!(
                "UPDATE parted SET p = (p + 1) % 3 WHERE id % {} = 0;",
                self.seeded.between(2, 40)
            ),
            17 => format!("DELETE FROM parted WHERE id % {} = 0;", self.seeded.between(2, 10)),
            18 => self.large_object(rows),
            _ => (*self.seeded.choose(&[
                "SELECT count(nextval('counted')) FROM generate_series(1, 100);",
                "SELECT setval('counted', 7);",
                "ALTER SEQUENCE counted RESTART WITH 1000;",
                "REFRESH MATERIALIZED VIEW seen;",
                "REFRESH MATERIALIZED VIEW CONCURRENTLY seen;",
                "TRUNCATE parted_1;",
            ]))
            .to_owned(),
        }
    }

    fn condition(&mut self) -> String {
        let at = self.seeded.below(1024);
        match self.seeded.below(4) {
            0 => format!("id % {} = 0", self.seeded.between(2, 40)),
            1 => format!("n BETWEEN {at} AND {}", at + self.seeded.between(1, 200)),
            2 => format!("id IN ({at}, {}, {})", at + 1, at + 7),
            _ => format!("p <@ box '(({at},0),({},{at}))'", at + 100),
        }
    }

    fn copy(&mut self, table: &str) -> String {
        let mut text = format!("COPY {table} (id, n, v, pad) FROM STDIN;\n");
        // Other sessions copy other rows; some are there already.
        let first = 1_000_000 * self.session + 50 * self.seeded.below(400);
        for id in first..first + self.seeded.between(1, 60) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{id}\t{}\tcopied {}\t{}", id % 1024, id % 97, "c".repeat(id % 30));
        }
        text + "\\.\n"
    }

    fn large_object(&mut self, length: usize) -> String {
        let object = 1_000_000 + 10 * self.session + self.seeded.below(10);
        match self.seeded.below(4) {
            0 | 1 => format!("SELECT lo_from_bytea({object}, decode(repeat('0a1b', {length} * 10), 'hex'));"),
            2 => format!("SELECT lo_put({object}, {length}, decode(repeat('ff', {length}), 'hex'));"),
            _ => format!("SELECT lo_unlink({object});"),
        }
    }

    /// Must stand alone.
    fn maintenance(&mut self) -> String {
        let (table, index) = (self.table(), self.index());
        match self.seeded.below(14) {
            0..=3 => format!("VACUUM {table};"),
            4 => format!("VACUUM (FREEZE) {table};"),
            5 => format!("VACUUM (FULL) {table};"),
            6 => format!("VACUUM (INDEX_CLEANUP off, TRUNCATE on) {table};"),
            7 => format!("CLUSTER {table} USING {table}_pkey;"),
            8 => format!("REINDEX INDEX CONCURRENTLY {index};"),
            9 => format!("DROP INDEX CONCURRENTLY IF EXISTS {index};"),
            10 => {
                let method = *self.seeded.choose(INDEXES);
                let table = index.split('_').next().unwrap_or(&table);
                format!("CREATE INDEX CONCURRENTLY IF NOT EXISTS {index} ON {table} USING {method};")
            }
            11 => "VACUUM parted; VACUUM pg_largeobject; ANALYZE;".to_owned(),
            12 => "CHECKPOINT;".to_owned(),
            _ => format!("VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) {table};"),
        }
    }

    /// Changes what tables and indexes are; may stand in a transaction.
    fn definition(&mut self) -> String {
        let (table, index) = (self.table(), self.index());
        let place = *self.seeded.choose(&["generated", "pg_default"]);
        match self.seeded.below(16) {
            0 => format!("TRUNCATE {table};"),
            1 => format!("ALTER TABLE {table} ALTER w TYPE {};", self.seeded.choose(&["bigint", "numeric", "int"])),
            2 => format!("ALTER TABLE {table} ADD COLUMN extra int DEFAULT nextval('counted'); ALTER TABLE {table} DROP COLUMN extra;"),
            3 => format!("ALTER TABLE {table} SET TABLESPACE {place};"),
            4 => format!("ALTER INDEX {index} SET TABLESPACE {place};"),
            5 => format!("ALTER TABLE {table} SET (fillfactor = {});", self.seeded.between(20, 100)),
            6 => format!("ALTER TABLE {table} SET UNLOGGED;"),
            7 | 8 => format!("ALTER TABLE {table} SET LOGGED;"),
            9 => format!("REINDEX INDEX {index};"),
            10 => format!("REINDEX TABLE {table};"),
            11 => format!("DROP INDEX IF EXISTS {index};"),
            12 | 13 => {
                let method = *self.seeded.choose(INDEXES);
                let table = index.split('_').next().unwrap_or(&table);
                format!("CREATE INDEX IF NOT EXISTS {index} ON {table} USING {method};")
            }
            14 => format!(
                "CREATE TABLE brief_{0} AS SELECT * FROM {table}; CREATE INDEX ON brief_{0} (n); DROP TABLE brief_{0};",
                self.session
            ),
            _ => "ALTER TABLE parted DETACH PARTITION parted_1; ALTER TABLE parted ATTACH PARTITION parted_1 FOR VALUES IN (1);".to_owned(),
        }
    }

    /// Databases and tablespaces; must stand alone.
    fn cluster(&mut self) -> String {
        let own = format!("{NAME}_{}", self.session);
        match self.seeded.below(8) {
            0 => format!("CREATE DATABASE {own} TEMPLATE template0 STRATEGY wal_log;"),
            1 => format!("CREATE DATABASE {own} TEMPLATE template0 STRATEGY file_copy;"),
            2 => format!("CREATE DATABASE {own} TEMPLATE template0 STRATEGY file_copy TABLESPACE generated;"),
            3 | 4 => format!("DROP DATABASE IF EXISTS {own};"),
            5 => format!(
                "SET allow_in_place_tablespaces = on; CREATE TABLESPACE {own} LOCATION ''; DROP TABLESPACE {own};"
            ),
            6 => format!(
                "ALTER DATABASE {own} SET TABLESPACE {};",
                self.seeded.choose(&["generated", "pg_default"])
            ),
            _ => "SELECT pg_switch_wal() IS NOT NULL;".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(seed: u64) -> String {
        let mut session = Session {
            seeded: Seeded::new(seed),
            session: 1,
        };
        (0..500).map(|_| session.next()).collect()
    }

    #[test]
    fn a_seed_is_a_workload_and_another_seed_another_one() {
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
    }
}

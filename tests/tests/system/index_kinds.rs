//! Indexes of every kind: built larger than all memory there is for their pages, changed, vacuumed, read back from the
//! volume, and right after the writer was killed. Whatever a query finds by an index, a scan of the table must find, too.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::Cluster;

/// Less memory than any of the indexes needs.
const SMALL: &[&str] = &[
    "shared_buffers=1MB",
    "borealis.overlay_size=1MB",
    "autovacuum=off",
    "max_prepared_transactions=5",
    // Also for sorting, so that nothing is built in memory alone.
    "maintenance_work_mem=1MB",
    "max_parallel_maintenance_workers=0",
];

const ROWS: &str = "
CREATE EXTENSION bloom; CREATE EXTENSION btree_gist; CREATE EXTENSION pg_trgm;
CREATE TABLE rows (id int, n int, name text, words int[], area box, place point, span int4range, moment timestamp);
CREATE FUNCTION more(first int, last int) RETURNS void LANGUAGE sql AS $$
  INSERT INTO rows SELECT i, i % 5003, md5(i::text), ARRAY[i % 1009, i % 10007, 20000 + i % 3],
    box(point(i % 997, i % 1013), point(i % 997 + i % 7, i % 1013 + 1)), point((i * 7919) % 100003, i % 50021),
    int4range(i, i + i % 100), timestamp '2020-01-01' + i * interval '1 minute' FROM generate_series(first, last) i
$$;
SELECT more(1, 30000);
";

/// Name, definition, and a condition that a query answers with it.
const INDEXES: &[(&str, &str, &str)] = &[
    ("by_hash", "USING hash (id)", "id = 21233"),
    ("by_hash_of_text", "USING hash (name)", "name = md5('777')"),
    (
        "by_gin",
        "USING gin (words)",
        "words @> '{77, 9007}' OR words @> '{20001, 77}'",
    ),
    (
        "by_gin_at_once",
        "USING gin (words) WITH (fastupdate = off)",
        "words && '{5, 6}'",
    ),
    (
        "by_gin_of_trigrams",
        "USING gin (name gin_trgm_ops)",
        "name LIKE '%abcde%'",
    ),
    ("by_gist", "USING gist (area)", "area && '((100,100),(140,140))'"),
    (
        "by_gist_buffering",
        "USING gist (span) WITH (buffering = on)",
        "span @> 15000",
    ),
    (
        "by_gist_sorted",
        "USING gist (place)",
        "place <@ box '((1000,1000),(9000,9000))'",
    ),
    ("by_gist_of_numbers", "USING gist (n, id)", "n = 4711"),
    (
        "by_spgist",
        "USING spgist (place)",
        "place <@ box '((1000,1000),(9000,9000))'",
    ),
    (
        "by_spgist_kd",
        "USING spgist (place kd_point_ops)",
        "place <@ box '((10,10),(20000,3000))'",
    ),
    ("by_spgist_of_text", "USING spgist (name)", "name BETWEEN 'aa' AND 'ab'"),
    ("by_spgist_of_ranges", "USING spgist (span)", "span && '[20000,20100)'"),
    (
        "by_brin",
        "USING brin (moment) WITH (pages_per_range = 1)",
        "moment < '2020-01-05'",
    ),
    (
        "by_brin_bloom",
        "USING brin (name text_bloom_ops) WITH (pages_per_range = 1)",
        "name = md5('777')",
    ),
    (
        "by_brin_several",
        "USING brin (id int4_minmax_multi_ops) WITH (pages_per_range = 2, autosummarize = on)",
        "id BETWEEN 300 AND 400",
    ),
    ("by_bloom", "USING bloom (n, id)", "n = 4713 AND id = 4713"),
];

fn counter(cluster: &Cluster, name: &str) -> Result<u64> {
    let counters: Value = serde_json::from_str(&cluster.sql("SELECT borealis_counters()")?)?;
    counters[name].as_u64().with_context(|| format!("{name} in {counters}"))
}

/// Every query answered with its index and without.
fn no_difference(cluster: &Cluster, when: &str) -> Result<()> {
    let mut script = String::from("SET jit = off; SET max_parallel_workers_per_gather = 0;\n");
    for (name, definition, condition) in INDEXES {
        // The planner shall have no other index to choose.
        let query =
            format!("SELECT count(*), coalesce(sum(hashtext(rows::text)::bigint), 0) FROM rows WHERE {condition}");
        script += &format!(
            "BEGIN;
             UPDATE pg_index SET indisvalid = false WHERE indrelid = 'rows'::regclass AND indexrelid <> '{name}'::regclass;
             SET LOCAL enable_seqscan = off;
             EXPLAIN (COSTS off) {query};
             SELECT '{name} ' || definition FROM (SELECT '{definition}' AS definition) d;
             {query};
             SET LOCAL enable_seqscan = on; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexscan = off;
             SET LOCAL enable_indexonlyscan = off;
             {query};
             ROLLBACK;\n"
        );
    }
    let said = cluster.script(&script)?;
    let lines: Vec<&str> = said.lines().collect();
    for (name, ..) in INDEXES {
        let title = format!("{name} USING");
        let at = lines.iter().position(|line| line.starts_with(&title));
        let at = at.with_context(|| format!("{when}: nothing is said of {name}:\n{said}"))?;
        let scan = format!("Scan on {name}");
        let using = format!("using {name} on");
        let plan = &lines[at.saturating_sub(8)..at];
        ensure!(
            plan.iter().any(|line| line.contains(&scan) || line.contains(&using)),
            "{when}: {name} is not used: {plan:#?}"
        );
        let (by_index, by_scan) = (lines[at + 1], lines[at + 2]);
        ensure!(by_index == by_scan, "{when}: {name} finds {by_index}, a scan {by_scan}");
        ensure!(!by_scan.starts_with("0|"), "{when}: no row to find by {name}");
    }
    Ok(())
}

#[test]
fn every_kind_of_index_finds_what_a_scan_of_the_table_finds() -> Result<()> {
    let cluster = Cluster::up("index-kinds", SMALL)?;
    cluster.script(ROWS)?;
    let forever = counter(&cluster, "overlay_pages_kept_forever")?;
    for (name, definition, _) in INDEXES {
        cluster
            .sql(&format!("CREATE INDEX {name} ON rows {definition}"))
            .with_context(|| format!("build {name}"))?;
    }
    no_difference(&cluster, "after the builds")?;
    let built: u64 = cluster
        .sql("SELECT sum(pg_relation_size(indexrelid))::bigint >> 20 FROM pg_index WHERE indrelid = 'rows'::regclass")?
        .parse()?;
    ensure!(10 < built, "{built} MiB of indexes are too few to show anything");
    // What was written before it was logged is logged by now. A checkpoint writes out what the builders left in memory.
    cluster.sql("CHECKPOINT")?;
    let kept = counter(&cluster, "overlay_pages_kept_forever")?;
    ensure!(
        kept <= forever + 8,
        "{kept} pages are still kept as if nobody had logged them, {forever} before"
    );
    cluster.kill_writer()?;
    no_difference(&cluster, "after the builds and a kill")?;

    cluster.script(
        "SELECT more(30001, 35000);
         UPDATE rows SET words = words || id % 13, n = n + 1 WHERE id % 7 = 0;
         DELETE FROM rows WHERE id % 5 = 0 OR id BETWEEN 25000 AND 29000;
         SELECT borealis_evict_all();",
    )?;
    no_difference(&cluster, "after changes")?;
    cluster.script(
        "VACUUM rows;
         SELECT brin_summarize_new_values('by_brin'), gin_clean_pending_list('by_gin');
         SELECT more(25000, 29000);
         BEGIN; SELECT more(80001, 82000); SAVEPOINT s; SELECT more(82001, 83000); ROLLBACK TO s;
         UPDATE rows SET area = box(point(120, 120), place) WHERE id = 80100; COMMIT;
         BEGIN; SELECT more(90001, 91000); ROLLBACK;
         BEGIN; SELECT more(83001, 84000); PREPARE TRANSACTION 'p';
         SELECT borealis_evict_all();",
    )?;
    no_difference(&cluster, "after a vacuum")?;
    cluster.kill_writer()?;
    cluster.sql("COMMIT PREPARED 'p'")?;
    no_difference(&cluster, "after a vacuum and a kill")?;
    cluster.script("DELETE FROM rows WHERE id % 2 = 0; VACUUM rows; SELECT more(90001, 95000); VACUUM FREEZE rows")?;
    no_difference(&cluster, "after more changes")?;

    // Built anew: in a transaction that is given up, in place, and besides readers.
    for (_, definition, _) in INDEXES {
        cluster
            .script(&format!(
                "BEGIN; SAVEPOINT s; CREATE INDEX again ON rows {definition}; ROLLBACK TO s; COMMIT;"
            ))
            .with_context(|| format!("build {definition} in vain"))?;
    }
    cluster.script("REINDEX TABLE rows; REINDEX TABLE CONCURRENTLY rows;")?;
    no_difference(&cluster, "after rebuilds")?;
    cluster.kill_writer()?;
    no_difference(&cluster, "after rebuilds and a kill")?;
    ensure!(
        cluster.sql("SELECT count(*) FROM rows WHERE id > 90000 AND id % 2 = 1")? == "2500",
        "rows"
    );
    Ok(())
}

/// Indexes of unlogged tables are built before anybody can tell what they are, and begin anew with the next writer.
#[test]
fn every_kind_of_index_of_an_unlogged_table_begins_anew() -> Result<()> {
    let cluster = Cluster::up("kinds-unlogged", SMALL)?;
    cluster.script(&ROWS.replace("CREATE TABLE", "CREATE UNLOGGED TABLE"))?;
    for (name, definition, _) in INDEXES {
        cluster
            .sql(&format!("CREATE INDEX {name} ON rows {definition}"))
            .with_context(|| format!("build {name}"))?;
    }
    cluster.script("DELETE FROM rows WHERE id % 5 = 0; SELECT more(30001, 31000); VACUUM rows; CHECKPOINT")?;
    no_difference(&cluster, "unlogged")?;
    cluster.kill_writer()?;
    ensure!(
        cluster.sql("SELECT count(*) FROM rows")? == "0",
        "an unlogged table was kept"
    );
    cluster.script("SELECT more(1, 30000); DELETE FROM rows WHERE id % 4 = 2; VACUUM rows")?;
    no_difference(&cluster, "unlogged, anew")?;
    cluster.script("ALTER TABLE rows SET LOGGED; SELECT more(30001, 31000)")?;
    no_difference(&cluster, "logged by now")?;
    cluster.kill_writer()?;
    no_difference(&cluster, "logged, after a kill")?;
    Ok(())
}

/// PostgreSQL logs the range maps of a database that it copies as empty; what is read back must have them all the same.
#[test]
fn a_copied_database_keeps_its_range_maps() -> Result<()> {
    let cluster = Cluster::up("kinds-copied", SMALL)?;
    let ask = |database: &str, question: &str| {
        let answer = cluster.client("psql", &["-X", "-A", "-t", "-d", database, "-c", question]);
        let answer = answer.with_context(|| format!("{question} in {database}"))?;
        anyhow::Ok(answer.trim().to_owned())
    };
    cluster.sql("CREATE DATABASE source")?;
    // Seven rows a page: more ranges than one page of a map has room for.
    ask(
        "source",
        "CREATE EXTENSION pageinspect;
         CREATE TABLE rows AS SELECT i AS id, repeat('x', 1000) AS wide FROM generate_series(1, 11000) i;
         CREATE INDEX by_brin ON rows USING brin (id) WITH (pages_per_range = 1);
         CREATE UNLOGGED TABLE unlogged AS SELECT * FROM rows;
         CREATE INDEX unlogged_by_brin ON unlogged USING brin (id) WITH (pages_per_range = 1);",
    )?;
    cluster.sql("CREATE DATABASE copy TEMPLATE source")?;
    const MAPS: &str =
        "SELECT count(pages), count(pages) FILTER (WHERE pages <> '(0,0)'), md5(string_agg(pages::text, ' '))
        FROM brin_metapage_info(get_raw_page('by_brin', 0)) meta, generate_series(1, meta.lastrevmappage) map,
        brin_revmap_data(get_raw_page('by_brin', map::int)) pages";
    let expected = ask("source", MAPS)?;
    let places: Vec<u64> = expected.split('|').map_while(|count| count.parse().ok()).collect();
    ensure!(
        places[0] > 2000 && places[1] > 1500,
        "two pages of map are full of places: {expected}"
    );
    ensure!(ask("copy", MAPS)? == expected, "the maps differ right after the copy");
    let rows = ask("copy", "SELECT count(*) FROM unlogged")?;
    ensure!(rows == "11000", "{rows} rows of the unlogged table");
    cluster.kill_writer()?;
    ensure!(ask("source", MAPS)? == expected, "the source's maps differ");
    ensure!(
        ask("copy", MAPS)? == expected,
        "the maps of the copy differ after a kill"
    );
    let found = ask(
        "copy",
        "SET enable_seqscan = off; UPDATE rows SET id = -id WHERE id % 3 = 0; SELECT count(*) FROM rows WHERE id < -9000",
    )?;
    ensure!(found.lines().last() == Some("666"), "the index finds {found}");
    // A copy that fails leaves nothing behind that the next one would take up.
    ensure!(
        ask("postgres", "CREATE DATABASE copy TEMPLATE source").is_err(),
        "it exists"
    );
    ask("postgres", "CREATE DATABASE again TEMPLATE copy")?;
    cluster.kill_writer()?;
    let rows = ask(
        "again",
        "SET enable_seqscan = off; SELECT count(*) FROM rows WHERE id < -9000",
    )?;
    ensure!(
        rows.lines().last() == Some("666"),
        "the index of the second copy finds {rows}"
    );
    Ok(())
}

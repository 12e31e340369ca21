//! Tablespaces: what is in them is in the volume, and survives the writer and its data directory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use system_tests::Cluster;

/// A directory that PostgreSQL's own user may take for a tablespace: it runs as another user than we may be.
fn location(cluster: &Cluster, name: &str) -> Result<PathBuf> {
    let path = cluster.directory().with_file_name(name);
    std::fs::create_dir(&path)?;
    let data = std::fs::metadata(cluster.directory().join("instances"))?;
    let owner = std::os::unix::fs::MetadataExt::uid(&data);
    let group = std::os::unix::fs::MetadataExt::gid(&data);
    std::os::unix::fs::chown(&path, Some(owner), Some(group))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
    Ok(path)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the temporary directory has a plain name")
}

/// Statements that must fail, saying this.
fn refused(cluster: &Cluster, statement: &str, why: &str) -> Result<()> {
    let output = cluster.client_output("psql", &["-X", "-c", statement])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains(why), "{statement}: {said}");
    Ok(())
}

/// What must be the same before and after: rows, where things are, and what PostgreSQL says of it.
fn facts(cluster: &Cluster) -> Result<String> {
    let facts = cluster.sql(
        "SELECT count(*), sum(id) FROM one;
         SELECT count(*) FROM one WHERE id % 7 = 3;
         SELECT spcname, pg_tablespace_location(oid) FROM pg_tablespace WHERE oid >= 16384 ORDER BY 1;
         SELECT spcname, datname FROM pg_tablespace t, pg_tablespace_databases(t.oid) d, pg_database b
          WHERE t.oid >= 16384 AND b.oid = d ORDER BY 1, 2;
         SELECT relname, spcname FROM pg_class c JOIN pg_tablespace t ON t.oid = reltablespace
          WHERE c.oid >= 16384 ORDER BY 1;
         SELECT pg_relation_filepath('one') LIKE 'pg_tblspc/%';",
    )?;
    let in_database = cluster.client(
        "psql",
        &[
            "-X",
            "-A",
            "-t",
            "-d",
            "inside",
            "-c",
            "SELECT count(*), sum(n) FROM two",
        ],
    )?;
    Ok(facts + "\n" + &in_database)
}

#[test]
fn tables_indexes_and_databases_in_tablespaces_survive_the_writer() -> Result<()> {
    let cluster = Cluster::up("tablespaces", &["shared_buffers=1MB", "borealis.overlay_size=1MB"])?;
    let (first, second) = (location(&cluster, "first")?, location(&cluster, "second")?);
    let (first, second) = (text(&first)?, text(&second)?);
    cluster.script(&format!(
        "CREATE TABLESPACE first LOCATION '{first}/';
         CREATE TABLESPACE second LOCATION '{second}';
         SET allow_in_place_tablespaces = on; CREATE TABLESPACE third LOCATION '';
         CREATE TABLE one (id int PRIMARY KEY USING INDEX TABLESPACE second) TABLESPACE first;
         INSERT INTO one SELECT generate_series(1, 40000);
         CREATE INDEX one_seventh ON one ((id % 7)) TABLESPACE third;
         CREATE UNLOGGED TABLE passing (id int PRIMARY KEY USING INDEX TABLESPACE second) TABLESPACE first;
         INSERT INTO passing VALUES (1);
         CREATE DATABASE inside TABLESPACE second STRATEGY wal_log;
         \\connect inside
         CREATE TABLE two AS SELECT generate_series(1, 20000) AS n;
         CREATE TABLE elsewhere TABLESPACE first AS SELECT 1 AS n;"
    ))?;
    refused(
        &cluster,
        &format!("CREATE TABLESPACE again LOCATION '{first}'"),
        "already in use",
    )?;
    refused(&cluster, "DROP TABLESPACE first", "is not empty")?;
    let before = facts(&cluster)?;
    ensure!(
        before.contains("20000|200010000") && before.contains(&format!("first|{first}\n")),
        "{before}"
    );

    for command in [&["kill", "writer"][..], &["failover"]] {
        cluster.replace_writer(command)?;
        let after = facts(&cluster)?;
        ensure!(after == before, "after {command:?}:\n{after}\nbefore:\n{before}");
        ensure!(
            cluster.sql("SELECT count(*) FROM passing")? == "0",
            "an unlogged table has rows"
        );
        cluster.sql("INSERT INTO passing VALUES (1)")?;
        for name in ["first", "second", "third"] {
            refused(&cluster, &format!("DROP TABLESPACE {name}"), "is not empty")?;
        }
        // What the database has in the other tablespace would be in its way.
        refused(
            &cluster,
            "CREATE DATABASE more TEMPLATE inside TABLESPACE first",
            "conflict",
        )?;
    }

    // Everything moves out, some of it as a copy.
    cluster.script(
        "ALTER TABLE one SET TABLESPACE third;
         ALTER INDEX one_pkey SET TABLESPACE pg_default;
         ALTER TABLE passing SET TABLESPACE second;
         REINDEX (TABLESPACE third) TABLE passing;
         CREATE DATABASE copy TEMPLATE inside TABLESPACE third STRATEGY file_copy;
         DROP DATABASE inside;",
    )?;
    // The unlogged table begins anew with each writer.
    let moved =
        "SELECT count(*), sum(id) FROM one; SELECT count(*) FROM one WHERE id % 7 = 3; SELECT count(*) FROM passing";
    ensure!(
        cluster.sql(moved)? == "40000|800020000\n5714\n1",
        "{}",
        cluster.sql(moved)?
    );
    cluster.replace_writer(&["kill", "writer"])?;
    ensure!(
        cluster.sql(moved)? == "40000|800020000\n5714\n0",
        "{}",
        cluster.sql(moved)?
    );
    let copied = ["-X", "-A", "-t", "-d", "copy", "-c", "SELECT count(*), sum(n) FROM two"];
    ensure!(
        cluster.client("psql", &copied)?.trim() == "20000|200010000",
        "the copied database"
    );
    refused(&cluster, "DROP TABLESPACE first", "is not empty")?;
    cluster.script("DROP DATABASE copy; DROP TABLESPACE first; DROP TABLE passing; DROP TABLESPACE second;")?;
    let left = cluster.sql("SELECT string_agg(spcname, ' ') FROM pg_tablespace WHERE oid >= 16384")?;
    ensure!(left == "third", "{left}");
    // The locations are free again.
    cluster.sql(&format!("CREATE TABLESPACE again LOCATION '{first}'"))?;
    cluster.replace_writer(&["kill", "writer"])?;
    let kept = cluster.sql("SELECT pg_tablespace_location(oid), pg_tablespace_size(oid) < 100000 FROM pg_tablespace WHERE spcname = 'again'")?;
    ensure!(kept == format!("{first}|t"), "{kept}");
    ensure!(
        cluster.sql("SELECT count(*), sum(id) FROM one")? == "40000|800020000",
        "rows"
    );
    Ok(())
}

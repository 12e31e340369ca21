//! What the README promises: one command, an ordinary PostgreSQL, down and up again.

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, SOON};

#[test]
fn a_cluster_comes_up_serves_goes_down_and_comes_up_again() -> Result<()> {
    let mut cluster = Cluster::up("first-light", &[])?;
    cluster.pgbench(&["-i", "-q", "-s", "5"])?;
    cluster.pgbench(&["-n", "-c", "4", "-j", "2", "-T", "5"])?;
    let balances = "SELECT sum(abalance) = (SELECT sum(delta) FROM pgbench_history) FROM pgbench_accounts";
    ensure!(cluster.sql(balances)? == "t", "the bank's balances differ");
    status_keeps_its_contract(&cluster)?;

    let again = cluster.borealis_output(&["up", "--port", &(cluster.port() + 1).to_string()])?;
    ensure!(
        again.status.code() == Some(1),
        "a second `up` on a running directory must fail: {again:?}"
    );

    let transactions = cluster.sql("SELECT count(*) FROM pgbench_history")?;
    cluster.borealis(&["down"])?;
    ensure!(
        cluster.processes().is_empty(),
        "`down` left processes: {:?}",
        cluster.processes()
    );
    cluster.start()?;
    ensure!(
        cluster.sql("SELECT count(*) FROM pgbench_history")? == transactions,
        "rows differ after down and up"
    );
    ensure!(
        cluster.sql(balances)? == "t",
        "the bank's balances differ after down and up"
    );
    Ok(())
}

fn status_keeps_its_contract(cluster: &Cluster) -> Result<()> {
    // The slowest two may have some log to catch up with; the writer tells of the volume once it was asked.
    let status = cluster.status_with("all there is to tell", |status| {
        let nodes = status["storage"].as_array()?;
        let all = nodes
            .iter()
            .all(|node| node["state"] == "available" && node["complete_lsn"].is_string());
        (all && status["volume"]["durable_lsn"].is_string()).then(|| status.clone())
    })?;
    let volume = &status["volume"];
    ensure!(volume["id"].is_string() && volume["epoch"].is_u64(), "volume: {volume}");
    let durable = volume["durable_lsn"].as_str().context("durable_lsn is a string")?;
    ensure!(
        durable.split_once('/').is_some(),
        "durable_lsn prints as PostgreSQL prints it: {durable}"
    );
    ensure!(
        volume["size_bytes"].as_u64().is_some_and(|size| 50 << 20 < size),
        "volume: {volume}"
    );
    ensure!(
        volume["quorum"]["write"] == "ok" && volume["quorum"]["read"] == "ok",
        "quorum: {volume}"
    );
    ensure!(
        volume["log_bytes_shipped"].as_u64().is_some_and(|bytes| 0 < bytes),
        "volume: {volume}"
    );
    let storage = status["storage"].as_array().context("storage is a list")?;
    let zones: Vec<&str> = storage.iter().filter_map(|node| node["zone"].as_str()).collect();
    ensure!(
        zones == ["a", "a", "b", "b", "c", "c"],
        "two nodes in each zone: {zones:?}"
    );
    for node in storage {
        ensure!(node["state"] == "available" && node["pid"].is_u64(), "storage: {node}");
        ensure!(
            node["complete_lsn"].is_string() && node["segments"] == 1,
            "storage: {node}"
        );
    }
    let writer = cluster.writer()?;
    ensure!(
        writer["state"] == "available" && writer["pid"].is_u64() && writer["process_pid"].is_u64(),
        "{writer}"
    );
    ensure!(
        status["endpoints"]["instances"].is_object() && status["control"]["pid"].is_u64(),
        "{status}"
    );
    Ok(())
}

#[test]
fn the_data_directory_holds_no_page_of_a_permanent_relation() -> Result<()> {
    let cluster = Cluster::up("no-pages", &["shared_buffers=1MB", "autovacuum=off"])?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;
    cluster.script(
        "CREATE UNLOGGED TABLE unlogged_table AS SELECT generate_series(1, 20000) AS n;
         CHECKPOINT;
         VACUUM;
         CHECKPOINT;",
    )?;
    let unlogged = cluster.sql("SELECT pg_relation_filepath('unlogged_table')")?;
    let writer = cluster.writer()?["name"]
        .as_str()
        .context("the writer has a name")?
        .to_owned();
    let data = cluster.directory().join("instances").join(writer).join("data");
    let mut unexplained = Vec::new();
    for top in ["base", "global"] {
        for (path, bytes) in files(&data.join(top))? {
            let relative = path.strip_prefix(&data)?.to_string_lossy().into_owned();
            if bytes != 0 && reason(&relative, &unlogged).is_none() {
                unexplained.push(format!("{relative} ({bytes} bytes)"));
            }
        }
    }
    ensure!(unexplained.is_empty(), "files that nothing explains: {unexplained:?}");
    Ok(())
}

/// Why a non-empty file may stand in the data directory.
fn reason(relative: &str, unlogged: &str) -> Option<&'static str> {
    let name = relative.rsplit('/').next().unwrap_or(relative);
    match name {
        "PG_VERSION" => Some("which PostgreSQL the database belongs to; read at connection"),
        "pg_filenode.map" => Some("the relation map; the volume has it as a blob"),
        "pg_control" => Some("made by the skeleton at each start"),
        _ if name.starts_with("pg_internal.init") => Some("the relation cache's start file; disposable"),
        _ if name.starts_with('t') => Some("a temporary relation"),
        _ if relative.starts_with(unlogged) => Some("an unlogged relation"),
        _ if name.ends_with("_init") => None,
        _ => None,
    }
}

fn files(folder: &std::path::Path) -> Result<Vec<(std::path::PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            match entry.metadata() {
                Ok(metadata) => found.push((entry.path(), metadata.len())),
                // Files come and go meanwhile.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("look at {}", entry.path().display())),
            }
        }
    }
    Ok(found)
}

#[test]
fn pages_come_from_the_storage_nodes() -> Result<()> {
    let cluster = Cluster::up("from-storage", &["shared_buffers=2MB", "borealis.overlay_size=2MB"])?;
    // 40 MB of rows: twenty times the buffer cache.
    cluster.sql("CREATE TABLE wide AS SELECT n, repeat('x', 900) AS filler FROM generate_series(1, 40000) AS n")?;
    cluster.wait_for("the table to be durable", SOON, |cluster| {
        Ok(cluster.sql("SELECT count(*) FROM wide")? == "40000")
    })?;
    let read = |cluster: &Cluster| {
        cluster.status_with("the pages read", |status| {
            let mut instances = status["instances"].as_array()?.iter();
            instances.find(|one| one["role"] == "writer")?["pages_read"].as_u64()
        })
    };
    let before = read(&cluster)?;
    ensure!(
        cluster.sql("SELECT count(*), sum(length(filler)) FROM wide")? == "40000|36000000",
        "rows differ"
    );
    let pages: u64 = cluster
        .sql("SELECT relpages FROM pg_class WHERE relname = 'wide'")?
        .parse()?;
    let pages = pages.max(40000 / 8);
    let from_storage = read(&cluster)? - before;
    ensure!(
        pages * 9 <= from_storage * 10,
        "only {from_storage} of {pages} pages came from storage nodes"
    );
    Ok(())
}

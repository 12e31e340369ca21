//! PostgreSQL's settings, wherever a person puts them: they work, and they outlive restarts and failovers.

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, SOON};

fn restart(cluster: &mut Cluster) -> Result<()> {
    cluster.borealis(&["down"])?;
    cluster.start()
}

fn set_in_file(cluster: &Cluster, line: &str) -> Result<()> {
    let file = cluster.directory().join("postgresql.conf");
    let mut text = std::fs::read_to_string(&file)?;
    text.push_str(line);
    text.push('\n');
    Ok(std::fs::write(&file, text)?)
}

#[test]
fn libraries_to_preload_are_named_in_the_file_or_with_alter_system() -> Result<()> {
    let mut cluster = Cluster::up("preload", &[])?;
    let loaded = |cluster: &Cluster| cluster.sql("SHOW shared_preload_libraries");
    ensure!(loaded(&cluster)? == "borealis", "ours alone");
    set_in_file(&cluster, "Shared_Preload_Libraries = 'pg_stat_statements' # contrib")?;
    restart(&mut cluster)?;
    ensure!(
        loaded(&cluster)? == "borealis,pg_stat_statements",
        "{}",
        loaded(&cluster)?
    );
    cluster.sql("CREATE EXTENSION pg_stat_statements; SELECT 4711")?;
    let calls = "SELECT calls FROM pg_stat_statements WHERE query = 'SELECT $1'";
    cluster.sql("SELECT 1")?;
    ensure!(!cluster.sql(calls)?.is_empty(), "pg_stat_statements counts nothing");
    // ALTER SYSTEM wins over the file, says nothing of being in vain, and may repeat what SHOW shows.
    let said = cluster.client_output(
        "psql",
        &[
            "-X",
            "-c",
            "ALTER SYSTEM SET shared_preload_libraries = borealis, auto_explain, pg_stat_statements",
        ],
    )?;
    ensure!(said.status.success() && said.stderr.is_empty(), "{said:?}");
    restart(&mut cluster)?;
    ensure!(
        loaded(&cluster)? == "borealis,auto_explain,pg_stat_statements",
        "{}",
        loaded(&cluster)?
    );
    // What stood in the data directory of a writer that was killed is the next one's, too.
    cluster.sql("ALTER SYSTEM SET shared_preload_libraries = auto_explain")?;
    cluster.sql("ALTER SYSTEM SET work_mem = '5MB'")?;
    cluster.borealis(&["failover"])?;
    cluster.wait_for("the next writer", SOON, |cluster| {
        let writer = cluster.writer()?;
        Ok(writer["name"] == "instance-2" && writer["state"] == "available")
    })?;
    ensure!(loaded(&cluster)? == "borealis,auto_explain", "{}", loaded(&cluster)?);
    ensure!(cluster.sql("SHOW work_mem")? == "5MB", "work_mem is lost");
    Ok(())
}

#[test]
fn settings_that_keep_postgresql_from_starting_are_named_and_can_be_taken_back() -> Result<()> {
    let mut cluster = Cluster::up("bad-settings", &["work_mem=6MB"])?;
    ensure!(cluster.sql("SHOW work_mem")? == "6MB", "from the environment");
    cluster.sql("ALTER SYSTEM SET shared_preload_libraries = nowhere")?;
    cluster.borealis(&["down"])?;
    let refused = cluster.borealis_output(&["up"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("nowhere"), "{said}");
    cluster.borealis(&["down"])?;
    // As with any PostgreSQL that does not start, its file is edited.
    let file = cluster.directory().join("postgresql.auto.conf");
    let text = std::fs::read_to_string(&file).context("what ALTER SYSTEM wrote")?;
    ensure!(text.contains("nowhere"), "{text}");
    std::fs::write(&file, "# taken back\nmaintenance_work_mem = '7MB'\n")?;
    cluster.start()?;
    ensure!(
        cluster.sql("SHOW shared_preload_libraries")? == "borealis",
        "it is taken back"
    );
    ensure!(
        cluster.sql("SHOW maintenance_work_mem")? == "7MB",
        "what was edited counts"
    );
    Ok(())
}

#[test]
fn settings_that_postgresql_does_not_understand_cost_no_epoch() -> Result<()> {
    let cluster = Cluster::up("misunderstood", &[])?;
    let epoch = |cluster: &Cluster| Ok::<_, anyhow::Error>(cluster.status()?["volume"]["epoch"].as_u64());
    let before = epoch(&cluster)?;
    set_in_file(&cluster, "max_connections = plenty")?;
    cluster.borealis(&["kill", "writer"])?;
    cluster.wait_for("the reason", SOON, |cluster| {
        let log = cluster.log("instance-1")?;
        Ok(log.matches("invalid value for parameter \"max_connections\"").count() > 5)
    })?;
    ensure!(epoch(&cluster)? == before, "attempts in vain took epochs");
    std::fs::write(cluster.directory().join("postgresql.conf"), "# taken back\n")?;
    cluster.wait_for("the writer", SOON, |cluster| {
        Ok(cluster.writer()?["state"] == "available")
    })?;
    ensure!(epoch(&cluster)? > before);
    Ok(())
}

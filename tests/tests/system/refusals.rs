//! What this version cannot do is refused up front, with a message that says so, and harms nothing.

use anyhow::{Context, Result, ensure};
use owned_settings::OWNED;
use system_tests::Cluster;

/// SQLSTATE `feature_not_supported`.
const FEATURE_NOT_SUPPORTED: &str = "0A000";

/// A statement that must be refused because it does not work yet.
fn not_supported_yet(cluster: &Cluster, statement: &str) -> Result<()> {
    let output = cluster.client_output("psql", &["-X", "-v", "VERBOSITY=verbose", "-c", statement])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{statement}: not refused");
    ensure!(
        said.contains(FEATURE_NOT_SUPPORTED) && said.contains("not supported by this version of Borealis yet"),
        "{statement}: the message does not say why: {said}"
    );
    Ok(())
}

/// The files of PostgreSQL's data directory hold no tables. A copy of them looks like a backup, and is none.
#[test]
fn backups_of_files_are_refused() -> Result<()> {
    let cluster = Cluster::up("backups", &[])?;
    let copy = cluster.directory().with_file_name("copy");
    std::fs::create_dir(&copy)?;
    let copy = copy.to_str().context("the temporary directory has a plain name")?;
    let refused = |program: &str, arguments: &[&str]| -> Result<()> {
        let output = cluster.client_output(program, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{program} {arguments:?}: not refused");
        ensure!(
            said.contains("not supported by this version of Borealis yet"),
            "{program} {arguments:?}: the message does not say why: {said}"
        );
        ensure!(
            said.contains("Use pg_dump"),
            "{program} {arguments:?}: the message does not say what to do: {said}"
        );
        Ok(())
    };
    refused("pg_basebackup", &["-D", copy])?;
    refused("pg_basebackup", &["-D", copy, "-d", "replication=database"])?;
    refused("pg_receivewal", &["-D", copy, "--no-loop"])?;
    refused("psql", &["-X", "-c", "SELECT pg_backup_start('mine')"])?;
    refused("psql", &["-X", "-c", "SELECT * FROM pg_backup_stop()"])?;
    ensure!(
        cluster
            .client("pg_dump", &["--schema-only"])?
            .contains("PostgreSQL database dump"),
        "pg_dump is the way out"
    );
    Ok(())
}

/// Nothing a user sets wins over what Borealis sets, so whoever tries is told, with the reason.
#[test]
fn what_borealis_owns_cannot_be_set() -> Result<()> {
    let cluster = Cluster::up("owned", &[])?;
    for setting in OWNED {
        let name = setting.name;
        for statement in [
            format!("ALTER SYSTEM SET {name} = '1'"),
            format!("SET {name} = '1'"),
            format!("SET LOCAL {} TO '1'", name.to_ascii_uppercase()),
            format!("SELECT set_config('{name}', '1', false)"),
            format!("ALTER ROLE postgres SET {name} = '1'"),
            format!("ALTER DATABASE postgres SET {name} = '1'"),
            format!("CREATE FUNCTION f() RETURNS int LANGUAGE sql SET {name} = '1' AS 'SELECT 1'"),
            format!("ALTER FUNCTION now() SET {name} = '1'"),
        ] {
            let output = cluster.client_output("psql", &["-X", "-c", &statement])?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!output.status.success(), "{statement}: not refused");
            let why = format!("{name} is set by Borealis: {}", setting.reason);
            ensure!(said.contains(&why), "{statement}: the message does not say why: {said}");
        }
    }
    cluster.sql("ALTER SYSTEM SET borealis.readahead_blocks = 16; ")?;
    cluster.sql("ALTER SYSTEM RESET fsync")?;
    Ok(())
}

/// It copies files that are not there.
#[test]
fn moving_a_database_is_refused() -> Result<()> {
    let cluster = Cluster::up("outside", &[])?;
    cluster
        .script("SET allow_in_place_tablespaces = on; CREATE TABLESPACE inside LOCATION ''; CREATE DATABASE stays;")?;
    not_supported_yet(&cluster, "ALTER DATABASE stays SET TABLESPACE inside")?;
    let left = cluster
        .sql("SELECT spcname FROM pg_database d, pg_tablespace t WHERE datname = 'stays' AND t.oid = dattablespace")?;
    ensure!(left == "pg_default", "something refused stands in the catalog: {left}");
    Ok(())
}

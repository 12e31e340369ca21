//! `make extensions`: extensions that users bring, on a cluster: create, load, index, evict, restart, change, check.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use suites::extension::{ALL, Extension};
use suites::trial;
use system_tests::Cluster;

const SETTINGS: &[&str] = &[
    "shared_buffers=1MB",
    "borealis.overlay_size=2MB",
    "shared_preload_libraries=pg_stat_statements,pg_cron",
];
/// A job runs once a minute.
const NEXT_TICK: Duration = Duration::from_secs(150);
const TICKS: &str = "SELECT count(*) FROM ticks";

/// Extensions that users bring, on a cluster.
#[derive(Parser)]
struct Arguments {
    /// The cluster compares every page it reads with what stock PostgreSQL would have in its file, and panics if they differ:
    /// pages of what was made since the writer was started.
    #[arg(long)]
    compare: bool,
    /// Only these extensions.
    extensions: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wanted = &arguments.extensions;
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let extensions: Vec<&Extension> = ALL.iter().filter(|extension| is_wanted(extension.name())).collect();
    let with_cron = is_wanted("pg_cron");
    let mut settings = SETTINGS.to_vec();
    if arguments.compare {
        settings.push("borealis.compare=on");
    }
    let cluster = Cluster::up("extensions", &settings)?;
    if with_cron {
        cron(&cluster)?;
    }
    let tried = trial::run(&cluster, &extensions);
    if with_cron {
        next_tick(&cluster)?;
        println!("pg_cron: runs its job again after restarts");
    }
    tried
}

/// A job that leaves a row a minute. It runs in a background worker: otherwise it would need a password.
fn cron(cluster: &Cluster) -> Result<()> {
    cluster.sql("ALTER SYSTEM SET cron.use_background_workers = on")?;
    trial::restart(cluster)?;
    cluster.sql("CREATE EXTENSION pg_cron; CREATE TABLE ticks (at timestamptz DEFAULT now())")?;
    cluster.sql("SELECT cron.schedule('tick', '* * * * *', 'INSERT INTO ticks DEFAULT VALUES')")?;
    next_tick(cluster)?;
    println!("pg_cron: runs its job");
    Ok(())
}

fn next_tick(cluster: &Cluster) -> Result<()> {
    let before: u64 = cluster.sql(TICKS)?.parse()?;
    cluster.wait_for("pg_cron's next job", NEXT_TICK, |cluster| {
        Ok(before < cluster.sql(TICKS)?.parse()?)
    })?;
    Ok(())
}

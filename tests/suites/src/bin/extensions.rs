//! `make extensions`: extensions that users bring, on a cluster: create, load, index, evict, restart, change, check.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use suites::extension::{ALL, Answers, Extension};
use system_tests::{Cluster, SOON};

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
    let (mut trials, mut failed) = (Vec::new(), Vec::new());
    let mut settings = SETTINGS.to_vec();
    if arguments.compare {
        settings.push("borealis.compare=on");
    }
    let cluster = Cluster::up("extensions", &settings)?;
    if with_cron {
        cron(&cluster)?;
    }
    for extension in extensions {
        trials.push((extension, step(extension, "created", extension.create(&cluster))));
    }
    restart(&cluster)?;
    trials.retain_mut(|(extension, answers)| {
        let Some(before) = answers else {
            failed.push(extension.name());
            return false;
        };
        let same = extension.answers(&cluster).and_then(|after| the_same(before, &after));
        *answers = step(extension, "the same after a restart", same)
            .and_then(|()| step(extension, "changed", extension.change(&cluster)));
        true
    });
    restart(&cluster)?;
    for (extension, before) in &trials {
        let same = before.as_ref().context("its changes failed").and_then(|before| {
            let after = extension.answers(&cluster)?;
            the_same(before, &after)
        });
        if step(extension, "the same after another restart", same).is_none() {
            failed.push(extension.name());
        }
    }
    if with_cron {
        next_tick(&cluster)?;
        println!("pg_cron: runs its job again after restarts");
    }
    cluster.client("pg_amcheck", &["--all", "--heapallindexed", "--jobs", "2"])?;
    println!("pg_amcheck has nothing to say about any database");
    ensure!(failed.is_empty(), "these do not work: {}", failed.join(", "));
    Ok(())
}

fn step<T>(extension: &Extension, what: &str, result: Result<T>) -> Option<T> {
    match result {
        Ok(value) => {
            println!("{}: {what}", extension.name());
            Some(value)
        }
        Err(error) => {
            println!("{}: not {what}: {error:#}", extension.name());
            None
        }
    }
}

fn the_same(before: &Answers, after: &Answers) -> Result<()> {
    if before != after {
        bail!("before {before:#?}\nafter {after:#?}");
    }
    Ok(())
}

fn restart(cluster: &Cluster) -> Result<()> {
    let epoch = cluster.epoch()?;
    cluster.borealis(&["kill", "writer"])?;
    cluster.wait_for("the writer to be back", SOON, |cluster| Ok(epoch < cluster.epoch()?))?;
    println!("the writer was killed");
    Ok(())
}

/// A job that leaves a row a minute. It runs in a background worker: otherwise it would need a password.
fn cron(cluster: &Cluster) -> Result<()> {
    cluster.sql("ALTER SYSTEM SET cron.use_background_workers = on")?;
    restart(cluster)?;
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

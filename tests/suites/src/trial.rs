//! The trial of extensions: created, restarted, changed, restarted again; their queries answer the same all the way.

use anyhow::{Context, Result, bail, ensure};
use system_tests::Cluster;

use crate::extension::{Answers, Extension};

/// Tries extensions side by side on a new cluster. The error names those that do not work; what happened is printed.
pub fn run(cluster: &Cluster, extensions: &[&'static Extension]) -> Result<()> {
    let (mut trials, mut failed) = (Vec::new(), Vec::new());
    for &extension in extensions {
        trials.push((extension, step(extension, "created", extension.create(cluster))));
    }
    restart(cluster)?;
    trials.retain_mut(|(extension, answers)| {
        let Some(before) = answers else {
            failed.push(extension.name());
            return false;
        };
        let same = extension.answers(cluster).and_then(|after| the_same(before, &after));
        *answers = step(extension, "the same after a restart", same)
            .and_then(|()| step(extension, "changed", extension.change(cluster)));
        true
    });
    restart(cluster)?;
    for (extension, before) in &trials {
        let same = before.as_ref().context("its changes failed").and_then(|before| {
            let after = extension.answers(cluster)?;
            the_same(before, &after)
        });
        if step(extension, "the same after another restart", same).is_none() {
            failed.push(extension.name());
        }
    }
    cluster.client(
        "pg_amcheck",
        &["--all", "--install-missing", "--heapallindexed", "--jobs", "2"],
    )?;
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

/// Kills the writer and waits until it is back.
pub fn restart(cluster: &Cluster) -> Result<()> {
    cluster.kill_writer()?;
    println!("the writer was killed");
    Ok(())
}

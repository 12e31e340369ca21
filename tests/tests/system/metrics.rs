//! Every daemon tells its metrics, under the names that docs/metrics.md promises, and they tell what happens.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::exposition::{Exposition, get, scrape};
use system_tests::{Cluster, SOON};

/// The operator's page, which a test of the program holds to the declarations.
const PAGE: &str = include_str!("../../../docs/metrics.md");

/// Kind of each metric in the page's chapter.
fn promised(chapter: &str) -> BTreeMap<String, String> {
    let text = PAGE.split("\n## ").find(|text| text.starts_with(chapter));
    let text = text.unwrap_or_else(|| panic!("the page has no chapter {chapter}"));
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        Some((cells.next()?.trim_matches('`').to_owned(), cells.next()?.to_owned()))
    };
    text.lines().filter_map(row).collect()
}

/// Chapter of the page and address, by the daemon's name.
fn addresses(status: &Value) -> Result<BTreeMap<String, (&'static str, String)>> {
    let mut all = BTreeMap::new();
    let mut add = |name: &Value, chapter, daemon: &Value| {
        let name = name.as_str().context("a name")?;
        let address = daemon["metrics"]
            .as_str()
            .with_context(|| format!("{name}: {daemon}"))?;
        all.insert(name.to_owned(), (chapter, address.to_owned()));
        Ok::<_, anyhow::Error>(())
    };
    for (list, chapter) in [("storage", "Storage nodes"), ("instances", "Instances")] {
        for daemon in status[list].as_array().context("a list")? {
            add(&daemon["name"], chapter, daemon)?;
        }
    }
    for (name, chapter) in [
        ("control", "The control"),
        ("proxy", "The proxy"),
        ("agent", "The agent"),
    ] {
        add(&Value::from(name), chapter, &status[name])?;
    }
    Ok(all)
}

fn scrape_all(cluster: &Cluster) -> Result<BTreeMap<String, Exposition>> {
    let daemons = addresses(&cluster.status()?)?.into_iter();
    daemons
        .map(|(name, (chapter, address))| {
            let told = scrape(&address).with_context(|| format!("{name} at {address}"))?;
            let mut expected = promised(chapter);
            expected.extend(promised("Every daemon"));
            ensure!(
                told.kinds == expected,
                "{name} tells {:?}, the page {expected:?}",
                told.kinds
            );
            Ok((name, told))
        })
        .collect()
}

#[test]
fn every_daemon_tells_what_the_page_promises() -> Result<()> {
    let mut cluster = Cluster::up("metrics", &["shared_buffers=1MB"])?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;
    let before = scrape_all(&cluster)?;
    cluster.pgbench(&["-n", "-c", "4", "-j", "2", "-T", "4"])?;
    let after = scrape_all(&cluster)?;
    what_moved(&before, &after)?;
    what_stands(&after)?;
    only_metrics_are_served(&cluster)?;

    let addresses_before = addresses(&cluster.status()?)?;
    cluster.borealis(&["down"])?;
    cluster.start()?;
    ensure!(addresses(&cluster.status()?)? == addresses_before, "addresses stay");
    a_node_that_is_away_shows(&cluster)
}

fn what_moved(before: &BTreeMap<String, Exposition>, after: &BTreeMap<String, Exposition>) -> Result<()> {
    let of_storage = [
        "storage_log_append_bytes_sum",
        "storage_log_append_bytes_count",
        "storage_journal_sync_seconds_sum",
        "storage_journal_sync_seconds_count",
    ];
    let of_instance = [
        "volume_flush_bytes_sum",
        "volume_commit_seconds_sum",
        "volume_commit_seconds_count",
        "instance_log_received_bytes_total",
        "instance_log_sent_bytes_total",
        "instance_pages_read_total",
        "instance_page_read_seconds_count",
        "instance_questions_total",
    ];
    let nodes: Vec<String> = (1..=6).map(|number| format!("storage-{number}")).collect();
    let nodes = nodes
        .iter()
        .flat_map(|node| of_storage.map(|name| (node.as_str(), name)));
    let instance = of_instance.map(|name| ("instance-1", name));
    let others = [
        ("control", "control_requests_total"),
        ("proxy", "proxy_connections_total"),
        ("proxy", "proxy_connections_handed_over_total"),
        ("proxy", "proxy_connection_hold_seconds_count"),
    ];
    for (daemon, name) in nodes.chain(instance).chain(others) {
        let (then, now) = (before[daemon].total(name), after[daemon].total(name));
        ensure!(
            then < now,
            "{daemon}: {name} was {then} before the load, and is {now} behind it"
        );
    }
    let pages = |all: &BTreeMap<String, Exposition>| -> f64 {
        let nodes = all.values();
        nodes.map(|node| node.total("storage_pages_read_total")).sum()
    };
    ensure!(pages(before) < pages(after), "no storage node says that it gave pages");
    for (daemon, now) in after {
        for (sample, then) in &before[daemon].samples {
            let name = sample.split('{').next().unwrap_or_default();
            let is_counter = now.kinds.get(name).is_some_and(|kind| kind == "counter");
            ensure!(!is_counter || *then <= now.value(sample)?, "{daemon}: {sample} fell");
        }
    }
    Ok(())
}

/// What a cluster that is well tells of itself.
fn what_stands(after: &BTreeMap<String, Exposition>) -> Result<()> {
    let instance = &after["instance-1"];
    for sample in [
        "volume_quorum{kind=\"write\"}",
        "volume_quorum{kind=\"read\"}",
        "instance_available",
    ] {
        ensure!(instance.value(sample)? == 1.0, "{sample}");
    }
    ensure!(instance.total("volume_copy_live") == 6.0, "six copies take log");
    ensure!(
        instance.value("instance_postgresql_starts_total")? == 1.0,
        "PostgreSQL did not start again"
    );
    ensure!(
        instance.value("volume_size_bytes")? > 20e6,
        "two times 15 MB of pgbench"
    );
    let commit_seconds =
        instance.value("volume_commit_seconds_sum")? / instance.value("volume_commit_seconds_count")?;
    ensure!(
        (1e-5..60.0).contains(&commit_seconds),
        "a commit takes {commit_seconds} s"
    );
    for (daemon, told) in after {
        let memory = told.value("process_resident_memory_bytes")?;
        ensure!((1e6..2e9).contains(&memory), "{daemon} has {memory} bytes of memory");
        ensure!(told.value("process_open_fds")? >= 3.0, "{daemon} has files open");
        if daemon.starts_with("storage") {
            ensure!(told.total("storage_segments") >= 1.0, "{daemon} has a segment");
            ensure!(
                told.value("storage_segments{state=\"damaged\"}")? == 0.0,
                "{daemon} is damaged"
            );
            ensure!(told.value("storage_disk_free_bytes")? > 0.0, "{daemon} has a disk");
            ensure!(told.value("storage_disk_used_bytes")? > 1e6, "{daemon} has a journal");
        }
    }
    ensure!(after["agent"].total("agent_daemon_up") == 9.0, "nine daemons live");
    ensure!(
        after["control"].value("control_record_bytes")? > 100.0,
        "there is a record"
    );
    Ok(())
}

fn only_metrics_are_served(cluster: &Cluster) -> Result<()> {
    for (name, (_, address)) in addresses(&cluster.status()?)? {
        let (status, _) = get(&address, "/")?;
        ensure!(status == 404, "{name} answers / with {status}");
    }
    Ok(())
}

fn a_node_that_is_away_shows(cluster: &Cluster) -> Result<()> {
    cluster.borealis(&["stop", "storage-6"])?;
    let instance = &addresses(&cluster.status()?)?["instance-1"].1.clone();
    cluster.wait_for("a copy that takes no log", SOON, |_| {
        Ok(scrape(instance)?.total("volume_copy_live") == 5.0)
    })?;
    cluster.pgbench(&["-n", "-c", "2", "-t", "200"])?;
    let lag = scrape(instance)?.total("volume_copy_lag_bytes");
    ensure!(lag > 10_000.0, "the copy lags by {lag} bytes only");
    cluster.borealis(&["start", "storage-6"])?;
    cluster.wait_for("a copy that has caught up", SOON, |_| {
        let told = scrape(instance)?;
        Ok(told.total("volume_copy_live") == 6.0 && told.total("volume_copy_lag_bytes") == 0.0)
    })?;
    Ok(())
}

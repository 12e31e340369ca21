//! `borealis storage`: the storage nodes, and moving copies between them.
//!
//! What is asked for is kept by the control process and carried out by the instance that holds the epoch, whether this command
//! waits for it or not.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use control_plane::Client;
use control_plane::message::{Fleet, StorageNode, StorageWish};
use serde_json::{Value, json};
use volume::VolumeRecord;

use crate::command::status::instance_status;
use crate::command::{ask_agent, order, scrub};
use crate::layout::{Cluster, Layout};

/// How often it is looked how far something is.
const POLL: Duration = Duration::from_millis(200);
/// How long the writer may say nothing of an order before that is told.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);
/// How long the writer may know of no place for a copy before that is believed: it asks every node how it is once a second.
const SPARE_LIMIT: Duration = Duration::from_secs(5);
const MIB: u64 = 1 << 20;

/// `borealis storage …`
#[derive(Subcommand)]
pub enum StorageCommand {
    /// Show the storage nodes: what they hold, and what is wanted of them.
    #[command(after_help = crate::help::STORAGE_LIST)]
    List {
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Start one more storage node: a spare, until a copy moves to it.
    #[command(after_help = crate::help::STORAGE_ADD)]
    Add {
        /// Its zone; the one with the fewest nodes, if left away.
        #[arg(long, value_parser = ["a", "b", "c"])]
        zone: Option<String>,
    },
    /// Have new copies made in the place of those that NAME has, or has lost.
    #[command(after_help = crate::help::STORAGE_REPLACE)]
    Replace {
        /// Such as storage-3.
        name: String,
        /// Return at once; it goes on by itself.
        #[arg(long)]
        no_wait: bool,
    },
    /// Move every copy away from NAME, and give it no other ones.
    #[command(after_help = crate::help::STORAGE_DRAIN)]
    Drain {
        /// Such as storage-3.
        name: String,
        /// Return at once; it goes on by itself.
        #[arg(long)]
        no_wait: bool,
    },
    /// Call `replace` or `drain` off: NAME keeps what it still has, and may get copies again.
    #[command(after_help = crate::help::STORAGE_KEEP)]
    Keep {
        /// Such as storage-3.
        name: String,
    },
    /// Read everything that NAME, or every node, has at rest again, and mend what is damaged.
    #[command(after_help = crate::help::STORAGE_SCRUB)]
    Scrub {
        /// Such as storage-3.
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        name: Option<String>,
        /// Every storage node.
        #[arg(long)]
        all: bool,
        /// Wait until all is read, and what was found is mended.
        #[arg(long)]
        wait: bool,
    },
    /// Stop a storage node that holds no copies, for good, and delete its folder.
    #[command(after_help = crate::help::STORAGE_REMOVE)]
    Remove {
        /// Such as storage-3.
        name: String,
    },
}

/// Does it.
pub fn run(layout: &Layout, command: StorageCommand) -> Result<ExitCode> {
    let cluster = Cluster::load(layout)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let control = Client::new(&layout.control_socket());
    match command {
        StorageCommand::List { json } => runtime.block_on(list(&cluster, &control, json)),
        StorageCommand::Add { zone } => order(layout, "storage-add", zone.as_deref().unwrap_or_default()),
        StorageCommand::Replace { name, no_wait } => {
            check_name(&cluster, &name)?;
            ask_agent(layout, "list", "")?;
            runtime.block_on(replace(layout, &control, &name, !no_wait))
        }
        StorageCommand::Drain { name, no_wait } => {
            check_name(&cluster, &name)?;
            ask_agent(layout, "list", "")?;
            runtime.block_on(drain(layout, &control, &name, !no_wait))
        }
        StorageCommand::Keep { name } => {
            check_name(&cluster, &name)?;
            runtime.block_on(wish(&control, &name, StorageWish::Keep))?;
            println!("{name} keeps what it has");
            Ok(ExitCode::SUCCESS)
        }
        StorageCommand::Scrub { name, all: _, wait } => {
            name.iter().try_for_each(|name| check_name(&cluster, name))?;
            runtime.block_on(scrub::run(layout, &cluster, name.as_deref(), wait))
        }
        StorageCommand::Remove { name } => {
            check_name(&cluster, &name)?;
            order(layout, "storage-remove", &name)
        }
    }
}

fn check_name(cluster: &Cluster, name: &str) -> Result<()> {
    if cluster.storage.iter().any(|node| node.name == name) {
        return Ok(());
    }
    let known: Vec<&str> = cluster.storage.iter().map(|node| node.name.as_str()).collect();
    bail!("there is no storage node {name}\nhint:  there are {}", known.join(", "))
}

async fn fleet(control: &Client) -> Result<Fleet> {
    let hint = "hint:  `borealis status` shows whether it runs, `borealis logs control` what is wrong";
    control
        .storage()
        .await
        .map_err(|error| anyhow::anyhow!("{error}\n{hint}"))
}

async fn wish(control: &Client, name: &str, wish: StorageWish) -> Result<()> {
    let told = control.wish(name.to_owned(), wish).await;
    told.map_err(|error| {
        anyhow::anyhow!("{error}\nhint:  a storage node is known once it was started: `borealis start {name}`")
    })
}

/// The volume's record; `None` before there is a volume.
pub async fn record(control: &Client) -> Result<Option<VolumeRecord>> {
    let stored = control.read().await.context("read the volume's record")?;
    let text = stored.record.as_deref();
    let record = text.map(VolumeRecord::parse).transpose();
    record.context("the volume's record")
}

/// The copies on a node, of every list, by their identities.
pub fn copies_on(record: &VolumeRecord, name: &str) -> BTreeSet<String> {
    let members = record.groups.iter().flat_map(|group| group.all_members());
    let on_node = members.filter(|member| member.node == name);
    on_node.map(|member| member.segment.to_string()).collect()
}

/// What is wanted of a node, in one word.
fn wish_word(wish: &StorageWish) -> &'static str {
    match wish {
        StorageWish::Keep => "keep",
        StorageWish::Replace(_) => "replace",
        StorageWish::Drain => "drain",
    }
}

async fn list(cluster: &Cluster, control: &Client, as_json: bool) -> Result<ExitCode> {
    let fleet = fleet(control).await?;
    let record = record(control).await?;
    let mut nodes = Vec::new();
    for entry in &cluster.storage {
        let known = fleet.nodes.iter().find(|node| node.name == entry.name);
        let copies = record.as_ref().map_or(0, |record| copies_on(record, &entry.name).len());
        let of = |value: &dyn Fn(&StorageNode) -> Value| known.map_or(Value::Null, value);
        nodes.push(json!({
            "name": entry.name,
            "zone": entry.zone,
            "address": format!("127.0.0.1:{}", entry.port),
            "alive": known.is_some_and(|node| node.is_alive),
            "silent_ms": of(&|node| json!(node.silent_ms)),
            "copies": copies,
            "wish": of(&|node| json!(wish_word(&node.wish))),
            "disk_used_bytes": of(&|node| json!(node.disk_used_bytes)),
            "disk_total_bytes": of(&|node| json!(node.disk_total_bytes)),
            "held_bytes": of(&|node| json!(node.held_bytes)),
            "sync_us": of(&|node| json!(node.sync_us)),
        }));
    }
    let all = json!({
        "storage": nodes,
        "replace_after_ms": fleet.replace_after_ms,
        "heat": fleet.heat,
    });
    if as_json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    } else {
        print!("{}", table(&all));
    }
    Ok(ExitCode::SUCCESS)
}

fn table(all: &Value) -> String {
    let mut out = format!(
        "{:<12} {:<5} {:<16} {:>7}  {:<8} {:>10} {:>9}  {}\n",
        "storage", "zone", "state", "copies", "wish", "holds MiB", "sync ms", "disk"
    );
    for node in all["storage"].as_array().into_iter().flatten() {
        let number = |name: &str| node[name].as_u64().unwrap_or(0);
        let state = match (node["alive"].as_bool(), node["silent_ms"].as_u64()) {
            (Some(true), _) => "alive".to_owned(),
            (_, Some(silent_ms)) => format!("silent for {} s", silent_ms / 1000),
            _ => "never heard of".to_owned(),
        };
        let disk = match number("disk_total_bytes") {
            0 => "-".to_owned(),
            total => format!(
                "{} % of {} GiB",
                100 * (number("disk_used_bytes") >> 20) / (total >> 20).max(1),
                total >> 30
            ),
        };
        let sync = match node["sync_us"].as_u64() {
            Some(micros) => format!("{:.1}", micros as f64 / 1000.0),
            None => "-".to_owned(),
        };
        let copies = match number("copies") {
            0 => "spare".to_owned(),
            copies => copies.to_string(),
        };
        out += &format!(
            "{:<12} {:<5} {:<16} {:>7}  {:<8} {:>10} {sync:>9}  {disk}\n",
            node["name"].as_str().unwrap_or("-"),
            node["zone"].as_str().unwrap_or("-"),
            state,
            copies,
            node["wish"].as_str().unwrap_or("-"),
            number("held_bytes") >> 20,
        );
    }
    out += match all["heat"].is_null() {
        true => "\ncopies stay on full and slow disks until somebody asks",
        false => {
            "\ncopies leave full and slow disks by themselves, one after the other, for those that are clearly better"
        }
    };
    out + &match all["replace_after_ms"].as_u64() {
        Some(millis) => format!(
            "\ncopies of a node that is silent for {} s are replaced by themselves\n",
            millis / 1000
        ),
        None => "\ncopies are replaced only when somebody asks\n".to_owned(),
    }
}

async fn replace(layout: &Layout, control: &Client, name: &str, waits: bool) -> Result<ExitCode> {
    let record = record(control).await?.context("there is no volume yet")?;
    let copies = copies_on(&record, name);
    if copies.is_empty() {
        println!("{name} holds no copies: there is nothing to replace");
        return Ok(ExitCode::SUCCESS);
    }
    wish(control, name, StorageWish::Replace(copies.iter().cloned().collect())).await?;
    if !waits {
        println!("the copies of {name} are being replaced; `borealis status` shows how far it is");
        return Ok(ExitCode::SUCCESS);
    }
    watch(layout, control, name, async || {
        let record = self::record(control).await?.context("there is no volume any more")?;
        if copies_on(&record, name).is_disjoint(&copies) {
            return Ok(Some(format!("the copies of {name} are replaced")));
        }
        let fleet = fleet(control).await?;
        let is_over = fleet
            .nodes
            .iter()
            .any(|node| node.name == name && node.wish == StorageWish::Keep);
        Ok(is_over.then(|| format!("{name} came back, and keeps its copies")))
    })
    .await
}

async fn drain(layout: &Layout, control: &Client, name: &str, waits: bool) -> Result<ExitCode> {
    wish(control, name, StorageWish::Drain).await?;
    if !waits {
        println!("{name} is being drained; `borealis status` shows how far it is");
        return Ok(ExitCode::SUCCESS);
    }
    watch(layout, control, name, async || {
        let record = self::record(control).await?;
        let is_empty = record.is_none_or(|record| copies_on(&record, name).is_empty());
        Ok(is_empty.then(|| format!("{name} holds no copies any more; `borealis storage remove {name}` ends it")))
    })
    .await
}

/// Tells what the writer does for `name` until `done` says what came of it.
async fn watch(
    layout: &Layout,
    control: &Client,
    name: &str,
    mut done: impl AsyncFnMut() -> Result<Option<String>>,
) -> Result<ExitCode> {
    let mut told = BTreeSet::new();
    let mut heard_at = Instant::now();
    let mut waits_since = None;
    loop {
        if let Some(outcome) = done().await? {
            println!("{outcome}");
            return Ok(ExitCode::SUCCESS);
        }
        let cluster = Cluster::load(layout)?;
        let status = match cluster.writer() {
            Some(writer) => instance_status(layout, &writer.name).await.unwrap_or(Value::Null),
            None => Value::Null,
        };
        let lines = progress(&status, name);
        if !lines.is_empty() {
            heard_at = Instant::now();
        }
        for line in lines {
            if told.insert(line.clone()) {
                println!("  {line}");
            }
        }
        let mut waiting = status["without_spare"].as_array().into_iter().flatten();
        let waits = waiting.any(|node| node.as_str() == Some(name));
        waits_since = waits.then(|| waits_since.unwrap_or_else(Instant::now));
        if waits_since.is_some_and(|since| SPARE_LIMIT < since.elapsed()) {
            let fleet = fleet(control).await?;
            let zone = fleet
                .nodes
                .iter()
                .find(|node| node.name == name)
                .map_or("", |node| &node.zone);
            bail!(
                "no other storage node of zone {zone} can take the copies of {name}\nhint:  `borealis storage add --zone {zone}` \
                 adds one, and it goes on by itself; `borealis storage list` shows why others cannot: silent, drained, full; `borealis \
                 storage keep {name}` calls it off"
            );
        }
        if SILENCE_LIMIT < heard_at.elapsed() && told.insert("silence".to_owned()) {
            println!("  waiting for the writer, which alone moves copies; `borealis status` shows how it is");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What the writer does for a node's copies, a line each. Tenths, so that long copies tell something now and then.
fn progress(status: &Value, name: &str) -> Vec<String> {
    let changes = status["changes"].as_array().into_iter().flatten();
    let of_node = changes.filter(|change| change["leaving"].as_str() == Some(name));
    let line = |change: &Value| {
        let number = |name: &str| change[name].as_u64().unwrap_or(0);
        let (copied, expected) = (number("copied_bytes"), number("copied_bytes_expected"));
        let share = match (10 * copied).checked_div(expected) {
            Some(tenths) => format!(", {} % of {} MiB", 10 * tenths.min(10), expected.div_ceil(MIB)),
            None => String::new(),
        };
        let text = |name: &str| change[name].as_str().unwrap_or_default().to_owned();
        let why = change["why"].as_str().map_or(String::new(), |why| format!(" ({why})"));
        format!(
            "group {}, from {name} to {}: {}{share}{why}",
            number("group"),
            text("joining"),
            text("activity")
        )
    };
    of_node.map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_of_the_asked_node_in_tenths() {
        let change = |leaving: &str, copied: u64, expected: u64| {
            json!({ "group": 3, "leaving": leaving, "joining": "storage-7", "activity": "copying",
                    "copied_bytes": copied, "copied_bytes_expected": expected })
        };
        let status = json!({ "changes": [change("storage-3", 29 * MIB, 100 * MIB), change("storage-4", 0, 0)] });
        assert_eq!(
            progress(&status, "storage-3"),
            ["group 3, from storage-3 to storage-7: copying, 20 % of 100 MiB"]
        );
        assert_eq!(
            progress(&status, "storage-4"),
            ["group 3, from storage-4 to storage-7: copying"]
        );
        assert!(progress(&status, "storage-5").is_empty() && progress(&Value::Null, "storage-3").is_empty());
    }

    #[test]
    fn the_table_tells_spares_and_silent_nodes() {
        let all = json!({
            "storage": [
                { "name": "storage-3", "zone": "b", "alive": false, "silent_ms": 61_000, "copies": 2, "wish": "keep",
                  "disk_used_bytes": 50u64 << 30, "disk_total_bytes": 100u64 << 30, "held_bytes": 7u64 << 20,
                  "sync_us": 12_340 },
                { "name": "storage-7", "zone": "b", "alive": true, "silent_ms": 100, "copies": 0, "wish": "keep",
                  "disk_used_bytes": 0, "disk_total_bytes": 0 },
            ],
            "replace_after_ms": 600_000,
        });
        let table = table(&all);
        assert!(
            table.contains("silent for 61 s") && table.contains("50 % of 100 GiB"),
            "{table}"
        );
        assert!(
            table.contains(" 7      12.3  50 %") && table.contains("until somebody asks"),
            "{table}"
        );
        assert!(
            table.contains("spare") && table.contains("silent for 600 s are replaced"),
            "{table}"
        );
    }
}

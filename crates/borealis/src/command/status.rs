//! `borealis status`: the contract for scripts is the JSON form; fields are added, never renamed.

mod table;

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::BytesMut;
use node_link::{handshake, read_secret};
use quorum::Membership;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use units::{Lsn, SegmentId, SegmentKind};
use volume::VolumeRecord;
use volume::record::GroupRecord;
use wire_format::frame::PROTOCOL_VERSION;
use wire_format::message::{Hello, NodeStatus, ScrubStatus};
use wire_format::{Request, Response};

use crate::agent::{Answer, Listed};
use crate::command::ask_agent;
use crate::layout::{Cluster, Layout};

/// How long one daemon may take for its answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What an instance tells about itself; `None`: it does not.
pub fn instance_status_blocking(layout: &Layout, name: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(layout.status_socket(name)).ok()?;
    stream.set_read_timeout(Some(ANSWER_LIMIT)).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The same, without blocking.
pub async fn instance_status(layout: &Layout, name: &str) -> Option<Value> {
    let layout = layout.clone();
    let name = name.to_owned();
    let asked = tokio::task::spawn_blocking(move || instance_status_blocking(&layout, &name));
    asked.await.ok().flatten()
}

/// Who this command is to storage nodes.
pub fn node_hello(layout: &Layout, cluster: &Cluster) -> Result<Hello> {
    Ok(Hello {
        version: PROTOCOL_VERSION,
        cluster: cluster.cluster.parse().map_err(|error| anyhow::anyhow!("{error}"))?,
        secret: read_secret(&layout.secret_file("cluster")).map_err(anyhow::Error::msg)?,
        name: "status".to_owned(),
    })
}

/// Asks a storage node something that it answers with its status; `None`: it does not.
pub async fn ask_node(hello: &Hello, port: u16, request: &Request) -> Option<NodeStatus> {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        handshake::greet(&mut stream, hello).await?;
        for part in handshake::request_frame(1, request) {
            stream.write_all(&part).await?;
        }
        let mut buffer = BytesMut::new();
        loop {
            if let Some((_, response)) = handshake::take_response(&mut buffer)? {
                return Ok::<_, std::io::Error>(response);
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    match tokio::time::timeout(ANSWER_LIMIT, ask).await {
        Ok(Ok(Response::Status(status))) => Some(status),
        _ => None,
    }
}

fn state_of(listed: Option<&Listed>, answers: bool, otherwise: &str) -> &'static str {
    match listed {
        None => "stopped",
        Some(listed) if listed.paused => "paused",
        Some(listed) if listed.stopped => "stopped",
        Some(listed) if listed.pid.is_some() && answers => match otherwise {
            "catching-up" => "catching-up",
            "starting" => "starting",
            _ => "available",
        },
        Some(listed) if listed.failing => "failed",
        Some(_) => "starting",
    }
}

/// The copies that the record names on a node, of every list.
fn members_on(record: &VolumeRecord, node: &str) -> Vec<SegmentId> {
    let members = record.groups.iter().flat_map(GroupRecord::all_members);
    let on_node = members.filter(|member| member.node == node);
    on_node.map(|member| member.segment).collect()
}

async fn collect(layout: &Layout, cluster: &Cluster, listed: &[Listed]) -> Result<Value> {
    let hello = node_hello(layout, cluster)?;
    let find = |name: &str| listed.iter().find(|one| one.name == name);
    let metrics = |name: &str| cluster.metrics.get(name);
    let pid = |name: &str| find(name).and_then(|one| one.pid);
    let writer = cluster.writer().map(|writer| writer.name.clone()).unwrap_or_default();
    let mut instances = Vec::new();
    let mut of_writer = Value::Null;
    for entry in &cluster.instances {
        let one = find(&entry.name);
        if entry.retired && one.is_none() {
            continue;
        }
        let paused = one.is_some_and(|one| one.paused);
        let status = if paused {
            None
        } else {
            instance_status(layout, &entry.name).await
        };
        let status = status.unwrap_or(Value::Null);
        let is_writer = entry.name == writer;
        let otherwise = status["state"].as_str().unwrap_or("starting");
        instances.push(json!({
            "name": entry.name,
            "role": if is_writer { json!("writer") } else { Value::Null },
            "pid": status["postmaster_pid"],
            "process_pid": one.and_then(|one| one.pid),
            "state": state_of(one, !status.is_null(), otherwise),
            "address": format!("127.0.0.1:{}", entry.port),
            "lag_ms": Value::Null,
            "promotion_tier": Value::Null,
            "pages_read": status["pages_read"],
            "activity": status["activity"],
            "metrics": metrics(&entry.name),
        }));
        if is_writer {
            of_writer = status;
        }
    }
    let durable: Option<Lsn> = of_writer["durable_lsn"].as_str().and_then(|text| text.parse().ok());
    let control = control_plane::Client::new(&layout.control_socket());
    // Without it, what the nodes say of themselves has to do.
    let record = super::storage::record(&control).await.ok().flatten();
    let mut storage = Vec::new();
    let mut missing = Vec::new();
    let mut counting = BTreeSet::new();
    // All at once: one that hangs does not add its patience to that of the others.
    let asked: Vec<_> = cluster
        .storage
        .iter()
        .map(|node| {
            let lives = find(&node.name).is_some_and(|one| one.pid.is_some() && !one.paused);
            let (hello, port) = (hello.clone(), node.port);
            tokio::spawn(async move {
                if lives {
                    ask_node(&hello, port, &Request::Status).await
                } else {
                    None
                }
            })
        })
        .collect();
    for (node, asked) in cluster.storage.iter().zip(asked) {
        let one = find(&node.name);
        let status = asked.await?;
        // One that stopped acknowledging, or does not vouch for what it acknowledged, counts for no quorum.
        let takes_log = status.as_ref().filter(|status| status.stopped.is_none());
        let voting = takes_log.iter().flat_map(|status| &status.segments);
        let voting = voting.filter(|segment| segment.vouches && !segment.copying);
        counting.extend(voting.clone().map(|segment| segment.segment));
        let members = match &record {
            Some(record) => members_on(record, &node.name),
            None => status
                .iter()
                .flat_map(|status| &status.segments)
                .map(|segment| segment.segment)
                .collect(),
        };
        let is_known_to_hold = record.is_some() || status.is_some();
        if !is_known_to_hold || members.iter().any(|member| !counting.contains(member)) {
            missing.push(node.name.clone());
        }
        let held = status.iter().flat_map(|status| &status.segments);
        let whole = held.clone().filter(|segment| !segment.copying);
        // Group 0 takes part in everything; a copy of another group ends where that was last written.
        let segment = whole.max_by_key(|segment| (segment.group == units::GroupId::FIRST, segment.complete));
        let layer_bytes: u64 = held.clone().map(|segment| segment.layer_bytes).sum();
        let tails = held.clone().filter(|segment| segment.kind == SegmentKind::Tail).count();
        let copying: Vec<_> = held.clone().filter(|segment| segment.copying).collect();
        let lost = members
            .iter()
            .filter(|member| held.clone().all(|segment| segment.segment != **member));
        let complete = segment.map(|segment| segment.complete.lsn);
        let lag = durable
            .zip(complete)
            .map(|(durable, complete)| durable.raw().saturating_sub(complete.raw()));
        let behind = lag.is_some_and(|lag| 1 << 20 < lag) || !copying.is_empty();
        storage.push(json!({
            "name": node.name,
            "zone": node.zone,
            "pid": one.and_then(|one| one.pid),
            "state": state_of(one, status.is_some(), if behind { "catching-up" } else { "available" }),
            "segments": status.as_ref().map(|status| status.segments.len()),
            "tails": status.as_ref().map(|_| tails),
            "complete_lsn": complete.map(|lsn| lsn.to_string()),
            "lag_bytes": lag,
            "address": format!("127.0.0.1:{}", node.port),
            "metrics": metrics(&node.name),
            "journal_bytes": status.as_ref().map(|status| status.journal_bytes),
            "layer_bytes": status.as_ref().map(|_| layer_bytes),
            "pages_read": status.as_ref().map(|status| status.pages_read),
            "damaged": status.as_ref().map(|status| status.segments.iter().any(|segment| !segment.vouches)),
            "stranded": status.as_ref().map(|status| status.segments.iter().any(|segment| segment.stranded)),
            "lost": status.as_ref().map(|_| lost.count()),
            "copying": status.as_ref().map(|_| copying.len()),
            "copied_bytes": copying.iter().map(|segment| segment.copied_bytes).sum::<u64>(),
            "copied_bytes_expected": copying.iter().map(|segment| segment.copied_bytes_expected).sum::<u64>(),
            "mending": status.as_ref().map(|status| status.segments.iter().any(|segment| segment.mending)),
            "scrub": status.as_ref().map(|status| scrub_of(&status.scrub)),
            "stopped_because": status.as_ref().and_then(|status| status.stopped.clone()),
        }));
    }
    let word = |holds: bool| if holds { "ok" } else { "lost" };
    let memberships: Vec<Membership> = record
        .iter()
        .flat_map(|record| &record.groups)
        .map(GroupRecord::membership)
        .collect();
    let (write, read) = match memberships.as_slice() {
        // Before there is a volume, or without its record: as many copies as one group needs.
        [] => (4 <= counting.len(), 3 <= counting.len()),
        groups => (
            groups.iter().all(|group| group.writable(&counting)),
            groups.iter().all(|group| group.fenced(&counting)),
        ),
    };
    let hint = record.as_ref().and_then(|record| hopeless(record, &counting));
    let volume_id = record.as_ref().map(|record| record.volume.to_string());
    let url = layout.url(cluster.port)?;
    let urls: serde_json::Map<String, Value> = cluster
        .instances
        .iter()
        .filter(|instance| !instance.retired)
        .map(|instance| Ok((instance.name.clone(), json!(layout.url(instance.port)?))))
        .collect::<Result<_>>()?;
    Ok(json!({
        "volume": {
            "id": volume_id,
            "epoch": of_writer["epoch"],
            "durable_lsn": of_writer["durable_lsn"],
            "size_bytes": of_writer["size_bytes"],
            "groups": memberships.len(),
            "segments": record.as_ref().map(|record| record.segments),
            "free_bytes": of_writer["free_bytes"],
            "quorum": { "write": word(write), "read": word(read), "missing": missing, "hint": hint },
            "changes": of_writer["changes"],
            "retention_seconds": of_writer["retention_seconds"],
            "floor_lsn": of_writer["floor_lsn"],
            "log_bytes_shipped": of_writer["log_bytes_shipped"],
            "log_bytes_received": of_writer["log_bytes_received"],
        },
        "storage": storage,
        "instances": instances,
        "endpoints": { "cluster": url, "reader": Value::Null, "instances": urls },
        "control": { "pid": pid("control"), "api": Value::Null, "metrics": metrics("control") },
        "proxy": { "pid": pid("proxy"), "metrics": metrics("proxy") },
        "agent": { "metrics": metrics("agent") },
    }))
}

/// What a node read again of what it has at rest, and what it found.
fn scrub_of(scrub: &ScrubStatus) -> Value {
    json!({
        "running": scrub.is_under_way,
        "last_ended_at": (0 < scrub.ended_at).then_some(scrub.ended_at),
        "bytes_checked": scrub.bytes,
        "bytes_expected": scrub.bytes_expected,
        "files_damaged": scrub.damaged,
        "files_mended": scrub.mended,
        "failed": scrub.failed,
    })
}

/// The daemons that live without an agent.
fn left_behind(layout: &Layout) -> Result<Vec<Listed>> {
    let living = super::up::living(layout)?.into_iter();
    Ok(living
        .map(|(name, process)| Listed {
            name,
            pid: Some(process.pid()),
            paused: process.is_stopped(),
            stopped: false,
            failing: false,
        })
        .collect())
}

/// Shows how everything is.
pub fn run(layout: &Layout, as_json: bool) -> Result<ExitCode> {
    let cluster = Cluster::load(layout)?;
    let listed = match ask_agent(layout, "list", "") {
        Ok(Answer::List(listed)) => listed,
        Ok(_) => anyhow::bail!("an answer to another order"),
        // Data flows without the agent: what lives is known by the pid files.
        Err(_) => left_behind(layout)?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime
        .block_on(collect(layout, &cluster, &listed))
        .context("collect the status")?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", table::of(&status));
    }
    Ok(ExitCode::SUCCESS)
}

/// What to do about groups without a write quorum: nothing mends them but the nodes that are missing, or somebody who says that
/// those are lost for good.
fn hopeless(record: &VolumeRecord, counting: &BTreeSet<SegmentId>) -> Option<String> {
    let is_short = |group: &&GroupRecord| !group.membership().writable(counting);
    let short: Vec<&GroupRecord> = record.groups.iter().filter(is_short).collect();
    let members = short.iter().flat_map(|group| group.all_members());
    let missing = members.filter(|member| !counting.contains(&member.segment));
    let missing: BTreeSet<String> = missing.map(|member| member.node).collect();
    if missing.is_empty() {
        return None;
    }
    let missing: Vec<String> = missing.into_iter().collect();
    let count = match short.len() {
        1 => "one group has".to_owned(),
        count => format!("{count} groups have"),
    };
    let names = missing.join(", ");
    if !short.iter().all(|group| group.membership().fenced(counting)) {
        return Some(format!(
            "{count} too few copies left to be read; start what is missing of {names}"
        ));
    }
    Some(format!(
        "{count} too few copies left to be written; start what is missing of {names}. If their copies are lost for good: `borealis \
         storage replace {}`, and so for each of them",
        missing[0]
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(pid: Option<u32>, paused: bool, stopped: bool, failing: bool) -> Listed {
        Listed {
            name: "storage-1".to_owned(),
            pid,
            paused,
            stopped,
            failing,
        }
    }

    #[test]
    fn the_state_says_what_a_person_has_to_know_first() {
        let lives = listed(Some(1), false, false, false);
        assert_eq!(state_of(Some(&lives), true, "available"), "available");
        assert_eq!(state_of(Some(&lives), true, "catching-up"), "catching-up");
        assert_eq!(state_of(Some(&lives), false, "available"), "starting");
        let dies = listed(None, false, false, true);
        assert_eq!(state_of(Some(&dies), false, "available"), "failed");
        let back = listed(Some(1), false, false, true);
        assert_eq!(state_of(Some(&back), true, "available"), "available");
        let paused = listed(Some(1), true, false, false);
        assert_eq!(state_of(Some(&paused), false, "available"), "paused");
        let down = listed(None, false, true, false);
        assert_eq!(state_of(Some(&down), false, "available"), "stopped");
        assert_eq!(state_of(None, false, "available"), "stopped");
    }
}

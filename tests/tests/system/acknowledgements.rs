//! No acknowledgement of a storage node leaves before its sync has returned, as strace sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use system_tests::{Cluster, SOON};
use units::Position;
use wire_format::frame::{FRAME_BYTES_MAX, decode_response, take_frame};
use wire_format::{Batch, Response};

const STRACE: &str = "/usr/bin/strace";
/// Acknowledgements and syncs that must have been seen.
const SEEN_MIN: usize = 50;

/// Layout of an entry: docs/formats/journal.md.
const ENTRY_MAGIC: u32 = 0xB04E_A117;
const ENTRY_HEADER_BYTES: usize = 45;
const ENTRY_OFFSET_AT: usize = 12;
const ENTRY_SYNCED_AT: usize = 20;
const ENTRY_KIND_AT: usize = 28;
const ENTRY_KIND_BATCH: u8 = 2;

/// A system call that one thread is in.
enum Call {
    /// Of these batches, to this file of the journal.
    Write(String, Vec<Position>),
    /// Of this file of the journal, with what was written to it before the call.
    Sync(String, BTreeSet<Position>),
    /// Of these bytes, on this connection.
    Send(String, Bytes),
}

/// What was written, synced and sent so far.
#[derive(Default)]
struct Node {
    calls: BTreeMap<u32, Call>,
    /// Batches whose write has returned, by file.
    written: BTreeMap<String, BTreeSet<Position>>,
    /// Batches that a sync has covered which has returned.
    synced: BTreeSet<Position>,
    /// The first batch that was written under our eyes.
    first: Option<Position>,
    /// The part of a frame that each connection has sent so far.
    tails: BTreeMap<String, BytesMut>,
    acknowledgements: usize,
    syncs: usize,
}

impl Node {
    /// The next line of strace's output: the begin of a call, its end, or both.
    fn line(&mut self, line: &str) -> Result<()> {
        let (thread, rest) = line.split_once(' ').context("a line begins with its thread")?;
        let (thread, rest) = (thread.parse::<u32>()?, rest.trim_start());
        let whole = || rest.rsplit_once(" = ").map(|(_, value)| value);
        if rest.starts_with("<... ") {
            return self.end(thread, whole().context("a call that ends has a value")?);
        }
        let Some((name, arguments)) = rest.split_once('(').filter(|_| !rest.starts_with(['+', '-'])) else {
            return Ok(());
        };
        let Some((_, file)) = arguments.split_once('<') else {
            return Ok(());
        };
        let file = String::from_utf8_lossy(&bytes_of(file.split('>').next().unwrap_or_default())?).into_owned();
        let in_journal = file.contains("/journal/");
        let call = match name {
            "pwrite64" if in_journal => {
                let batches = batches(&data(arguments)?, offset(&file, arguments)?)?;
                Call::Write(file, batches)
            }
            "fdatasync" | "fsync" if in_journal => {
                let before = self.written.get(&file).cloned().unwrap_or_default();
                Call::Sync(file, before)
            }
            "sendto" | "write" if arguments.contains("<TCP:") => {
                let connection = arguments.split('"').next().unwrap_or_default().to_owned();
                let bytes = data(arguments)?;
                self.check_sent(&connection, &bytes)?;
                Call::Send(connection, bytes)
            }
            "writev" | "sendmsg" if arguments.contains("<TCP:") => {
                bail!("this test does not read {name}, which storage nodes did not use: {line}")
            }
            _ => return Ok(()),
        };
        if let Call::Write(_, batches) = &call {
            self.first = self.first.or(batches.first().copied());
        }
        self.calls.insert(thread, call);
        if rest.ends_with("<unfinished ...>") {
            return Ok(());
        }
        self.end(thread, whole().context("a call on one line has a value")?)
    }

    fn end(&mut self, thread: u32, value: &str) -> Result<()> {
        let value: i64 = value.split(' ').next().unwrap_or_default().parse().unwrap_or(-1);
        match self.calls.remove(&thread) {
            Some(Call::Write(file, batches)) if 0 < value => self.written.entry(file).or_default().extend(batches),
            Some(Call::Sync(file, before)) if value == 0 => {
                self.syncs += 1;
                if let Some(written) = self.written.get_mut(&file) {
                    written.retain(|batch| !before.contains(batch));
                }
                self.synced.extend(before);
            }
            Some(Call::Send(connection, bytes)) => {
                let sent = usize::try_from(value).unwrap_or(0);
                let tail = self.tails.entry(connection).or_default();
                tail.extend_from_slice(&bytes[..sent]);
                while take_frame(tail, FRAME_BYTES_MAX)?.is_some() {}
            }
            _ => {}
        }
        Ok(())
    }

    /// Fails if the bytes say of a batch that the node holds it, and no sync has returned since it was written.
    fn check_sent(&mut self, connection: &str, bytes: &[u8]) -> Result<()> {
        let mut stream = self.tails.get(connection).cloned().unwrap_or_default();
        stream.extend_from_slice(bytes);
        while let Some(frame) = take_frame(&mut stream, FRAME_BYTES_MAX)? {
            // The answer to a greeting is no response.
            let (complete, what) = match decode_response(frame) {
                Ok((_, Response::Appended { complete, .. })) => (complete, "appended"),
                Ok((_, Response::Announced { complete, .. })) => (complete, "announced"),
                _ => continue,
            };
            let Some(first) = self.first.filter(|first| *first <= complete) else {
                continue;
            };
            ensure!(
                self.synced.contains(&complete),
                "{complete} is {what} before a sync of it has returned (the first batch seen is {first})"
            );
            let unsynced = self.written.values().flatten().find(|batch| **batch <= complete);
            ensure!(
                unsynced.is_none(),
                "{complete} is {what}, but {unsynced:?} is not synced"
            );
            self.acknowledgements += usize::from(what == "appended");
        }
        Ok(())
    }
}

/// The bytes of a call's first string.
fn data(arguments: &str) -> Result<Bytes> {
    let text = arguments.split('"').nth(1).context("a call that writes has bytes")?;
    let cut = arguments.split('"').nth(2).is_some_and(|rest| rest.starts_with("..."));
    ensure!(!cut, "strace cut the bytes of a call");
    Ok(Bytes::from(bytes_of(text)?))
}

/// Bytes that strace was told to write as `\xNN` throughout.
fn bytes_of(text: &str) -> Result<Vec<u8>> {
    let digits = text.split("\\x").skip(1);
    let bytes: Result<_, _> = digits.map(|pair| u8::from_str_radix(pair, 16)).collect();
    bytes.with_context(|| format!("not in hexadecimal digits: {text:.80}"))
}

/// The positions of the batches that a write to the journal brings. Zeros allocate a file ahead of its use, or fill the last
/// block of a write; the first block may begin with what was written, and synced, before.
fn batches(bytes: &Bytes, offset: u64) -> Result<Vec<Position>> {
    let number = |at: usize| {
        bytes
            .get(at..at + 4)
            .map(|four| u32::from_le_bytes(four.try_into().expect("four bytes")))
    };
    let long = |at: usize| {
        bytes
            .get(at..at + 8)
            .map(|eight| u64::from_le_bytes(eight.try_into().expect("eight bytes")))
    };
    // An entry says where in the journal it stands: nothing else looks so.
    let is_entry =
        |at: usize| number(at) == Some(ENTRY_MAGIC) && long(at + ENTRY_OFFSET_AT) == Some(offset + at as u64);
    let Some(mut at) = (0..bytes.len()).find(|at| is_entry(*at)) else {
        ensure!(
            bytes.iter().all(|byte| *byte == 0),
            "a write to the journal without an entry"
        );
        return Ok(Vec::new());
    };
    let (mut entries, mut synced) = (Vec::new(), 0);
    while is_entry(at) {
        let payload = at + ENTRY_HEADER_BYTES;
        let end = payload + number(at + 4).context("an entry's length")? as usize;
        ensure!(end <= bytes.len(), "a write that ends in the middle of an entry");
        entries.push((offset + at as u64, bytes[at + ENTRY_KIND_AT], bytes.slice(payload..end)));
        synced = long(at + ENTRY_SYNCED_AT).context("an entry's synced offset")?;
        at = end;
    }
    ensure!(
        bytes[at..].iter().all(|byte| *byte == 0),
        "something else follows the last entry"
    );
    let new = entries
        .into_iter()
        .filter(|(start, kind, _)| synced <= *start && *kind == ENTRY_KIND_BATCH);
    new.map(|(_, _, payload)| Ok(Batch::decode(payload)?.position()))
        .collect()
}

/// Where in the journal a write begins: where its file does, which is its name, and where in the file.
fn offset(file: &str, arguments: &str) -> Result<u64> {
    let start: u64 = match file.rsplit('/').next().unwrap_or_default().parse() {
        Ok(start) => start,
        // A spare, which holds nothing that counts.
        Err(_) => return Ok(0),
    };
    let last = arguments.rsplit(", ").next().unwrap_or_default();
    let digits = last.split(|one: char| !one.is_ascii_digit()).next().unwrap_or_default();
    Ok(start + digits.parse::<u64>().context("a write's offset")?)
}

fn read_trace<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Node> {
    let mut node = Node::default();
    for line in lines {
        let start: String = line.chars().take(120).collect();
        node.line(line).with_context(|| format!("at: {start}"))?;
    }
    Ok(node)
}

/// What strace sees of a process while `work` is done.
fn trace(cluster: &Cluster, pid: u64, work: impl FnOnce() -> Result<()>) -> Result<String> {
    ensure!(
        Path::new(STRACE).exists(),
        "{STRACE} is missing: run `cargo xtask dependencies`"
    );
    let (output, errors) = (
        cluster.directory().with_file_name("trace"),
        cluster.directory().with_file_name("trace-errors"),
    );
    let mut strace = Command::new(STRACE)
        .args(["-f", "-yy", "-xx", "-s", "4194304"])
        .args([
            "-e",
            "trace=pwrite64,write,writev,sendto,sendmsg,fdatasync,fsync",
            "-e",
            "signal=none",
            "-o",
        ])
        .arg(&output)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(File::create(&errors)?)
        .spawn()?;
    let started = Instant::now();
    while !std::fs::read_to_string(&errors)?.contains("attached") {
        let ended = strace.try_wait()?;
        ensure!(
            ended.is_none() && started.elapsed() < SOON,
            "strace does not attach ({ended:?}): {}",
            std::fs::read_to_string(&errors)?
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let done = work();
    let strace_pid = i32::try_from(strace.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(strace_pid.context("pid")?, rustix::process::Signal::INT)?;
    strace.wait()?;
    done?;
    // Told to end, strace leaves off in the middle of a line, or names what it left unfinished.
    let trace = std::fs::read_to_string(&output)?;
    let whole = trace.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let left = whole.lines().filter(|line| !line.ends_with("<detached ...>"));
    Ok(left.map(|line| format!("{line}\n")).collect())
}

#[test]
fn a_storage_node_acknowledges_only_what_it_synced() -> Result<()> {
    let cluster = Cluster::up("acknowledgements", &[])?;
    cluster.pgbench(&["-i", "-q", "-s", "1"])?;
    let node = cluster.wait_until_available()?["storage"][0].clone();
    let pid = node["pid"].as_u64().context("pid")?;
    // Without two others, no commit has its quorum before this one acknowledges: seen through strace it is the slowest.
    let others = ["storage-3", "storage-5"];
    ensure!(!others.iter().any(|name| node["name"] == *name), "{node}");
    for name in others {
        cluster.borealis(&["stop", name])?;
    }
    // In the middle of a frame nobody could tell where the next begins.
    std::thread::sleep(Duration::from_secs(1));
    let trace = trace(&cluster, pid, || {
        cluster.pgbench(&["-n", "-c", "1", "-t", "150"])?;
        cluster.pgbench(&["-n", "-c", "4", "-t", "100"])?;
        Ok(())
    })?;
    let seen = read_trace(trace.lines())?;
    eprintln!("{} acknowledgements, {} syncs", seen.acknowledgements, seen.syncs);
    ensure!(
        SEEN_MIN <= seen.acknowledgements && SEEN_MIN <= seen.syncs,
        "{} acknowledgements and {} syncs show nothing",
        seen.acknowledgements,
        seen.syncs
    );
    // What this test is worth: the same calls without one kind of them, or with the syncs' ends later, must not pass.
    let is_sync = |line: &&str| line.contains("sync(") || line.contains("sync resumed");
    ensure!(
        read_trace(trace.lines().filter(|line| !is_sync(line))).is_err(),
        "without syncs the order would pass, too"
    );
    let (syncs, others): (Vec<&str>, Vec<&str>) = trace.lines().partition(is_sync);
    ensure!(
        read_trace(others.into_iter().chain(syncs)).is_err(),
        "with late syncs the order would pass, too"
    );
    Ok(())
}

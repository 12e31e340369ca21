//! The complete log is made again from the storage nodes, byte for byte as PostgreSQL wrote it: of many groups, over the deaths of
//! writers, and with records that no flush can hold.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use system_tests::{Cluster, Ledger, POSTGRESQL_BIN, SOON};
use units::Lsn;

const TINY: [&str; 6] = ["--group-size", "8MiB", "--stripe-size", "1MiB", "--retention", "1h"];
/// Bytes compared at once.
const PIECE_BYTES: u64 = 8192;
const WAL_FILE_BYTES: u64 = 16 << 20;

fn wal_of(cluster: &Cluster, name: &str) -> PathBuf {
    cluster.directory().join("instances").join(name).join("data/pg_wal")
}

fn writer(cluster: &Cluster) -> Result<String> {
    let name = cluster.writer()?["name"].as_str().map(str::to_owned);
    name.context("the writer has a name")
}

/// Where each reign began, as the writer's log tells.
fn beginnings(cluster: &Cluster) -> Result<Vec<Lsn>> {
    let log = cluster.log(&writer(cluster)?)?;
    let opened = log.lines().filter(|line| line.contains("volume.opened"));
    let end = |line: &str| {
        let (_, rest) = line.split_once("end=")?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let ends: Option<Vec<Lsn>> = opened.map(end).collect();
    ends.context("the log tells where reigns begin")
}

/// Copies a writer's WAL files while it stands still.
fn copy_wal(cluster: &Cluster, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    for entry in std::fs::read_dir(wal_of(cluster, &writer(cluster)?))? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), into.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// The bytes between two LSNs, from the WAL files in a folder.
struct Wal {
    folder: PathBuf,
    files: BTreeMap<u64, File>,
}

impl Wal {
    fn new(folder: &Path) -> Wal {
        let (folder, files) = (folder.to_owned(), BTreeMap::new());
        Wal { folder, files }
    }

    fn read(&mut self, from: u64, to: u64) -> Result<Vec<u8>> {
        let number = from / WAL_FILE_BYTES;
        let name = format!("00000001{:08X}{:08X}", number >> 8, number & 0xFF);
        if !self.files.contains_key(&number) {
            let path = self.folder.join(&name);
            let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            self.files.insert(number, file);
        }
        let mut bytes = vec![0; (to - from) as usize];
        self.files[&number].read_exact_at(&mut bytes, from % WAL_FILE_BYTES)?;
        Ok(bytes)
    }
}

/// Exports into a new folder; from where to where it says that it is.
fn export(cluster: &Cluster, name: &str, arguments: &[&str]) -> Result<(PathBuf, Lsn, Lsn)> {
    let folder = cluster.directory().join(name);
    let path = folder.to_str().context("a path of plain letters")?.to_owned();
    let all = [&["log", "export", "--into", &path], arguments].concat();
    let said = cluster.borealis(&all)?;
    eprintln!("{}", said.trim());
    let words: Vec<&str> = said.split([' ', ':']).collect();
    let after = |word: &str| {
        let at = words.iter().position(|one| *one == word)?;
        words.get(at + 1)?.parse().ok()
    };
    let (from, to) = after("from").zip(after("to")).context("it says from where to where")?;
    Ok((folder, from, to))
}

#[test]
fn the_log_is_made_again_from_many_groups_and_reigns() -> Result<()> {
    let mut cluster = Cluster::prepare(
        "log-export",
        &["shared_buffers=4MB", "borealis.overlay_size=8MB", "wal_keep_size=4GB"],
    )?;
    cluster.start_with(&TINY)?;
    cluster.pgbench(&["-i", "-q", "-s", "2"])?;
    let ledger = Ledger::start(&cluster, 2)?;
    let mut copies = Vec::new();
    for round in 0..3 {
        cluster.sql(&format!("CREATE TABLE big_{round} (id int, filler text)"))?;
        cluster.sql(&format!(
            "INSERT INTO big_{round} SELECT i, repeat(md5(i::text), 10 + i % 90) FROM generate_series(1, 20000) i"
        ))?;
        cluster.sql(&format!("CREATE INDEX ON big_{round} (id)"))?;
        // One record, many flushes; then one that ends its WAL file early.
        cluster.sql("SELECT pg_logical_emit_message(true, 'test', repeat('borealis', 1000000))")?;
        cluster.sql("SELECT pg_switch_wal()")?;
        cluster.pgbench(&["-n", "-c", "4", "-t", "200"])?;
        ledger.wait_for_more(20, SOON)?;
        if round < 2 {
            let name = writer(&cluster)?;
            cluster.borealis(&["pause", &name])?;
            let copy = cluster.directory().join(format!("pg_wal-{round}"));
            copy_wal(&cluster, &copy)?;
            copies.push(copy);
            cluster.borealis(&["kill", &name])?;
            cluster.borealis(&["start", &name])?;
            ledger.wait_for_more(20, SOON)?;
            cluster.wait_until_available()?;
        }
    }
    ledger.settle(&cluster)?;
    let groups = cluster.status_with("groups", |status| status["volume"]["groups"].as_u64())?;
    ensure!(8 <= groups, "{groups} groups only");
    let begun = beginnings(&cluster)?;
    ensure!(begun.len() == 3, "reigns began at {begun:?}");
    copies.push(wal_of(&cluster, &writer(&cluster)?));

    let (folder, from, to) = export(&cluster, "exported", &[])?;
    ensure!(
        from.raw() < begun[0].raw() + 8192,
        "it begins at {from}, the first reign at {}",
        begun[0]
    );
    ensure!(begun[2] < to, "it ends at {to}");
    let mut exported = Wal::new(&folder);
    let mut written: Vec<Wal> = copies.iter().map(|copy| Wal::new(copy)).collect();
    let mut at = from.raw();
    while at < to.raw() {
        // Of one reign and one page at a time.
        let reign = begun.iter().rposition(|begin| begin.raw() <= at).unwrap_or(0);
        let reign_end = begun.get(reign + 1).map_or(u64::MAX, |next| next.raw());
        let end = (at - at % PIECE_BYTES + PIECE_BYTES).min(reign_end).min(to.raw());
        let (ours, theirs) = (exported.read(at, end)?, written[reign].read(at, end)?);
        if let Some(differs) = ours.iter().zip(&theirs).position(|(one, other)| one != other) {
            let place = Lsn::from_raw(at + differs as u64);
            anyhow::bail!("reign {reign}: other bytes than PostgreSQL's at {place}");
        }
        at = end;
    }
    let dumped = Command::new(Path::new(POSTGRESQL_BIN).join("pg_waldump"))
        .args(["--quiet", "--path"])
        .arg(&folder)
        .args(["--start", &from.to_string(), "--end", &to.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()?;
    let complaint = String::from_utf8_lossy(&dumped.stderr);
    ensure!(dumped.status.success(), "pg_waldump: {complaint}");

    // A part of it, from the middle of a file; and what cannot be.
    let middle = Lsn::from_raw(from.raw().midpoint(to.raw()));
    let (part, part_from, part_to) = export(&cluster, "part", &["--from", &middle.to_string()])?;
    ensure!(part_from <= middle && to <= part_to, "from {part_from} to {part_to}");
    ensure!(
        Wal::new(&part).read(middle.raw(), middle.raw() + 8)? == exported.read(middle.raw(), middle.raw() + 8)?,
        "a part reads otherwise than the whole"
    );
    let refused = |arguments: &[&str], what: &str| -> Result<()> {
        let output = cluster.borealis_output(&[&["log", "export"], arguments].concat())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains(what), "{arguments:?}: {said}");
        Ok(())
    };
    let path = folder.to_str().context("a path of plain letters")?;
    refused(&["--into", path], "is not empty")?;
    let other = cluster.directory().join("other");
    let other = other.to_str().context("a path of plain letters")?;
    refused(&["--to", "FFFFFF/0", "--into", other], "durable up to")?;
    cluster.borealis(&["retention", "0"])?;
    let floor = |cluster: &Cluster| {
        let floor = cluster.status_with("the floor", |status| {
            status["volume"]["floor_lsn"].as_str().map(str::to_owned)
        })?;
        floor.parse::<Lsn>().map_err(|error| anyhow::anyhow!("{error}"))
    };
    cluster.wait_for("the floor to rise", SOON, |cluster| Ok(begun[2] < floor(cluster)?))?;
    // The nodes hear of it a moment later.
    std::thread::sleep(Duration::from_secs(1));
    refused(&["--from", &from.to_string(), "--into", other], "log is kept from")?;
    let (_, last_from, _) = export(&cluster, "last", &[])?;
    ensure!(begun[2] < last_from, "without a window it begins at {last_from}");
    Ok(())
}

//! One run: a stock server, the workload on it, and its log through redo.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stock_postgresql::{Scratch, Server};
use units::Lsn;
use wal::{Kind, Marks, StreamDecoder, record_end, record_start};

use crate::comparison::{Catalog, Comparison, compare};
use crate::generator::Plan;
use crate::replay::{Replay, Tally};
use crate::state::{ClusterState, control_file};
use crate::workload::{Connection, Scenario};
use crate::{events, generator, wraparound};

const SETTINGS: &str = "
shared_buffers = 4MB
fsync = off
autovacuum_naptime = 1s
autovacuum_vacuum_threshold = 20
autovacuum_freeze_max_age = 100000
vacuum_freeze_min_age = 10
max_prepared_transactions = 10
track_commit_timestamp = on
checkpoint_timeout = 1h
max_wal_size = 20GB
wal_keep_size = 20GB
bgwriter_lru_maxpages = 0
allow_in_place_tablespaces = on
wal_compression = lz4
";
/// Every record carries the pages as PostgreSQL left them, and none replaces redo by a copy.
const CHECKED: &str = "
wal_consistency_checking = 'all'
full_page_writes = off
";
/// As on a real server: redo meets images of pages wherever a checkpoint went before.
const AS_IN_PRODUCTION: &str = "
full_page_writes = on
";

/// How the server of a run logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Logging {
    /// With an after-image of every page in every record.
    Checked,
    /// As on a real server, with images of pages after checkpoints.
    AsInProduction,
}

/// What a run found.
pub struct Outcome {
    /// By kind of record.
    pub tallies: BTreeMap<Kind, Tally>,
    /// Pages that differ from after-images.
    pub differences: Vec<String>,
    /// The end beside the files.
    pub files: Comparison,
}

impl Outcome {
    /// Adds what another run found.
    pub fn add(&mut self, other: Outcome) {
        for (kind, tally) in other.tallies {
            self.tallies.entry(kind).or_default().add(tally);
        }
        self.differences.extend(other.differences);
        self.files.differences.extend(other.files.differences);
        for (sort, equal) in other.files.equal {
            *self.files.equal.entry(sort).or_default() += equal;
        }
    }

    /// Every difference, of whatever sort.
    pub fn differences(&self) -> Vec<&String> {
        self.differences.iter().chain(&self.files.differences).collect()
    }
}

/// A fresh server, a copy of its directory before it ran, and where its log begins.
pub struct Oracle {
    server: Server,
    scratch: Scratch,
    counters: Counters,
    /// As it was before its log began.
    before: ClusterState,
    marks: Marks,
    wal_file_bytes: u64,
}

/// Where the counters of a run's cluster begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Counters {
    /// As initdb leaves them.
    Fresh,
    /// A page before transactions, multixacts and their members wrap around.
    BeforeWrap,
}

impl Oracle {
    /// Starts one. `name` tells runs of one process apart.
    pub fn start(name: &str, logging: Logging, counters: Counters) -> Result<Oracle> {
        let scratch = Scratch::new(name);
        let logging = match logging {
            Logging::Checked => CHECKED,
            Logging::AsInProduction => AS_IN_PRODUCTION,
        };
        let server = Server::initdb(scratch.path("data"), &[], &format!("{SETTINGS}{logging}"));
        if counters == Counters::BeforeWrap {
            wraparound::move_before_wrap(&server)?;
        }
        let before = ClusterState::read(server.data())?;
        let control = control_file(server.data())?;
        let checkpoint = control.checkpoint();
        let start = control.checkpoint_start();
        let file_bytes = control.wal_file_bytes();
        let shutdown_record = checkpoint.shutdown_record(Lsn::from_raw(0));
        let end = record_end(start, shutdown_record.len() as u64, file_bytes);
        let marks = Marks::from_checkpoint(&checkpoint, control.parameters(), start, end);
        server.start();
        Ok(Oracle {
            server,
            scratch,
            counters,
            before,
            marks,
            wal_file_bytes: file_bytes,
        })
    }

    /// The way to the server.
    pub fn connection(&self) -> Connection {
        Connection::to(&self.server)
    }

    /// Runs scenarios one after another, those that need other settings last: for them the server starts anew. `ended`
    /// hears of each, and how long it took.
    pub fn run(&self, scenarios: &[Scenario], ended: &mut dyn FnMut(&Scenario, Duration)) -> Result<()> {
        let mut ordered: Vec<&Scenario> = scenarios.iter().collect();
        ordered.sort_by_key(|scenario| &scenario.settings);
        let mut settings = BTreeMap::new();
        for scenario in ordered {
            if scenario.settings != settings {
                settings = scenario.settings.clone();
                self.restart_with(&settings)?;
            }
            let started = Instant::now();
            let ran = scenario.run(&self.connection());
            ran.with_context(|| format!("scenario {}", scenario.name))?;
            ended(scenario, started.elapsed());
        }
        if !settings.is_empty() {
            self.restart_with(&BTreeMap::new())?;
        }
        Ok(())
    }

    fn restart_with(&self, settings: &BTreeMap<String, String>) -> Result<()> {
        self.server.stop();
        let lines = settings.iter().map(|(name, value)| format!("{name} = '{value}'\n"));
        std::fs::write(
            self.server.data().join("postgresql.auto.conf"),
            lines.collect::<String>(),
        )?;
        self.server.start();
        Ok(())
    }

    /// A scenario out of a seed; its files lie beside the server's.
    pub fn generated(&self, plan: Plan) -> Result<Scenario> {
        generator::write(plan, self.scratch.folder())
    }

    /// What happens to whole servers: a torn record, a promotion, prepared transactions that are left behind.
    pub fn events(&self) -> Result<()> {
        events::tear_a_record(&self.server, self.wal_file_bytes)?;
        events::promote(&self.server)?;
        events::leave_prepared(&self.server);
        Ok(())
    }

    /// Stops the server cleanly, follows all of its log, and compares what that makes with its files.
    pub fn finish(self) -> Result<Outcome> {
        self.finish_and_keep(None)
    }

    /// As [`Oracle::finish`], but the stopped server's folder and what was generated are copied first.
    pub fn finish_and_keep(self, keep: Option<&Path>) -> Result<Outcome> {
        if self.counters == Counters::BeforeWrap {
            wraparound::freeze(&self.server)?;
        }
        let catalog = Catalog::read(&self.connection())?;
        self.server.stop();
        if let Some(keep) = keep {
            let copied = Command::new("cp")
                .arg("-a")
                .arg(self.scratch.folder())
                .arg(keep)
                .status()?;
            ensure!(copied.success(), "cannot copy to {}", keep.display());
        }
        let control = control_file(self.server.data())?;
        ensure!(control.is_shut_down(), "the server was not stopped cleanly");
        let mut replay = Replay::new(self.before, self.marks);
        follow(
            self.server.data(),
            self.wal_file_bytes,
            control.checkpoint_start(),
            &mut replay,
        )?;
        let files = ClusterState::read(self.server.data())?;
        let mut files = compare(&replay, &files, &catalog);
        let (ours, theirs) = (replay.marks.parameters, control.parameters());
        if ours != theirs {
            let what = format!("parameters: {ours:?} from the log, but the control file has {theirs:?}");
            files.differences.push(what);
        }
        // The folder goes after the server that lies in it.
        drop(self.server);
        drop(self.scratch);
        Ok(Outcome {
            tallies: replay.tallies,
            differences: replay.differences,
            files,
        })
    }
}

/// Follows the log from where `replay` stands to the record that begins at `last`, that one included.
fn follow(data: &Path, file_bytes: u64, last: Lsn, replay: &mut Replay) -> Result<()> {
    let start = record_start(replay.marks.end, file_bytes);
    let mut decoder = StreamDecoder::new(start, Some(replay.marks.last_record), file_bytes);
    while replay.marks.last_record < last {
        let at = decoder.next_push();
        let bytes = std::fs::read(wal_file(data, at, file_bytes)?)?;
        decoder.push(at, &bytes[(at.raw() % file_bytes) as usize..])?;
        while replay.marks.last_record < last
            && let Some(record) = decoder.next_record()?
        {
            replay.follow(&record)?;
        }
    }
    Ok(())
}

/// The WAL file that holds `at`, of the newest timeline that has one.
pub(crate) fn wal_file(data: &Path, at: Lsn, file_bytes: u64) -> Result<PathBuf> {
    let name = skeleton::wal_file(1, at, file_bytes);
    let place = name.get("pg_wal/00000001".len()..).context("a WAL file's name")?;
    let mut found: Vec<PathBuf> = Vec::new();
    for entry in data.join("pg_wal").read_dir()? {
        let path = entry?.path();
        let is_it = path
            .file_name()
            .is_some_and(|name| name.len() == 24 && name.to_string_lossy().ends_with(place));
        found.extend(is_it.then_some(path));
    }
    found.into_iter().max().with_context(|| format!("{name} is gone"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PG_CLASS: u32 = 1259;

    /// An oracle that cannot fail proves nothing.
    #[test]
    fn a_wrong_bit_in_a_page_is_found_in_after_images_and_in_files() {
        let mut oracle = Oracle::start("oracle-broken", Logging::Checked, Counters::Fresh).expect("a server");
        let mut is_tampered = false;
        for (key, page) in &mut oracle.before.pages {
            if key.fork.relation.relation == PG_CLASS && key.fork.fork == units::fork::MAIN {
                // In the row that stands last on the page, behind its header.
                page.bytes_mut()[units::PAGE_BYTES - 100] ^= 0x10;
                is_tampered = true;
            }
        }
        assert!(is_tampered);
        // Statistics change rows of pg_class in place.
        oracle.server.query("VACUUM ANALYZE");
        let outcome = oracle.finish().expect("its log");
        assert!(!outcome.differences.is_empty(), "no after-image shows it");
        assert!(!outcome.files.differences.is_empty(), "no file shows it");
    }

    /// What is beside pages is held to the files as well.
    #[test]
    fn a_missing_relation_map_database_or_block_is_found() {
        let mut oracle = Oracle::start("oracle-lossy", Logging::Checked, Counters::Fresh).expect("a server");
        let (map, _) = oracle.before.relation_maps.pop_first().expect("the shared map");
        let database = oracle.before.databases.pop_first().expect("a database");
        let (fork, blocks) = oracle.before.forks.iter_mut().next_back().expect("a fork");
        *blocks += 1;
        let fork = *fork;
        let outcome = oracle.finish().expect("its log");
        for what in [
            format!("relation map {map:?}"),
            format!("database {database:?}"),
            format!("{fork} has"),
        ] {
            let is_told = outcome.files.differences.iter().any(|told| told.starts_with(&what));
            assert!(is_told, "{what} is not among {:#?}", outcome.files.differences);
        }
    }
}

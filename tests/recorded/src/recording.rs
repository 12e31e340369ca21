//! A recording: two stretches of log, and the records in them.

use std::path::{Path, PathBuf};

use stock_postgresql::{Scratch, Server};
use units::Lsn;
use wal::{Record, StreamDecoder};

use crate::Load;

/// The size of the recorded servers' WAL files.
pub const WAL_FILE_BYTES: u64 = 16 << 20;

/// As under Borealis, and quick: nothing of this changes what a record looks like.
const SETTINGS: &str = "
full_page_writes = off
autovacuum = off
max_prepared_transactions = 10
synchronous_commit = off
shared_buffers = 256MB
maintenance_work_mem = 256MB
checkpoint_timeout = 1h
max_wal_size = 20GB
wal_keep_size = 20GB
bgwriter_lru_maxpages = 0
";

/// Log as it stands in PostgreSQL's files.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Where the log begins.
    pub start: Lsn,
    /// Log that makes the pages on which the load works.
    pub before: Vec<u8>,
    /// Log of the load, behind it.
    pub measured: Vec<u8>,
}

impl Recording {
    /// The committed one: a few pages under TPC-B, and what btrees do.
    pub fn sample() -> Recording {
        Recording::read(&samples(), Load::SAMPLE.name).expect("it is committed")
    }

    /// Records the committed one anew.
    pub fn renew_sample() {
        Recording::record(&Load::SAMPLE).write(&samples(), Load::SAMPLE.name);
    }

    /// The recording of this load; it is made if there is none yet.
    pub fn of(load: &Load) -> Recording {
        let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
            PathBuf::from,
        );
        let folder = target.join("recordings");
        Recording::read(&folder, load.name).unwrap_or_else(|| {
            println!("recording {} with a server of its own", load.name);
            std::fs::create_dir_all(&folder).expect("the target folder can be written");
            let recording = Recording::record(load);
            recording.write(&folder, load.name);
            recording
        })
    }

    fn record(load: &Load) -> Recording {
        let scratch = Scratch::new(load.name);
        let server = Server::initdb(scratch.path("data"), &[], SETTINGS);
        server.start();
        server.query("SELECT pg_switch_wal()");
        server.query("CHECKPOINT");
        let start = inserted(&server);
        (load.prepare)(&server);
        let middle = inserted(&server);
        (load.run)(&server);
        let end = inserted(&server);
        server.stop();
        Recording {
            start,
            before: log(&server, start, middle),
            measured: log(&server, middle, end),
        }
    }

    /// `NAME.start` holds the first LSN, `NAME.before.wal` and `NAME.wal` the log.
    fn write(&self, folder: &Path, name: &str) {
        let write = |suffix: &str, bytes: &[u8]| {
            std::fs::write(folder.join(format!("{name}{suffix}")), bytes).expect("the folder can be written");
        };
        write(".before.wal", &self.before);
        write(".wal", &self.measured);
        write(".start", format!("{}\n", self.start).as_bytes());
    }

    /// `None`: there is no such recording.
    fn read(folder: &Path, name: &str) -> Option<Recording> {
        let start = std::fs::read_to_string(folder.join(format!("{name}.start"))).ok()?;
        let read = |suffix: &str| std::fs::read(folder.join(format!("{name}{suffix}"))).ok();
        Some(Recording {
            start: start.trim().parse().expect("it was written as an LSN"),
            before: read(".before.wal")?,
            measured: read(".wal")?,
        })
    }

    /// Where the log of the load begins.
    pub fn measured_from(&self) -> Lsn {
        self.start.advanced_by(self.before.len() as u64)
    }

    /// The records that come before the load.
    pub fn records_before(&self) -> Vec<Record> {
        records(self.start, &self.before)
    }

    /// The records of the load.
    pub fn records(&self) -> Vec<Record> {
        records(self.measured_from(), &self.measured)
    }
}

fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")
}

/// Where the next record will begin.
fn inserted(server: &Server) -> Lsn {
    let end = server.query("SELECT pg_current_wal_insert_lsn()");
    end.parse().expect("PostgreSQL prints an LSN")
}

fn records(start: Lsn, log: &[u8]) -> Vec<Record> {
    let mut decoder = StreamDecoder::new(start, None, WAL_FILE_BYTES);
    decoder.push(start, log).expect("it begins there");
    let next = || decoder.next_record().expect("PostgreSQL wrote it");
    std::iter::from_fn(next).collect()
}

/// The bytes between two places, out of the stopped server's files.
fn log(server: &Server, from: Lsn, until: Lsn) -> Vec<u8> {
    let (from, until) = (from.raw(), until.raw());
    let mut bytes = Vec::new();
    for number in from / WAL_FILE_BYTES..=(until - 1) / WAL_FILE_BYTES {
        let name = format!("pg_wal/00000001{:08X}{:08X}", number / 256, number % 256);
        let file = std::fs::read(server.data().join(name)).expect("a WAL file");
        let begin = number * WAL_FILE_BYTES;
        let first = from.saturating_sub(begin) as usize;
        let last = (until - begin).min(WAL_FILE_BYTES) as usize;
        bytes.extend_from_slice(&file[first..last]);
    }
    bytes
}

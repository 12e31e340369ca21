//! The complete log again, as PostgreSQL wrote it: its WAL files, made of the shares of all groups.
//!
//! Only storage nodes are read. Group 0's flush headers say which other groups have a part in which flush; what they give is put
//! in order, and each record has to name the one before it: nothing can be missing, and nothing be another's, without being told.
//!
//! Invariant: memory for a few megabytes of log, and the longest record.

mod chain;
mod files;

use std::path::Path as FilePath;
use std::time::Duration;

use bytes::Bytes;
use skeleton::{ControlFile, blob};
use timeline::Path;
use units::{Epoch, GroupId, Lsn, Position};
use volume::VolumeRecord;
use volume::record::RecordError;
use wal::Marks;
use wire_format::message::{Hello, Standing};
use wire_format::{CatalogKey, Request, Response};

use crate::last_page::LogFacts;
use crate::log::{LogError, LogReader, Records, Share, parts_of_others};
use crate::state::{StateError, said};
use chain::Chain;
pub use chain::ChainError;
pub use files::FilesError;
use files::WalFiles;

/// How long one question may take, with all copies tried.
const QUESTION_LIMIT: Duration = Duration::from_secs(20);
/// How long is waited for copies to say how far the log goes, once one has.
const STANDING_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of log asked for at once.
const BYTES_AT_ONCE: u32 = 4 << 20;
/// Catalog entries looked at for one that is known by name.
const ENTRIES_AT_ONCE: u32 = 16;

/// Why the log could not be made again.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The record's timelines are no tree.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The nodes know another history than the record.
    #[error("the storage nodes know another history than the volume's record: a writer is just opening it")]
    AnotherHistory,
    /// It begins too early.
    #[error("log is kept from {floor} on, not from {from}")]
    BelowFloor {
        /// What was asked for.
        from: Lsn,
        /// What is kept.
        floor: Lsn,
    },
    /// It ends too late.
    #[error("the volume is durable up to {end}, not up to {to}")]
    BeyondEnd {
        /// What was asked for.
        to: Lsn,
        /// What there is.
        end: Lsn,
    },
    /// There is nothing to do.
    #[error("nothing ends between {from} and {to}")]
    Empty {
        /// The beginning.
        from: Lsn,
        /// The end.
        to: Lsn,
    },
    /// A group's share could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Something else of the volume could not be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// What the engine keeps of itself cannot be understood.
    #[error("the engine's {what} cannot be understood: {why}")]
    Engine {
        /// What.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// Two groups gave different records for one place.
    #[error("two groups have different records that end at {0}")]
    Contradiction(Lsn),
    /// The records do not follow each other.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The files cannot be written.
    #[error(transparent)]
    Files(#[from] FilesError),
}

/// What was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Exported {
    /// Where the first record begins: what stands before it in the first file is filler.
    pub from: Lsn,
    /// Where the last one ends.
    pub to: Lsn,
    /// Records.
    pub records: u64,
    /// WAL files.
    pub files: u64,
}

/// Makes the WAL files in `folder`, which must be empty, of everything that ends above `from` (the floor) and at or below `to`
/// (the durable end). `progress` hears how far it is, and between where and where.
pub async fn export(
    record: &VolumeRecord,
    hello: &Hello,
    (from, to): (Option<Lsn>, Option<Lsn>),
    folder: &FilePath,
    progress: &mut dyn FnMut(Lsn, Lsn, Lsn),
) -> Result<Exported, ExportError> {
    let path = record.path()?;
    let mut log = LogReader::new(record, path.clone(), hello, QUESTION_LIMIT);
    let (floor, end) = bounds(&mut log, &path).await?;
    let (from, to) = (from.unwrap_or(floor), to.unwrap_or(end));
    if from < floor {
        return Err(ExportError::BelowFloor { from, floor });
    }
    if end < to {
        return Err(ExportError::BeyondEnd { to, end });
    }
    let facts = facts(&mut log, path.epoch(), end).await?;
    let mut export = Export {
        log,
        end,
        chain: Chain::new(facts),
        files: WalFiles::new(folder, facts)?,
        exported: Exported::default(),
    };
    export.run(from, to, progress).await?;
    if export.exported.records == 0 {
        return Err(ExportError::Empty { from, to });
    }
    export.exported.files = export.files.finish()?;
    Ok(export.exported)
}

/// From where to where there is log: the highest floor and the highest durable position that a copy of group 0 knows.
async fn bounds(log: &mut LogReader, path: &Path) -> Result<(Lsn, Lsn), ExportError> {
    let standings: Vec<Standing> = log.standings(GroupId::FIRST, STANDING_LIMIT).await?;
    let known: Vec<&Standing> = standings.iter().filter(|one| one.path == *path).collect();
    if known.is_empty() {
        return Err(ExportError::AnotherHistory);
    }
    let floor = known.iter().map(|one| path.reach(one.floor).lsn).max();
    let end = known.iter().map(|one| path.reach(one.durable).lsn).max();
    // A reign that has just begun has announced nothing: what it goes on from is durable.
    let end = end.unwrap_or(Lsn::ZERO).max(path.start().lsn);
    Ok((floor.unwrap_or(Lsn::ZERO), end))
}

/// What every page has in common.
async fn facts(log: &mut LogReader, epoch: Epoch, end: Lsn) -> Result<LogFacts, ExportError> {
    let group = log.group(GroupId::FIRST)?;
    // The name before it, most likely.
    let before = &blob::CONTROL_FILE[..blob::CONTROL_FILE.len() - 1];
    let control = group
        .ask(
            "the control file",
            |copy| Request::ScanCatalog {
                segment: copy.segment,
                epoch,
                read_point: end,
                needed: Position::new(epoch, end),
                after: Some(CatalogKey::Blob(before.to_owned())),
                entries_max: ENTRIES_AT_ONCE,
            },
            |response| match response {
                Response::Catalog(entries) => Ok(entries),
                other => Err(said(other)),
            },
        )
        .await?;
    let is_control = |key: &CatalogKey| *key == CatalogKey::Blob(blob::CONTROL_FILE.to_owned());
    let entry = control.into_iter().find(|entry| is_control(&entry.key));
    let control: Bytes = entry
        .and_then(|entry| entry.value)
        .ok_or(StateError::Missing("control file"))?;
    let control = ControlFile::parse(&control).map_err(StateError::from)?;
    let marks = group
        .ask(
            "the end of the log",
            |copy| Request::ReadFlushHeader {
                segment: copy.segment,
                epoch,
                at: end,
            },
            |response| match response {
                Response::FlushHeader { marks, .. } => Ok(marks),
                other => Err(said(other)),
            },
        )
        .await?;
    let marks = Marks::decode(&marks).map_err(|error| ExportError::Engine {
        what: "marks",
        why: error.to_string(),
    })?;
    Ok(LogFacts {
        timeline: marks.state.timeline,
        system_identifier: control.system_identifier(),
        wal_file_bytes: control.wal_file_bytes(),
    })
}

struct Export {
    log: LogReader,
    /// The durable end.
    end: Lsn,
    chain: Chain,
    files: WalFiles,
    exported: Exported,
}

impl Export {
    async fn run(&mut self, from: Lsn, to: Lsn, progress: &mut dyn FnMut(Lsn, Lsn, Lsn)) -> Result<(), ExportError> {
        let mut first = Share::new(GroupId::FIRST, from);
        let mut done = from;
        while done < to {
            // The last flush that is here whole: of no group a batch goes on behind it.
            let flush = first
                .flushes
                .iter()
                .rposition(|flush| flush.boundary == flush.end && flush.end <= first.at);
            let Some(last) = flush else {
                if self.end <= first.at {
                    break;
                }
                let part = self.log.part(GroupId::FIRST, first.next(), self.end, BYTES_AT_ONCE);
                first.add(part.await?)?;
                continue;
            };
            let flushes: Vec<_> = first.flushes.drain(..=last).collect();
            let barrier = flushes[last].end;
            let behind = first.records.split_off(&Lsn::from_raw(barrier.raw() + 1));
            let mut records = std::mem::replace(&mut first.records, behind);
            for (group, through) in parts_of_others(&flushes) {
                let (more, _) = self.log.share(group, done, through).await?;
                merge(&mut records, more)?;
            }
            records.retain(|end, _| from < *end && *end <= to);
            let flags = flushes.iter().flat_map(|flush| flush.page_flags.iter().copied());
            self.write(&records, flags.collect())?;
            done = barrier;
            progress(from, done.min(to), to);
        }
        Ok(())
    }

    fn write(&mut self, records: &Records, page_flags: Vec<(Lsn, u16)>) -> Result<(), ExportError> {
        let Some((start, bytes)) = self.chain.lay(records, &page_flags)? else {
            return Ok(());
        };
        if self.exported.records == 0 {
            self.files.begin(start)?;
            self.exported.from = start;
        }
        self.files.write(start, &bytes)?;
        self.exported.to = Lsn::from_raw(start.raw() + bytes.len() as u64);
        self.exported.records += records.len() as u64;
        Ok(())
    }
}

/// Adds what another group has; a record of several groups is the same in each.
fn merge(records: &mut Records, more: Records) -> Result<(), ExportError> {
    for (end, bytes) in more {
        match records.get(&end) {
            Some(known) if *known != bytes => return Err(ExportError::Contradiction(end)),
            Some(_) => {}
            None => drop(records.insert(end, bytes)),
        }
    }
    Ok(())
}

//! What must stay true (DESIGN §4.8), checked at every step.
//!
//! The checker sees what nobody in the system can: every flush that was ever made, every acknowledgement, every opened
//! timeline, and the disks.

use std::collections::BTreeMap;

use quorum::WRITE_QUORUM;
use timeline::Path;
use units::{Epoch, Lsn, Position};

use crate::Promise;
use crate::disk::Disk;
use crate::toy::Record;

/// A promise that was broken: which, and how.
pub(crate) type Violation = (Promise, String);

#[derive(Debug)]
pub(crate) struct Flush {
    previous: Position,
    boundary: Lsn,
    /// The record that ends with it.
    pub(crate) record: Option<Record>,
}

/// Everything that was ever said to the outside.
#[derive(Default, Debug)]
pub(crate) struct Checker {
    pub(crate) flushes: BTreeMap<Position, Flush>,
    acknowledged: BTreeMap<Epoch, Lsn>,
    /// Whose the acknowledgements of each reign are.
    acknowledged_by: BTreeMap<Epoch, usize>,
    /// Up to where readers were shown what each reign wrote.
    shown: BTreeMap<Epoch, Lsn>,
    /// Timelines in the volume's record: from that moment on they are history.
    recorded: BTreeMap<Epoch, Path>,
    opened: BTreeMap<Epoch, Path>,
}

impl Checker {
    /// A writer made a flush.
    pub(crate) fn flushed(&mut self, end: Position, previous: Position, boundary: Lsn, record: Option<Record>) {
        let flush = Flush {
            previous,
            boundary,
            record,
        };
        let before = self.flushes.insert(end, flush);
        assert!(before.is_none(), "the simulated writer made {end} twice");
    }

    /// A writer acknowledged everything up to `durable`.
    pub(crate) fn acknowledged(
        &mut self,
        writer: usize,
        epoch: Epoch,
        durable: Lsn,
        disks: &[&Disk],
    ) -> Result<(), Violation> {
        let first = *self.acknowledged_by.entry(epoch).or_insert(writer);
        if first != writer {
            let what = format!("two writers acknowledge log of {epoch:?}: the {first}th and the {writer}th");
            return Err(Promise::OneWriterAnEpoch.broken(what));
        }
        let before = self.acknowledged.insert(epoch, durable).unwrap_or(Lsn::ZERO);
        if durable <= before {
            let what = format!("the durable LSN of {epoch:?} went from {before} to {durable}");
            return Err(Promise::DurableNeverGoesBack.broken(what));
        }
        for (later, path) in self.recorded.range(epoch.next()..) {
            visible(epoch, durable, *later, path)?;
        }
        let end = self.ends_at(epoch, durable)?;
        self.held(end, before, disks)
    }

    /// A timeline was recorded, which is the moment of truth: everything acknowledged so far is in its history.
    pub(crate) fn recorded(&mut self, path: &Path) -> Result<(), Violation> {
        self.recorded.insert(path.epoch(), path.clone());
        let mut shown = self.shown.range(..path.epoch());
        if let Some((epoch, through)) = shown.find(|(epoch, through)| !path.sees(Position::new(**epoch, **through))) {
            let later = path.epoch();
            let what = format!("readers were shown {through} of {epoch:?}, which is not in the history of {later:?}");
            return Err(Promise::ShownStays.broken(what));
        }
        let mut earlier = self.acknowledged.range(..path.epoch());
        earlier.try_for_each(|(earlier, durable)| visible(*earlier, *durable, path.epoch(), path))
    }

    /// A reader was shown everything up to here.
    pub(crate) fn shown(&mut self, through: Position) {
        let shown = self.shown.entry(through.epoch).or_insert(Lsn::ZERO);
        *shown = through.lsn.max(*shown);
    }

    /// A volume was opened: everything acknowledged so far is in its history, which is whole and safe.
    pub(crate) fn opened(
        &mut self,
        path: &Path,
        branch: Lsn,
        last: Position,
        disks: &[&Disk],
    ) -> Result<(), Violation> {
        let epoch = path.epoch();
        // A later reign may have begun while this opener slept: then it is a zombie, and will acknowledge nothing.
        self.recorded(path)?;
        if last.lsn != branch {
            let what = format!("{epoch:?} begins at {branch}, inside or between flushes: the last is {last}");
            return Err(Promise::FlushesAreWhole.broken(what));
        }
        let flush = self
            .flushes
            .get(&last)
            .ok_or_else(|| Promise::FlushesAreWhole.broken(format!("nobody ever made {last}")))?;
        if flush.boundary != branch {
            let what = format!(
                "{epoch:?} begins in a record: {last} has its boundary at {}",
                flush.boundary
            );
            return Err(Promise::FlushesAreWhole.broken(what));
        }
        self.opened.insert(epoch, path.clone());
        self.held(last, Lsn::ZERO, disks)
    }

    /// The flush that ends where the durable LSN stands.
    fn ends_at(&self, epoch: Epoch, durable: Lsn) -> Result<Position, Violation> {
        let end = Position::new(epoch, durable);
        match self.flushes.get(&end) {
            Some(flush) if flush.boundary == durable => Ok(end),
            _ => {
                let what = format!("{epoch:?} acknowledged {durable}, which is no record's end");
                Err(Promise::FlushesAreWhole.broken(what))
            }
        }
    }

    /// Every flush from `end` back to `down_to` lies on a write quorum of disks, synced.
    fn held(&self, end: Position, down_to: Lsn, disks: &[&Disk]) -> Result<(), Violation> {
        for at in self.history(end).take_while(|at| down_to < at.lsn) {
            let copies = disks.iter().filter(|disk| disk.keeps(at)).count();
            if copies < WRITE_QUORUM {
                let what = format!("{at} is history below {end}, but only {copies} disks keep it");
                return Err(Promise::QuorumKeeps.broken(what));
            }
        }
        Ok(())
    }

    /// The flushes from `end` back to the first.
    pub(crate) fn history(&self, end: Position) -> impl Iterator<Item = Position> {
        let known = |at: &Position| self.flushes.contains_key(at);
        let before = move |at: &Position| self.flushes.get(at).map(|flush| flush.previous).filter(known);
        std::iter::successors(Some(end).filter(known), before)
    }

    /// The flush that ends here, as the path sees it.
    pub(crate) fn flush_at(&self, path: &Path, end: Lsn) -> Option<Position> {
        let mut visible = self.flushes.keys().filter(|at| at.lsn == end && path.sees(**at));
        visible.next().copied()
    }

    /// The last record end in a flush, if it was ever made.
    pub(crate) fn boundary(&self, end: Position) -> Option<Lsn> {
        self.flushes.get(&end).map(|flush| flush.boundary)
    }

    /// Whether anything of a reign was acknowledged.
    pub(crate) fn has_acknowledged(&self, epoch: Epoch) -> bool {
        self.acknowledged.contains_key(&epoch)
    }

    /// Every flush that was ever acknowledged.
    pub(crate) fn all_acknowledged(&self) -> impl Iterator<Item = Position> {
        let acknowledged = |position: &Position| {
            let durable = self.acknowledged.get(&position.epoch);
            durable.is_some_and(|durable| position.lsn <= *durable)
        };
        self.flushes.keys().copied().filter(acknowledged)
    }

    /// Timelines opened and flushes acknowledged, for the report.
    pub(crate) fn totals(&self) -> (usize, usize) {
        (self.opened.len(), self.all_acknowledged().count())
    }
}

fn visible(epoch: Epoch, durable: Lsn, later: Epoch, path: &Path) -> Result<(), Violation> {
    if path.sees(Position::new(epoch, durable)) {
        return Ok(());
    }
    let seen = path.visible_end(epoch);
    let what = format!("{epoch:?} acknowledged {durable}, but the history of {later:?} has of it only {seen:?}");
    Err(Promise::AcknowledgedStays.broken(what))
}

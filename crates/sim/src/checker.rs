//! What must stay true (DESIGN §4.8), checked at every step.
//!
//! The checker sees what nobody in the system can: every flush that was ever made, every acknowledgement, every opened
//! timeline, and the disks.

use std::collections::{BTreeMap, BTreeSet};

use quorum::WRITE_QUORUM;
use timeline::Path;
use units::{Epoch, GroupId, Lsn, Position, SegmentId, SegmentKind};
use volume::VolumeRecord;
use volume::record::MemberRecord;
use wire_format::CatalogEntry;

use crate::Promise;
use crate::disk::Disk;
use crate::toy::Record;
use crate::world::node_named;

/// A promise that was broken: which, and how.
pub(crate) type Violation = (Promise, String);

/// A record, and what it does to the catalog.
#[derive(Debug)]
pub(crate) struct Logged {
    pub(crate) record: Record,
    pub(crate) entries: Vec<CatalogEntry>,
}

#[derive(Debug)]
pub(crate) struct Flush {
    pub(crate) previous: Position,
    pub(crate) boundary: Lsn,
    /// The groups that have a part in it.
    pub(crate) groups: Vec<GroupId>,
    /// The record that ends with it.
    pub(crate) logged: Option<Logged>,
}

/// A copy that counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seat {
    segment: SegmentId,
    node: usize,
    is_full: bool,
}

/// One list of copies that count.
type List = Vec<Seat>;

impl Seat {
    fn keeps(&self, at: Position, disks: &[&Disk]) -> bool {
        disks[self.node].keeps(self.segment, at)
    }
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
    /// The last flush that the last opened timeline took over.
    taken_over: Position,
    /// The lists of each group, as the record has them.
    lists: BTreeMap<GroupId, Vec<List>>,
    /// The reign that changed them last.
    listed_in: Option<Epoch>,
    /// What was acknowledged of a group when two lists were recorded: the new copy has to have it before its list counts alone.
    before_joint: BTreeMap<GroupId, Vec<Position>>,
}

impl Checker {
    /// A writer made a flush.
    pub(crate) fn flushed(&mut self, end: Position, flush: Flush) {
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
        // While two lists count, what was acknowledged before, or by a zombie, may be on a write quorum of the old one only.
        let reigns = self.recorded.last_key_value().is_some_and(|(last, _)| *last == epoch);
        let new = self.history(end).take_while(|at| at.epoch == epoch && before < at.lsn);
        self.held(new, reigns, disks)
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

    /// The record says which copies count. Whatever was acknowledged is on a write quorum of every list that counts alone.
    pub(crate) fn grouped(
        &mut self,
        record: &VolumeRecord,
        wiped: &BTreeSet<SegmentId>,
        disks: &[&Disk],
    ) -> Result<(), Violation> {
        let list = |members: &Vec<MemberRecord>| -> List {
            let seat = |member: &MemberRecord| Seat {
                segment: member.segment,
                node: node_named(&member.node),
                is_full: member.kind == SegmentKind::Full,
            };
            members.iter().map(seat).collect()
        };
        let epoch = record.last().map(|last| last.epoch);
        let by_opening = std::mem::replace(&mut self.listed_in, epoch) != epoch;
        for group in &record.groups {
            let id = GroupId::from_raw(group.group);
            let lists: Vec<List> = std::iter::once(&group.members)
                .chain(&group.joining)
                .map(list)
                .collect();
            let before = self.lists.insert(id, lists).unwrap_or_default();
            let is_new = before != self.lists[&id];
            if is_new && group.joining.is_some() {
                let acknowledged = self
                    .all_acknowledged()
                    .filter(|at| self.flushes[at].groups.contains(&id));
                self.before_joint.insert(id, acknowledged.collect());
            }
            if is_new && group.joining.is_none() {
                // Of a list that an opening made a write quorum has it, and the others get it.
                if !by_opening {
                    self.newcomers_are_whole(id, &before, wiped, disks)?;
                }
                let history = self.all_acknowledged().chain(self.history(self.taken_over));
                for at in history.filter(|at| self.flushes[at].groups.contains(&id)) {
                    self.lies_on_quorums(at, id, true, disks)?;
                }
            }
        }
        Ok(())
    }

    /// A copy that was not in the old list of two, and is in the one that counts alone, has what was acknowledged before, unless
    /// its disk was emptied since it said so.
    fn newcomers_are_whole(
        &self,
        id: GroupId,
        before: &[List],
        wiped: &BTreeSet<SegmentId>,
        disks: &[&Disk],
    ) -> Result<(), Violation> {
        let [old, _] = before else {
            return Ok(());
        };
        let listed = self.lists[&id].iter().flatten();
        let newcomers = listed.filter(|copy| !old.contains(copy) && !wiped.contains(&copy.segment));
        for copy in newcomers {
            let needed = self.before_joint.get(&id).into_iter().flatten();
            if let Some(missing) = needed.into_iter().find(|at| !copy.keeps(**at, disks)) {
                let what = format!(
                    "the new copy of {id} on storage-{} counts, and lacks {missing}",
                    copy.node + 1
                );
                return Err(Promise::QuorumKeeps.broken(what));
            }
        }
        Ok(())
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
        if self.opened.last_key_value().is_none_or(|(newest, _)| *newest < epoch) {
            self.taken_over = last;
        }
        self.opened.insert(epoch, path.clone());
        self.held(self.history(last), false, disks)
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

    /// Every one of these flushes lies on a write quorum of disks, synced: of both lists of a group that has two, or of the
    /// old one.
    fn held(&self, flushes: impl Iterator<Item = Position>, of_both: bool, disks: &[&Disk]) -> Result<(), Violation> {
        for at in flushes {
            for group in &self.flushes[&at].groups {
                self.lies_on_quorums(at, *group, of_both, disks)?;
            }
        }
        Ok(())
    }

    /// A group's part of a flush lies on a write quorum of its lists, synced: on four of six, or where there are tails on every
    /// full copy.
    fn lies_on_quorums(&self, at: Position, group: GroupId, of_both: bool, disks: &[&Disk]) -> Result<(), Violation> {
        let lists = self.lists.get(&group).into_iter().flatten();
        for list in lists.take(if of_both { usize::MAX } else { 1 }) {
            let keeps = |copy: &&Seat| copy.keeps(at, disks);
            let copies = list.iter().filter(keeps).count();
            let full = || list.iter().filter(|copy| copy.is_full);
            let has_tails = full().count() < list.len();
            if copies < WRITE_QUORUM && !(has_tails && full().all(|copy| copy.keeps(at, disks))) {
                let nodes: Vec<usize> = list.iter().map(|copy| copy.node + 1).collect();
                let keep: Vec<usize> = list.iter().filter(keeps).map(|copy| copy.node + 1).collect();
                let what = format!("only {keep:?} keep the part of {at} that {group} has, of {nodes:?}");
                return Err(Promise::QuorumKeeps.broken(what));
            }
        }
        if self.lists.contains_key(&group) {
            return Ok(());
        }
        let what = format!("{at} has a part in {group}, which no record names");
        Err(Promise::RecordLeads.broken(what))
    }

    /// Which copies of a group count, each with its node.
    pub(crate) fn copies_of(&self, group: GroupId) -> impl Iterator<Item = (SegmentId, usize)> {
        let seats = self.lists.get(&group).into_iter().flatten().flatten();
        seats.map(|copy| (copy.segment, copy.node))
    }

    /// The flushes from `end` back to the first.
    pub(crate) fn history(&self, end: Position) -> impl Iterator<Item = Position> {
        let known = |at: &Position| self.flushes.contains_key(at);
        let before = move |at: &Position| self.flushes.get(at).map(|flush| flush.previous).filter(known);
        std::iter::successors(Some(end).filter(known), before)
    }

    /// The flushes of a group from `end` back to the first.
    pub(crate) fn history_of(&self, group: GroupId, end: Position) -> impl Iterator<Item = Position> {
        let has_part = move |at: &Position| self.flushes[at].groups.contains(&group);
        self.history(end).filter(has_part)
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

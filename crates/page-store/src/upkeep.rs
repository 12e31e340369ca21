//! The work behind the scenes: tables become layers, layers are merged, journal files are given up and made ready.
//!
//! Invariants:
//! - What the manifest does not name is not there: it is durable before readers see a new layer, and before an old one, or a
//!   journal file whose batches it holds, goes.
//! - On a full disk whatever fails is left as it was, and tried again by the next step.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io as std_io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use units::{Lsn, SegmentId};

use crate::fold::Folder;
use crate::journal_files::{self, Held};
use crate::layer::{self, Layer};
use crate::locked;
use crate::manifest::Manifest;
use crate::merge;
use crate::read::{ReadError, Reading};
use crate::segment_store::{Horizon, SegmentStore};
use crate::store::PageStore;

/// Steps of a long piece of work between two looks at whether a table is due, or a journal file wanted.
const STEPS_PER_CHECK: u32 = 1024;

/// What one step of background work did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// There is nothing to do.
    Idle,
    /// A table became a layer.
    TableWritten,
    /// Layers were merged.
    LayersMerged,
    /// A segment that was removed has left the manifest, and its layers are gone.
    SegmentRemoved,
    /// A journal file was given up.
    JournalRecycled,
    /// A journal file was made ready for what comes.
    JournalPrepared,
}

impl PageStore {
    /// One step of background work: at most one table or one merge. `pace` is called often while it lasts, and may sleep.
    pub fn maintain(&self, pace: &dyn Fn()) -> Result<Progress, ReadError> {
        // However long a step takes, the journal must not run out of files meanwhile.
        let steps = Cell::new(0u32);
        let pace = &|| {
            pace();
            steps.set(steps.get().wrapping_add(1));
            if steps.get().is_multiple_of(STEPS_PER_CHECK)
                && let Err(error) = self.reserve.prepare(pace)
            {
                // The step after this one says so, too.
                tracing::debug!(%error, "journal.prepare");
            }
        };
        // What fails must not keep the rest from being done: on a disk without room for a layer a journal file that goes makes
        // some, and one segment's damaged layer is no other's.
        let mut failed = None;
        match self.write_due_table(pace) {
            Ok(true) => return Ok(Progress::TableWritten),
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
        let _alone = locked(&self.merging);
        match self.remove_layers() {
            Ok(true) => return Ok(Progress::SegmentRemoved),
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
        let segments = self.all_segments();
        match self.recycle_journal(&segments) {
            Ok(true) => return Ok(Progress::JournalRecycled),
            Ok(false) => {}
            Err(error) => failed = Some(error),
        }
        match self.reserve.prepare(pace) {
            Ok(true) => return Ok(Progress::JournalPrepared),
            Ok(false) => {}
            Err(error) => failed = Some(ReadError::io(journal_files::FOLDER, &error)),
        }
        for segment in &segments {
            match self.let_layers_go(segment) {
                Ok(true) => return Ok(Progress::LayersMerged),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
            match self.merge_layers(segment, pace) {
                Ok(true) => return Ok(Progress::LayersMerged),
                Ok(false) => {}
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(Progress::Idle), Err)
    }

    pub(crate) fn table_bytes(&self, segments: &[Arc<SegmentStore>]) -> usize {
        segments.iter().map(|segment| segment.table_bytes()).sum()
    }

    /// Writes out the table that is due, if one is: the largest when tables take too much memory, or one that keeps a journal
    /// that is too long.
    pub(crate) fn write_due_table(&self, pace: &dyn Fn()) -> Result<bool, ReadError> {
        let _alone = locked(&self.writing);
        self.settle();
        let segments = self.all_segments();
        let due = match self.segment_that_pins_the_journal(&segments) {
            Some(pinning) => segments.iter().find(|segment| segment.id == pinning),
            None if self.config.table_bytes_max <= self.table_bytes(&segments) => {
                segments.iter().max_by_key(|segment| segment.table_bytes())
            }
            None => None,
        };
        due.map_or(Ok(false), |segment| self.write_table(segment, pace))
    }

    /// If the journal is too long: a segment that has to write its table out before the oldest file can go. Not one that holds
    /// the file for a long record that is still coming in: its table would be written in vain, and again with every flush.
    fn segment_that_pins_the_journal(&self, segments: &[Arc<SegmentStore>]) -> Option<SegmentId> {
        // A tail indexes what has to be written out, and no more.
        let needed: Vec<SegmentId> = {
            let files = locked(&self.journal_files);
            let is_long = self.config.journal_retained_bytes_max <= files.bytes();
            let oldest = files.oldest().filter(|_| is_long)?;
            let pinning = oldest.1.held.iter().filter(|(id, held)| {
                let segment = segments.iter().find(|segment| segment.id == **id);
                let horizon = segment.and_then(|segment| segment.horizon());
                !horizon.is_some_and(|horizon| horizon.needs_no_journal(held))
            });
            pinning.map(|(id, _)| *id).collect()
        };
        let end = self.handed_over.load(Ordering::Acquire);
        for tail in segments.iter().filter(|one| needed.contains(&one.id) && one.is_tail()) {
            tail.settle(&*self.engine, end);
        }
        // Before the locks are taken: who indexes holds this one for longer than an append may wait.
        let indexed: BTreeMap<SegmentId, u64> = segments
            .iter()
            .map(|segment| (segment.id, segment.indexed_through()))
            .collect();
        let manifest = locked(&self.manifest);
        let files = locked(&self.journal_files);
        let (_, oldest) = files.oldest()?;
        if files.bytes() < self.config.journal_retained_bytes_max {
            return None;
        }
        let pins = |(segment, held): &(&SegmentId, &Held)| {
            let indexed = indexed.get(segment).is_some_and(|through| held.last_offset < *through);
            needed.contains(segment) && indexed && !manifest.holds(**segment, held.last_offset)
        };
        oldest.held.iter().find(pins).map(|(segment, _)| *segment)
    }

    /// Writes every table out, so that the journal is not needed at the next start.
    pub fn write_tables(&self) -> Result<(), ReadError> {
        let _alone = locked(&self.writing);
        self.settle();
        for segment in self.all_segments() {
            self.write_table(&segment, &|| ())?;
        }
        Ok(())
    }

    /// Takes segments that were removed out of the manifest, and removes their layers.
    fn remove_layers(&self) -> Result<bool, ReadError> {
        let mut manifest = locked(&self.manifest);
        let known: BTreeSet<SegmentId> = self.all_segments().iter().map(|segment| segment.id).collect();
        let mut next = manifest.clone();
        next.segments.retain(|segment, _| known.contains(segment));
        // Only once the journal says durably that they are removed.
        if next.segments.len() == manifest.segments.len()
            || self.handed_over.load(Ordering::Acquire) < locked(&self.journal).end
        {
            return Ok(false);
        }
        next.save(&*self.disk)
            .map_err(|error| ReadError::io("manifest", &error))?;
        let old = std::mem::replace(&mut *manifest, next);
        let removed = old.segments.iter().filter(|(segment, _)| !known.contains(segment));
        for layer in removed.flat_map(|(_, removed)| &removed.layers) {
            // A reader that is still at it gets an error, and asks another copy. What stays is removed at the next start.
            let file = layer::file_name(*layer);
            self.disk.remove(&file).map_err(|error| ReadError::io(&file, &error))?;
        }
        Ok(true)
    }

    pub(crate) fn next_layer(&self) -> u64 {
        let mut manifest = locked(&self.manifest);
        manifest.last_layer += 1;
        manifest.last_layer
    }

    fn folder<'a>(&'a self, segment: &'a SegmentStore, horizon: &'a Horizon) -> Folder<'a> {
        let reading = Reading {
            is_readers: false,
            ..self.reading(&horizon.path)
        };
        Folder::new(&self.config, reading, horizon, segment)
    }

    /// The horizon, once every record that it covers is indexed: a fold must not miss one that is still to be.
    fn settled_horizon(&self, segment: &SegmentStore) -> Option<Horizon> {
        let horizon = segment.horizon();
        segment.settle(&*self.engine, self.handed_over.load(Ordering::Acquire));
        horizon
    }

    pub(crate) fn write_table(&self, segment: &SegmentStore, pace: &dyn Fn()) -> Result<bool, ReadError> {
        let horizon = self.settled_horizon(segment);
        let layered_through = locked(&self.manifest).through_offset(segment.id);
        let Some(table) = segment.freeze(layered_through) else {
            return Ok(false);
        };
        let folds = horizon.as_ref().filter(|_| !segment.is_damaged());
        let mut folder = folds.map(|horizon| self.folder(segment, horizon));
        let writer = self.layer_writer();
        let layer = merge::write_table(&table, folder.as_mut(), writer, pace)?;
        let written = self.change_layers(segment, &[], layer, table.through_offset)?;
        self.counters.table_written(written.as_deref());
        segment.thaw();
        Ok(true)
    }

    fn merge_layers(&self, segment: &SegmentStore, pace: &dyn Fn()) -> Result<bool, ReadError> {
        let Some(horizon) = self.settled_horizon(segment) else {
            return Ok(false);
        };
        let Some(chosen) = merge::choose(&segment.layers(), self.config.merge_layers) else {
            return Ok(false);
        };
        let writer = self.layer_writer();
        // A long merge must not keep tables from being written out.
        let keys = Cell::new(0u32);
        let pace = || {
            pace();
            keys.set(keys.get().wrapping_add(1));
            if keys.get().is_multiple_of(STEPS_PER_CHECK)
                && let Err(error) = self.write_due_table(pace)
            {
                tracing::warn!(%error, "store.merge: a table that is due cannot be written");
            }
        };
        let mut folder = (!segment.is_damaged()).then(|| self.folder(segment, &horizon));
        let merged = merge::merge(&chosen, folder.as_mut(), writer, &pace);
        let merged = merged.inspect_err(|error| {
            self.note_loss(segment, &chosen, error);
        })?;
        let merged = self.change_layers(segment, &chosen, merged, 0)?;
        let old = chosen.iter().map(|layer| &**layer);
        self.counters.merged(old, merged.as_deref());
        Ok(true)
    }

    /// Durable in the manifest first, then for readers. Answers with the new layer.
    pub(crate) fn change_layers(
        &self,
        segment: &SegmentStore,
        old: &[Arc<Layer>],
        new: Option<Layer>,
        through_offset: u64,
    ) -> Result<Option<Arc<Layer>>, ReadError> {
        // A table is written and layers are merged at the same time: what one adds, the other must not leave out.
        let mut manifest = locked(&self.manifest);
        let new = new.map(Arc::new);
        if segment.is_removed() {
            new.iter().for_each(|layer| layer.make_obsolete());
            return Ok(None);
        }
        let is_old = |layer: &Arc<Layer>| old.iter().any(|one| one.number == layer.number);
        let mut layers: Vec<Arc<Layer>> = segment
            .layers()
            .iter()
            .filter(|layer| !is_old(layer))
            .cloned()
            .collect();
        layers.extend(new.clone());
        let mut next = manifest.clone();
        let known = next.segments.entry(segment.id).or_default();
        known.layers = layers.iter().map(|layer| layer.number).collect();
        known.through_offset = known.through_offset.max(through_offset);
        let io = |error: std_io::Error| ReadError::io("manifest", &error);
        if let Err(error) = next.prepare(&*self.disk) {
            new.iter().for_each(|layer| layer.make_obsolete());
            return Err(io(error));
        }
        Manifest::replace(&*self.disk).map_err(io)?;
        *manifest = next;
        self.damage_saved.store(true, Ordering::Release);
        segment.set_layers(layers);
        old.iter().for_each(|layer| layer.make_obsolete());
        Ok(new)
    }

    /// Gives up the oldest file of the journal if nobody needs it.
    fn recycle_journal(&self, segments: &[Arc<SegmentStore>]) -> Result<bool, ReadError> {
        let Some(start) = self.unneeded_file(segments) else {
            return Ok(false);
        };
        if !self.damage_saved.load(Ordering::Acquire) {
            // The file may be all that tells of it.
            let saved = locked(&self.manifest).save(&*self.disk);
            saved.map_err(|error| ReadError::io("manifest", &error))?;
            self.damage_saved.store(true, Ordering::Release);
        }
        let forgotten = locked(&self.journal_files).forget_batches(start);
        drop(forgotten);
        // One after the other, each durably, so that no power cut leaves a gap.
        let given_back = self.reserve.give_back(start);
        given_back.map_err(|error| ReadError::io(journal_files::FOLDER, &error))?;
        locked(&self.journal_files).files.remove(&start);
        self.note_journal_whole(start, segments)?;
        self.counters.journal_file_recycled();
        Ok(true)
    }

    /// The oldest file of the journal, if it could go and nobody needs it.
    fn unneeded_file(&self, segments: &[Arc<SegmentStore>]) -> Option<u64> {
        let released = released(segments);
        let manifest = locked(&self.manifest);
        let files = locked(&self.journal_files);
        let (start, oldest) = files.oldest()?;
        let unneeded = |(segment, held): (&SegmentId, &Held)| match released.get(segment) {
            // It was removed.
            None => true,
            Some(released) => released.wants_not(held) && released.is_kept_without(held, &manifest),
        };
        oldest.held.iter().all(unneeded).then_some(start)
    }
}

/// What a segment's part of the journal may go for.
pub(crate) struct Released {
    segment: SegmentId,
    horizon: Option<Horizon>,
    through: Option<Lsn>,
}

impl Released {
    /// Whether nobody wants this any more.
    pub(crate) fn wants_not(&self, held: &Held) -> bool {
        self.through.is_some_and(|through| held.highest_lsn <= through)
    }

    /// Whether layers have it, or need not.
    pub(crate) fn is_kept_without(&self, held: &Held, manifest: &Manifest) -> bool {
        let needs_not = |horizon: &Horizon| horizon.needs_no_journal(held);
        manifest.holds(self.segment, held.last_offset) || self.horizon.as_ref().is_some_and(needs_not)
    }
}

/// What the segments' parts of the journal may go for.
pub(crate) fn released(segments: &[Arc<SegmentStore>]) -> BTreeMap<SegmentId, Released> {
    let of_one = |segment: &Arc<SegmentStore>| Released {
        segment: segment.id,
        horizon: segment.horizon(),
        through: segment.unneeded_through(),
    };
    segments.iter().map(|one| (one.id, of_one(one))).collect()
}

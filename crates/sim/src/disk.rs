//! A storage node's journal on a disk that forgets what was not synced.

use std::collections::BTreeSet;

use bytes::Bytes;
use segment::{Link, Segment, SegmentState};
use timeline::Path;
use units::{Lsn, Position};
use wire_format::EncodedBatch;

use crate::random::Random;

/// One journal entry.
#[derive(Clone, Debug)]
pub(crate) enum Entry {
    State(Bytes),
    Batch(EncodedBatch),
}

/// The journal of the one segment that a simulated node has.
#[derive(Default, Debug)]
pub(crate) struct Disk {
    synced: Vec<Entry>,
    /// Written, but a power cut may take any tail of it.
    written: Vec<Entry>,
    /// For the checker: names of the batches that were synced before this disk lost anything.
    kept: BTreeSet<Position>,
    lost_something: bool,
    damaged: bool,
}

impl Disk {
    pub(crate) fn write(&mut self, entry: Entry) {
        self.written.push(entry);
    }

    pub(crate) fn sync(&mut self) {
        for entry in &self.written {
            if let Entry::Batch(batch) = entry
                && !self.lost_something
            {
                self.kept.insert(batch.batch().position());
            }
        }
        self.synced.append(&mut self.written);
    }

    /// A sync failed: nothing of what it should have kept is trusted. Answers with the last state that is.
    pub(crate) fn discard_written(&mut self) -> (Option<SegmentState>, Vec<Position>) {
        let batches = self.written.drain(..).filter_map(|entry| match entry {
            Entry::Batch(batch) => Some(batch.batch().position()),
            Entry::State(_) => None,
        });
        let batches = batches.collect();
        (self.last_state(), batches)
    }

    /// The power goes: a tail of what was not synced is gone.
    pub(crate) fn power_cut(&mut self, random: &mut Random) {
        let kept = random.below(self.written.len() as u64 + 1) as usize;
        self.written.truncate(kept);
    }

    /// Rot below what was synced: one batch cannot be read any more.
    pub(crate) fn rot(&mut self, random: &mut Random) {
        let batches = self.synced.iter().enumerate();
        let batches: Vec<usize> = batches
            .filter(|(_, entry)| matches!(entry, Entry::Batch(_)))
            .map(|(at, _)| at)
            .collect();
        if !batches.is_empty() {
            self.synced.remove(batches[random.below(batches.len() as u64) as usize]);
            (self.damaged, self.lost_something) = (true, true);
        }
    }

    /// The files are lost: all but the birth of the segment, which a node without files does not have either.
    pub(crate) fn wipe(&mut self, keep_birth: bool) {
        self.written.clear();
        self.lost_something = true;
        let birth = self.synced.drain(..).next();
        self.synced.extend(birth.filter(|_| keep_birth));
    }

    fn last_state(&self) -> Option<SegmentState> {
        self.synced.iter().rev().find_map(|entry| match entry {
            Entry::State(bytes) => {
                Some(SegmentState::decode(bytes.clone()).expect("a journaled state reads back as it was written"))
            }
            Entry::Batch(_) => None,
        })
    }

    /// What a node finds when it starts. It syncs first (protocol.md, hole 28).
    pub(crate) fn recover(&mut self) -> Option<Segment> {
        self.sync();
        let links = self.batches().map(|batch| Link::of(batch.batch())).collect();
        Some(Segment::recover(self.last_state()?, links, !self.damaged))
    }

    pub(crate) fn batches(&self) -> impl Iterator<Item = &EncodedBatch> {
        let entries = self.synced.iter().chain(&self.written);
        entries.filter_map(|entry| match entry {
            Entry::Batch(batch) => Some(batch),
            Entry::State(_) => None,
        })
    }

    /// Whether this batch was synced here while the disk was sound: what was acknowledged is promised for as long as no more
    /// disks lose something than may.
    pub(crate) fn keeps(&self, position: Position) -> bool {
        self.kept.contains(&position)
    }

    /// The last flush at or below `at` in the history of `path`.
    pub(crate) fn last_flush(&self, path: &Path, at: Lsn) -> Option<&EncodedBatch> {
        let visible = self.batches().filter(|batch| {
            let position = batch.batch().position();
            path.sees(position) && position.lsn <= at
        });
        visible.max_by_key(|batch| batch.batch().end)
    }
}

//! What of a segment is lost, how much of that is known, and what it costs.
//!
//! Invariants:
//! - A segment that has lost something makes no pages, and nothing of it is folded: an image would be made without what is
//!   lost, and would hide it for good.
//! - What is lost is written down before the trace of it goes; it counts as lost until the manifest says that it is not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::layer::{self, Layer};
use crate::locked;
use crate::manifest::Manifest;
use crate::read::ReadError;
use crate::segment_store::SegmentStore;
use crate::store::PageStore;

/// What of a segment is lost, as the manifest remembers it. Of two losses the later one in this order stands for both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub(crate) enum Loss {
    #[default]
    Nothing,
    /// Parts of layers: reading them again tells which.
    Blocks,
    /// Whole layers: what they held nobody here knows.
    Layers,
    /// Log: nobody here knows after a start what the segment acknowledged and promised.
    Log,
}

impl Loss {
    pub(crate) fn code(self) -> u8 {
        match self {
            Loss::Nothing => 0,
            Loss::Blocks => 1,
            Loss::Layers => 2,
            Loss::Log => 3,
        }
    }

    pub(crate) fn from_code(code: u8) -> Option<Loss> {
        [Loss::Nothing, Loss::Blocks, Loss::Layers, Loss::Log]
            .into_iter()
            .find(|loss| loss.code() == code)
    }
}

/// What of an open segment is lost.
#[derive(Clone, Default, Debug)]
pub(crate) struct Damage {
    /// [`Loss::Log`]: at the start something of the journal was lost, and no peer can say what.
    pub(crate) at_start: Loss,
    /// Something of its layers.
    pub(crate) in_layers: Loss,
    /// Files of the journal that were found rotten since the start. What they said is still known here.
    pub(crate) journal_files: BTreeSet<u64>,
    /// Counts what was found.
    pub(crate) noted: u64,
}

impl Damage {
    /// What was found at the start.
    pub(crate) fn at_start(loss: Loss) -> Damage {
        let is_log = loss == Loss::Log;
        Damage {
            at_start: if is_log { Loss::Log } else { Loss::Nothing },
            in_layers: if is_log { Loss::Nothing } else { loss },
            ..Damage::default()
        }
    }

    /// What the manifest has to remember.
    pub(crate) fn loss(&self) -> Loss {
        let in_journal = if self.journal_files.is_empty() {
            Loss::Nothing
        } else {
            Loss::Log
        };
        self.at_start.max(self.in_layers).max(in_journal)
    }
}

impl PageStore {
    /// If a layer could not be read since a part of it is lost, it costs the segment its vote, as it does at a start.
    /// Answers whether it was so.
    pub(crate) fn note_loss(&self, segment: &SegmentStore, layers: &[Arc<Layer>], error: &ReadError) -> bool {
        let (ReadError::Corrupt { file, .. } | ReadError::Missing { file }) = error else {
            return false;
        };
        let Some(rotten) = layers.iter().find(|one| layer::file_name(one.number) == *file) else {
            return false;
        };
        if !rotten.mark_rotten() {
            self.counters.damaged();
        }
        self.note_damage(segment, error, |damage| {
            damage.in_layers = damage.in_layers.max(Loss::Blocks)
        });
        true
    }

    /// What a read came to; if it found that a layer of the segment does not say any more what was written there, nobody counts on the
    /// segment from now on.
    pub(crate) fn noting_loss<T>(&self, segment: &SegmentStore, read: Result<T, ReadError>) -> Result<T, ReadError> {
        read.inspect_err(|error| {
            self.note_loss(segment, &segment.layers(), error);
        })
    }

    /// A file of the journal does not say any more what was written there: whoever has something in it loses its vote.
    pub(crate) fn note_journal_loss(&self, start: u64, segments: &[Arc<SegmentStore>], error: &ReadError) {
        let is_news = |segment: &&Arc<SegmentStore>| !segment.damage().journal_files.contains(&start);
        let news: Vec<_> = segments.iter().filter(is_news).collect();
        if !news.is_empty() {
            self.counters.damaged();
        }
        for segment in news {
            self.note_damage(segment, error, |damage| {
                damage.journal_files.insert(start);
            });
        }
    }

    /// A file of the journal is whole again, or gone, and nobody needed it: it costs nobody a vote any more.
    pub(crate) fn note_journal_whole(&self, start: u64, segments: &[Arc<SegmentStore>]) -> Result<(), ReadError> {
        let holders: Vec<_> = segments
            .iter()
            .filter(|segment| segment.damage().journal_files.contains(&start))
            .collect();
        if holders.is_empty() {
            return Ok(());
        }
        let mut manifest = locked(&self.manifest);
        let mut next = manifest.clone();
        for segment in &holders {
            let mut damage = segment.damage();
            damage.journal_files.remove(&start);
            next.segments.entry(segment.id).or_default().loss = damage.loss();
        }
        let saved = next.save(&*self.disk);
        saved.map_err(|error| ReadError::io(Manifest::FILE, &error))?;
        *manifest = next;
        self.damage_saved.store(true, Ordering::Release);
        for segment in &holders {
            segment.change_damage(|damage| {
                damage.journal_files.remove(&start);
            });
        }
        self.counters.mended(1, 0);
        Ok(())
    }

    /// Something of the segment is lost: that is written down, and it neither votes nor makes pages any more.
    fn note_damage(&self, segment: &SegmentStore, error: &ReadError, note: impl FnOnce(&mut Damage)) {
        let mut manifest = locked(&self.manifest);
        let loss = segment.change_damage(|damage| {
            note(damage);
            damage.noted += 1;
        });
        let segment = segment.id;
        tracing::error!(%segment, %error, "segment.lost: something is lost, the segment has no vote and gives no pages");
        manifest.segments.entry(segment).or_default().loss = loss;
        self.damage_saved.store(false, Ordering::Release);
        match manifest.save(&*self.disk) {
            Ok(()) => self.damage_saved.store(true, Ordering::Release),
            Err(error) => tracing::warn!(%error, "segment.lost: that is not written down yet"),
        }
    }
}

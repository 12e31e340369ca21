//! Scrub: everything at rest is read again from time to time, since what nobody reads rots unseen.
//!
//! Everything but the journal's end is compared with checksums that are kept apart from it: a layer's in the index that is
//! in memory since the layer was opened, so that a write that never arrived, or arrived elsewhere, shows as well as a flipped
//! bit does. What is lost costs the segment its vote at once, not at the next start.
//!
//! Invariant: only what the disk answers counts. A disk that does not answer has lost nothing, as far as anybody knows.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use units::SegmentId;

use crate::journal_entry::Entry;
use crate::journal_files::file_name;
use crate::locked;
use crate::manifest::Manifest;
use crate::read::ReadError;
use crate::store::PageStore;

/// What a pass over everything at rest has found.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Files that did not say what was written to them.
    pub damaged: u64,
    /// Those of them that were written anew.
    pub mended: u64,
}

/// A file of the journal, as far as all of it was synced.
struct Stretch {
    start: u64,
    bytes: u64,
    holds: BTreeSet<SegmentId>,
}

impl PageStore {
    /// One pass over everything at rest: layers, journal, manifest. `pace` hears after every piece how many bytes were read, may
    /// sleep, and says whether to go on. An error is a disk that cannot be read: the rest of the pass is done all the same.
    pub fn scrub(&self, pace: &dyn Fn(u64) -> bool) -> Result<Scrubbed, ReadError> {
        let mut scrubbed = Scrubbed::default();
        let mut unreadable = None;
        let ended = Cell::new(false);
        let pace = &|bytes| {
            ended.set(ended.get() || !pace(bytes));
            !ended.get()
        };
        for segment in self.all_segments() {
            for layer in segment.layers().iter().filter(|layer| !layer.is_rotten()) {
                if ended.get() {
                    return Ok(scrubbed);
                }
                match layer.check(pace) {
                    Ok(bytes) => scrubbed.bytes += bytes,
                    Err(error) if self.note_loss(&segment, std::slice::from_ref(layer), &error) => {
                        scrubbed.damaged += 1
                    }
                    Err(error) => unreadable = Some(error),
                }
            }
        }
        let mut at = 0;
        while let Some((next, checked)) = self.check_journal(at) {
            match checked {
                Ok(bytes) => {
                    scrubbed.bytes += bytes;
                    if !pace(bytes) {
                        return Ok(scrubbed);
                    }
                }
                Err(ReadError::Corrupt { .. } | ReadError::Missing { .. }) => scrubbed.damaged += 1,
                Err(error) => unreadable = Some(error),
            }
            at = next;
        }
        match self.check_manifest() {
            Ok(true) => {}
            Ok(false) => {
                scrubbed.damaged += 1;
                scrubbed.mended += 1;
            }
            Err(error) => unreadable = Some(error),
        }
        unreadable.map_or(Ok(scrubbed), Err)
    }

    /// The first file of the journal from an offset on, read again: where to go on, and how many bytes are sound. If they are
    /// not, whoever has a batch there loses its vote: what it acknowledged would not survive a restart.
    fn check_journal(&self, from: u64) -> Option<(u64, Result<u64, ReadError>)> {
        // No file is given up meanwhile, and none begins another life.
        let _alone = locked(&self.merging);
        let stretch = self.stretch(from)?;
        let checked = self.check_stretch(&stretch);
        if let Err(error @ (ReadError::Corrupt { .. } | ReadError::Missing { .. })) = &checked {
            let mut holders = self.all_segments();
            holders.retain(|segment| stretch.holds.contains(&segment.id));
            self.note_journal_loss(stretch.start, &holders, error);
        }
        Some((stretch.start + stretch.bytes.max(1), checked))
    }

    fn stretch(&self, from: u64) -> Option<Stretch> {
        let synced = self.handed_over.load(Ordering::Acquire);
        let files = locked(&self.journal_files);
        let (start, file) = files.files.range(from..).next()?;
        Some(Stretch {
            start: *start,
            bytes: file.bytes.min(synced.saturating_sub(*start)),
            holds: file.held.keys().copied().collect(),
        })
    }

    fn check_stretch(&self, stretch: &Stretch) -> Result<u64, ReadError> {
        let name = file_name(stretch.start);
        let mut bytes = vec![0; stretch.bytes as usize];
        match self.disk.read_at_rest(&name, 0, &mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Err(ReadError::corrupt(&name, "it is shorter than it was"));
            }
            read => read.map_err(|error| ReadError::io(&name, &error))?,
        }
        let mut at = 0;
        while at < bytes.len() {
            let entry = Entry::decode(&bytes, stretch.start, at);
            at += entry
                .ok_or_else(|| ReadError::corrupt(&name, &format!("no entry at {at}, where there was one")))?
                .bytes();
        }
        Ok(stretch.bytes)
    }

    /// Whether the manifest on the disk is the one that is in memory; if not, it is now.
    fn check_manifest(&self) -> Result<bool, ReadError> {
        let manifest = locked(&self.manifest);
        if !self.damage_saved.load(Ordering::Acquire) || manifest.is_stored(&*self.disk) {
            return Ok(true);
        }
        tracing::error!("store.scrub: the manifest on the disk is not what was written; it is written again");
        let saved = manifest.save(&*self.disk);
        saved.map_err(|error| ReadError::io(Manifest::FILE, &error))?;
        self.counters.damaged();
        self.counters.mended(1, 0);
        Ok(false)
    }
}

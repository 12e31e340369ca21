//! What comes from the layers of peers: written into layers as it comes, unread but for its checksums.
//!
//! A pass makes as many layers as peers give runs at once: the first run of every answer goes into the first, and so on. Parts of a
//! pass are of different keys, so that the runs of one layer are, too.
//!
//! Invariants:
//! - After an error the pass takes nothing more: only another one can.
//! - A part is taken in its order: an answer that comes twice, or late, changes nothing.
//! - Layers are in the manifest when [`PageStore::take_versions`] answers for the last answer of a pass. What no manifest names
//!   is gone at the next start.

use std::collections::BTreeMap;

use units::SegmentId;
use wire_format::message::{VersionCursor, Versions};

use crate::layer_writer::{LayerWriter, checked_runs};
use crate::locked;
use crate::read::ReadError;
use crate::segment_store::SegmentStore;
use crate::store::PageStore;

/// Bytes in one layer, about: a layer of a long pass is finished, and another begun.
const LAYER_BYTES: u64 = 1 << 30;
/// Bytes written to a layer before they are made durable: whoever syncs the journal meanwhile does not wait for more.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// A part of a pass over the versions of peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PassPart {
    /// Number of the pass: a later one ends an earlier one.
    pub pass: u64,
    /// Number of the part in it.
    pub part: u32,
    /// How many parts it has, as far as that is known.
    pub parts: u32,
}

/// A pass, as far as it has come.
#[derive(Default)]
pub(crate) struct Incoming {
    pass: u64,
    /// Something of it is lost.
    failed: bool,
    /// What comes next of each part; `None`: it is done.
    parts: BTreeMap<u32, Option<VersionCursor>>,
    writers: Vec<Option<LayerWriter>>,
}

impl PageStore {
    /// Takes versions that a peer gave for a part of a pass, `from` on. `false`: they are not what comes next, and nothing has
    /// changed. Once the last part is done, everything that the pass brought is durable, and there for readers.
    pub fn take_versions(
        &self,
        segment: SegmentId,
        part: PassPart,
        from: &VersionCursor,
        versions: &Versions,
    ) -> Result<bool, ReadError> {
        let segment = self.segment(segment)?;
        let mut incoming = locked(&segment.incoming);
        if incoming.pass < part.pass {
            *incoming = Incoming {
                pass: part.pass,
                ..Incoming::default()
            };
        }
        if part.pass < incoming.pass || incoming.failed {
            return Ok(false);
        }
        let expected = incoming.parts.entry(part.part).or_insert_with(|| Some(from.clone()));
        if expected.as_ref() != Some(from) {
            return Ok(false);
        }
        let taken = self.take_runs(&segment, &mut incoming, part, versions);
        if taken.is_err() {
            incoming.failed = true;
            incoming.writers.clear();
        }
        taken.map(|()| true)
    }

    fn take_runs(
        &self,
        segment: &SegmentStore,
        incoming: &mut Incoming,
        part: PassPart,
        versions: &Versions,
    ) -> Result<(), ReadError> {
        for (at, (run, content)) in checked_runs(versions)?.into_iter().enumerate() {
            if incoming.writers.len() <= at {
                incoming.writers.push(None);
            }
            let new = || self.layer_writer();
            let writer = incoming.writers[at].get_or_insert_with(new);
            writer.push_run(run, content)?;
            writer.sync_beyond(UNSYNCED_BYTES_MAX)?;
        }
        incoming.parts.insert(part.part, versions.next.clone());
        let done = incoming.parts.values().filter(|expected| expected.is_none()).count();
        let ends = part.parts as usize <= done;
        for place in &mut incoming.writers {
            if let Some(writer) = place.take_if(|writer| ends || LAYER_BYTES <= writer.written()) {
                let layer = writer.finish()?;
                let taken = self.change_layers(segment, &[], layer, 0)?;
                self.counters.repaired(taken.as_deref());
                segment.note_late();
            }
        }
        Ok(())
    }
}

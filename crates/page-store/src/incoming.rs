//! What comes from the layers of peers: written straight into layers.
//!
//! Invariants:
//! - After an error a part takes nothing more: only another pass can.
//! - A part is taken in its order: an answer that comes twice, or late, changes nothing.
//! - Layers are in the manifest when [`PageStore::take_versions`] answers for the last answer of a part. What no manifest names
//!   is gone at the next start.

use std::collections::BTreeMap;

use units::SegmentId;
use wire_format::message::{VersionCursor, Versions};

use crate::layer::LayerWriter;
use crate::locked;
use crate::read::ReadError;
use crate::segment_store::SegmentStore;
use crate::store::PageStore;

/// Bytes of a part in one layer, about: a layer of a long part is finished, and another begun.
const LAYER_BYTES: u64 = 256 << 20;
/// Bytes written before they are made durable: whoever syncs the journal meanwhile does not wait for more.
const UNSYNCED_BYTES_MAX: u64 = 8 << 20;

/// The parts of one pass over the versions of a peer.
#[derive(Default)]
pub(crate) struct Incoming {
    pass: u64,
    parts: BTreeMap<u32, Part>,
}

struct Part {
    /// What comes next; `None`: it is done.
    expects: Option<VersionCursor>,
    writer: Option<LayerWriter>,
    synced: u64,
}

impl PageStore {
    /// Takes versions that a peer gave for a part of a pass, `from` on. A later pass ends an earlier one. `false`: they are not
    /// what comes next, and nothing has changed.
    pub fn take_versions(
        &self,
        segment: SegmentId,
        (pass, number): (u64, u32),
        from: &VersionCursor,
        versions: &Versions,
    ) -> Result<bool, ReadError> {
        let segment = self.segment(segment)?;
        let mut incoming = locked(&segment.incoming);
        if pass < incoming.pass {
            return Ok(false);
        }
        if incoming.pass < pass {
            *incoming = Incoming {
                pass,
                parts: BTreeMap::new(),
            };
        }
        let part = incoming.parts.entry(number).or_insert_with(|| Part {
            expects: Some(from.clone()),
            writer: None,
            synced: 0,
        });
        if part.expects.as_ref() != Some(from) {
            return Ok(false);
        }
        let taken = self.take_part(&segment, part, versions);
        if taken.is_err() {
            // What of it was written is in no layer: only another pass brings it again.
            part.writer = None;
            part.expects = None;
        }
        taken.map(|()| true)
    }

    fn take_part(&self, segment: &SegmentStore, part: &mut Part, versions: &Versions) -> Result<(), ReadError> {
        let ends = versions.next.is_none();
        if !versions.blocks.is_empty() {
            let new = || LayerWriter::new(self.disk.clone(), self.next_layer());
            let writer = part.writer.get_or_insert_with(new);
            versions.blocks.iter().try_for_each(|block| writer.push_block(block))?;
            if UNSYNCED_BYTES_MAX <= writer.written() - part.synced {
                writer.sync()?;
                part.synced = writer.written();
            }
        }
        if let Some(writer) = part.writer.take_if(|writer| ends || LAYER_BYTES <= writer.written()) {
            part.synced = 0;
            let layer = writer.finish()?;
            let taken = self.change_layers(segment, &[], layer, 0)?;
            self.counters.repaired(taken.as_deref());
            segment.note_late();
        }
        part.expects = versions.next.clone();
        Ok(())
    }
}

//! What is different for a tail: it keeps log, as it came, until nobody wants it any more.
//!
//! As long as every full copy of its group keeps up, that is all in the journal: its batches are let go before anybody looks
//! into them, and the journal's files go with them. Only what the journal has no room for is indexed, and written out as
//! layers that are never folded. Those go as a whole.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use units::Position;
use wire_format::{Batch, Item};

use crate::journal_files::Held;
use crate::layer::Layer;
use crate::read::ReadError;
use crate::segment_store::{Horizon, SegmentStore, batch_bytes};
use crate::store::PageStore;
use crate::{key::Version, locked};

impl Horizon {
    /// Whether nobody wants what ends here any more.
    pub(crate) fn has_let_go(&self, position: Position) -> bool {
        let through = self.let_go.filter(|_| self.path.sees(position));
        through.is_some_and(|through| position.lsn <= through.lsn)
    }

    /// Of versions of one key those that somebody wants. For a full segment all.
    pub(crate) fn keep_wanted(&self, versions: &mut Vec<Version>) {
        versions.retain(|version| !self.has_let_go(version.position));
    }

    /// Whether the journal may lose what it holds of the segment in one file, although no layer has it. A record that came in
    /// pieces may end above what was let go: its pieces stay until they are in a layer.
    pub(crate) fn needs_no_journal(&self, held: &Held) -> bool {
        let is_let_go = self.let_go.is_some_and(|through| held.highest_lsn <= through.lsn);
        is_let_go && !held.has_pieces
    }

    /// Whether nothing of a layer is wanted.
    fn needs_no_layer(&self, layer: &Layer) -> bool {
        // Along one path positions rise with their LSNs, and what the path does not see of these reigns is over.
        self.let_go.is_some_and(|through| layer.extent.newest() <= through)
    }
}

/// Whether a batch has a piece of a record that others have the rest of.
pub(crate) fn has_pieces(batch: &Batch) -> bool {
    batch.items.iter().any(|item| matches!(item, Item::Fragment { .. }))
}

impl SegmentStore {
    /// Whether it keeps log only.
    pub(crate) fn is_tail(&self) -> bool {
        self.horizon().is_some_and(|horizon| horizon.let_go.is_some())
    }

    /// Forgets batches that nobody wants before they are indexed.
    pub(crate) fn let_arrivals_go(&self) {
        let Some(horizon) = self.horizon().filter(|horizon| horizon.let_go.is_some()) else {
            return;
        };
        let mut arrivals = locked(&self.arrivals);
        let mut bytes = 0;
        arrivals.retain(|(_, batch)| {
            let goes = horizon.has_let_go(batch.position()) && !has_pieces(batch);
            bytes += if goes { batch_bytes(batch) } else { 0 };
            !goes
        });
        self.arrived_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl PageStore {
    /// Removes layers of a tail of which nothing is wanted.
    pub(crate) fn let_layers_go(&self, segment: &SegmentStore) -> Result<bool, ReadError> {
        let Some(horizon) = segment.horizon() else {
            return Ok(false);
        };
        let layers = segment.layers();
        let gone: Vec<Arc<Layer>> = layers
            .iter()
            .filter(|layer| horizon.needs_no_layer(layer))
            .cloned()
            .collect();
        if gone.is_empty() {
            return Ok(false);
        }
        self.change_layers(segment, &gone, None, 0)?;
        Ok(true)
    }
}

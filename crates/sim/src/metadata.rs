//! The metadata store: a taken epoch and the volume's record under compare-and-swap.

use units::Epoch;
use volume::VolumeRecord;

/// The store. Every change is atomic and durable, as the rules expect of the real one.
#[derive(Debug)]
pub(crate) struct Metadata {
    epoch: Epoch,
    revision: u64,
    record: VolumeRecord,
    /// The broken variant of protocol.md, hole 1: a swap is not bound to what its opener read.
    loose: bool,
}

impl Metadata {
    pub(crate) fn new(record: VolumeRecord, epoch: Epoch, loose: bool) -> Metadata {
        Metadata {
            epoch,
            revision: 1,
            record,
            loose,
        }
    }

    /// Takes the next epoch: the epoch, the revision and the record as of that moment.
    pub(crate) fn take_epoch(&mut self) -> (Epoch, u64, VolumeRecord) {
        self.epoch = self.epoch.next();
        self.revision += 1;
        (self.epoch, self.revision, self.record.clone())
    }

    /// Replaces the record, if nothing was changed and no epoch was taken since `revision`.
    pub(crate) fn compare_and_swap(&mut self, epoch: Epoch, revision: u64, record: &VolumeRecord) -> bool {
        if !self.loose && (epoch != self.epoch || revision != self.revision) {
            return false;
        }
        self.revision += 1;
        // What is stored is text, as in the real store.
        self.record = VolumeRecord::parse(&record.to_text()).expect("a record reads back as it was written");
        true
    }

    /// What an opener finds that does not know how its swap ended and reads again.
    pub(crate) fn holds(&self, epoch: Epoch, record: &VolumeRecord) -> bool {
        epoch == self.epoch && *record == self.record
    }
}

//! The volume's record in the metadata store, as the holder of the epoch changes it.

use std::cell::RefCell;
use std::time::Duration;

use control_plane::{Client, ControlError};
use tokio::sync::Mutex;
use units::Epoch;
use volume::VolumeRecord;

/// How soon a store that did not say what became of a change is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// The record, and the one way to change it: each change is made on top of the last one, and its outcome is known before the
/// next one begins.
pub(crate) struct Record {
    control: Client,
    epoch: Epoch,
    /// Held by whoever changes it.
    turn: Mutex<()>,
    stored: RefCell<Stored>,
}

struct Stored {
    revision: u64,
    record: VolumeRecord,
}

impl Record {
    /// The record as it was read when the epoch was taken.
    pub(crate) fn new(control: &Client, epoch: Epoch, revision: u64, record: VolumeRecord) -> Record {
        Record {
            control: control.clone(),
            epoch,
            turn: Mutex::new(()),
            stored: RefCell::new(Stored { revision, record }),
        }
    }

    /// The record as it is now. Waits for changes under way.
    pub(crate) async fn current(&self) -> VolumeRecord {
        let _turn = self.turn.lock().await;
        self.now()
    }

    /// The reign that may change it.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Changes the record by compare-and-swap. `false`: somebody else holds the volume now, and nothing was changed. Waits for
    /// changes before it, and for a store that is away: log is written without it.
    pub(crate) async fn change(&self, change: impl FnOnce(&VolumeRecord) -> VolumeRecord) -> bool {
        let _turn = self.turn.lock().await;
        let (revision, next) = {
            let stored = self.stored.borrow();
            (stored.revision, change(&stored.record))
        };
        let Some(revision) = self.swap(revision, &next).await else {
            return false;
        };
        self.stored.replace(Stored { revision, record: next });
        true
    }

    /// The record as it was read or changed last. A change that is under way is not in it.
    pub(crate) fn now(&self) -> VolumeRecord {
        self.stored.borrow().record.clone()
    }

    /// The record's revision after the change. If the store does not say, it is read again before anything else happens.
    async fn swap(&self, revision: u64, next: &VolumeRecord) -> Option<u64> {
        let (epoch, text) = (self.epoch.raw(), next.to_text());
        let ask = async || self.control.compare_and_swap(epoch, revision, text.clone()).await;
        match ask().await {
            Ok(volume) => return Some(volume.revision),
            Err(ControlError::Refused(_)) => return None,
            Err(error) => tracing::warn!(%error, "record.swap: the outcome is unknown, the record is read again"),
        }
        loop {
            match self.control.read().await {
                Ok(volume) if volume.epoch == epoch && volume.record.as_deref() == Some(&text) => {
                    return Some(volume.revision);
                }
                Ok(volume) if volume.epoch != epoch || volume.revision != revision => return None,
                Ok(_) => match ask().await {
                    Ok(volume) => return Some(volume.revision),
                    // Perhaps by what was asked for before: the record tells.
                    Err(ControlError::Refused(_)) => {}
                    Err(error) => tracing::debug!(%error, "record.swap"),
                },
                Err(error) => tracing::debug!(%error, "record.read"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

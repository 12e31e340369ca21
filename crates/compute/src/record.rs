//! The volume's record in the metadata store, as the holder of the epoch changes it.

use std::time::Duration;

use control_plane::{Client, ControlError};
use tokio::sync::Mutex;
use units::Epoch;
use volume::VolumeRecord;

use crate::reign::Ended;

/// How soon a store that did not say what became of a change is asked again, and how often.
const PAUSE: Duration = Duration::from_millis(100);
const TRIES: u32 = 100;

/// The record, and the one way to change it: each change is made on top of the last one, and its outcome is known before the
/// next one begins.
pub(crate) struct Record {
    control: Client,
    epoch: Epoch,
    stored: Mutex<Stored>,
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
            stored: Mutex::new(Stored { revision, record }),
        }
    }

    /// The record as it is now. Waits for changes under way.
    pub(crate) async fn current(&self) -> VolumeRecord {
        self.stored.lock().await.record.clone()
    }

    /// Changes the record by compare-and-swap. `false`: somebody else holds the volume now, and nothing was changed. Waits for
    /// changes before it.
    pub(crate) async fn change(&self, change: impl FnOnce(&VolumeRecord) -> VolumeRecord) -> Result<bool, Ended> {
        let mut stored = self.stored.lock().await;
        let next = change(&stored.record);
        let Some(revision) = self.swap(stored.revision, &next).await? else {
            return Ok(false);
        };
        *stored = Stored { revision, record: next };
        Ok(true)
    }

    /// The record's revision after the change. If the store does not say, it is read again before anything else happens.
    async fn swap(&self, revision: u64, next: &VolumeRecord) -> Result<Option<u64>, Ended> {
        let (epoch, text) = (self.epoch.raw(), next.to_text());
        let ask = async || self.control.compare_and_swap(epoch, revision, text.clone()).await;
        match ask().await {
            Ok(volume) => return Ok(Some(volume.revision)),
            Err(ControlError::Refused(_)) => return Ok(None),
            Err(error) => tracing::warn!(%error, "record.swap: the outcome is unknown, the record is read again"),
        }
        for _ in 0..TRIES {
            match self.control.read().await {
                Ok(volume) if volume.epoch == epoch && volume.record.as_deref() == Some(&text) => {
                    return Ok(Some(volume.revision));
                }
                Ok(volume) if volume.epoch != epoch || volume.revision != revision => return Ok(None),
                Ok(_) => match ask().await {
                    Ok(volume) => return Ok(Some(volume.revision)),
                    Err(ControlError::Refused(_)) => {}
                    Err(error) => tracing::debug!(%error, "record.swap"),
                },
                Err(error) => tracing::debug!(%error, "record.read"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(Ended::Broken(
            "the metadata store does not say whether the volume's record is changed".to_owned(),
        ))
    }
}

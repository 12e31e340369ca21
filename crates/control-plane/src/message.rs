//! What the control process is asked, and what it answers: one line of JSON each.

use serde::{Deserialize, Serialize};

/// A question or an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlRequest {
    /// The volume as it stands.
    Read,
    /// Keep the plan of a volume that is to be made, unless there is a plan, or the volume. Whoever makes it, in however many
    /// attempts, goes by the one plan, so that no attempt leaves anything behind that the next one does not find.
    Plan {
        /// The volume's record as it is to be.
        plan: String,
    },
    /// Make the volume, unless there is one: its first content is there. Only the holder of the taken epoch may.
    Create {
        /// The reign that made it.
        epoch: u64,
        /// Its record.
        record: String,
    },
    /// Take the next epoch: from now on only its holder changes the record.
    TakeEpoch,
    /// Replace the record, if it is still at this revision and this epoch is the taken one.
    CompareAndSwap {
        /// Whose change it is.
        epoch: u64,
        /// What the change is based on.
        revision: u64,
        /// The new record.
        record: String,
    },
    /// Name the instance that is to be the writer.
    SetWriter {
        /// Its name.
        name: String,
        /// Where its PostgreSQL listens.
        address: String,
    },
    /// Who is the writer?
    Writer,
}

/// The volume in the store.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StoredVolume {
    /// Raised by every change.
    pub revision: u64,
    /// The taken epoch.
    pub epoch: u64,
    /// The record; `None` before the volume is made.
    pub record: Option<String>,
    /// What the volume is to be, while it is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
}

/// The designated writer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Writer {
    /// Its name.
    pub name: String,
    /// Where its PostgreSQL listens.
    pub address: String,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlAnswer {
    /// The volume, after the change if one was asked for.
    Volume(StoredVolume),
    /// The record was changed meanwhile, or another epoch was taken: nothing was done.
    Refused(StoredVolume),
    /// The writer, if one was named.
    Writer(Option<Writer>),
    /// Done.
    Done,
    /// It could not be done.
    Failed(String),
}

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
    /// A storage node says that it is there, about every second.
    Heartbeat(Heartbeat),
    /// How are the storage nodes?
    Storage,
    /// For how long old versions are to be kept from now on. The instance that holds the epoch puts it into the record.
    SetRetention {
        /// The window.
        seconds: u64,
    },
    /// Somebody wants something of a storage node. Kept until somebody wants something else; the instance that holds the epoch
    /// does it, since nobody else may change where copies are.
    Wish {
        /// The node.
        name: String,
        /// What.
        wish: StorageWish,
    },
    /// A storage node is no more.
    ForgetStorage {
        /// Its name.
        name: String,
    },
}

/// What a storage node says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Its name, such as `storage-1`.
    pub name: String,
    /// Its failure domain: `a`, `b` or `c`.
    pub zone: String,
    /// Where it listens.
    pub address: String,
    /// Used bytes of its disk.
    pub disk_used_bytes: u64,
    /// All bytes of its disk.
    pub disk_total_bytes: u64,
    /// Bytes of its journal and its layers.
    #[serde(default)]
    pub held_bytes: u64,
    /// How long its journal's syncs took lately, in microseconds; `None`: there were none.
    #[serde(default)]
    pub sync_us: Option<u64>,
}

/// What somebody wants of a storage node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StorageWish {
    /// It keeps what it has, and may get more.
    Keep,
    /// These of its copies, by their segments' identities, are replaced by new ones; then it is as good as any other again.
    Replace(Vec<String>),
    /// Its copies leave it, and it gets no others.
    Drain,
}

/// A storage node, as the control process knows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StorageNode {
    /// Its name.
    pub name: String,
    /// Its failure domain.
    pub zone: String,
    /// Where it listens.
    pub address: String,
    /// What somebody wants of it.
    pub wish: StorageWish,
    /// It was heard of just now.
    pub is_alive: bool,
    /// It was silent for so long that its copies are replaced without anybody's asking.
    pub is_overdue: bool,
    /// For how long it has been silent; since the start of the control process, if it was not heard of since.
    pub silent_ms: u64,
    /// Used bytes of its disk.
    pub disk_used_bytes: u64,
    /// All bytes of its disk; 0: not known.
    pub disk_total_bytes: u64,
    /// Bytes of its journal and its layers.
    #[serde(default)]
    pub held_bytes: u64,
    /// How long its journal's syncs took lately, in microseconds; `None`: there were none, or it is not known.
    #[serde(default)]
    pub sync_us: Option<u64>,
}

/// All storage nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fleet {
    /// The nodes, by name.
    pub nodes: Vec<StorageNode>,
    /// After how long a silence copies are replaced by themselves; `None`: never.
    pub replace_after_ms: Option<u64>,
    /// When copies move away from full and slow disks by themselves; `None`: never.
    #[serde(default)]
    pub heat: Option<HeatSettings>,
    /// For how long old versions are to be kept; `None`: nobody has asked for anything else than what the record says.
    #[serde(default)]
    pub retention_seconds: Option<u64>,
}

/// When copies move away from full and slow disks by themselves: one at a time, and only where another disk is clearly better.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeatSettings {
    /// A disk with less free, in percent of its size, is full. Low enough that merging layers, which needs room for a while,
    /// is no reason to move; so is one with less than 2 GiB.
    pub free_percent_min: u8,
    /// A disk whose syncs take so many times the median of the others', and at least 10 ms, is slow…
    pub slow_factor: u32,
    /// … if it is for so many seconds. Disks in clouds pause for a while now and then.
    pub slow_seconds: u64,
    /// Seconds from the beginning of one move to that of the next.
    pub pause_seconds: u64,
}

impl Default for HeatSettings {
    fn default() -> HeatSettings {
        HeatSettings {
            free_percent_min: 10,
            slow_factor: 5,
            slow_seconds: 180,
            pause_seconds: 60,
        }
    }
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
    /// The storage nodes.
    Storage(Fleet),
    /// Done.
    Done,
    /// It could not be done.
    Failed(String),
}

//! The storage nodes: who there is, who was heard of lately, and what somebody wants of them.
//!
//! Name, zone, address and wish are kept in the store. How long a node has been silent is counted in time that the control
//! process itself was awake for: a machine that sleeps for an hour has not lost its nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::ControlConfig;
use crate::message::{Fleet, Heartbeat, StorageNode, StorageWish};
use crate::store::{Store, StoreError};

/// A node that was heard of so lately is there. Heartbeats come every second.
const ALIVE_LIMIT: Duration = Duration::from_secs(4);
/// Nodes that may register, at most.
const NODES_MAX: usize = 10_000;
/// Time that passed between two looks counts no further than this: the process was not awake for the rest.
pub(crate) const PASSED_MAX: Duration = Duration::from_secs(1);

/// What the store keeps of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    zone: String,
    address: String,
    wish: StorageWish,
}

struct Node {
    kept: Kept,
    /// It was heard of since the start of this process.
    is_heard: bool,
    silent: Duration,
    load: Load,
}

/// What a node said of its load with its last heartbeat.
#[derive(Clone, Copy, Default)]
struct Load {
    disk_used_bytes: u64,
    disk_total_bytes: u64,
    held_bytes: u64,
    sync_us: Option<u64>,
}

/// All storage nodes.
pub(crate) struct Registry {
    nodes: BTreeMap<String, Node>,
    config: ControlConfig,
    retention_seconds: Option<u64>,
}

impl Registry {
    /// The nodes that the store has. None was heard of yet.
    pub(crate) fn load(store: &Store, config: ControlConfig) -> Result<Registry, StoreError> {
        let mut nodes = BTreeMap::new();
        for (name, text) in store.storage()? {
            let kept = serde_json::from_str(&text).map_err(|error| StoreError::StorageNode {
                name: name.clone(),
                error: error.to_string(),
            })?;
            nodes.insert(name, Node::new(kept));
        }
        Ok(Registry {
            nodes,
            config,
            retention_seconds: store.retention_seconds()?,
        })
    }

    /// Time passes.
    pub(crate) fn pass(&mut self, passed: Duration) {
        for node in self.nodes.values_mut() {
            node.silent += passed.min(PASSED_MAX);
        }
    }

    /// A node says that it is there. One that is new, or has moved, is kept. `false`: there are too many.
    pub(crate) fn heard(&mut self, store: &Store, heartbeat: Heartbeat) -> Result<bool, StoreError> {
        if !self.nodes.contains_key(&heartbeat.name) && NODES_MAX <= self.nodes.len() {
            return Ok(false);
        }
        let load = Load {
            disk_used_bytes: heartbeat.disk_used_bytes,
            disk_total_bytes: heartbeat.disk_total_bytes,
            held_bytes: heartbeat.held_bytes,
            sync_us: heartbeat.sync_us,
        };
        let known = self.nodes.get(&heartbeat.name).map(|node| &node.kept);
        let kept = Kept {
            zone: heartbeat.zone,
            address: heartbeat.address,
            wish: known.map_or(StorageWish::Keep, |known| known.wish.clone()),
        };
        if known != Some(&kept) {
            keep(store, &heartbeat.name, &kept)?;
        }
        let node = self
            .nodes
            .entry(heartbeat.name)
            .or_insert_with(|| Node::new(kept.clone()));
        node.kept = kept;
        (node.is_heard, node.silent, node.load) = (true, Duration::ZERO, load);
        Ok(true)
    }

    /// Somebody wants something of a node. `false`: there is no such node.
    pub(crate) fn wish(&mut self, store: &Store, name: &str, wish: StorageWish) -> Result<bool, StoreError> {
        let Some(node) = self.nodes.get_mut(name) else {
            return Ok(false);
        };
        let kept = Kept {
            wish,
            ..node.kept.clone()
        };
        if node.kept != kept {
            keep(store, name, &kept)?;
            node.kept = kept;
        }
        Ok(true)
    }

    /// A node is no more. It is known again as soon as it says that it is there.
    pub(crate) fn forget(&mut self, store: &Store, name: &str) -> Result<(), StoreError> {
        store.forget_storage(name)?;
        self.nodes.remove(name);
        Ok(())
    }

    /// For how long old versions are to be kept.
    pub(crate) fn set_retention(&mut self, store: &Store, seconds: u64) -> Result<(), StoreError> {
        store.set_retention_seconds(seconds)?;
        self.retention_seconds = Some(seconds);
        Ok(())
    }

    /// How all of them are.
    pub(crate) fn fleet(&self) -> Fleet {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let replace_after = self.config.replace_after();
        let one = |(name, node): (&String, &Node)| StorageNode {
            name: name.clone(),
            zone: node.kept.zone.clone(),
            address: node.kept.address.clone(),
            wish: node.kept.wish.clone(),
            is_alive: node.is_heard && node.silent < ALIVE_LIMIT,
            is_overdue: replace_after.is_some_and(|after| after <= node.silent),
            silent_ms: millis(node.silent),
            disk_used_bytes: node.load.disk_used_bytes,
            disk_total_bytes: node.load.disk_total_bytes,
            held_bytes: node.load.held_bytes,
            sync_us: node.load.sync_us,
        };
        Fleet {
            nodes: self.nodes.iter().map(one).collect(),
            replace_after_ms: replace_after.map(millis),
            heat: self.config.heat.clone(),
            retention_seconds: self.retention_seconds,
        }
    }
}

impl Node {
    fn new(kept: Kept) -> Node {
        Node {
            kept,
            is_heard: false,
            silent: Duration::ZERO,
            load: Load::default(),
        }
    }
}

fn keep(store: &Store, name: &str, kept: &Kept) -> Result<(), StoreError> {
    let text = serde_json::to_string(kept).expect("a node's entry has only strings");
    store.keep_storage(name, &text)
}

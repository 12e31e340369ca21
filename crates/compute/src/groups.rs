//! What readers of pages know of the volume's groups, and what they want of them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use units::{GroupId, Lsn};

/// Shared by the shipper's shell, which tells, and the page source, which asks.
#[derive(Default, Debug)]
pub(crate) struct Groups {
    /// The last durable batch of each group beside group 0 that is awake.
    durable: RefCell<BTreeMap<GroupId, Lsn>>,
    /// Groups that sleep, and are to be read.
    wanted: RefCell<BTreeSet<GroupId>>,
}

impl Groups {
    /// Whoever has all batches of the group up to here has everything durable of it.
    pub(crate) fn advanced(&self, group: GroupId, durable: Lsn) {
        self.durable.borrow_mut().insert(group, durable);
    }

    /// What a copy of the group must be complete up to so that it has everything up to `needed`, which is durable: a group
    /// that was written long ago has all of it with its last batch (protocol.md, hole 20). `None` while the group sleeps: it
    /// is woken.
    pub(crate) fn needed(&self, group: GroupId, needed: Lsn) -> Option<Lsn> {
        if group == GroupId::FIRST {
            return Some(needed);
        }
        let durable = self.durable.borrow().get(&group).copied();
        if durable.is_none() {
            self.wanted.borrow_mut().insert(group);
        }
        durable.map(|durable| needed.min(durable))
    }

    /// The groups that are to be woken.
    pub(crate) fn take_wanted(&self) -> BTreeSet<GroupId> {
        std::mem::take(&mut self.wanted.borrow_mut())
    }
}

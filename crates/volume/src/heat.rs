//! Which copy moves away from a full or a slow disk by itself.
//!
//! One copy at a time, and only where that clearly helps: copying costs both disks what they are short of.
//!
//! Invariants:
//! - A copy leaves a full disk only for one that has more free than the full one after the move, and that stays far from full
//!   with it. So no move makes another disk full, no copy goes back, and where the whole fleet is full nothing moves.
//! - A copy leaves a slow disk only after minutes.
//! - No copy goes to a disk that was found slow lately, whatever it leaves.
//! - Only copies of groups of which all six are there move: whatever is lost is made anew first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use units::{GroupId, SegmentId};

use crate::placement::{DISK_FREE_BYTES_MIN, StorageNode};
use crate::record::{GroupRecord, MemberRecord, VolumeRecord};

/// How many nodes beside the one in question must have synced something, so that their median says what is usual.
const PEERS_MIN: usize = 3;
/// A disk whose syncs are quicker than this is not slow, however quick the others are.
const SLOW_SYNC_MIN: Duration = Duration::from_millis(10);
/// How long a disk that was slow gets no copies by itself: one that has nothing to sync does not look slow.
const SLOW_REMEMBERED: Duration = Duration::from_secs(3600);

/// When a disk is full or slow, and how often something moves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeatLimits {
    /// A disk with less free, in percent of its size, is full; so is one that could get no copy.
    pub free_percent_min: u8,
    /// A disk whose syncs take so many times the median of the others' is slow.
    pub slow_factor: u32,
    /// If it is for so long.
    pub slow_after: Duration,
    /// From the beginning of one move to that of the next.
    pub pause: Duration,
}

/// Why a copy moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeatReason {
    /// Its disk is nearly full.
    Full,
    /// Its disk is slow.
    Slow,
}

/// A copy that is to move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeatMove {
    /// Its group.
    pub group: GroupId,
    /// The copy.
    pub leaving: SegmentId,
    /// Where it goes.
    pub to: StorageNode,
    /// Why.
    pub reason: HeatReason,
    /// Why, in words for the operator.
    pub why: String,
}

/// What is remembered from one decision to the next.
#[derive(Clone, Default, Debug)]
pub struct Heat {
    /// Since when a disk has been slow.
    slow_since: BTreeMap<String, Duration>,
    /// When a disk was last found slow.
    slow_at: BTreeMap<String, Duration>,
    moved_at: Option<Duration>,
}

impl Heat {
    /// What moves now, if anything: to be asked every second or so, while nothing else moves. `copy_bytes` is what each copy
    /// takes on its disk, `lost` copies are of no use.
    pub fn decide(
        &mut self,
        now: Duration,
        limits: &HeatLimits,
        record: &VolumeRecord,
        nodes: &[StorageNode],
        copy_bytes: &BTreeMap<SegmentId, u64>,
        lost: &BTreeSet<SegmentId>,
    ) -> Option<HeatMove> {
        self.observe(now, limits, nodes);
        let is_resting = self.moved_at.is_some_and(|at| now < at + limits.pause);
        if is_resting || record.groups.iter().any(|group| group.joining.is_some()) {
            return None;
        }
        let view = View {
            limits,
            nodes,
            slow_at: &self.slow_at,
            copy_bytes,
            groups: record
                .groups
                .iter()
                .filter(|group| is_whole(group, nodes, lost))
                .collect(),
        };
        let chosen = view.leave_full().or_else(|| self.leave_slow(now, &view))?;
        self.moved_at = Some(now);
        Some(chosen)
    }

    /// Notes which disks are slow. One that is stays so until it is clearly quicker.
    fn observe(&mut self, now: Duration, limits: &HeatLimits, nodes: &[StorageNode]) {
        for node in nodes {
            let was_slow = self.slow_since.contains_key(&node.name);
            let factor = if was_slow {
                limits.slow_factor.div_ceil(2)
            } else {
                limits.slow_factor
            };
            let usual = usual_sync_time(node, nodes);
            let is_slow = usual.zip(node.sync_time).is_some_and(|(usual, sync_time)| {
                node.is_alive && usual.saturating_mul(factor).max(SLOW_SYNC_MIN) <= sync_time
            });
            if is_slow {
                self.slow_since.entry(node.name.clone()).or_insert(now);
                self.slow_at.insert(node.name.clone(), now);
            } else {
                self.slow_since.remove(&node.name);
            }
        }
        let is_known = |name: &str| nodes.iter().any(|node| node.name == name);
        self.slow_since.retain(|name, _| is_known(name));
        self.slow_at
            .retain(|name, at| is_known(name) && now < *at + SLOW_REMEMBERED);
    }

    /// The copy of the first group on a disk that has been slow for long enough: group 0 has a part in every flush.
    fn leave_slow(&self, now: Duration, view: &View<'_>) -> Option<HeatMove> {
        let mut slow = self
            .slow_since
            .iter()
            .filter(|(_, since)| **since + view.limits.slow_after <= now);
        slow.find_map(|(name, since)| {
            let from = view.nodes.iter().find(|node| node.name == *name)?;
            view.copies_on(from).find_map(|(group, member)| {
                let bytes = view.bytes_of(member);
                let targets = view.targets(group, member).filter(|to| {
                    view.free_after(to, bytes)
                        .is_none_or(|free| full_below(to, view.limits) <= free)
                });
                let to = targets.min_by_key(|to| (to.sync_time, to.held_bytes, &to.name))?;
                let usual = usual_sync_time(from, view.nodes)?;
                let why = format!(
                    "the disk of {name} has been slow for {} s: a sync takes {} ms, {} ms on the others",
                    (now - *since).as_secs(),
                    from.sync_time?.as_millis(),
                    usual.as_micros() as f64 / 1000.0,
                );
                Some(view.chosen(group, member, to, HeatReason::Slow, why))
            })
        })
    }
}

/// What one decision is made from.
struct View<'a> {
    limits: &'a HeatLimits,
    nodes: &'a [StorageNode],
    /// Disks that were found slow lately.
    slow_at: &'a BTreeMap<String, Duration>,
    copy_bytes: &'a BTreeMap<SegmentId, u64>,
    /// Those of which copies may move.
    groups: Vec<&'a GroupRecord>,
}

impl<'a> View<'a> {
    fn copies_on<'b>(
        &'b self,
        node: &'b StorageNode,
    ) -> impl Iterator<Item = (&'a GroupRecord, &'a MemberRecord)> + 'b {
        let members = self
            .groups
            .iter()
            .flat_map(|group| group.members.iter().map(move |member| (*group, member)));
        members.filter(|(_, member)| member.node == node.name)
    }

    fn bytes_of(&self, member: &MemberRecord) -> u64 {
        self.copy_bytes.get(&member.segment).copied().unwrap_or(0)
    }

    /// Nodes of its zone without a copy of the group, that may get one and were not slow lately.
    fn targets(&self, group: &'a GroupRecord, leaving: &'a MemberRecord) -> impl Iterator<Item = &'a StorageNode> {
        self.nodes.iter().filter(move |node| {
            let has_one = group.members.iter().any(|member| member.node == node.name);
            let is_slow = self.slow_at.contains_key(&node.name);
            node.zone == leaving.zone && node.takes_copies() && !has_one && !is_slow
        })
    }

    fn free_after(&self, to: &StorageNode, bytes: u64) -> Option<u64> {
        to.free_bytes().map(|free| free.saturating_sub(bytes))
    }

    /// The largest copy that helps, of the fullest disk that one helps.
    fn leave_full(&self) -> Option<HeatMove> {
        let share = |node: &StorageNode| {
            node.free_bytes()
                .map_or(u64::MAX, |free| free / (node.disk_total_bytes / 1000).max(1))
        };
        let is_full = |node: &&StorageNode| {
            node.is_alive
                && node
                    .free_bytes()
                    .is_some_and(|free| free < full_below(node, self.limits))
        };
        let mut full: Vec<&StorageNode> = self.nodes.iter().filter(is_full).collect();
        full.sort_by_key(|node| (share(node), &node.name));
        full.into_iter().find_map(|from| {
            let mut copies: Vec<_> = self
                .copies_on(from)
                .filter(|(_, member)| 0 < self.bytes_of(member))
                .collect();
            copies.sort_by_key(|(group, member)| (std::cmp::Reverse(self.bytes_of(member)), group.group));
            copies.into_iter().find_map(|(group, member)| {
                let (bytes, free_bytes) = (self.bytes_of(member), from.free_bytes()?);
                let helps = |to: &&StorageNode| {
                    self.free_after(to, bytes).is_some_and(|after| {
                        full_below(to, self.limits).saturating_mul(2) <= after
                            && free_bytes.saturating_add(bytes) < after
                    })
                };
                let to = self
                    .targets(group, member)
                    .filter(helps)
                    .max_by_key(|to| (share(to), &to.name))?;
                let why = format!(
                    "the disk of {} has {} MiB free of {} MiB",
                    from.name,
                    free_bytes >> 20,
                    from.disk_total_bytes >> 20
                );
                Some(self.chosen(group, member, to, HeatReason::Full, why))
            })
        })
    }

    fn chosen(
        &self,
        group: &GroupRecord,
        member: &MemberRecord,
        to: &StorageNode,
        reason: HeatReason,
        why: String,
    ) -> HeatMove {
        HeatMove {
            group: GroupId::from_raw(group.group),
            leaving: member.segment,
            to: to.clone(),
            reason,
            why,
        }
    }
}

/// Free bytes below which a disk is full.
fn full_below(node: &StorageNode, limits: &HeatLimits) -> u64 {
    (node.disk_total_bytes / 100 * u64::from(limits.free_percent_min)).max(DISK_FREE_BYTES_MIN)
}

/// The median of the other nodes' syncs.
fn usual_sync_time(node: &StorageNode, nodes: &[StorageNode]) -> Option<Duration> {
    let others = nodes.iter().filter(|other| other.is_alive && other.name != node.name);
    let mut times: Vec<Duration> = others.filter_map(|other| other.sync_time).collect();
    times.sort();
    (PEERS_MIN <= times.len()).then(|| times[times.len() / 2])
}

/// Whether all six copies of a group are there.
fn is_whole(group: &GroupRecord, nodes: &[StorageNode], lost: &BTreeSet<SegmentId>) -> bool {
    group.members.iter().all(|member| {
        let is_alive = nodes.iter().any(|node| node.name == member.node && node.is_alive);
        is_alive && !lost.contains(&member.segment)
    })
}

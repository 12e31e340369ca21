//! Groups that have lost their write quorum for good get new copies while the volume is opened (DESIGN §4.4, step 4).
//!
//! Which copies are replaced, and in which steps, is the real [`outright()`] and the real opening; around them is what the
//! instance's `rescue` does: who looks, when, and who ends a reign that cannot write any more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use units::{GroupId, SegmentId};
use volume::outright::{Outright, outright, seems_useful, short_groups};
use volume::placement::Lost;
use volume::record::GroupRecord;
use volume::{BeingMade, CopyStanding, Opening, VolumeRecord};

use crate::checker::Violation;
use crate::world::{World, node_named};
use crate::writer::Stage;

/// How often an opener looks what there is to do.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long copies may take to answer an opening before those that do not are replaced.
const ANSWERS_PAUSE: Duration = Duration::from_millis(100);
/// How many looks in a row must find a group hopeless before the reign ends over it.
const LOOKS_MIN: u32 = 3;

/// What one opening does for groups without a write quorum.
#[derive(Debug)]
pub(crate) struct Rescue {
    /// The record as the opening found it.
    pub(crate) record: VolumeRecord,
    looked_at: Duration,
    /// Since when a group has been short of copies.
    short_since: Option<Duration>,
    /// How far the new copies were, and when they got there.
    copied: (usize, u64),
    pub(crate) got_on_at: Option<Duration>,
}

impl Rescue {
    pub(crate) fn of(record: VolumeRecord) -> Rescue {
        Rescue {
            record,
            looked_at: Duration::ZERO,
            short_since: None,
            copied: (0, 0),
            got_on_at: None,
        }
    }
}

impl World {
    /// Which copies of a record their nodes do not have, or do not vouch for, as whoever asks the nodes now finds.
    pub(crate) fn lost_copies(&mut self, record: &VolumeRecord) -> Lost {
        let mut lost = Lost::default();
        for member in record.groups.iter().flat_map(GroupRecord::all_members) {
            let segment = member.segment;
            let node = &self.nodes[node_named(&member.node)];
            if node.up && node.frozen.is_none() {
                if node.segments.get(&segment).is_some_and(|segment| segment.vouches()) {
                    self.lost_since.remove(&segment);
                } else {
                    self.lost_since.entry(segment).or_insert(self.now);
                }
            }
            let Some(since) = self.lost_since.get(&segment) else {
                continue;
            };
            lost.copies.insert(segment);
            if *since + self.weather.replace_after <= self.now {
                lost.overdue.insert(segment);
            }
        }
        lost
    }

    fn outright(
        &mut self,
        record: &VolumeRecord,
        lost: &Lost,
        short: &BTreeMap<GroupId, BTreeSet<SegmentId>>,
    ) -> Outright {
        if short.is_empty() {
            return Outright::default();
        }
        let nodes = self.storage_nodes();
        outright(record, &nodes, lost, short, || self.new_identity())
    }

    /// An opening also looks at groups that could be given a write quorum again.
    pub(crate) fn look_at_short(&mut self, opening: &mut Opening, record: &VolumeRecord) {
        if !self.weather.spares {
            return;
        }
        let (nodes, lost) = (self.storage_nodes(), self.lost_copies(record));
        let short = short_groups(record, |member| seems_useful(member, &nodes, &lost));
        for rebuilt in self.outright(record, &lost, &short).rebuilt {
            // Nobody is connected yet, so that there is nothing to do at once.
            opening.look_at(rebuilt.group, &mut Vec::new());
        }
    }

    /// Time passes for an opener: it replaces copies that do not answer.
    pub(crate) fn rescue(&mut self, at: usize) -> Result<(), Violation> {
        let now = self.now();
        let writer = &mut self.writers[at];
        let (Stage::Opening(opening), Some(rescue)) = (&writer.stage, &mut writer.rescue) else {
            return Ok(());
        };
        if !self.weather.spares || now < rescue.looked_at + LOOK_PAUSE {
            return Ok(());
        }
        rescue.looked_at = now;
        let mut short = opening.short();
        if short.is_empty() {
            rescue.short_since = None;
        } else if now < *rescue.short_since.get_or_insert(now) + ANSWERS_PAUSE {
            short.clear();
        }
        let record = rescue.record.clone();
        let lost = self.lost_copies(&record);
        let plan = self.outright(&record, &lost, &short);
        let Stage::Opening(opening) = &mut self.writers[at].stage else {
            return Ok(());
        };
        let mut effects = Vec::new();
        for rebuilt in &plan.rebuilt {
            let replaced = opening.replace(rebuilt, &mut effects);
            replaced.expect("the list was made from the record");
        }
        let made = opening.being_made();
        let copied = self.settle_made(&made);
        if let Some(rescue) = &mut self.writers[at].rescue
            && rescue.copied != copied
        {
            rescue.copied = copied;
            rescue.got_on_at = Some(now);
        }
        self.perform_opening(at, effects)
    }

    /// New copies stand on their nodes from here on; how many there are, and how many bytes they have taken from others.
    fn settle_made(&mut self, made: &[BeingMade]) -> (usize, u64) {
        let mut bytes = 0;
        for made in made {
            let (segment, node) = (made.joining.segment, node_named(&made.joining.node));
            if !self.homes.contains_key(&segment) {
                self.settle(segment, node, made.group);
                // Others may be enough for the opening before it is made: it may be listed, and never be.
                self.unborn.insert(segment);
            }
            let copy = self.nodes[node].segments.get(&segment);
            bytes += copy.map_or(0, |copy| copy.copied_bytes().0);
        }
        (made.len(), bytes)
    }

    /// Groups of a reign that no ordinary change can help. The reign ends if the next one can give one of them a write quorum
    /// again.
    pub(crate) fn hopeless_groups(&mut self, at: usize, record: &VolumeRecord, lost: &Lost) -> BTreeSet<GroupId> {
        let Stage::Writing(shipper) = &self.writers[at].stage else {
            return BTreeSet::new();
        };
        let groups = record.groups.iter().map(|group| GroupId::from_raw(group.group));
        let standing = groups.flat_map(|group| shipper.standing_of(group));
        let counting = standing.filter(CopyStanding::counts);
        let counting: BTreeSet<SegmentId> = counting.map(|copy| copy.member.segment).collect();
        let nodes = self.storage_nodes();
        let short = short_groups(record, |member| {
            counting.contains(&member.segment) || seems_useful(member, &nodes, lost)
        });
        let can_be_helped = !self.outright(record, lost, &short).rebuilt.is_empty();
        let writer = &mut self.writers[at];
        if let Some(holding) = &mut writer.holding {
            holding.hopeless_looks = if can_be_helped { holding.hopeless_looks + 1 } else { 0 };
            if LOOKS_MIN <= holding.hopeless_looks {
                writer.stage = Stage::Over;
            }
        }
        short.into_keys().collect()
    }

    /// How many groups of a record have other copies than an opening found.
    pub(crate) fn rebuilt_by(&self, at: usize, record: &VolumeRecord) -> u64 {
        let before = self.writers[at].rescue.iter().flat_map(|rescue| &rescue.record.groups);
        let rebuilt = before.zip(&record.groups).filter(|(before, now)| before != now);
        rebuilt.count() as u64
    }
}

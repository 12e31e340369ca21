//! Groups that have lost their write quorum for good get new copies while the volume is opened (DESIGN §4.4, step 4).
//!
//! While a reign goes on, [`Hopeless`] notices such a group, and ends the reign once somebody wants its lost copies to be
//! replaced, or they are overdue. [`Rescue`] then has the opening look at it, and replaces what does not answer.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use units::{GroupId, SegmentId};
use volume::outright::{Outright, outright, seems_useful, short_groups};
use volume::placement::{Lost, StorageNode};
use volume::record::{MemberRecord, RecordError};
use volume::{BeingMade, Opening, OpeningEffect, VolumeRecord};
use wire_format::message::{Request, Response};

use crate::fleet::Fleet;
use crate::reign::Ended;
use crate::status::{ChangeStatus, InstanceStatus};

/// How often it is looked what there is to do.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// How long copies may take to answer an opening before those that do not are replaced.
const ANSWERS_PAUSE: Duration = Duration::from_secs(2);
/// How long a node may take to make a segment.
const CREATE_LIMIT: Duration = Duration::from_secs(5);
/// How many looks in a row, a second apart, must find a group hopeless before the reign ends over it.
const LOOKS_MIN: u32 = 3;

fn random_identity() -> SegmentId {
    let mut identity = [0; 16];
    getrandom::fill(&mut identity).expect("the system has random bytes");
    SegmentId::from_bytes(identity)
}

/// What one opening does for groups without a write quorum.
pub(crate) struct Rescue {
    fleet: Rc<Fleet>,
    looked_at: Option<Instant>,
    /// Since when a group has been short of copies.
    short_since: Option<Instant>,
    plan: Outright,
    /// How far the new copies were.
    copied: (usize, u64),
}

impl Rescue {
    pub(crate) fn new(fleet: Rc<Fleet>) -> Rescue {
        Rescue {
            fleet,
            looked_at: None,
            short_since: None,
            plan: Outright::default(),
            copied: (0, 0),
        }
    }

    /// Groups that could be given a write quorum again, as far as is known.
    pub(crate) fn groups(&self, record: &VolumeRecord) -> Vec<GroupId> {
        let Some(nodes) = self.fleet.nodes() else {
            return Vec::new();
        };
        let lost = self.fleet.lost(record);
        let short = short_groups(record, |member| seems_useful(member, &nodes, &lost));
        let plan = outright(record, &nodes, &lost, &short, random_identity);
        plan.rebuilt.iter().map(|rebuilt| rebuilt.group).collect()
    }

    /// Time passes: replaces copies that do not answer the opening. Whether new copies got on.
    pub(crate) fn tick(
        &mut self,
        opening: &mut Opening,
        record: &VolumeRecord,
        effects: &mut Vec<OpeningEffect>,
    ) -> Result<bool, RecordError> {
        if self.looked_at.is_some_and(|at| at.elapsed() < LOOK_PAUSE) {
            return Ok(false);
        }
        self.looked_at = Some(Instant::now());
        let lost = self.fleet.lost(record);
        let short = opening.short();
        if short.is_empty() {
            self.short_since = None;
        } else if ANSWERS_PAUSE <= self.short_since.get_or_insert_with(Instant::now).elapsed()
            && let Some(nodes) = self.fleet.nodes()
        {
            self.plan = outright(record, &nodes, &lost, &short, random_identity);
            for rebuilt in &self.plan.rebuilt {
                opening.replace(rebuilt, effects)?;
            }
        }
        let made = opening.being_made();
        let bytes = made
            .iter()
            .filter_map(|made| self.fleet.segment(&made.joining.node, made.joining.segment));
        let copied = (made.len(), bytes.map(|segment| segment.copied_bytes).sum());
        Ok(std::mem::replace(&mut self.copied, copied) != copied)
    }

    /// Has a node make a segment. If it does not, the opening asks again.
    pub(crate) fn create(&self, node: &str, request: Request) {
        let (Some(link), name) = (self.fleet.link(node), node.to_owned()) else {
            return;
        };
        tokio::task::spawn_local(async move {
            match timeout(CREATE_LIMIT, link.call(request)).await {
                Ok(Ok(Response::SegmentCreated)) => tracing::info!(node = %name, "segment.create"),
                other => tracing::warn!(node = %name, ?other, "segment.create"),
            }
        });
    }

    /// Tells what the opening does, and what whoever waits for it can do.
    pub(crate) fn tell(&self, opening: &Opening, status: &mut InstanceStatus) {
        let made = opening.being_made();
        status.activity = opening.activity().to_owned();
        if made.is_empty() && !opening.short().is_empty() {
            status.activity += ": too few answer; `borealis storage replace` gives up those that are lost for good";
        }
        let change = |made: &BeingMade| {
            let segment = self.fleet.segment(&made.joining.node, made.joining.segment);
            ChangeStatus {
                group: made.group.raw(),
                leaving: made.leaving.clone().unwrap_or_default(),
                joining: made.joining.node.clone(),
                activity: "making a new copy before the volume is opened".to_owned(),
                copied_bytes: segment.as_ref().map_or(0, |segment| segment.copied_bytes),
                copied_bytes_expected: segment.as_ref().map_or(0, |segment| segment.copied_bytes_expected),
                why: None,
            }
        };
        status.changes = made.iter().map(change).collect();
        let nodes: BTreeSet<&String> = self.plan.without_spare.iter().map(|(_, node, _)| node).collect();
        status.without_spare = nodes.into_iter().cloned().collect();
    }
}

/// Groups that a reign cannot write any more.
#[derive(Default)]
pub(crate) struct Hopeless {
    looks: u32,
}

impl Hopeless {
    /// Groups that no ordinary change can help. Ends the reign if the next one can give one of them a write quorum again.
    pub(crate) fn look(
        &mut self,
        record: &VolumeRecord,
        nodes: &[StorageNode],
        lost: &Lost,
        is_useful: impl FnMut(&MemberRecord) -> bool,
    ) -> Result<BTreeSet<GroupId>, Ended> {
        let short = short_groups(record, is_useful);
        let groups = short.keys().copied().collect();
        let plan = match short.is_empty() {
            true => Outright::default(),
            false => outright(record, nodes, lost, &short, random_identity),
        };
        let Some(rebuilt) = plan.rebuilt.first() else {
            self.looks = 0;
            return Ok(groups);
        };
        self.looks += 1;
        match self.looks < LOOKS_MIN {
            true => Ok(groups),
            false => Err(Ended::Broken(format!(
                "group {} has lost its write quorum for good: it gets new copies while the volume is opened anew",
                rebuilt.group
            ))),
        }
    }
}

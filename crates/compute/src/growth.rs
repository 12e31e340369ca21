//! The volume gets another group before those that it has are full (DESIGN §4.6).
//!
//! It goes on the least loaded nodes of the whole fleet. Where nobody can say how they are, it goes on those that have copies
//! already: a volume that fills up is worse than one that fills unevenly.
//!
//! While a group is made, and if that fails, nobody waits: what is written goes to the groups that there are, beyond their
//! size if it has to.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use node_link::NodeLink;
use timeline::Path;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use units::{GroupId, SegmentId};
use volume::growth;
use volume::placement::StorageNode;
use volume::record::{GroupRecord, MemberRecord};
use volume::{GroupMembers, VolumeRecord};
use wire_format::Response;

use crate::catalog::Catalog;
use crate::fleet::Fleet;
use crate::record::Record;
use crate::reign::{Ended, broken};
use crate::shipping::Shipping;

/// How long a node may take to make a segment.
const CREATION_LIMIT: Duration = Duration::from_secs(5);
/// The pause after a failure; doubles up to the second.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(500);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// What came of an attempt.
enum Outcome {
    /// It is in the record.
    Made(GroupRecord),
    /// Nothing of it counts. The group that was tried, if there was a place for one.
    Failed(String, Option<GroupRecord>),
    /// The reign is over.
    Over(Ended),
}

/// Nodes that may get copies of a new group, and connections to them.
struct Candidates {
    nodes: Vec<StorageNode>,
    links: BTreeMap<String, Rc<NodeLink>>,
}

/// An attempt under way.
struct Attempt {
    outcome: oneshot::Receiver<Outcome>,
    /// Segments that it may be making.
    segments: Vec<SegmentId>,
}

/// One reign's growth: at most one group is being made.
pub(crate) struct Growth {
    record: Rc<Record>,
    fleet: Rc<Fleet>,
    making: Option<Attempt>,
    /// What the last attempt tried: one that is repeated finds the segments that were made.
    before: Option<GroupRecord>,
    not_before: Instant,
    pause: Duration,
}

impl Growth {
    pub(crate) fn new(record: Rc<Record>, fleet: Rc<Fleet>) -> Growth {
        Growth {
            record,
            fleet,
            making: None,
            before: None,
            not_before: Instant::now(),
            pause: RETRY_PAUSE_MIN,
        }
    }

    /// Time passes: begins to make a group if it is time, and takes one that was made into use.
    pub(crate) fn tick(&mut self, catalog: &mut Catalog, shipping: &mut Shipping) -> Result<(), Ended> {
        match &mut self.making {
            Some(attempt) => match attempt.outcome.try_recv() {
                Ok(outcome) => self.made(outcome, catalog, shipping),
                Err(oneshot::error::TryRecvError::Empty) => Ok(()),
                Err(oneshot::error::TryRecvError::Closed) => {
                    self.making = None;
                    Ok(())
                }
            },
            None if catalog.stripes.wants_group() && self.not_before <= Instant::now() => self.begin(shipping),
            None => Ok(()),
        }
    }

    /// Whether a segment is one of those that are being made, or of an attempt that is going to be repeated.
    pub(crate) fn makes(&self, segment: SegmentId) -> bool {
        let mut now = self.making.iter().flat_map(|attempt| &attempt.segments);
        let mut again = self.before.iter().flat_map(|group| &group.members);
        now.any(|made| *made == segment) || again.any(|member| member.segment == segment)
    }

    fn begin(&mut self, shipping: &Shipping) -> Result<(), Ended> {
        let (before, fresh) = (self.before.take(), random_identities()?);
        let candidates = self.candidates(shipping);
        let (record, path) = (self.record.clone(), shipping.shipper.path().clone());
        let (tell, outcome) = oneshot::channel();
        let again = before.iter().flat_map(|group| &group.members);
        let segments = again.map(|member| member.segment).chain(fresh).collect();
        self.making = Some(Attempt { outcome, segments });
        tokio::task::spawn_local(async move {
            // Nobody listens if the reign ended meanwhile.
            let _ = tell.send(make(&record, &path, &candidates, before, fresh).await);
        });
        Ok(())
    }

    /// Where the next group may go.
    fn candidates(&self, shipping: &Shipping) -> Candidates {
        if let Some(nodes) = self.fleet.nodes() {
            let link = |node: &StorageNode| Some((node.name.clone(), self.fleet.link(&node.name)?));
            let links = nodes.iter().filter_map(link).collect();
            return Candidates { nodes, links };
        }
        tracing::warn!(
            "volume.grow: the control process does not say how the storage nodes are; those with copies are taken"
        );
        let links = shipping.copies.reads.iter().filter(|copy| copy.link.is_connected());
        let links: BTreeMap<_, _> = links
            .map(|copy| (copy.node.clone(), Rc::new(copy.link.clone())))
            .collect();
        let mut nodes = growth::known_nodes(&self.record.now());
        nodes.retain(|node| links.contains_key(&node.name));
        Candidates { nodes, links }
    }

    fn made(&mut self, outcome: Outcome, catalog: &mut Catalog, shipping: &mut Shipping) -> Result<(), Ended> {
        self.making = None;
        match outcome {
            Outcome::Made(record) => {
                let group = GroupId::from_raw(record.group);
                tracing::info!(%group, "volume.grow");
                self.pause = RETRY_PAUSE_MIN;
                let last = shipping.shipper.path().start();
                shipping.add_group(GroupMembers {
                    group,
                    membership: record.membership(),
                    members: record.members.iter().map(MemberRecord::member).collect(),
                    last: Some(last),
                })?;
                catalog.stripes.add_group();
                Ok(())
            }
            Outcome::Failed(why, tried) => {
                self.before = tried;
                tracing::warn!(%why, again_in = ?self.pause, "volume.grow: the groups that there are grow beyond their size");
                self.not_before = Instant::now() + self.pause;
                self.pause = (2 * self.pause).min(RETRY_PAUSE_MAX);
                Ok(())
            }
            Outcome::Over(ended) => Err(ended),
        }
    }
}

fn random_identities() -> Result<[SegmentId; quorum::COPIES_COUNT], Ended> {
    let mut identities = [SegmentId::from_bytes([0; 16]); quorum::COPIES_COUNT];
    for identity in &mut identities {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).map_err(|error| broken("random bytes", &error))?;
        *identity = SegmentId::from_bytes(bytes);
    }
    Ok(identities)
}

/// The segments first, then the record.
async fn make(
    record: &Record,
    path: &Path,
    candidates: &Candidates,
    before: Option<GroupRecord>,
    fresh: [SegmentId; quorum::COPIES_COUNT],
) -> Outcome {
    let known = record.current().await;
    let Some(group) = growth::next_group(&known, &candidates.nodes, before.as_ref(), || fresh) else {
        let why = "not every zone has two storage nodes that can take a copy: alive, with room, and not to be drained or replaced";
        return Outcome::Failed(why.to_owned(), before);
    };
    if let Err(why) = create_segments(&known, path, &group, &candidates.links).await {
        return Outcome::Failed(why, Some(group));
    }
    let added = |record: &VolumeRecord| {
        let mut next = record.clone();
        next.groups.push(group.clone());
        next
    };
    match record.change(added).await {
        true => Outcome::Made(group),
        false => Outcome::Over(Ended::Broken(
            "the volume's record was changed by somebody else".to_owned(),
        )),
    }
}

async fn create_segments(
    record: &VolumeRecord,
    path: &Path,
    group: &GroupRecord,
    links: &BTreeMap<String, Rc<NodeLink>>,
) -> Result<(), String> {
    let mut answers = Vec::new();
    for member in &group.members {
        let request = growth::create_segment(record, path, group, member.segment);
        let link = links.get(&member.node).cloned();
        let link = link.ok_or_else(|| format!("{} is not connected", member.node))?;
        let asking = async move { timeout(CREATION_LIMIT, link.call(request)).await };
        answers.push((member, tokio::task::spawn_local(asking)));
    }
    for (member, answer) in answers {
        let why = match answer.await {
            Ok(Ok(Ok(Response::SegmentCreated))) => continue,
            Ok(Ok(Ok(Response::Refused(refusal)))) => refusal.to_string(),
            Ok(Ok(Ok(_))) => "an answer to another question".to_owned(),
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(_)) => "no answer in time".to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(format!("{}: {why}", member.node));
    }
    Ok(())
}

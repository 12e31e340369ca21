//! Which fault comes when: decided by the seed alone, before anything runs.
//!
//! Invariants, held by a test over many seeds:
//! - a node has one fault at a time;
//! - never more nodes away at once than [`AWAY_MAX`], and all are back at the end of each round;
//! - never more than one copy damaged: what four nodes acknowledged stays with sound ones even while a zone more is lost. Its copy
//!   is made anew at the end of the round.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::fault::{Fault, Files, Node, Rot, Zone, seconds};
use crate::random::Random;

/// Nodes away without which writes go on: a zone.
pub const WRITES_GO_ON_WITHOUT: usize = 2;
/// Nodes away at once, at most. Beyond [`WRITES_GO_ON_WITHOUT`] writes wait; nothing of it destroys anything.
pub const AWAY_MAX: usize = 4;
/// The faults of a round end with it, and then everything has to be well.
const ROUND: Duration = Duration::from_secs(120);
/// The mean time between two faults.
const PAUSE: Duration = Duration::from_millis(2500);
/// How long a fault lasts.
const LASTS: std::ops::Range<Duration> = Duration::from_millis(500)..Duration::from_secs(12);
/// A node that comes back needs a moment before it counts again.
const RETURN: Duration = Duration::from_secs(4);
/// How long nothing else that needs the agent's `up` begins behind one that does.
const AGENT_REST: Duration = Duration::from_secs(12);

/// A fault with its time, from the begin of its round.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// Counted through the whole plan.
    pub number: usize,
    /// When it begins.
    pub at: Duration,
    /// How long it lasts; zero where it is over at once, or never ends.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

/// Faults between two quiet points.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Round {
    /// How long it is.
    pub length: Duration,
    /// In the order in which they begin.
    pub faults: Vec<Planned>,
}

/// All faults of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// Decides it, with the length.
    pub seed: u64,
    /// One after the other.
    pub rounds: Vec<Round>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, length: Duration) -> Plan {
        let rounds_count = (length.as_secs_f64() / ROUND.as_secs_f64()).round().max(1.0) as u32;
        let mut draft = Draft::new(seed);
        let rounds = (0..rounds_count).map(|_| draft.round(length / rounds_count)).collect();
        Plan { seed, rounds }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, round) in self.rounds.iter().enumerate() {
            writeln!(f, "round {} of {}", index + 1, seconds(round.length))?;
            for planned in &round.faults {
                write!(f, "  {:>3}  {:>8}  ", planned.number, seconds(planned.at))?;
                if planned.fault.lasts() {
                    writeln!(f, "{} for {}", planned.fault, seconds(planned.lasts))?;
                } else {
                    writeln!(f, "{}", planned.fault)?;
                }
            }
        }
        Ok(())
    }
}

/// The kinds, one of each in a bag: it is emptied in random order before it is filled again, so that even a short run meets
/// most of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    NodeKilled,
    NodeStopped,
    NodePaused,
    ZoneFailed,
    QuorumLost,
    PostmasterKilled,
    InstanceKilled,
    ControlKilled,
    ControlPaused,
    ProxyKilled,
    AgentKilled,
    Failover,
    Zombie,
    Everything,
    DiskFull,
    DiskReadOnly,
    SyncsFail,
    DiskSlow,
}

const KINDS: [Kind; 18] = [
    Kind::NodeKilled,
    Kind::NodeStopped,
    Kind::NodePaused,
    Kind::ZoneFailed,
    Kind::QuorumLost,
    Kind::PostmasterKilled,
    Kind::InstanceKilled,
    Kind::ControlKilled,
    Kind::ControlPaused,
    Kind::ProxyKilled,
    Kind::AgentKilled,
    Kind::Failover,
    Kind::Zombie,
    Kind::Everything,
    Kind::DiskFull,
    Kind::DiskReadOnly,
    Kind::SyncsFail,
    Kind::DiskSlow,
];

/// A plan that is being made.
struct Draft {
    random: Random,
    bag: Vec<Kind>,
    number: usize,
    /// Of this round: the node with a bit that flipped.
    damaged: Option<Node>,
    /// Of this round: until when each node is not to be touched.
    busy: BTreeMap<Node, Duration>,
    writer_busy: Duration,
    control_busy: Duration,
    agent_busy: Duration,
}

impl Draft {
    fn new(seed: u64) -> Draft {
        Draft {
            random: Random::of_part(seed, 0),
            bag: Vec::new(),
            number: 0,
            damaged: None,
            busy: BTreeMap::new(),
            writer_busy: Duration::ZERO,
            control_busy: Duration::ZERO,
            agent_busy: Duration::ZERO,
        }
    }

    fn round(&mut self, length: Duration) -> Round {
        self.damaged = None;
        (self.writer_busy, self.control_busy, self.agent_busy) = Default::default();
        self.busy.clear();
        let mut faults = Vec::new();
        let rot_at = length.mul_f64(0.3) + self.random.duration(Duration::ZERO..length.mul_f64(0.5));
        let mut at = self.random.duration(PAUSE / 4..PAUSE);
        while at < length {
            if rot_at <= at
                && self.damaged.is_none()
                && let Some(fault) = self.rot(at)
            {
                faults.push(self.planned(at, Duration::ZERO, fault));
            }
            let longest = LASTS.end.min(length / 4).min(length - at);
            let lasts = self.random.duration(LASTS.start..longest.max(LASTS.start));
            let lasts = lasts.min(length - at);
            if self.bag.is_empty() {
                self.bag = KINDS.to_vec();
                self.random.shuffle(&mut self.bag);
            }
            // The first of the bag that can happen now; the others wait for their time.
            for place in 0..self.bag.len() {
                if let Some(fault) = self.fault(self.bag[place], at, lasts) {
                    self.bag.remove(place);
                    let lasts = if fault.lasts() { lasts } else { Duration::ZERO };
                    faults.push(self.planned(at, lasts, fault));
                    break;
                }
            }
            at += self.random.duration(PAUSE / 10..PAUSE * 19 / 10);
        }
        Round { length, faults }
    }

    fn planned(&mut self, at: Duration, lasts: Duration, fault: Fault) -> Planned {
        self.number += 1;
        Planned {
            number: self.number,
            at,
            lasts,
            fault,
        }
    }

    fn is_free(&self, node: Node, at: Duration) -> bool {
        self.damaged != Some(node) && self.busy.get(&node).is_none_or(|until| *until <= at)
    }

    fn away(&self, at: Duration) -> usize {
        Node::all().filter(|node| !self.is_free(*node, at)).count()
    }

    /// Takes free nodes, if that leaves no more than `away_max` away.
    fn take(&mut self, nodes: &[Node], at: Duration, lasts: Duration, away_max: usize) -> bool {
        let free = nodes.iter().all(|node| self.is_free(*node, at));
        let possible = free && self.away(at) + nodes.len() <= away_max;
        if possible {
            self.busy.extend(nodes.iter().map(|node| (*node, at + lasts + RETURN)));
        }
        possible
    }

    fn take_one(&mut self, at: Duration, lasts: Duration) -> Option<Node> {
        let free: Vec<Node> = Node::all().filter(|node| self.is_free(*node, at)).collect();
        let node = *self.random.pick(&free)?;
        // Mostly within what writes go on without; now and then beyond.
        let away_max = if self.random.percent(15) {
            WRITES_GO_ON_WITHOUT + 1
        } else {
            WRITES_GO_ON_WITHOUT
        };
        self.take(&[node], at, lasts, away_max).then_some(node)
    }

    fn fault(&mut self, kind: Kind, at: Duration, lasts: Duration) -> Option<Fault> {
        let writer_is_free = self.writer_busy <= at;
        let control_is_free = self.control_busy <= at;
        let agent_is_free = self.agent_busy <= at;
        match kind {
            Kind::NodeKilled => self.take_one(at, Duration::ZERO).map(Fault::NodeKilled),
            Kind::NodeStopped => self.take_one(at, lasts).map(Fault::NodeStopped),
            Kind::NodePaused => self.take_one(at, lasts).map(Fault::NodePaused),
            Kind::DiskFull => self.take_one(at, lasts).map(Fault::DiskFull),
            Kind::DiskReadOnly => self.take_one(at, lasts).map(Fault::DiskReadOnly),
            Kind::SyncsFail => self.take_one(at, lasts).map(Fault::SyncsFail),
            Kind::DiskSlow => self.take_one(at, lasts).map(Fault::DiskSlow),
            Kind::ZoneFailed => {
                let zone = *self.random.pick(&[Zone::A, Zone::B, Zone::C])?;
                self.take(&zone.nodes(), at, lasts, WRITES_GO_ON_WITHOUT + 1)
                    .then_some(Fault::ZoneFailed(zone))
            }
            Kind::QuorumLost => {
                let mut free: Vec<Node> = Node::all().filter(|node| self.is_free(*node, at)).collect();
                self.random.shuffle(&mut free);
                let wanted = (WRITES_GO_ON_WITHOUT + 1).saturating_sub(self.away(at)).max(2);
                let nodes = free.get(..wanted)?.to_vec();
                self.take(&nodes, at, lasts, AWAY_MAX)
                    .then_some(Fault::QuorumLost(nodes))
            }
            Kind::PostmasterKilled => writer_is_free.then_some(Fault::PostmasterKilled),
            Kind::InstanceKilled => writer_is_free.then_some(Fault::InstanceKilled),
            Kind::ControlKilled => control_is_free.then_some(Fault::ControlKilled),
            Kind::ControlPaused if control_is_free && writer_is_free => {
                self.control_busy = at + lasts + RETURN;
                Some(Fault::ControlPaused)
            }
            Kind::ProxyKilled => Some(Fault::ProxyKilled),
            Kind::AgentKilled if agent_is_free => {
                self.agent_busy = at + AGENT_REST;
                Some(Fault::AgentKilled)
            }
            // A new writer has to be named to the control process.
            Kind::Failover if writer_is_free && control_is_free => {
                self.writer_busy = at + RETURN;
                Some(Fault::Failover)
            }
            Kind::Zombie if writer_is_free && control_is_free => {
                self.writer_busy = at + lasts + RETURN;
                self.control_busy = self.control_busy.max(at + RETURN);
                Some(Fault::Zombie)
            }
            // It would end what another fault has begun.
            Kind::Everything if agent_is_free && writer_is_free && control_is_free => {
                let nobody_away = self.busy.values().all(|until| *until <= at);
                nobody_away.then(|| {
                    self.agent_busy = at + AGENT_REST;
                    self.writer_busy = at + RETURN;
                    self.control_busy = at + RETURN;
                    Fault::Everything
                })
            }
            Kind::ControlPaused | Kind::AgentKilled | Kind::Failover | Kind::Zombie | Kind::Everything => None,
        }
    }

    /// A bit flips on a node that nothing else has happened to just now.
    fn rot(&mut self, at: Duration) -> Option<Fault> {
        let free: Vec<Node> = Node::all().filter(|node| self.is_free(*node, at)).collect();
        let node = *self.random.pick(&free)?;
        if AWAY_MAX <= self.away(at) {
            return None;
        }
        self.damaged = Some(node);
        let files = *self
            .random
            .pick(&[Files::Journal, Files::Layer, Files::Layer, Files::All])?;
        let (place, while_down) = (self.random.number(), self.random.percent(50));
        Some(Fault::BitFlipped(
            node,
            Rot {
                files,
                place,
                while_down,
            },
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SEEDS: u64 = 500;
    const LENGTHS: [u64; 3] = [45, 240, 600];

    fn plans() -> impl Iterator<Item = Plan> {
        (0..SEEDS).flat_map(|seed| LENGTHS.map(|length| Plan::new(seed, Duration::from_secs(length))))
    }

    #[test]
    fn one_seed_is_one_plan_and_another_is_another() {
        let length = Duration::from_secs(600);
        assert_eq!(Plan::new(7, length), Plan::new(7, length));
        assert_ne!(Plan::new(7, length).rounds, Plan::new(8, length).rounds);
    }

    #[test]
    fn no_plan_goes_beyond_what_the_volume_promises_to_survive() {
        for plan in plans() {
            for round in &plan.rounds {
                let mut damaged = BTreeSet::new();
                // Who is away until when.
                let mut until: BTreeMap<Node, Duration> = BTreeMap::new();
                for planned in &round.faults {
                    assert!(planned.at + planned.lasts <= round.length, "{plan}");
                    until.retain(|_, until| planned.at < *until);
                    if let Fault::BitFlipped(node, _) = planned.fault {
                        assert!(damaged.insert(node), "{plan}");
                        continue;
                    }
                    if planned.fault == Fault::Everything {
                        assert!(until.is_empty(), "{plan}");
                        continue;
                    }
                    for node in planned.fault.nodes() {
                        assert!(!damaged.contains(&node), "{plan}");
                        let before = until.insert(node, planned.at + planned.lasts);
                        assert_eq!(before, None, "{node} has two faults at once:\n{plan}");
                    }
                    assert!(until.len() + damaged.len() <= AWAY_MAX, "{plan}");
                }
                assert!(damaged.len() <= 1, "{plan}");
            }
        }
    }

    const DAMAGE: [&str; 2] = ["bit flipped", "disk lost"];

    fn kinds(plan: &Plan) -> BTreeSet<&'static str> {
        let faults = plan.rounds.iter().flat_map(|round| &round.faults);
        faults.map(|planned| planned.fault.kind()).collect()
    }

    #[test]
    fn every_kind_happens_within_a_few_minutes() {
        let mut damage = BTreeSet::new();
        for seed in 0..SEEDS / 10 {
            let plan = Plan::new(seed, Duration::from_secs(240));
            let (damaged, other): (BTreeSet<_>, BTreeSet<_>) =
                kinds(&plan).into_iter().partition(|kind| DAMAGE.contains(kind));
            assert_eq!(other.len(), KINDS.len(), "{plan}");
            assert!(!damaged.is_empty(), "{plan}");
            damage.extend(damaged);
        }
        assert_eq!(damage, DAMAGE.into());
    }

    #[test]
    fn a_short_run_meets_many_kinds_and_damages_a_copy() {
        for seed in 0..SEEDS {
            let plan = Plan::new(seed, Duration::from_secs(45));
            let kinds = kinds(&plan);
            assert!(9 <= kinds.len(), "{plan}");
            assert!(DAMAGE.iter().any(|kind| kinds.contains(kind)), "{plan}");
        }
    }
}

//! The simulated side of the seam: seeded histories of crashes, losses and reordering.
//!
//! The real [`volume::Opening`], [`volume::Shipper`], [`segment::Segment`] and [`page_store::PageStore`] run on a simulated
//! network, on disks in memory that forget what was not synced, and beside a simulated metadata store; a toy engine makes
//! pages that list their records. Writers crash, sleep and wake as zombies, openers duel and die at every step, zones are
//! lost, disks fill up, fail to sync, rot or come back empty. What DESIGN §4.8 promises is checked at every step and with
//! every page that is read, healing once faults have stopped.
//!
//! Invariants:
//! - One seed is one history: time is virtual, chance has one source, and every map is ordered.
//! - The rules under test are never simulated. [`Broken`] variants replace what surrounds them, and must be found.

mod broken;
mod checker;
mod client;
mod disk;
mod faults;
mod metadata;
mod network;
mod node;
mod pages;
mod random;
mod reads;
mod toy;
mod world;
mod writer;

use std::fmt;
use std::time::Duration;

use world::World;

/// A rule that is broken on purpose, to show that the simulator finds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Broken {
    /// A node answers what a power cut can still take away.
    AnswerBeforeSync,
    /// A promise is not journaled (protocol.md, hole 4).
    ForgetPromise,
    /// A node that lost its files comes back under its old name (hole 5).
    EmptyDiskVouches,
    /// An opener looks at a segment without fencing it (hole 6).
    LookWithoutFencing,
    /// The record's change is not bound to what the opener read (hole 1).
    LooseSwap,
    /// Batches link by LSN alone instead of (epoch, LSN) (hole 2).
    LinksByLsn,
    /// Single batches are acknowledged, not complete prefixes.
    BatchesCounted,
    /// Two promises are taken for enough.
    OnePromiseFewer,
    /// An opener does not copy what it found to a write quorum before it writes.
    NoCopying,
    /// A batch that the full disk did not take is acknowledged.
    FullDiskIgnored,
    /// What is not durable is folded into images (hole 22).
    FoldsAboveDurable,
    /// A page that was read ahead is believed to be as new as its read point, whatever its copy had to be complete up to.
    AsNewAsItsReadPoint,
    /// A segment gives pages without looking at how complete it is (hole 20).
    NeededIgnored,
    /// A segment reads up to the read point, over holes in what it has.
    ReadsOverHoles,
    /// The floor is raised over readers' read points, and segments read below it (hole 23).
    BelowTheFloor,
    /// Segments forget log that copies which lag behind still need.
    ForgetsTheSlowest,
}

/// What DESIGN §4.8 promises of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// What was acknowledged is in the history of every later timeline; two writers never acknowledge one LSN.
    AcknowledgedStays,
    /// What was acknowledged, and all of an opened history, lies synced on a write quorum.
    QuorumKeeps,
    /// Histories end where a record ends; no flush and no record is half in one.
    FlushesAreWhole,
    /// The durable LSN only goes forward within a timeline.
    DurableNeverGoesBack,
    /// No copy ever knows a timeline that the volume's record does not have.
    RecordLeads,
    /// A page shows exactly the visible records up to an LSN: at least those that are needed, none above the read point, none
    /// from an abandoned branch.
    PagesAreExact,
    /// Once faults have stopped, the volume opens and its copies become equal.
    CopiesBecomeEqual,
}

impl Promise {
    fn broken(self, what: String) -> (Promise, String) {
        (self, what)
    }
}

/// What a history without a violation was made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Events that happened.
    pub steps: u64,
    /// Timelines that were opened after the first.
    pub timelines: usize,
    /// Flushes that were acknowledged.
    pub flushes: usize,
    /// Pages that were read and found exact.
    pub pages: usize,
    /// A hash over every event: equal seeds give equal histories.
    pub history: u64,
}

/// A promise of DESIGN §4.8 that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The seed of the history.
    pub seed: u64,
    /// When, in virtual time.
    pub at: Duration,
    /// Which.
    pub promise: Promise,
    /// How.
    pub violation: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{:?} after {:?}: {}", self.promise, self.at, self.violation)?;
        write!(out, "again: cargo run --release -p sim -- --seed {}", self.seed)
    }
}

impl std::error::Error for Failure {}

/// Runs the history of one seed.
pub fn run(seed: u64, broken: Option<Broken>) -> Result<Report, Failure> {
    let outcome = World::new(seed, broken).run();
    outcome.map_err(|(at, (promise, violation))| Failure {
        seed,
        at,
        promise,
        violation,
    })
}

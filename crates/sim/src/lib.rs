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
mod event;
mod faults;
mod growth;
mod healing;
mod holding;
mod layout;
mod mending;
mod metadata;
mod mistakes;
mod network;
mod node;
mod pages;
mod random;
mod reads;
mod rescue;
mod shipping;
mod tally;
mod told;
mod toy;
mod weather;
mod world;
mod writer;

use crate::mistakes::Focus;
use std::fmt;
use std::panic;
use std::time::Duration;

pub use mistakes::Broken;
pub use tally::{Fault, State, Tally, shown_count};
use world::World;

/// What DESIGN §4.8 promises of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// What was acknowledged is in the history of every later timeline; two writers never acknowledge one LSN.
    AcknowledgedStays,
    /// Two writers never both get acknowledgements for one timeline.
    OneWriterAnEpoch,
    /// What a reader was shown is in the history of every later timeline.
    ShownStays,
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
    /// What a copy promised or acknowledged it still knows after a power cut.
    PowerTakesNothing,
    /// No assertion of the shipping code fails, and no sound disk cannot be used.
    AssertionsHold,
    /// Once faults have stopped, the volume opens and its copies become equal.
    CopiesBecomeEqual,
}

impl Promise {
    fn broken(self, what: String) -> (Promise, String) {
        (self, what)
    }
}

/// What a history without a violation was made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Everything that happened.
    pub steps: u64,
    /// Messages delivered, effects on disks, and ticks that did something.
    pub events: u64,
    /// Timelines that were opened after the first.
    pub timelines: usize,
    /// Flushes that were acknowledged.
    pub flushes: usize,
    /// Pages that were read and found exact.
    pub pages: usize,
    /// Openings that stopped since the metadata store had gone back in time.
    pub outdated_stops: u64,
    /// How often a copy took what it lacked from the layers of others.
    pub layered: u64,
    /// Copies that took the place of others.
    pub replaced: u64,
    /// Replacements that were taken back.
    pub taken_back: u64,
    /// Groups that were given new copies while the volume was opened.
    pub rebuilt: u64,
    /// Copies that got back what they had lost, and their vote with it.
    pub mended: u64,
    /// Groups that were added under load.
    pub grown: u64,
    /// What went wrong, how often, and in which states.
    pub tally: Tally,
    /// A hash over every event: equal seeds give equal histories.
    pub history: u64,
}

/// A promise of DESIGN §4.8 that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The seed of the history.
    pub seed: u64,
    /// The rule that was broken in it on purpose.
    pub broken: Option<Broken>,
    /// When, in virtual time.
    pub at: Duration,
    /// Which.
    pub promise: Promise,
    /// How.
    pub violation: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            out,
            "seed {}: {:?} after {:?}: {}",
            self.seed, self.promise, self.at, self.violation
        )?;
        write!(out, "again: cargo run --release -p sim -- --seed {}", self.seed)?;
        self.broken.map_or(Ok(()), |broken| write!(out, " --broken {broken:?}"))
    }
}

impl std::error::Error for Failure {}

/// Runs the history of one seed.
pub fn run(seed: u64, broken: Option<Broken>) -> Result<Report, Failure> {
    let focus = broken.map_or(Focus::Anything, Broken::focus);
    // An assertion that fails, in the shipping code or here, is a violation like any other.
    let outcome = panic::catch_unwind(|| World::new(seed, broken, focus).run());
    let outcome = outcome.unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|what| (*what).to_owned()));
        let what = what.unwrap_or_else(|| "a panic".to_owned());
        Err((Duration::ZERO, Promise::AssertionsHold.broken(what)))
    });
    outcome.map_err(|(at, (promise, violation))| Failure {
        seed,
        broken,
        at,
        promise,
        violation,
    })
}

//! How likely each fault is in one history.
//!
//! A history in which everything goes wrong all the time reaches few states: most of its faults hide others. So every seed
//! draws its own weather, in which some faults never strike and others often.

use std::time::Duration;

use crate::random::Random;
use crate::tally::Fault;

/// Copies that may be lost for good in one history: a quorum is left, so that healing can be demanded.
const LOSSES_MAX: u64 = 2;
/// One history in so many loses one copy more: nothing that was acknowledged may be gone, but nobody can write any more.
const WORST_OF: u64 = 12;
/// Faults end between these.
const CALM_FROM_MS: std::ops::Range<u64> = 500..2000;

/// The weather of one history.
#[derive(Debug)]
pub(crate) struct Weather {
    /// By fault: 0 is never.
    strengths: Vec<u64>,
    /// Copies that may be lost for good.
    pub(crate) losses_max: u64,
    /// Nodes do not keep their journals for copies that are far behind: those take from the layers of others.
    pub(crate) crowded: bool,
    /// No fault strikes from here on.
    pub(crate) calm_from: Duration,
}

impl Weather {
    pub(crate) fn any(random: &mut Random) -> Weather {
        let strengths = Fault::ALL.iter().map(|_| match random.below(8) {
            0 | 1 => 0,
            2..=5 => 1,
            6 => 2,
            _ => 4,
        });
        let strengths = strengths.collect();
        let worst = random.below(WORST_OF) == 0;
        let calm_from = random.millis(CALM_FROM_MS.start, CALM_FROM_MS.end);
        Weather {
            strengths,
            crowded: random.chance(500),
            losses_max: LOSSES_MAX + u64::from(worst),
            calm_from,
        }
    }

    pub(crate) fn strength(&self, fault: Fault) -> u64 {
        self.strengths[fault as usize]
    }

    /// Whether so many copies may be lost that nobody can write any more.
    pub(crate) fn is_worst(&self) -> bool {
        LOSSES_MAX < self.losses_max
    }
}

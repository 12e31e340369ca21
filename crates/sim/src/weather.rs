//! How likely each fault is in one history.
//!
//! A history in which everything goes wrong all the time reaches few states: most of its faults hide others. So every seed
//! draws its own weather, in which some faults never strike and others often.

use std::time::Duration;

use volume::SegmentKinds;
use volume::stripes::Geometry;

use crate::mistakes::Focus;
use crate::random::Random;
use crate::tally::Fault;

/// Copies that may be lost for good in one history: a quorum is left, so that healing can be demanded.
const LOSSES_MAX: u64 = 2;
/// One history in so many loses one copy more: nothing that was acknowledged may be gone, but nobody can write any more before
/// the volume is opened anew with other copies, and where no node can take them, for ever.
const WORST_OF: u64 = 12;
/// So many in a thousand of those in which copies are replaced do, besides.
const WORST_REPLACED: u64 = 300;
/// Pages of the fork, at least.
const BLOCKS_MIN: u32 = 6;
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
    /// Groups that the volume begins with, and that it grows to at most.
    pub(crate) groups: u32,
    pub(crate) groups_max: u32,
    /// How it is divided, and pages of its one fork, at most.
    pub(crate) geometry: Geometry,
    pub(crate) blocks: u32,
    /// What kinds of segments the groups have.
    pub(crate) segments: SegmentKinds,
    /// Each zone has a third node, and copies are replaced.
    pub(crate) spares: bool,
    /// A node that is down for so long, or a copy that is lost for so long, is replaced without anybody's asking.
    pub(crate) replace_after: Duration,
    /// Nodes look for what they have lost, and take it from others.
    pub(crate) mends: bool,
}

impl Weather {
    pub(crate) fn any(random: &mut Random, focus: Focus) -> Weather {
        let strengths = Fault::ALL.iter().map(|_| match random.below(8) {
            0 | 1 => 0,
            2..=5 => 1,
            6 => 2,
            _ => 4,
        });
        let mut strengths: Vec<u64> = strengths.collect();
        if focus == Focus::Rot {
            for rot in [Fault::BitFlipped, Fault::BitFlippedAwake, Fault::WriteMisdirected] {
                strengths[rot as usize] = 8;
            }
        }
        let worst = random.below(WORST_OF) == 0;
        let calm_from = random.millis(CALM_FROM_MS.start, CALM_FROM_MS.end);
        let groups = match random.below(20) {
            0..=9 => 1,
            10..=15 => 2,
            16 | 17 => 3,
            _ => 4 + random.below(3) as u32,
        };
        let groups = match focus {
            Focus::OneGroup => 1,
            Focus::Groups => groups.max(2),
            _ => groups,
        };
        let grows = match focus {
            Focus::OneGroup => false,
            Focus::Growth => true,
            _ => random.chance(350),
        };
        let groups_max = if grows {
            groups + 1 + random.below(2) as u32
        } else {
            groups
        };
        let (geometry, blocks) = match groups_max {
            1 => (Geometry::DEFAULT, BLOCKS_MIN),
            _ => {
                let geometry = Geometry {
                    group_blocks: 2 + random.below(3),
                    stripe_blocks: 1 + random.below(2) as u32,
                };
                (geometry, (groups_max * geometry.group_blocks as u32).max(BLOCKS_MIN))
            }
        };
        let segments = match focus {
            Focus::Anything if random.fork().chance(250) => SegmentKinds::FullAndTail,
            _ => SegmentKinds::Full,
        };
        let spares = match focus {
            Focus::OneGroup => false,
            Focus::Replacements => true,
            _ => random.chance(450),
        };
        let worst = worst || spares && random.fork().chance(WORST_REPLACED);
        // With another copy less nobody might have the pages any more.
        let worst = worst && segments == SegmentKinds::Full;
        let mends = focus == Focus::Rot || random.fork().chance(500);
        Weather {
            segments,
            groups,
            groups_max,
            geometry,
            blocks,
            spares,
            mends,
            replace_after: random.millis(60, 900),
            strengths,
            crowded: random.chance(500),
            losses_max: LOSSES_MAX + u64::from(worst),
            calm_from,
        }
    }

    pub(crate) fn strength(&self, fault: Fault) -> u64 {
        self.strengths[fault as usize]
    }

    /// Whether somebody can still write when so many copies of one list are lost.
    pub(crate) fn survives(&self, losses: u64) -> bool {
        losses <= LOSSES_MAX
    }
}

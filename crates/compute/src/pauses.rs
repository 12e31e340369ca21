//! Pauses between reigns that break young.
//!
//! Every reign that opens the volume leaves a timeline in its record for ever. A PostgreSQL that cannot start, for want of its
//! port perhaps, would add one every two seconds until the record is too long to be read. So such reigns become rare, while a
//! writer that was killed, or copies that were away, are not waited for.

use std::time::Duration;

/// The first pause; doubles up to the limits below.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// The longest pause where reigns leave nothing behind, and for a PostgreSQL that is killed again and again.
const PAUSE_SHORT_MAX: Duration = Duration::from_secs(2);
/// The longest pause where PostgreSQL does not work.
const PAUSE_LONG_MAX: Duration = Duration::from_secs(60);
/// A reign that lasted so long was sound: the next begins at once.
const SOUND_AFTER: Duration = Duration::from_secs(5);
/// So many times in a row a PostgreSQL that had started may end young, as if somebody had killed it. Beyond it, it does not work.
const KILLED_MAX: u32 = 20;

/// How far a reign came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The volume was not opened. No other limit but the copies' and the metadata store's patience.
    Opening,
    /// The volume's record has its timeline, but PostgreSQL was never available.
    Opened,
    /// PostgreSQL was available.
    Available,
}

/// Decides how long to wait before the next reign.
#[derive(Default, Debug)]
pub(crate) struct Pauses {
    pause: Duration,
    /// Reigns in a row that ended young after PostgreSQL was available.
    killed: u32,
}

impl Pauses {
    /// The pause after a reign that came so far and lasted so long.
    pub(crate) fn after(&mut self, stage: Stage, lasted: Duration) -> Duration {
        let is_young = lasted < SOUND_AFTER;
        let longest = match stage {
            Stage::Available if is_young => {
                self.killed += 1;
                if self.killed <= KILLED_MAX {
                    PAUSE_SHORT_MAX
                } else {
                    PAUSE_LONG_MAX
                }
            }
            Stage::Available => {
                self.killed = 0;
                Duration::ZERO
            }
            Stage::Opened => PAUSE_LONG_MAX,
            Stage::Opening if is_young => PAUSE_SHORT_MAX,
            // It waited for copies all the time.
            Stage::Opening => Duration::ZERO,
        };
        self.pause = (2 * self.pause).max(PAUSE_MIN).min(longest);
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YOUNG: Duration = Duration::from_secs(1);

    fn after(stage: Stage, lasted: Duration, times: u32) -> (Pauses, Duration) {
        let mut pauses = Pauses::default();
        let mut pause = Duration::ZERO;
        for _ in 0..times {
            pause = pauses.after(stage, lasted);
        }
        (pauses, pause)
    }

    #[test]
    fn a_first_failure_and_a_crash_of_a_sound_reign_are_not_waited_for() {
        for stage in [Stage::Opening, Stage::Opened, Stage::Available] {
            assert_eq!(after(stage, YOUNG, 1).1, PAUSE_MIN, "{stage:?}");
        }
        let (mut pauses, pause) = after(Stage::Opened, YOUNG, 30);
        assert_eq!(pause, PAUSE_LONG_MAX);
        assert_eq!(pauses.after(Stage::Available, SOUND_AFTER), Duration::ZERO);
        assert_eq!(pauses.after(Stage::Available, YOUNG), PAUSE_MIN, "and all is forgotten");
    }

    #[test]
    fn a_postgresql_that_cannot_start_leaves_a_timeline_a_minute() {
        assert_eq!(after(Stage::Opened, YOUNG, 30).1, PAUSE_LONG_MAX);
        // Also one that takes long to find out.
        assert_eq!(after(Stage::Opened, 2 * SOUND_AFTER, 30).1, PAUSE_LONG_MAX);
        let (mut pauses, pause) = after(Stage::Available, YOUNG, KILLED_MAX);
        assert_eq!(pause, PAUSE_SHORT_MAX);
        assert!((0..10).any(|_| pauses.after(Stage::Available, YOUNG) == PAUSE_LONG_MAX));
    }

    #[test]
    fn copies_that_are_away_are_not_waited_for_longer_than_they_are_away() {
        assert_eq!(after(Stage::Opening, YOUNG, 30).1, PAUSE_SHORT_MAX);
        let (mut pauses, _) = after(Stage::Opened, YOUNG, 30);
        assert_eq!(pauses.after(Stage::Opening, YOUNG), PAUSE_SHORT_MAX);
        assert_eq!(pauses.after(Stage::Opening, 2 * SOUND_AFTER), Duration::ZERO);
    }
}

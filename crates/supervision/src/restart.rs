//! When a process that died is started again.

use std::time::Duration;

/// The first pause after a process died young; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A process that lived so long was sound.
const SOUND_AFTER: Duration = Duration::from_secs(10);

/// At once after the first death; with growing pauses while it keeps dying young.
#[derive(Clone, Copy, Default, Debug)]
pub struct RestartRule {
    pause: Duration,
    started: Option<Duration>,
    not_before: Duration,
}

impl RestartRule {
    /// It was started. `now` is of any clock that only goes forward.
    pub fn started(&mut self, now: Duration) {
        self.started = Some(now);
    }

    /// It was found dead.
    pub fn died(&mut self, now: Duration) {
        let lived = self.started.take().map(|started| now.saturating_sub(started));
        let sound = lived.is_none_or(|lived| SOUND_AFTER <= lived);
        self.not_before = now + self.pause;
        self.pause = if sound {
            PAUSE_MIN
        } else {
            (2 * self.pause).clamp(PAUSE_MIN, PAUSE_MAX)
        };
        if sound {
            self.not_before = now;
        }
    }

    /// Whether it may be started.
    pub fn may_start(&self, now: Duration) -> bool {
        self.not_before <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_death_costs_nothing_and_dying_young_costs_more_and_more() {
        let seconds = Duration::from_secs;
        let mut rule = RestartRule::default();
        rule.started(seconds(0));
        rule.died(seconds(1));
        assert!(rule.may_start(seconds(1)));
        for (at, allowed) in [(2, 2100), (4, 4200), (6, 6400)] {
            rule.started(seconds(at) - Duration::from_millis(1));
            rule.died(seconds(at));
            assert!(!rule.may_start(seconds(at)));
            assert!(rule.may_start(Duration::from_millis(allowed)));
        }
        rule.started(seconds(10));
        rule.died(seconds(30));
        assert!(rule.may_start(seconds(30)), "it had recovered");
    }
}

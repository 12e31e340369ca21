//! How long old versions are kept: the retention window, and the floor that follows from it.
//!
//! From time to time it is noted up to where the volume was durable: a [`Mark`]. The floor is the newest mark that is as old as
//! the window, so that everything that was durable within the window can still be read. Marks travel in the log, as a value of
//! the catalog: the next reign goes on from those that its history sees.
//!
//! Invariants:
//! - The floor is never above what was durable a window ago. Within a reign time is the monotonic clock's; between two reigns
//!   it is the wall clock's, and a wall clock that was set back stands still until it is where it was.
//! - It is never below what was durable a window and a slack ago: see [`Retention::slack`]. Time without a writer is not
//!   counted where nobody knows when during it the last log became durable: it only makes the floor lower.
//! - At most [`MARKS_MAX`] marks. One that is left out only makes the floor lower.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use units::Lsn;

/// The longest window: what Aurora offers for its backtrack.
pub const WINDOW_MAX: Duration = Duration::from_secs(72 * 3600);
/// Marks that are kept, at most.
pub const MARKS_MAX: usize = 96;
/// Marks within one window, about: the floor is by so much of the window lower than it could be.
const MARKS_PER_WINDOW: u32 = 32;
/// The least time between two marks.
const SPACING_MIN: Duration = Duration::from_secs(1);
const MARK_BYTES: usize = 16;

/// The volume was durable up to here at this time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Microseconds since 1970, as the writers' clocks went.
    pub at_us: u64,
    /// The durable LSN at that time.
    pub durable: Lsn,
}

/// The marks of the reign that writes, and those before it.
#[derive(Clone, Debug)]
pub struct Retention {
    window: Duration,
    /// Both time and LSN rise.
    marks: VecDeque<Mark>,
    /// The time at which the reign began.
    began_us: u64,
    is_saved: bool,
}

impl Retention {
    /// For a reign that begins at `branch`, at `now_us` of the wall clock, with the marks that its history has.
    pub fn resume(window: Duration, saved: Vec<Mark>, now_us: u64, branch: Lsn) -> Retention {
        let mut marks: VecDeque<Mark> = VecDeque::new();
        for mark in saved {
            let rises = marks
                .back()
                .is_none_or(|last| last.at_us < mark.at_us && last.durable <= mark.durable);
            if rises && mark.durable <= branch {
                marks.push_back(mark);
            }
        }
        let began_us = marks.back().map_or(now_us, |last| last.at_us.max(now_us));
        let mut retention = Retention {
            window,
            marks,
            began_us,
            is_saved: true,
        };
        retention.set_window(window);
        retention.observe(Duration::ZERO, branch);
        retention
    }

    /// How long versions are kept.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// By how much longer than the window a version may be kept while a writer runs.
    pub fn slack(&self) -> Duration {
        (self.window / MARKS_PER_WINDOW).max(SPACING_MIN)
    }

    /// Another window. What is collected already does not come back.
    pub fn set_window(&mut self, window: Duration) {
        self.window = window.min(WINDOW_MAX);
        if self.window.is_zero() && !self.marks.is_empty() {
            self.marks.clear();
            self.is_saved = false;
        }
    }

    fn time_us(&self, elapsed: Duration) -> u64 {
        self.began_us.saturating_add(micros(elapsed))
    }

    /// `elapsed` after the reign began, the volume is durable up to `durable`.
    pub fn observe(&mut self, elapsed: Duration, durable: Lsn) {
        if self.window.is_zero() {
            return;
        }
        let at_us = self.time_us(elapsed);
        let spacing_us = micros(self.slack());
        let is_due = |last: &Mark| last.durable < durable && last.at_us.saturating_add(spacing_us) <= at_us;
        if self.marks.back().is_none_or(is_due) {
            self.marks.push_back(Mark { at_us, durable });
            self.is_saved = false;
            if MARKS_MAX < self.marks.len() {
                self.leave_one_out();
            }
        }
    }

    /// The mark goes whose neighbours are nearest to each other.
    fn leave_one_out(&mut self) {
        let gap = |at: &usize| self.marks[at + 1].at_us - self.marks[at - 1].at_us;
        if let Some(at) = (1..self.marks.len() - 1).min_by_key(gap) {
            self.marks.remove(at);
        }
    }

    /// No version below this has to be kept for the window's sake, `elapsed` after the reign began, when the volume is durable
    /// up to `durable`. [`Lsn::ZERO`]: nobody knows what was durable a window ago.
    pub fn floor(&mut self, elapsed: Duration, durable: Lsn) -> Lsn {
        if self.window.is_zero() {
            return durable;
        }
        let Some(horizon_us) = self.time_us(elapsed).checked_sub(micros(self.window)) else {
            return Lsn::ZERO;
        };
        let old = self.marks.partition_point(|mark| mark.at_us <= horizon_us);
        self.marks.drain(..old.saturating_sub(1));
        self.marks
            .front()
            .filter(|_| 0 < old)
            .map_or(Lsn::ZERO, |mark| mark.durable)
    }

    /// Since when everything that became durable is kept, in microseconds since 1970; `None`: nothing is kept.
    pub fn kept_since_us(&self) -> Option<u64> {
        self.marks.front().map(|mark| mark.at_us)
    }

    /// The marks, if they are others than those that were taken last: they go with the next flush.
    pub fn take_unsaved(&mut self) -> Option<Bytes> {
        if std::mem::replace(&mut self.is_saved, true) {
            return None;
        }
        let mut bytes = Vec::with_capacity(self.marks.len() * MARK_BYTES);
        for mark in &self.marks {
            bytes.extend_from_slice(&mark.at_us.to_le_bytes());
            bytes.extend_from_slice(&mark.durable.raw().to_le_bytes());
        }
        Some(bytes.into())
    }
}

/// The marks in a value of the catalog; `None`: it is not one.
pub fn decode_marks(bytes: &[u8]) -> Option<Vec<Mark>> {
    let (marks, []) = bytes.as_chunks::<MARK_BYTES>() else {
        return None;
    };
    let number = |eight: &[u8]| eight.try_into().map(u64::from_le_bytes);
    let mark = |sixteen: &[u8; MARK_BYTES]| {
        Some(Mark {
            at_us: number(&sixteen[..8]).ok()?,
            durable: Lsn::from_raw(number(&sixteen[8..]).ok()?),
        })
    };
    marks.iter().map(mark).collect()
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SECOND_US: u64 = 1_000_000;

    fn lsn(raw: u64) -> Lsn {
        Lsn::from_raw(raw)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_a_window_the_floor_is_what_is_durable() {
        let mut retention = Retention::resume(Duration::ZERO, Vec::new(), 5, lsn(100));
        assert_eq!(retention.floor(seconds(0), lsn(100)), lsn(100));
        retention.observe(seconds(9), lsn(200));
        assert_eq!(retention.floor(seconds(9), lsn(200)), lsn(200));
        assert_eq!(retention.take_unsaved(), None);
    }

    #[test]
    fn the_floor_is_what_was_durable_a_window_ago() {
        let mut retention = Retention::resume(seconds(60), Vec::new(), 0, lsn(100));
        for second in 0..=600 {
            retention.observe(seconds(second), lsn(100 + second));
            let floor = retention.floor(seconds(second), lsn(100 + second));
            let slack = retention.slack().as_secs() + 1;
            let highest = if second < 60 { 0 } else { 100 + second - 60 };
            let lowest = if second < 60 + slack {
                0
            } else {
                100 + second - 60 - slack
            };
            assert!(lsn(lowest) <= floor && floor <= lsn(highest), "{second}: {floor}");
            assert!(retention.marks.len() <= 64);
        }
    }

    #[test]
    fn a_volume_that_rests_keeps_nothing_older_than_its_end() {
        let mut retention = Retention::resume(seconds(60), Vec::new(), 0, lsn(100));
        retention.observe(Duration::from_millis(500), lsn(200));
        assert_eq!(retention.floor(seconds(60), lsn(200)), lsn(100));
        retention.observe(seconds(2), lsn(200));
        assert_eq!(retention.floor(seconds(62), lsn(200)), lsn(200));
    }

    #[test]
    fn the_next_reign_goes_on_from_what_was_saved() {
        let mut before = Retention::resume(HOUR, Vec::new(), 0, lsn(100));
        before.observe(HOUR / 2, lsn(200));
        let saved = decode_marks(&before.take_unsaved().expect("there are marks")).expect("they are marks");
        assert_eq!(before.take_unsaved(), None, "once is enough");
        let half = micros(HOUR / 2);
        let mut next = Retention::resume(HOUR, saved.clone(), half + SECOND_US, lsn(250));
        assert_eq!(
            next.floor(HOUR / 2 - seconds(2), lsn(250)),
            lsn(0),
            "an hour is not over"
        );
        assert_eq!(next.floor(HOUR / 2, lsn(250)), lsn(100));
        let unseen = Retention::resume(HOUR, saved, half, lsn(150));
        assert!(unseen.marks.iter().all(|mark| mark.durable <= lsn(150)));
    }

    /// A clock that was set back by a day: nothing is collected earlier, and time goes on from where it was.
    #[test]
    fn a_clock_that_was_set_back_makes_the_floor_neither_fall_nor_jump() {
        let day = 24 * micros(HOUR);
        let mut before = Retention::resume(HOUR, Vec::new(), day, lsn(100));
        before.observe(2 * HOUR, lsn(300));
        assert_eq!(before.floor(2 * HOUR, lsn(300)), lsn(100));
        let saved = decode_marks(&before.take_unsaved().expect("there are marks")).expect("they are marks");
        let mut next = Retention::resume(HOUR, saved, 0, lsn(300));
        assert_eq!(next.floor(Duration::ZERO, lsn(300)), lsn(100));
        assert_eq!(next.floor(HOUR - seconds(1), lsn(300)), lsn(100));
        assert_eq!(next.floor(HOUR, lsn(300)), lsn(300));
    }

    #[test]
    fn another_window_counts_at_once() {
        let mut retention = Retention::resume(HOUR, Vec::new(), 0, lsn(100));
        for minute in 1..=120 {
            retention.observe(minute * seconds(60), lsn(100 + u64::from(minute)));
        }
        let now = 120 * seconds(60);
        let kept_an_hour = retention.floor(now, lsn(220));
        assert!(lsn(156) <= kept_an_hour && kept_an_hour <= lsn(160), "{kept_an_hour}");
        retention.set_window(10 * seconds(60));
        let kept_ten_minutes = retention.floor(now, lsn(220));
        assert!(lsn(206) <= kept_ten_minutes && kept_ten_minutes <= lsn(210));
        retention.set_window(Duration::ZERO);
        assert_eq!(retention.floor(now, lsn(220)), lsn(220));
        assert_eq!(retention.take_unsaved(), Some(Bytes::new()));
        retention.set_window(100 * HOUR);
        assert_eq!(retention.window(), WINDOW_MAX);
        assert_eq!(retention.floor(now, lsn(220)), lsn(0));
    }

    #[test]
    fn a_value_that_is_no_list_of_marks_is_told() {
        assert_eq!(decode_marks(&[]), Some(Vec::new()));
        assert_eq!(decode_marks(&[1; 17]), None);
    }

    /// What happens to a volume.
    #[derive(Clone, Debug)]
    enum Event {
        /// So many milliseconds pass, and so many bytes become durable.
        Log(u64, u64),
        /// A flush takes the marks along.
        Flush,
        /// The writer dies; the next one begins so many milliseconds later, while its clock was changed by so many.
        Restart(u64, i64),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            8 => (0_u64..4000, 0_u64..1000).prop_map(|(millis, bytes)| Event::Log(millis, bytes)),
            4 => Just(Event::Flush),
            1 => (0_u64..20_000, -100_000_i64..=0).prop_map(|(millis, set_back)| Event::Restart(millis, set_back)),
        ]
    }

    proptest! {
        /// Whatever happens, the floor lies between what was durable a window ago and a slack before that, where the slack
        /// includes the time without a writer and what its clock was set back by.
        #[test]
        fn the_window_is_kept_and_little_more(
            window_s in 1_u64..120,
            events in prop::collection::vec(event(), 1..400),
        ) {
            let window = seconds(window_s);
            let (mut now_ms, mut wall_ms, mut durable) = (0_u64, 1_000_000_000_i64, 1000_u64);
            let mut history = vec![(0_u64, durable)];
            let mut retention = Retention::resume(window, Vec::new(), 1000 * wall_ms as u64, lsn(durable));
            let (mut saved, mut began_ms, mut uncounted_ms, mut highest_floor) = (Vec::new(), 0, 0_u64, Lsn::ZERO);
            for event in events {
                match event {
                    Event::Log(millis, bytes) => {
                        (now_ms, wall_ms, durable) = (now_ms + millis, wall_ms + millis as i64, durable + bytes);
                        history.push((now_ms, durable));
                    }
                    Event::Flush => if let Some(bytes) = retention.take_unsaved() {
                        saved = decode_marks(&bytes).expect("marks");
                    },
                    Event::Restart(millis, set_back) => {
                        // What was not saved is lost, and with it the time since the last mark that was.
                        let last_ms = saved.last().map_or(0, |mark: &Mark| mark.at_us / 1000);
                        let lost_ms = (retention.time_us(Duration::from_millis(now_ms - began_ms)) / 1000).saturating_sub(last_ms);
                        (now_ms, wall_ms) = (now_ms + millis, wall_ms + millis as i64 + set_back);
                        uncounted_ms += millis + lost_ms + set_back.unsigned_abs();
                        began_ms = now_ms;
                        retention = Retention::resume(window, saved.clone(), 1000 * wall_ms as u64, lsn(durable));
                    }
                }
                let elapsed = Duration::from_millis(now_ms - began_ms);
                retention.observe(elapsed, lsn(durable));
                let floor = retention.floor(elapsed, lsn(durable)).max(highest_floor);
                highest_floor = floor;
                let durable_at = |ms: Option<u64>| {
                    let known = ms.map(|ms| history.partition_point(|(at, _)| *at <= ms));
                    known.map_or(Lsn::ZERO, |count| lsn(history[count - 1].1))
                };
                let window_ms = 1000 * window_s;
                prop_assert!(floor <= durable_at(now_ms.checked_sub(window_ms)), "too high");
                // Time passes in steps of up to four seconds here, and the mark that is due comes with the next one.
                let slack_ms = window_ms + retention.slack().as_millis() as u64 + 4000 + uncounted_ms;
                prop_assert!(durable_at(now_ms.checked_sub(slack_ms)) <= floor, "too low");
                prop_assert!(retention.marks.len() <= MARKS_MAX);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), now in any::<u64>(), elapsed in any::<u32>()) {
            if let Some(marks) = decode_marks(&bytes) {
                let mut retention = Retention::resume(HOUR, marks, now, lsn(77));
                retention.observe(seconds(u64::from(elapsed)), lsn(78));
                prop_assert!(retention.floor(seconds(u64::from(elapsed)), lsn(78)) <= lsn(78));
            }
        }
    }
}

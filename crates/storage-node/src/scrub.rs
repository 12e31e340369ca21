//! The scrubbing thread: everything at rest is read again, slowly, over and over, and at once when somebody asks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use page_store::{ReadError, Scrubbed};
use tokio::sync::watch;
use wire_format::message::ScrubStatus;

use crate::last_pass::{LastPass, first_rest, seconds_since_1970};
use crate::metrics::{SCRUB_BYTES, SCRUB_FAILED, SCRUB_PASSES};
use crate::node::Node;

/// The longest rest between two looks at whether the node stops, or somebody asks for a pass.
const REST_MAX: Duration = Duration::from_millis(200);
/// How much this thread yields to the others (nice level).
const NICE: i32 = 15;

/// How often everything is read, and how fast.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// From the beginning of one pass to that of the next.
    pub(crate) interval: Duration,
    /// At most so many in a second, on average.
    pub(crate) bytes_per_second: u64,
}

/// The passes so far, for whoever asks.
#[derive(Default)]
pub(crate) struct Passes(Mutex<ScrubStatus>);

impl Passes {
    fn now(&self) -> MutexGuard<'_, ScrubStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is to say, but for what the store counts.
    pub(crate) fn status(&self) -> ScrubStatus {
        self.now().clone()
    }

    /// When the last pass ended before the node was started.
    pub(crate) fn remember(&self, ended_at: Option<u64>) {
        self.now().ended_at = ended_at.unwrap_or(0);
    }

    /// Asks for a pass that begins now.
    pub(crate) fn ask(&self) {
        self.now().asked += 1;
    }

    fn is_asked_after(&self, pass: u64) -> bool {
        pass < self.now().asked
    }

    fn begin(&self, bytes_expected: u64) -> u64 {
        let mut now = self.now();
        now.is_under_way = true;
        now.bytes = 0;
        now.bytes_expected = bytes_expected;
        now.failed = None;
        now.asked
    }

    fn end(&self, pass: u64, failed: Option<String>) {
        let mut now = self.now();
        now.is_under_way = false;
        now.ended = pass;
        now.ended_at = seconds_since_1970();
        now.failed = failed;
    }
}

/// Runs until the node stops.
pub(crate) fn run(node: &Node, schedule: Schedule, last: &LastPass, stop: &watch::Receiver<bool>) {
    // On Linux this is the calling thread's alone.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        tracing::warn!(%error, "store.scrub: as urgent as everything else");
    }
    let before = Some(node.scrub.now().ended_at).filter(|ended_at| 0 < *ended_at);
    let mut begin = Instant::now() + first_rest(before, seconds_since_1970(), schedule.interval);
    let mut begun = 0;
    while !*stop.borrow() {
        if begin <= Instant::now() && !node.scrub.is_asked_after(begun) {
            node.scrub.ask();
        }
        if node.scrub.is_asked_after(begun) {
            begin = Instant::now() + schedule.interval;
            begun = pass(node, schedule.bytes_per_second, last, stop);
        } else {
            std::thread::sleep(REST_MAX);
        }
    }
}

/// One pass. Answers with its number.
fn pass(node: &Node, bytes_per_second: u64, last: &LastPass, stop: &watch::Receiver<bool>) -> u64 {
    let started = Instant::now();
    let number = node.scrub.begin(node.store.bytes_at_rest());
    let is_wanted = || !*stop.borrow() && !node.scrub.is_asked_after(number);
    let scrubbed = node.store.scrub(&|bytes| {
        SCRUB_BYTES.add(bytes);
        let read = {
            let mut now = node.scrub.now();
            now.bytes += bytes;
            now.bytes
        };
        let due = started + Duration::from_secs_f64(read as f64 / bytes_per_second as f64);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() || !is_wanted() {
                return is_wanted();
            }
            std::thread::sleep(left.min(REST_MAX));
        }
    });
    node.note_damage();
    if is_wanted() {
        end(node, number, started.elapsed().as_secs(), &scrubbed);
        last.write(node.scrub.now().ended_at);
    }
    number
}

fn end(node: &Node, number: u64, seconds: u64, scrubbed: &Result<Scrubbed, ReadError>) {
    match scrubbed {
        Ok(scrubbed) if scrubbed.damaged == 0 => {
            let bytes = scrubbed.bytes;
            tracing::info!(bytes, seconds, "store.scrub: everything at rest is as it was written");
        }
        Ok(scrubbed) => tracing::error!(?scrubbed, seconds, "store.scrub: damage was found"),
        Err(error) => tracing::error!(%error, "store.scrub: the disk cannot be read"),
    }
    match scrubbed {
        Ok(_) => SCRUB_PASSES.increment(),
        Err(_) => SCRUB_FAILED.increment(),
    }
    let failed = scrubbed.as_ref().err().map(ToString::to_string);
    node.scrub.end(number, failed);
}

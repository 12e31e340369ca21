//! Whom to ask when something is missing, and when.

use std::collections::BTreeSet;
use std::time::Duration;

use units::SegmentId;
use wire_format::message::Member;

/// Bytes of log asked of a peer at once.
pub(crate) const FETCH_BYTES_MAX: u32 = 1 << 20;
/// How long a hole may be just a message on its way.
const HOLE_GRACE: Duration = Duration::from_millis(50);
/// The pause after a peer that could not help.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// The pause once so many peers have said that they no longer have what is missing: asking on is of little use.
const STRANDED_PAUSE: Duration = Duration::from_secs(5);
/// Half of the peers: what is durable lay on four of six, and they recycle their journals at about the same log.
const STRANDED_PEERS: usize = 3;
/// Or one of them, if so many times nobody of all peers could help: others may be away, or lack the same.
const STRANDED_ROUNDS: usize = 2;
/// A question whose answer takes so many times as long as answers took lately counts as lost, and another peer is asked.
const ANSWER_ROUND_TRIPS: u32 = 8;
/// That is never less than this, since an answer waits for the peer's disk,
const ANSWER_LIMIT_MIN: Duration = Duration::from_millis(200);
/// and never more than this.
const ANSWER_LIMIT_MAX: Duration = Duration::from_secs(5);
/// What the first answer is expected to take.
const ANSWER_TIME_EXPECTED: Duration = Duration::from_millis(100);

/// What an answer was good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// The segment is further than before.
    Helped,
    /// The peer no longer has what is missing.
    Collected,
    /// Nothing came, or nothing new.
    Nothing,
}

/// The questions of one segment to its peers: one at a time, each peer in turn. The answer to a question that counts as lost
/// may still come; it is taken, and at most one question more is under way because of it.
#[derive(Clone, Debug)]
pub(crate) struct CatchUp {
    not_before: Option<Duration>,
    asked_at: Option<Duration>,
    /// How long answers took lately.
    answer_time: Duration,
    turn: usize,
    asked: Option<SegmentId>,
    /// Peers that no longer have what is missing.
    collected: BTreeSet<SegmentId>,
    /// Questions since the last one that helped, and how many peers there are.
    in_vain: usize,
    peers: usize,
}

impl Default for CatchUp {
    fn default() -> CatchUp {
        CatchUp {
            not_before: None,
            asked_at: None,
            answer_time: ANSWER_TIME_EXPECTED,
            turn: 0,
            asked: None,
            collected: BTreeSet::new(),
            in_vain: 0,
            peers: 0,
        }
    }
}

impl CatchUp {
    /// Nothing is missing.
    pub(crate) fn idle(&mut self) {
        self.not_before = None;
        self.collected.clear();
        self.in_vain = 0;
    }

    /// Whether so many peers lack what is missing, or so many were asked in vain, that nobody is expected to have it.
    pub(crate) fn is_stranded(&self) -> bool {
        let all_in_vain = STRANDED_ROUNDS * self.peers <= self.in_vain;
        STRANDED_PEERS <= self.collected.len() || (!self.collected.is_empty() && all_in_vain)
    }

    fn answer_limit(&self) -> Duration {
        (self.answer_time * ANSWER_ROUND_TRIPS).clamp(ANSWER_LIMIT_MIN, ANSWER_LIMIT_MAX)
    }

    /// The peer to ask now, if it is time.
    pub(crate) fn next_peer<'a>(&mut self, now: Duration, peers: &'a [Member]) -> Option<&'a Member> {
        match self.asked_at {
            Some(asked) if now < asked + self.answer_limit() => return None,
            Some(_) => {
                // Lost, or peers are slower than they were: the next one is given more time.
                self.answer_time = (2 * self.answer_time).min(ANSWER_LIMIT_MAX);
                self.turn = self.turn.wrapping_add(1);
                self.in_vain = self.in_vain.saturating_add(1);
                self.asked_at = None;
            }
            None => {}
        }
        let not_before = *self.not_before.get_or_insert(now + HOLE_GRACE);
        if now < not_before || peers.is_empty() {
            return None;
        }
        self.peers = peers.len();
        let peer = &peers[self.turn % peers.len()];
        self.asked_at = Some(now);
        self.asked = Some(peer.segment);
        Some(peer)
    }

    /// A question was answered; one that helped is followed by the next at once, to the same peer.
    pub(crate) fn answered(&mut self, now: Duration, answer: Answer) {
        if let Some(asked) = self.asked_at.take() {
            self.answer_time = (3 * self.answer_time + now.saturating_sub(asked)) / 4;
        }
        match answer {
            Answer::Helped => self.collected.clear(),
            Answer::Collected => self.collected.extend(self.asked),
            Answer::Nothing => {}
        }
        let pause = match answer {
            Answer::Helped => Duration::ZERO,
            _ if self.is_stranded() => STRANDED_PAUSE,
            _ => RETRY_PAUSE,
        };
        self.not_before = Some(now + pause);
        if answer == Answer::Helped {
            self.in_vain = 0;
        } else {
            self.in_vain = self.in_vain.saturating_add(1);
            self.turn = self.turn.wrapping_add(1);
        }
    }
}

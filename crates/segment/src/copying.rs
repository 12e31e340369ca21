//! Taking from the layers of peers what no journal has any more.
//!
//! One *pass* takes every version above the position up to which the segment is complete. The first part that a peer gives
//! tells how to divide the rest, and several peers give their parts at once. When all of it is written, durably, the segment
//! is complete up to the lowest position that any of the answers named. What was written meanwhile comes from journals, or,
//! if they do not reach back far enough, from another pass, which has less to take.
//!
//! Invariants:
//! - A pass counts once everything it brought is durable; until then nobody relies on any of it. After a restart it begins anew.
//! - A copy that was born to take another's place has no vote before it holds everything that is durable as far as it was told.
//! - What peers folded may lie above what the segment is complete up to: it reads nothing before it is complete up to the
//!   highest floor of those who gave.

use std::time::Duration;

use bytes::Bytes;
use units::{Position, SegmentKind};
use wire_format::message::{Member, Refusal, Request, VersionCursor, Versions};

use crate::{Effect, Segment};

/// Bytes of versions asked of a peer at once, as layers have them.
const PART_BYTES_MAX: u32 = 4 << 20;
/// Questions under way at once, each for another part, to another peer.
const QUESTIONS_MAX: usize = 3;
/// Parts that the rest is divided into after the first answer, at most.
const PARTS_MAX: usize = 64;
/// An answer that takes longer counts as lost, and another peer is asked. It waits for two disks and for those who are busy.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The pause of a part after a peer that could not help.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// The pause after versions that could not be written.
const FAILED_PASS_PAUSE: Duration = Duration::from_secs(5);
/// The pause after a pass that brought the segment no further.
const IDLE_PASS_PAUSE: Duration = Duration::from_secs(1);

/// A part of a pass, as the shell names it when it writes what came.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PartId {
    /// Number of the pass: they rise for as long as the process lives.
    pub pass: u64,
    /// Number of the part in it.
    pub part: u32,
    /// How many parts it has; one until the first answer has divided it.
    pub parts: u32,
}

/// What became of a question for versions.
#[derive(Clone, PartialEq, Debug)]
pub enum Taken {
    /// They are written. If nothing follows those of any part, all of the pass is durable.
    Written {
        /// Where the part that was asked for began.
        from: VersionCursor,
        /// What the peer said, without the versions themselves.
        versions: Versions,
        /// How many bytes they were.
        bytes: u64,
    },
    /// The peer gives nothing.
    Refused(Refusal),
    /// Nothing came.
    Nothing,
    /// They cannot be written here: what the pass brought so far is not known to be whole.
    Failed,
}

#[derive(Clone, Debug)]
struct Part {
    from: VersionCursor,
    until: Bytes,
    asked: Option<Duration>,
    not_before: Duration,
    done: bool,
}

impl Part {
    fn new(from: Bytes, until: Bytes) -> Part {
        Part {
            from: VersionCursor {
                key: from,
                above: Position::ZERO,
            },
            until,
            asked: None,
            not_before: Duration::ZERO,
            done: false,
        }
    }
}

#[derive(Clone, Debug)]
struct Pass {
    after: Position,
    parts: Vec<Part>,
    /// The lowest position that an answer named.
    through: Option<Position>,
    /// The highest floor.
    floor: Position,
}

/// What a segment remembers of the copying it does.
#[derive(Clone, Default, Debug)]
pub(crate) struct Copying {
    /// Number of the last pass.
    pass: u64,
    running: Option<Pass>,
    not_before: Duration,
    /// Which peer is asked next.
    turn: usize,
    /// A pass has come to its end since the start.
    pub(crate) passed: bool,
    /// The shell lets it: not too many segments copy at once.
    permitted: bool,
    pub(crate) bytes: u64,
    pub(crate) bytes_expected: u64,
    /// The last batch that it was sent and did not take, since nothing was there to link it to.
    left_out: Position,
}

impl Copying {
    /// Log came before there was anything to link it to.
    pub(crate) fn leave_out(&mut self, batch: Position) {
        self.left_out = self.left_out.max(batch);
    }

    /// Nothing is missing: a pass that is running is of no use any more.
    pub(crate) fn idle(&mut self) {
        self.running = None;
        self.bytes = 0;
        self.bytes_expected = 0;
    }
}

impl Segment {
    /// Whether only the layers of peers can bring it further.
    pub fn wants_layers(&self) -> bool {
        let born_to_copy = self.state.copying && !self.copying.passed;
        self.vouches && (self.copying.running.is_some() || born_to_copy || self.is_stranded())
    }

    /// Whether the shell lets it take from the layers of peers: so that memory is bounded, not too many may at once.
    pub fn permit_layers(&mut self, permitted: bool) {
        self.copying.permitted = permitted;
    }

    /// Everybody it may ask.
    pub(crate) fn peers(&self) -> Vec<Member> {
        let named = self.state.copy_from.iter();
        let others = self.state.members.iter().filter(|member| {
            let named = &self.state.copy_from;
            !named.iter().any(|one| one.segment == member.segment)
        });
        let me = self.state.segment;
        named.chain(others).filter(|peer| peer.segment != me).cloned().collect()
    }

    /// Who gives versions: for a new copy only those that it was told to copy and full ones, since other tails may have let go
    /// what it needs. Not the former alone: they may be lost before it is whole.
    fn givers(&self) -> Vec<Member> {
        let mut peers = self.peers();
        let named = &self.state.copy_from;
        if self.state.copying && !named.is_empty() {
            let is_named = |peer: &Member| named.iter().any(|one| one.segment == peer.segment);
            peers.retain(|peer| peer.kind == SegmentKind::Full || is_named(peer));
        }
        peers
    }

    /// Above which position a pass takes versions. Peers give nothing above what they know to be durable: a new copy that holds log
    /// already, but was told of nothing durable, may hold more than that, and is whole only once a pass has ended.
    fn asks_above(&self) -> Position {
        if self.state.copying && self.durable_here() == Position::ZERO {
            return Position::ZERO;
        }
        self.lacks_above()
    }

    /// Asks for what can be asked for now.
    pub(crate) fn ask_for_versions(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let peers = self.givers();
        let waits = now < self.copying.not_before || self.asks_what_is_on_every_full();
        if !self.copying.permitted || peers.is_empty() || waits {
            return;
        }
        if self.copying.running.is_none() {
            self.copying.pass += 1;
            self.copying.bytes = 0;
            self.copying.bytes_expected = 0;
            self.copying.running = Some(Pass {
                after: self.asks_above(),
                parts: vec![Part::new(Bytes::new(), Bytes::new())],
                through: None,
                floor: Position::ZERO,
            });
        }
        let Copying {
            pass, running, turn, ..
        } = &mut self.copying;
        let running = running.as_mut().expect("it was begun");
        for part in &mut running.parts {
            if part.asked.is_some_and(|asked| asked + ANSWER_LIMIT <= now) {
                part.asked = None;
                *turn = turn.wrapping_add(1);
            }
        }
        let parts = running.parts.len() as u32;
        let mut under_way = running.parts.iter().filter(|part| part.asked.is_some()).count();
        for (number, part) in running.parts.iter_mut().enumerate() {
            if part.done || part.asked.is_some() || now < part.not_before || QUESTIONS_MAX <= under_way {
                continue;
            }
            under_way += 1;
            part.asked = Some(now);
            let peer = peers[(*turn + number) % peers.len()].clone();
            let request = Request::FetchVersions {
                segment: peer.segment,
                path: self.state.path.clone(),
                after: running.after,
                from: part.from.clone(),
                until: part.until.clone(),
                bytes_max: PART_BYTES_MAX,
            };
            let part = PartId {
                pass: *pass,
                part: number as u32,
                parts,
            };
            effects.push(Effect::Take { peer, request, part });
        }
    }

    /// What became of a question for versions.
    pub fn taken(&mut self, now: Duration, id: PartId, taken: Taken, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let number = id.part as usize;
        let pass = self.copying.running.as_mut().filter(|_| id.pass == self.copying.pass);
        let Some((pass, part)) = pass.and_then(|pass| {
            let part = pass.parts.get(number)?.clone();
            Some((pass, part))
        }) else {
            return Ok(());
        };
        let refused = match taken {
            Taken::Failed => {
                self.copying.running = None;
                self.copying.turn = self.copying.turn.wrapping_add(1);
                self.copying.not_before = now + FAILED_PASS_PAUSE;
                return Ok(());
            }
            Taken::Written { from, .. } if part.done || from != part.from => return Ok(()),
            Taken::Written { versions, bytes, .. } => {
                self.copying.bytes += bytes;
                self.copying.bytes_expected = self.copying.bytes_expected.max(versions.bytes_expected);
                let lowest = pass
                    .through
                    .map_or(versions.through, |lowest| lowest.min(versions.through));
                pass.through = Some(lowest);
                pass.floor = higher(pass.floor, versions.floor);
                pass.advance(number, versions);
                None
            }
            Taken::Refused(refusal) => Some(refusal),
            Taken::Nothing => Some(Refusal::Stopped {
                what: "no answer came".to_owned(),
            }),
        };
        if refused.is_some() {
            self.copying.turn = self.copying.turn.wrapping_add(1);
            let part = &mut pass.parts[number];
            part.asked = None;
            part.not_before = now + RETRY_PAUSE;
        }
        if pass.parts.iter().all(|part| part.done) {
            self.end_pass(now, effects);
        }
        if self.wants_layers() {
            self.ask_for_versions(now, effects);
        }
        refused.map_or(Ok(()), Err)
    }

    /// Everything that the pass was to bring is durable.
    fn end_pass(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let Some(pass) = self.copying.running.take() else {
            return;
        };
        self.copying.passed = true;
        let through = pass.through.unwrap_or(Position::ZERO);
        // What peers name is durable, and no later reign leaves that. If it does, nothing of it is relied on.
        if self.state.path.sees(through) && self.complete.lsn < through.lsn {
            if self.complete.lsn < pass.after.lsn {
                // A tail passed over what every full copy has.
                self.state.let_go = higher(self.state.let_go, pass.after);
            }
            self.chain.forget_through(through);
            self.state.complete = through;
            // An opener that hears of no link below must hear that nothing below is in doubt: it may reach only copies that
            // took what they have from layers, after a restart that let them forget what the writer announced.
            self.hear_durable(through);
            self.raise_floor(pass.floor);
            self.settle();
            // From here on a journal may have what follows.
            self.catch_up.idle();
            self.keep_state(effects);
        } else {
            self.copying.turn = self.copying.turn.wrapping_add(1);
            self.copying.not_before = now + IDLE_PASS_PAUSE;
        }
        self.become_whole(effects);
    }

    /// A copy that was born to take another's place counts once it has everything it was told is durable.
    pub(crate) fn become_whole(&mut self, effects: &mut Vec<Effect>) {
        let enough = [self.durable_here(), self.state.reads_from];
        let complete = enough.iter().all(|needed| needed.lsn <= self.complete.lsn);
        // Whoever started again with all that it was told of finds no peer that has more to give.
        let has_passed = self.copying.passed || Position::ZERO < self.durable_here();
        if self.state.copying && self.vouches && has_passed && complete {
            self.state.copying = false;
            self.state.copy_from.clear();
            self.keep_state(effects);
        }
    }

    /// Whether it still lacks log that it did not take while it copied. Whoever sent it does not send it again, and it may be
    /// durable only with this copy: it asks its peers.
    pub(crate) fn lacks_what_it_left_out(&self) -> bool {
        let left_out = self.copying.left_out;
        self.complete.lsn < left_out.lsn && self.state.path.sees(left_out)
    }

    /// Whether it was born as a copy of others and is not whole yet.
    pub fn is_copying(&self) -> bool {
        self.state.copying
    }

    /// Bytes taken from the layers of peers since it last began to, and about how many there are.
    pub fn copied_bytes(&self) -> (u64, u64) {
        (self.copying.bytes, self.copying.bytes_expected)
    }
}

/// Of two floors the one that reads feel: a floor may be named in a later reign than the log that it lies in.
pub(crate) fn higher(one: Position, other: Position) -> Position {
    if one.lsn < other.lsn { other } else { one }
}

impl Pass {
    /// A part was answered as far as `versions` says. The first answer of all divides what is left.
    fn advance(&mut self, number: usize, versions: Versions) {
        let part = &mut self.parts[number];
        part.asked = None;
        let Some(next) = versions.next else {
            part.done = true;
            return;
        };
        part.from = next;
        if self.parts.len() > 1 {
            return;
        }
        let mut bounds = versions.splits.into_iter().take(PARTS_MAX);
        if let Some(first) = bounds.next() {
            let end = std::mem::replace(&mut self.parts[0].until, first.clone());
            let mut from = first;
            for bound in bounds {
                self.parts.push(Part::new(from, bound.clone()));
                from = bound;
            }
            self.parts.push(Part::new(from, end));
        }
    }
}

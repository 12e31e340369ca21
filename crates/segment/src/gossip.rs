//! What a copy learns from its peers while it hears nothing from the writer.
//!
//! Everything that a peer tells was said to it by a holder of the epoch, so it is as good as heard. A promise is not among it:
//! the fence of an opener that died must not spread.

use std::time::Duration;

use wire_format::message::{Refusal, Request, Standing};

use crate::{Effect, Segment};

/// A writer that has nothing to say says so twice in this time.
const SILENCE: Duration = Duration::from_secs(1);
/// Between two questions to peers while nothing is heard, as long as there is news,
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// and up to this, twice as long each time, while there is none: the group may sleep.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// When a segment last heard from the writer, and whom it asks while it does not.
#[derive(Clone, Default, Debug)]
pub(crate) struct Gossip {
    /// Since the last tick the writer was heard.
    pub(crate) heard: bool,
    /// Nobody is asked before this.
    not_before: Option<Duration>,
    pause: Duration,
    turn: usize,
}

impl Gossip {
    /// Whether so many peers were asked in vain since the start, each in turn.
    pub(crate) fn has_asked_all(&self, peers_count: usize) -> bool {
        peers_count < self.turn
    }
}

impl Segment {
    /// Asks a peer how far it is, if the writer has not been heard for long.
    pub(crate) fn listen(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let is_heard = std::mem::take(&mut self.gossip.heard);
        if is_heard && !self.asks_what_is_on_every_full() {
            self.gossip.not_before = None;
            self.gossip.pause = PAUSE_MIN;
        }
        let not_before = *self.gossip.not_before.get_or_insert(now + SILENCE);
        if now < not_before {
            return;
        }
        let peers = self.peers();
        if peers.is_empty() {
            return;
        }
        let peer = peers[self.gossip.turn % peers.len()].clone();
        self.gossip.turn = self.gossip.turn.wrapping_add(1);
        self.gossip.not_before = Some(now + self.gossip.pause);
        self.gossip.pause = (2 * self.gossip.pause).clamp(PAUSE_MIN, PAUSE_MAX);
        let request = Request::TellStanding { segment: peer.segment };
        effects.push(Effect::Fetch { peer, request });
    }

    /// How far it is, and what it was told.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            segment: self.state.segment,
            path: self.state.path.clone(),
            complete: self.acknowledged().min(self.readable),
            durable: self.durable_here(),
            floor: self.state.path.reach(self.state.floor),
            all_complete: self.state.path.reach(self.state.all_complete),
            on_every_full: self.state.path.reach(self.state.on_every_full),
        }
    }

    /// A peer told how far it is.
    pub(crate) fn learn(&mut self, standing: &Standing, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let before = self.durable_here();
        let (mine, its) = (&self.state.path, &standing.path);
        if mine.epoch() == its.epoch() && mine != its {
            return Err(crate::malformed("a peer has another history of the same reign"));
        }
        if mine.epoch() < its.epoch() {
            self.state.path = its.clone();
            self.state.promised = self.state.promised.max(its.epoch());
            self.settle();
            self.keep_state(effects);
        }
        if self.state.path.epoch() == its.epoch() {
            self.hear_durable(standing.durable);
            self.hear_floors(standing.floor, standing.all_complete, standing.on_every_full);
        }
        if before != self.durable_here() {
            self.gossip.pause = PAUSE_MIN;
        }
        Ok(())
    }
}

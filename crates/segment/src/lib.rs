//! One of the six copies of a protection group: what it accepts, promises, acknowledges and serves.
//!
//! [`Segment`] is a state machine without I/O. Its shell (`storage-node`, `sim`) carries out the [`Effect`]s in order and
//! keeps one rule: nothing that a step answers with [`Effect::Answer`] leaves before everything that this and earlier
//! steps journaled is synced. The bytes of the log live in the page store; here is only how batches hang together.
//!
//! Invariants (DESIGN §4.8, `notes/protocol.md`):
//! - A promise is journaled in the same step that answers it, and everything of an older epoch is refused from then on.
//! - Links, completeness and durable positions are (epoch, LSN): batches of two reigns at one LSN never stand for each
//!   other.
//! - The complete position moves over contiguous, visible batches only. It goes back only when a new timeline leaves the
//!   old one below it.
//! - A segment that lost something it acknowledged gives data, but neither votes nor acknowledges.

mod announced;
mod catch_up;
mod chain;
mod copying;
mod effect;
mod gossip;
mod journal;
mod mending;
mod reads;
mod state;
mod tail;

use std::time::Duration;

use timeline::Path;
use units::{Epoch, GroupId, Lsn, Position, SegmentId, VolumeId};
use wire_format::EncodedBatch;
use wire_format::message::{Member, Promised, Refusal, Request, Response};

use catch_up::{Answer, CatchUp};
use chain::Chain;
pub use chain::Link;
use copying::Copying;
pub use copying::{PartId, Taken};
pub use effect::{Effect, Horizon, Read};
use gossip::Gossip;
pub use mending::{MendStep, Needs};
pub use state::{SegmentState, StateError};

/// One copy of one protection group.
#[derive(Clone, Debug)]
pub struct Segment {
    state: SegmentState,
    chain: Chain,
    /// Over everything received in order; answers that carry it leave after the sync.
    complete: Position,
    /// The part of it that is synced: what reads may rely on.
    readable: Position,
    /// The synced state says that the segment is complete up to here without the journal's batches: they may go.
    recyclable: Position,
    /// The floor in the last state that the shell was told to journal.
    floor_kept: Position,
    /// The floor that a synced state remembers: what is folded under it is not read below it after a restart either.
    floor_synced: Position,
    /// What a synced state says to be let go.
    let_go_synced: Position,
    vouches: bool,
    /// The shell has no room for log that nobody will ever acknowledge or read.
    crowded: bool,
    /// What the journal lost, and nobody needs: to be forgotten once everything that is held is synced.
    let_go_by_peers: Option<Position>,
    catch_up: CatchUp,
    copying: Copying,
    gossip: Gossip,
}

impl Segment {
    /// A new segment, born with its creator's epoch as promise. The effects journal its state.
    pub fn create(request: &Request, effects: &mut Vec<Effect>) -> Result<Segment, Refusal> {
        let Request::CreateSegment {
            volume,
            group,
            segment,
            kind,
            epoch,
            path,
            members,
            copy_from,
        } = request
        else {
            return Err(malformed("not a request for a new segment"));
        };
        let copies = !copy_from.is_empty();
        // An opener makes copies before its own timeline is recorded.
        let is_opening = copies && path.epoch() < *epoch;
        if path.epoch() != *epoch && !is_opening {
            return Err(malformed("the path does not end with the creator's epoch"));
        }
        let state = SegmentState {
            volume: *volume,
            group: *group,
            segment: *segment,
            kind: *kind,
            promised: *epoch,
            path: path.clone(),
            members: members.clone(),
            // A copy has nothing of the history before its birth.
            complete: if copies { Position::ZERO } else { path.start() },
            // Where the reign began may lie far above the last batch of a group that nobody has written since: a copy of that
            // would wait for ever. The writer tells how far its group is durable.
            durable: if copies { Position::ZERO } else { path.start() },
            floor: Position::ZERO,
            all_complete: Position::ZERO,
            on_every_full: Position::ZERO,
            let_go: Position::ZERO,
            copying: copies,
            copy_from: copy_from.clone(),
            reads_from: Position::ZERO,
        };
        effects.push(Effect::KeepState(state.encode()));
        effects.push(Effect::Answer(Response::SegmentCreated));
        Ok(Segment::recover(state, Vec::new(), true))
    }

    /// The segment as it was left: its last journaled state, and the batches that the journal still holds. `vouches` is
    /// false if anything that it may have acknowledged is damaged or lost.
    pub fn recover(state: SegmentState, held: Vec<Link>, vouches: bool) -> Segment {
        let mut segment = Segment {
            complete: state.complete,
            readable: state.complete,
            recyclable: state.complete,
            floor_kept: state.floor,
            floor_synced: state.floor,
            let_go_synced: state.let_go,
            crowded: false,
            let_go_by_peers: None,
            chain: Chain::starting_at(state.complete),
            catch_up: CatchUp::default(),
            copying: Copying::default(),
            gossip: Gossip::default(),
            vouches,
            state,
        };
        for link in held {
            segment.chain.insert(link);
        }
        segment.settle();
        segment.readable = segment.complete;
        segment
    }

    /// Its identity.
    pub fn id(&self) -> SegmentId {
        self.state.segment
    }

    /// Its volume.
    pub fn volume(&self) -> VolumeId {
        self.state.volume
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.state.group
    }

    /// What it promised.
    pub fn promised(&self) -> Epoch {
        self.state.promised
    }

    /// Up to where it holds everything of its group, as far as journaled in order.
    pub fn complete(&self) -> Position {
        self.complete
    }

    /// Number of batches whose links are held in memory.
    pub fn links_held(&self) -> usize {
        self.chain.len()
    }

    /// What the page store needs to know.
    pub fn horizon(&self) -> Horizon {
        Horizon {
            path: self.state.path.clone(),
            durable: self.durable_here(),
            floor: self.state.path.reach(self.floor_synced),
            all_complete: self.state.path.reach(self.state.all_complete),
            let_go: self.let_go_synced(),
        }
    }

    /// Takes one request of the volume's holder, an opener or a peer. Exactly one effect answers it: an
    /// [`Effect::Answer`] or an [`Effect::Read`].
    pub fn request(&mut self, request: &Request, effects: &mut Vec<Effect>) {
        let answer = match request {
            Request::CreateSegment { volume, group, .. } => self.create_again(*volume, *group).map(Effect::Answer),
            Request::Promise { epoch, path, above, .. } => {
                self.promise(*epoch, path, *above, effects).map(Effect::Answer)
            }
            Request::Install {
                epoch, path, members, ..
            } => self.install(*epoch, path, members, effects).map(Effect::Answer),
            Request::Append {
                epoch, durable, batch, ..
            } => self.append(*epoch, *durable, batch, effects).map(Effect::Answer),
            Request::Announce {
                epoch,
                durable,
                floor,
                all_complete,
                on_every_full,
                ..
            } => {
                let floors = [*floor, *all_complete, *on_every_full];
                self.announce(*epoch, *durable, floors, effects).map(Effect::Answer)
            }
            Request::RemoveSegment { epoch, .. } => self.refuse_older(*epoch).map(|()| {
                effects.push(Effect::Remove);
                Effect::Answer(Response::SegmentRemoved)
            }),
            Request::TellStanding { .. } => Ok(Effect::Answer(Response::Standing(self.standing()))),
            Request::FetchBatches { .. }
            | Request::FetchVersions { .. }
            | Request::ReadPages { .. }
            | Request::ScanCatalog { .. }
            | Request::ReadLog { .. }
            | Request::ReadFlushHeader { .. } => self.permit(request).map(Effect::Read),
            Request::Status | Request::Scrub => Err(malformed("a question to the node, not to a segment")),
        };
        effects.push(answer.unwrap_or_else(|refusal| Effect::Answer(Response::Refused(refusal))));
    }

    fn create_again(&self, volume: VolumeId, group: GroupId) -> Result<Response, Refusal> {
        if (volume, group) != (self.state.volume, self.state.group) {
            return Err(malformed(
                "a segment of this identity belongs to another volume or group",
            ));
        }
        Ok(Response::SegmentCreated)
    }

    fn refuse_older(&self, epoch: Epoch) -> Result<(), Refusal> {
        if epoch < self.state.promised {
            return Err(Refusal::StaleEpoch {
                asked: epoch,
                promised: self.state.promised,
            });
        }
        Ok(())
    }

    /// Only the installed reign appends and announces; a promise alone is not enough (DESIGN §4.4, step 6).
    fn require_reign(&self, epoch: Epoch) -> Result<(), Refusal> {
        self.refuse_older(epoch)?;
        if self.state.path.epoch() != epoch {
            return Err(Refusal::UnknownTimeline { epoch });
        }
        Ok(())
    }

    /// Promise and answer are one step (protocol.md, holes 4 and 6).
    fn promise(
        &mut self,
        epoch: Epoch,
        path: &Path,
        above: Position,
        effects: &mut Vec<Effect>,
    ) -> Result<Response, Refusal> {
        self.refuse_older(epoch)?;
        if epoch <= path.epoch() {
            return Err(malformed("the last opened timeline is not older than its opener"));
        }
        let slept = self.state.path.epoch() < path.epoch();
        if slept {
            self.state.path = path.clone();
            self.settle();
        }
        if slept || self.state.promised < epoch {
            self.state.promised = epoch;
            self.keep_state(effects);
        }
        // What is known to be durable needs no listing: no candidate lies below it.
        let known = if self.state.path.sees(above) && above.lsn < self.durable_here().lsn {
            self.durable_here()
        } else {
            above
        };
        Ok(Response::Promised(Promised {
            segment: self.state.segment,
            epoch,
            vouches: self.counts(),
            path: self.state.path.clone(),
            complete: if self.state.copying {
                Position::ZERO
            } else {
                self.complete
            },
            durable: self.durable_here(),
            held: self.chain.held_above(known),
        }))
    }

    fn install(
        &mut self,
        epoch: Epoch,
        path: &Path,
        members: &[Member],
        effects: &mut Vec<Effect>,
    ) -> Result<Response, Refusal> {
        self.refuse_older(epoch)?;
        if path.epoch() != epoch {
            return Err(malformed("the path does not end with the sender's epoch"));
        }
        // One epoch is one stream, and branched once (protocol.md, holes 11 and 13).
        if self.state.path.epoch() == epoch && self.state.path != *path {
            return Err(malformed("another history of the same reign is installed"));
        }
        let changed = self.state.promised != epoch || self.state.path != *path || self.state.members != members;
        if changed {
            self.state.promised = epoch;
            self.state.path = path.clone();
            self.state.members = members.to_vec();
            self.settle();
            self.keep_state(effects);
        } else {
            // The sender is about to send what it was refused before.
            self.require_room()?;
        }
        Ok(Response::Installed {
            segment: self.state.segment,
            complete: self.acknowledged(),
            vouches: self.counts(),
        })
    }

    fn append(
        &mut self,
        epoch: Epoch,
        durable: Position,
        batch: &EncodedBatch,
        effects: &mut Vec<Effect>,
    ) -> Result<Response, Refusal> {
        let reign = batch.batch().epoch;
        if reign == epoch {
            self.require_reign(epoch)?;
            self.gossip.heard = true;
            self.hear_durable(durable);
        } else {
            // A copy of an older reign's batch: the opener that was promised brings it, before its own reign begins.
            self.refuse_older(epoch)?;
            if epoch < reign {
                return Err(malformed("a batch of a later reign than its sender's"));
            }
            if self.state.promised < epoch {
                return Err(Refusal::UnknownTimeline { epoch });
            }
        }
        self.require_room()?;
        // Until it can be linked to something soon, log would only fill the journal.
        if self.state.copying && self.wants_layers() {
            self.copying.leave_out(batch.batch().position());
        } else {
            self.take(batch, effects)?;
            self.become_whole(effects);
        }
        Ok(Response::Appended {
            segment: self.state.segment,
            epoch,
            complete: self.acknowledged(),
        })
    }

    /// Keeps a batch, in whatever order it comes.
    fn take(&mut self, batch: &EncodedBatch, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        let link = Link::of(batch.batch());
        if (batch.batch().volume, batch.batch().group) != (self.state.volume, self.state.group) {
            return Err(malformed("a batch of another volume or group"));
        }
        match self.chain.get(link.end) {
            Some(held) if *held == link => return Ok(()),
            // One epoch is one stream of bytes (protocol.md, hole 11).
            Some(_) => return Err(malformed("another batch of the same name is held")),
            None if self.chain.forgot(link.end) => return Ok(()),
            None => {}
        }
        self.chain.insert(link);
        effects.push(Effect::KeepBatch(batch.clone()));
        self.settle();
        Ok(())
    }

    /// What is synced and complete, as far as the installed path sees it.
    fn readable_here(&self) -> Position {
        self.chain.back_to_visible(self.readable, &self.state.path)
    }

    /// Whether it has a vote and acknowledges: not if it is damaged, or not whole yet.
    fn counts(&self) -> bool {
        self.vouches && !self.state.copying
    }

    /// What a vote may be counted for.
    pub fn acknowledged(&self) -> Position {
        if self.counts() { self.complete } else { Position::ZERO }
    }

    /// The complete position along the installed path: back to what the path sees, then forward over what is held.
    fn settle(&mut self) {
        let path = &self.state.path;
        // What was taken from the layers of peers is complete without the batches.
        let known = path.reach(self.state.complete);
        if self.complete.lsn < known.lsn {
            self.complete = known;
        }
        self.complete = self.chain.back_to_visible(self.complete, path);
        if self.vouches {
            self.complete = self.chain.forward_from(self.complete, path);
        }
    }

    /// Whether it lacks log that its peers no longer have, as far as they told: only a whole copy can mend it.
    pub fn is_stranded(&self) -> bool {
        self.catch_up.is_stranded()
    }

    /// Time passes: `now` on any clock that only goes forward. Asks a peer if something is missing.
    pub fn tick(&mut self, now: Duration, effects: &mut Vec<Effect>) {
        let behind = self.complete.lsn < self.durable_here().lsn
            || self.chain.beyond(self.complete, &self.state.path)
            || self.lacks_what_it_left_out();
        if self.vouches {
            self.listen(now, effects);
        }
        if !(behind || self.state.copying) || !self.vouches {
            self.catch_up.idle();
            self.copying.idle();
            return;
        }
        self.become_whole(effects);
        if self.wants_layers() {
            self.ask_for_versions(now, effects);
        }
        if !behind {
            return;
        }
        let peers = self.peers();
        let Some(peer) = self.catch_up.next_peer(now, &peers) else {
            return;
        };
        let request = Request::FetchBatches {
            segment: peer.segment,
            path: self.state.path.clone(),
            after: self.complete,
            through: Position::new(self.state.path.epoch(), Lsn::MAX),
            bytes_max: catch_up::FETCH_BYTES_MAX,
        };
        let peer = peer.clone();
        effects.push(Effect::Fetch { peer, request });
    }

    /// What a peer answered; `None`: nothing came. A filled hole keeps the epoch that it was first written in.
    pub fn fetched(
        &mut self,
        now: Duration,
        response: Option<Response>,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if let Some(Response::Standing(standing)) = &response {
            self.learn(standing, effects)?;
            self.become_whole(effects);
            return Ok(());
        }
        let before = self.complete;
        let collected = matches!(response, Some(Response::Refused(Refusal::LogCollected { .. })));
        let outcome = match response {
            Some(Response::Batches(batches)) => batches.iter().try_for_each(|batch| {
                if self.state.path.sees(batch.batch().position()) {
                    self.take(batch, effects)
                } else {
                    Ok(())
                }
            }),
            Some(Response::Refused(refusal)) => Err(refusal),
            Some(_) => Err(malformed("a peer's answer to another question")),
            None => Ok(()),
        };
        let answer = match (before != self.complete, collected) {
            (true, _) => Answer::Helped,
            (false, true) => Answer::Collected,
            (false, false) => Answer::Nothing,
        };
        self.catch_up.answered(now, answer);
        self.become_whole(effects);
        outcome
    }
}

fn malformed(what: &str) -> Refusal {
    Refusal::Malformed { what: what.to_owned() }
}

#[cfg(test)]
mod tests;

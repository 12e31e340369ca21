//! What a copy needs that has lost something, and how it gets its vote back.
//!
//! The shell mends: it takes the versions that are lost from a peer. The segment says what is enough, and until everything is
//! in its place it has no vote. This is for copies that know what they acknowledged and promised: one whose log is lost does not.
//!
//! Invariants:
//! - Whatever is linked here, complete or beyond a hole, has its versions again before the segment vouches for it.
//! - Reads below what a peer folded are refused from before the peer's versions are in place.
//! - Log is forgotten only once a synced state says that the segment is complete without it.

use bytes::Bytes;
use timeline::Path;
use units::{Lsn, Position};
use wire_format::message::{Member, Request, VersionCursor};

use crate::copying::higher;
use crate::{Effect, Segment};

/// What peers have to give to a copy that lost something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Needs {
    /// The history to go along.
    pub path: Path,
    /// Who may have it.
    pub peers: Vec<Member>,
    /// A peer that is not complete up to here cannot help.
    pub through: Lsn,
}

/// A step of the mending of a copy, which its shell takes once it is time for it.
#[derive(Clone, Copy, Debug)]
pub enum MendStep {
    /// What comes from peers may lack versions that only reads below need: they are refused from now on. To be synced before what
    /// came is put in place.
    LackBelow(Position),
    /// The journal lost a batch, and a peer has let it go: so it is durable, and nobody asks for it any more. It need not come
    /// back: the segment forgets it, and everything before it. What lies beyond a hole comes again with what fills the hole.
    /// Before it is known here, too, that the batch is durable nothing changes.
    LetGo(Position),
    /// Everything that was lost is in its place again, durably: the segment vouches for what it acknowledged.
    Mended,
}

impl Needs {
    /// A question for one batch that the journal lost.
    pub fn batch_of(&self, peer: &Member, lost: Position) -> Request {
        let before = Lsn::from_raw(lost.lsn.raw().saturating_sub(1));
        Request::FetchBatches {
            segment: peer.segment,
            path: self.path.clone(),
            after: Position::new(lost.epoch, before),
            through: lost,
            bytes_max: 1,
        }
    }

    /// A question for versions that layers lost, from a key on.
    pub fn versions_of(&self, peer: &Member, from: VersionCursor, bytes_max: u32) -> Request {
        Request::FetchVersions {
            segment: peer.segment,
            path: self.path.clone(),
            after: Position::ZERO,
            from,
            until: Bytes::new(),
            bytes_max,
        }
    }

    /// Less is needed if it is known that nothing above `through` is lost.
    pub fn bounded(mut self, through: Option<Lsn>) -> Needs {
        self.through = through.map_or(self.through, |through| through.min(self.through));
        self
    }
}

impl Segment {
    /// Whether it vouches for everything it ever acknowledged.
    pub fn vouches(&self) -> bool {
        self.vouches
    }

    /// Something that it acknowledged is lost.
    pub fn damaged(&mut self) {
        self.vouches = false;
    }

    /// Whether it has lost something, and peers could give that to it. A copy that is not whole yet has nothing that is worth it.
    pub fn is_to_be_mended(&self) -> bool {
        !self.vouches && !self.state.copying
    }

    /// What peers have to give to it of what it lost: its history, everybody who may have it, and how far it reaches.
    pub fn sources(&self) -> Needs {
        Needs {
            path: self.state.path.clone(),
            peers: self.peers(),
            through: self.chain.highest(&self.state.path).max(self.complete.lsn),
        }
    }

    /// Takes a step. The effects journal the state.
    pub fn mend(&mut self, step: MendStep, effects: &mut Vec<Effect>) {
        match step {
            MendStep::LackBelow(floor) => self.raise_floor(floor),
            // Not yet: what fills a hole before it may not be synced.
            MendStep::LetGo(lost) if self.state.path.sees(lost) && lost.lsn <= self.durable_here().lsn => {
                self.let_go_by_peers = Some(lost);
            }
            MendStep::LetGo(_) => return,
            MendStep::Mended => {
                self.vouches = true;
                self.settle();
                // Reads rely on what is synced: with this, it is.
            }
        }
        self.keep_state(effects);
    }

    /// Everything that is held is synced: what peers have let go can be forgotten. [`Segment::forget`] journals that.
    pub(crate) fn forget_what_peers_let_go(&mut self) {
        let path = &self.state.path;
        let Some(lost) = self.let_go_by_peers.take().filter(|lost| path.sees(*lost)) else {
            return;
        };
        // A copy that does not vouch has all this nevertheless, or it is noted as lost and comes back before the vote.
        let reaches = self.chain.forward_from(self.complete, path);
        if lost.lsn <= reaches.lsn && !self.state.copying {
            self.chain.forget(lost, 0, path);
        } else {
            self.chain.remove(lost);
        }
    }

    /// Whether it counts as having a batch: it holds it, or is complete without it. Whether the journal can do without it the page
    /// store knows, which knows what layers have.
    pub fn claims(&self, batch: Position) -> bool {
        let is_forgotten = batch.lsn <= self.chain.forgotten().lsn;
        self.state.path.sees(batch) && (is_forgotten || self.chain.get(batch).is_some())
    }

    pub(crate) fn raise_floor(&mut self, floor: Position) {
        self.state.reads_from = higher(self.state.reads_from, floor);
        if self.state.path.sees(floor) && self.state.path.reach(self.state.floor).lsn < floor.lsn {
            self.state.floor = floor;
        }
    }
}

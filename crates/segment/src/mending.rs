//! What a copy needs that has lost something, and how it gets its vote back.
//!
//! The shell mends: it takes the versions that are lost from a peer. The segment says what is enough, and until everything is
//! in its place it has no vote. This is for copies that know what they acknowledged and promised: one whose log is lost does not.
//!
//! Invariants:
//! - Whatever is linked here, complete or beyond a hole, has its versions again before the segment vouches for it.
//! - Reads below what a peer folded are refused from before the peer's versions are in place.

use timeline::Path;
use units::{Lsn, Position};
use wire_format::message::Member;

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

impl Segment {
    /// Whether it vouches for everything it ever acknowledged.
    pub fn vouches(&self) -> bool {
        self.vouches
    }

    /// Something that it acknowledged is lost.
    pub fn damaged(&mut self) {
        self.vouches = false;
    }

    /// What peers have to give to it, if it has lost something. A copy that is not whole yet has nothing that is worth it.
    pub fn needs(&self) -> Option<Needs> {
        (!self.vouches && !self.state.copying).then(|| self.sources())
    }

    /// Its history, everybody who may have what it has, and how far that reaches.
    pub fn sources(&self) -> Needs {
        Needs {
            path: self.state.path.clone(),
            peers: self.peers(),
            through: self.chain.highest(&self.state.path).max(self.complete.lsn),
        }
    }

    /// What comes from peers may lack versions that only reads below `floor` need: it refuses them from now on. To be synced
    /// before what came is put in place.
    pub fn lack_below(&mut self, floor: Position, effects: &mut Vec<Effect>) {
        self.raise_floor(floor);
        self.keep_state(effects);
    }

    pub(crate) fn raise_floor(&mut self, floor: Position) {
        self.state.reads_from = higher(self.state.reads_from, floor);
        if self.state.path.sees(floor) && self.state.path.reach(self.state.floor).lsn < floor.lsn {
            self.state.floor = floor;
        }
    }

    /// Everything that was lost is in its place again, durably: it vouches for what it acknowledged.
    pub fn mended(&mut self, effects: &mut Vec<Effect>) {
        self.vouches = true;
        self.settle();
        // Reads rely on what is synced: with this, it is.
        self.keep_state(effects);
    }
}

//! A tail: a segment that keeps log and makes no pages, until every full segment of its group has that log.
//!
//! Invariants (`notes/protocol.md`, hole 29):
//! - It lets go only of log that is durable and, as the holder of the epoch said, on every full copy of every list that counts.
//!   Otherwise what three tails and one full copy acknowledged would live on one copy.
//! - Its shell drops log only once a synced state says that it is let go.
//! - It gives log only to copies that have everything it let go, and is asked for no page.

use timeline::Path;
use units::{Lsn, Position, SegmentKind};

use crate::Segment;

impl Segment {
    /// What it keeps.
    pub fn kind(&self) -> SegmentKind {
        self.state.kind
    }

    pub(crate) fn is_tail(&self) -> bool {
        self.state.kind == SegmentKind::Tail
    }

    /// It holds nothing at or below this, along the installed path.
    pub(crate) fn let_go_here(&self) -> Position {
        self.state.path.reach(self.state.let_go)
    }

    /// As far as a synced state says so.
    pub(crate) fn let_go_synced(&self) -> Option<Position> {
        self.is_tail().then(|| self.state.path.reach(self.let_go_synced))
    }

    /// Lets go of log that nobody will ask it for; whether there was any. Not what is still known by name, so that the end of
    /// the log can be fetched from tails, too.
    pub(crate) fn let_log_go(&mut self) -> bool {
        let path = &self.state.path;
        let bounds = [
            path.reach(self.state.on_every_full),
            self.durable_here(),
            path.reach(self.chain.forgotten()),
        ];
        let lowest = bounds.into_iter().map(|position| position.lsn).min();
        let bound = position_on(path, lowest.unwrap_or(Lsn::ZERO));
        let has_more = self.is_tail() && self.let_go_here().lsn < bound.lsn;
        if has_more {
            self.state.let_go = bound;
        }
        has_more
    }

    /// Above which position it takes versions from the layers of peers. A tail needs nothing that every full copy has.
    pub(crate) fn lacks_above(&self) -> Position {
        // From the last batch on that every full copy has, and that is durable: a peer gives nothing above that.
        let on_every_full = self.state.path.reach(self.state.on_every_full).lsn;
        let needed_by_none = on_every_full.min(self.durable_here().lsn);
        let before = Lsn::from_raw(needed_by_none.raw().saturating_sub(1));
        if self.is_tail() && self.complete.lsn < before {
            return position_on(&self.state.path, before);
        }
        self.complete
    }

    /// A new tail has not been told what every full copy has: it asks its peers although it hears the writer, since the writer
    /// may not know either while one of them is away. If none of them can say, it takes everything.
    pub(crate) fn asks_what_is_on_every_full(&self) -> bool {
        let is_told = self.state.on_every_full != Position::ZERO;
        self.is_tail() && self.state.copying && !is_told && !self.gossip.has_asked_all(self.peers().len())
    }
}

/// The position of an LSN along a history: with the reign that wrote there.
fn position_on(path: &Path, lsn: Lsn) -> Position {
    let mut branches = path.branches().iter().rev();
    let of = branches.find(|branch| branch.parent.lsn < lsn);
    of.map_or(Position::ZERO, |branch| Position::new(branch.epoch, lsn))
}

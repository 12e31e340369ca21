//! Where the last reign ended: the chain of flushes from what is known to be durable to the first one of which nobody holds
//! some part.

use std::collections::BTreeMap;

use timeline::Path;
use units::{GroupId, Lsn, Position};
use wire_format::message::{HeldFlush, Promised};

/// The recovered end of the last opened timeline, as long as nobody else decides otherwise.
#[derive(Debug)]
pub(super) struct Candidate {
    /// The last record end: the new reign begins here.
    pub(super) branch: Position,
    /// The flushes from what is known to be durable up to there, oldest first.
    pub(super) chain: Vec<HeldFlush>,
}

impl Candidate {
    /// Before anything is known: where the last timeline begins.
    pub(super) fn start_of(path: &Path) -> Candidate {
        Candidate {
            branch: path.start(),
            chain: Vec::new(),
        }
    }

    /// The highest position known to be durable on the last opened timeline: `before` already, or told since.
    pub(super) fn known<'a>(path: &Path, before: Position, promises: impl Iterator<Item = &'a Promised>) -> Position {
        let announced = promises.map(|promised| promised.durable);
        let on_path = announced.filter(|durable| path.sees(*durable));
        on_path.fold(
            before,
            |known, durable| {
                if known.lsn < durable.lsn { durable } else { known }
            },
        )
    }

    /// Follows the flush headers upward from what is known to be durable, as far as `whole` finds every part of a flush.
    pub(super) fn find<'a>(
        path: &Path,
        known: Position,
        promises: impl Iterator<Item = &'a Promised>,
        mut whole: impl FnMut(&HeldFlush) -> bool,
    ) -> Candidate {
        let reign = path.epoch();
        // One reign is one stream: no two of its flushes follow the same one.
        let following: BTreeMap<Lsn, &HeldFlush> = promises
            .flat_map(|promised| &promised.held)
            .filter(|flush| flush.end.epoch == reign && known.lsn < flush.end.lsn)
            // The volume's very first flush follows nothing, which no timeline sees.
            .filter(|flush| flush.previous == Position::ZERO || path.sees(flush.previous))
            .map(|flush| (flush.previous.lsn, flush))
            .collect();
        let (mut at, mut branch) = (known, known);
        let mut chain = Vec::new();
        while let Some(next) = following.get(&at.lsn)
            && whole(next)
        {
            at = next.end;
            branch = Position::new(reign, next.boundary.max(branch.lsn));
            chain.push((*next).clone());
        }
        // Pieces of a record whose end never came are beyond the branch.
        chain.retain(|flush| flush.end.lsn <= branch.lsn);
        Candidate { branch, chain }
    }

    /// Where the parts of a group in the chain end, oldest first.
    pub(super) fn parts_of(&self, group: GroupId) -> Vec<Position> {
        let named = self.chain.iter().filter(|flush| flush.groups.contains(&group));
        named.map(|flush| flush.end).collect()
    }
}

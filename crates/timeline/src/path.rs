//! One root-to-leaf line through the tree of timelines, and what is visible along it.

use std::sync::Arc;

use units::{Epoch, Lsn, Position};

/// One timeline: where it left its parent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Branch {
    /// The reign that writes on this timeline.
    pub epoch: Epoch,
    /// The last place of the parent that belongs to this timeline's history: (parent's epoch, branch LSN). The root's
    /// parent is [`Position::ZERO`].
    pub parent: Position,
}

/// A list of branches that is not a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPath {
    /// A path has at least its root.
    #[error("a path of timelines cannot be empty")]
    Empty,
    /// A branch does not continue the one before it.
    #[error("timeline {epoch} branches from {parent}, which is not on the timeline before it on the path")]
    Broken {
        /// The branch.
        epoch: Epoch,
        /// Its parent.
        parent: Position,
    },
}

/// The timelines from the root to one of them, root first: the history of the log as seen from the last.
///
/// A volume that was opened often has a long one, and every page read carries it: clones share the list.
///
/// Invariant: epochs rise, each branch names the one before it as its parent, and branch LSNs never fall.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Path(Arc<[Branch]>);

impl Path {
    /// Checks that the branches, root first, form a path.
    pub fn new(branches: Vec<Branch>) -> Result<Path, InvalidPath> {
        let first = branches.first().ok_or(InvalidPath::Empty)?;
        let mut before = Branch {
            epoch: Epoch::ZERO,
            parent: Position::ZERO,
        };
        let broken = |branch: &Branch| InvalidPath::Broken {
            epoch: branch.epoch,
            parent: branch.parent,
        };
        if first.epoch == Epoch::ZERO {
            return Err(broken(first));
        }
        for branch in &branches {
            let continues = branch.parent.epoch == before.epoch
                && before.epoch < branch.epoch
                && before.parent.lsn <= branch.parent.lsn;
            if !continues {
                return Err(broken(branch));
            }
            before = *branch;
        }
        Ok(Path(branches.into()))
    }

    /// The path with one more timeline at its end.
    pub fn extended(&self, branch: Branch) -> Result<Path, InvalidPath> {
        let mut branches = self.0.to_vec();
        branches.push(branch);
        Path::new(branches)
    }

    /// The timelines, root first.
    pub fn branches(&self) -> &[Branch] {
        &self.0
    }

    /// The epoch of the last timeline: the one this is the history of.
    pub fn epoch(&self) -> Epoch {
        self.0.last().expect("a path is never empty").epoch
    }

    /// Where the last timeline begins: the end of its history on earlier ones.
    pub fn start(&self) -> Position {
        self.0.last().expect("a path is never empty").parent
    }

    /// Up to where what was written in `epoch` is visible: `None` if its timeline is not on the path.
    pub fn visible_end(&self, epoch: Epoch) -> Option<Lsn> {
        let at = self.0.binary_search_by_key(&epoch, |branch| branch.epoch).ok()?;
        Some(self.0.get(at + 1).map_or(Lsn::MAX, |next| next.parent.lsn))
    }

    /// Whether what ends at `position` belongs to this history.
    pub fn sees(&self, position: Position) -> bool {
        self.visible_end(position.epoch).is_some_and(|end| position.lsn <= end)
    }

    /// What is left along this history of something that was true of everything up to `position`: up to where the timeline
    /// of its epoch was left. A timeline that is not on the path leaves nothing.
    pub fn reach(&self, position: Position) -> Position {
        let end = self.visible_end(position.epoch);
        end.map_or(Position::ZERO, |end| {
            Position::new(position.epoch, position.lsn.min(end))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(epoch: u64, lsn: u64) -> Position {
        Position::new(Epoch::from_raw(epoch), Lsn::from_raw(lsn))
    }

    fn path(branches: &[(u64, u64, u64)]) -> Result<Path, InvalidPath> {
        let branch = |&(epoch, parent, lsn)| Branch {
            epoch: Epoch::from_raw(epoch),
            parent: position(parent, lsn),
        };
        Path::new(branches.iter().map(branch).collect())
    }

    #[test]
    fn what_a_left_timeline_wrote_above_the_branch_is_invisible() {
        let path = path(&[(1, 0, 0), (3, 1, 100), (4, 3, 150)]).unwrap();
        assert!(path.sees(position(1, 100)));
        assert!(!path.sees(position(1, 101)), "above the branch");
        assert!(!path.sees(position(2, 50)), "a reign that is not on the path");
        assert!(path.sees(position(3, 150)));
        assert!(!path.sees(position(3, 151)));
        assert!(path.sees(position(4, 1_000_000)));
        assert_eq!(path.start(), position(3, 150));
    }

    #[test]
    fn what_was_true_of_a_left_timeline_stays_true_up_to_the_branch() {
        let path = path(&[(1, 0, 0), (3, 1, 100), (4, 3, 150)]).unwrap();
        assert_eq!(path.reach(position(1, 90)), position(1, 90));
        assert_eq!(
            path.reach(position(1, 5000)),
            position(1, 100),
            "not 150@3: nobody said so"
        );
        assert_eq!(path.reach(position(4, 5000)), position(4, 5000));
        assert_eq!(path.reach(position(2, 90)), Position::ZERO);
    }

    /// Every page read carries the path, however many reigns the volume has seen.
    #[test]
    fn a_clone_copies_no_branches() {
        let path = path(&[(1, 0, 0), (3, 1, 100)]).unwrap();
        assert!(std::ptr::eq(path.branches(), path.clone().branches()));
    }

    #[test]
    fn a_broken_line_is_no_path() {
        assert_eq!(path(&[]), Err(InvalidPath::Empty));
        assert!(path(&[(1, 0, 0), (3, 2, 100)]).is_err(), "parent is not on the path");
        assert!(path(&[(2, 0, 0), (1, 2, 100)]).is_err(), "epochs fall");
        assert!(
            path(&[(1, 0, 50), (2, 1, 40)]).is_err(),
            "branches before its parent begins"
        );
        assert!(path(&[(0, 0, 0)]).is_err(), "epoch zero never reigned");
    }
}

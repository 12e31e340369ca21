//! What a copy told others, which nothing may take from it: neither a crash nor a power cut.

use segment::Segment;
use units::{Epoch, GroupId, Position, SegmentId};
use wire_format::message::Response;

use crate::Promise;
use crate::checker::{Checker, Violation};
use crate::disk::Disk;

/// The most that one copy ever promised and acknowledged.
#[derive(Default, Debug)]
pub(crate) struct Told {
    promised: Epoch,
    /// In the reign of the path that it went along.
    complete: Position,
    /// Everything up to here was found on its disk.
    verified: Position,
}

impl Told {
    /// An answer leaves.
    pub(crate) fn tell(&mut self, response: &Response) {
        match response {
            Response::Promised(promised) => self.promised = self.promised.max(promised.epoch),
            Response::Installed { complete, .. }
            | Response::Appended { complete, .. }
            | Response::Announced { complete, .. } => self.complete = self.complete.max(*complete),
            _ => {}
        }
    }

    /// Everything up to where the copy says that it is complete is synced on its disk, if that is sound.
    pub(crate) fn is_true(
        &mut self,
        (node, segment, group): (usize, SegmentId, GroupId),
        checker: &Checker,
        disk: &Disk,
    ) -> Result<(), Violation> {
        let verified = self.verified;
        let unverified = checker
            .history_of(group, self.complete)
            .take_while(|at| *at != verified);
        if let Some(missing) = unverified.into_iter().find(|at| !disk.keeps(segment, *at)) {
            let what = format!(
                "storage-{} said that its copy of {group} is complete up to {}, but {missing} is not synced there",
                node + 1,
                self.complete
            );
            return Err(Promise::PowerTakesNothing.broken(what));
        }
        self.verified = self.complete;
        Ok(())
    }

    /// The copy started again: it knows what it promised, and has what it acknowledged as far as its history sees it.
    pub(crate) fn still_holds(&self, node: usize, segment: &Segment, checker: &Checker) -> Result<(), Violation> {
        let (promised, complete) = (segment.promised(), segment.complete());
        if promised < self.promised {
            let what = format!(
                "storage-{} promised {:?}, and started with {promised:?}",
                node + 1,
                self.promised
            );
            return Err(Promise::PowerTakesNothing.broken(what));
        }
        let path = segment.horizon().path;
        let mut history = checker.history_of(segment.group(), self.complete);
        let seen = history.find(|at| path.sees(*at)).unwrap_or(Position::ZERO);
        if complete.lsn < seen.lsn {
            let what = format!(
                "storage-{} said that its copy of {} is complete up to {}, and started with {complete}",
                node + 1,
                segment.group(),
                self.complete
            );
            return Err(Promise::PowerTakesNothing.broken(what));
        }
        Ok(())
    }
}

//! What must be so in the end: faults stopped long ago, and nothing new is written.

use timeline::Path;
use units::{Lsn, Position};

use crate::Promise;
use crate::checker::Violation;
use crate::toy::{BLOCKS, FORK};
use crate::world::{COPIES, World, segment_id};
use crate::writer::Stage;

impl World {
    /// Faults stopped long ago: there is one writer, everything it made is durable, and every copy that lost nothing has
    /// all of it.
    pub(crate) fn healed(&self) -> Result<(), Violation> {
        if self.weather.is_worst() && self.weather.losses_max == self.losses {
            return self.nothing_is_lost();
        }
        let Healed { path, end, durable } = self.one_reigns()?;
        self.all_have_the_log(end)?;
        self.all_show_the_same(&path, durable)
    }

    /// There is a writer, and everything that it made is durable.
    fn one_reigns(&self) -> Result<Healed, Violation> {
        let mut writing = self.living().filter_map(|at| match &self.writers[at].stage {
            Stage::Writing(shipper) => Some(shipper),
            _ => None,
        });
        let shipper = writing.by_ref().last().ok_or_else(|| self.stuck())?;
        let (path, durable) = (shipper.path().clone(), shipper.durable());
        // A reign that began when nothing new was written any more goes on from a flush of an earlier one.
        let end = self.checker.flush_at(&path, shipper.sent_end());
        match end.filter(|end| self.checker.boundary(*end) == Some(durable)) {
            Some(end) => Ok(Healed { path, end, durable }),
            None => {
                let what = format!("{} was sent, but only {durable} is durable", shipper.sent_end());
                Err(Promise::CopiesBecomeEqual.broken(what))
            }
        }
    }

    fn all_have_the_log(&self, end: Position) -> Result<(), Violation> {
        let history: Vec<_> = self.checker.history(end).collect();
        let sound = (0..COPIES).filter(|node| !self.lost_nodes.contains(node));
        for node in sound {
            let missing = history.iter().find(|at| !self.nodes[node].disk.keeps(**at));
            if let Some(missing) = missing {
                let what = format!("storage-{} never got {missing}", node + 1);
                return Err(Promise::CopiesBecomeEqual.broken(what));
            }
        }
        Ok(())
    }
}

/// Where the volume stands in the end.
struct Healed {
    path: Path,
    end: Position,
    durable: Lsn,
}

impl World {
    /// Every page and every catalog entry is the same on every sound copy, byte for byte, and what the history makes of it:
    /// at the end, and at what is left of earlier read points.
    fn all_show_the_same(&self, path: &Path, durable: Lsn) -> Result<(), Violation> {
        let sound = (0..COPIES).filter(|node| !self.lost_nodes.contains(node));
        let sound: Vec<usize> = sound.filter(|node| self.nodes[*node].segment.is_some()).collect();
        let floor = |node: &usize| {
            self.nodes[*node]
                .segment
                .as_ref()
                .map(|segment| segment.horizon().floor.lsn)
        };
        let floor = sound.iter().filter_map(floor).max().unwrap_or(Lsn::ZERO);
        for read_point in [durable, Lsn::from_raw(floor.raw().midpoint(durable.raw())), floor] {
            let mut first = None;
            for node in &sound {
                let differs = |what: String| {
                    let what = format!("as of {read_point} storage-{}: {what}", node + 1);
                    Promise::CopiesBecomeEqual.broken(what)
                };
                let store = self.nodes[*node].disk.store();
                let pages = store.read_pages(segment_id(*node), path, read_point, FORK.page(0), BLOCKS);
                let pages = pages.map_err(|error| differs(error.to_string()))?;
                let entries = store.scan_catalog(segment_id(*node), path, read_point, None, usize::MAX);
                let entries = entries.map_err(|error| differs(error.to_string()))?;
                for (block, page) in (0..).zip(&pages) {
                    self.checker.page_shown(path, block, (read_point, read_point), page)?;
                }
                self.checker.catalog_shown(path, read_point, &entries)?;
                let first = first.get_or_insert_with(|| (pages.clone(), entries.clone()));
                if *first != (pages, entries) {
                    return Err(differs("other bytes than on another copy".to_owned()));
                }
            }
        }
        Ok(())
    }

    /// More copies are lost than a writer can do without: what was acknowledged still lies on a copy that is not.
    fn nothing_is_lost(&self) -> Result<(), Violation> {
        let sound: Vec<_> = (0..COPIES).filter(|node| !self.lost_nodes.contains(node)).collect();
        let kept = |at: Position| sound.iter().any(|node| self.nodes[*node].disk.keeps(at));
        match self.checker.all_acknowledged().find(|at| !kept(*at)) {
            Some(gone) => Err(Promise::AcknowledgedStays.broken(format!("{gone} is on no copy any more"))),
            None => Ok(()),
        }
    }

    fn stuck(&self) -> Violation {
        let openings = self.writers.iter().filter_map(|writer| match &writer.stage {
            Stage::Opening(opening) => Some(format!("{}, without {:?}", opening.activity(), opening.missing())),
            _ => None,
        });
        let openings: Vec<String> = openings.collect();
        let what = format!("nobody could open the volume again: {openings:?}");
        Promise::CopiesBecomeEqual.broken(what)
    }
}

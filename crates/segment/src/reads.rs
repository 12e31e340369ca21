//! Which reads a segment permits: only those for which every version that may be needed is here.

use timeline::Path;
use units::{Epoch, Lsn, Position};
use wire_format::log::LogAsked;
use wire_format::message::{Refusal, Request, VersionsAsked};

use crate::copying::higher;
use crate::{Read, Segment};

/// Pages, entries and batches of one answer, at most.
const PAGES_MAX: u32 = 256;
const ENTRIES_MAX: u32 = 10_000;
const BATCHES_MAX: usize = 4096;

impl Segment {
    /// The read behind a request, or why not. A segment that is not complete enough refuses; it never guesses.
    pub(crate) fn permit(&self, request: &Request) -> Result<Read, Refusal> {
        match request {
            // Of its log a tail has let go what every full copy has.
            Request::ReadPages { .. }
            | Request::ScanCatalog { .. }
            | Request::ReadFlushHeader { .. }
            | Request::ReadLog { .. }
                if self.is_tail() =>
            {
                Err(Refusal::LogOnly)
            }
            Request::ReadPages {
                epoch,
                read_point,
                needed,
                first,
                count,
                ..
            } => {
                let (path, read_point) = self.permit_read(*epoch, *read_point, *needed)?;
                Ok(Read::Pages {
                    path,
                    read_point,
                    first: *first,
                    count: (*count).clamp(1, PAGES_MAX),
                })
            }
            Request::ScanCatalog {
                epoch,
                read_point,
                needed,
                after,
                entries_max,
                ..
            } => {
                let (path, read_point) = self.permit_read(*epoch, *read_point, *needed)?;
                Ok(Read::Catalog {
                    path,
                    read_point,
                    after: after.clone(),
                    entries_max: (*entries_max).clamp(1, ENTRIES_MAX),
                })
            }
            Request::ReadFlushHeader { epoch, at, .. } => {
                self.require_vouching()?;
                let path = self.path_of(*epoch)?;
                let complete = self.complete_and_synced();
                let at_least = self.state.reads_from.lsn.max(*at);
                if complete.lsn < at_least {
                    let needed = Position::new(*epoch, at_least);
                    return Err(Refusal::NotComplete { complete, needed });
                }
                Ok(Read::FlushHeader { path, at: *at })
            }
            Request::FetchVersions {
                path,
                after,
                from,
                until,
                bytes_max,
                ..
            } => {
                self.require_vouching()?;
                if *path != self.state.path {
                    return Err(Refusal::UnknownTimeline { epoch: path.epoch() });
                }
                if after.lsn < self.let_go_here().lsn {
                    let oldest = self.let_go_here();
                    return Err(Refusal::LogCollected { oldest });
                }
                // Not what may still be left behind by the next reign: an opener has to find it in somebody's chain.
                let bound = self.durable_here().lsn;
                let complete = self.complete_and_synced();
                let through = self.chain.back_to(complete, bound);
                let through = through.ok_or(Refusal::NotComplete {
                    complete,
                    needed: self.durable_here(),
                })?;
                if through.lsn <= after.lsn && *after != Position::ZERO {
                    return Err(Refusal::NotComplete {
                        complete: through,
                        needed: *after,
                    });
                }
                Ok(Read::Versions(VersionsAsked {
                    path: path.clone(),
                    after: *after,
                    from: from.clone(),
                    until: until.clone(),
                    bytes_max: *bytes_max,
                    through,
                    // What it has of others may have been folded further than what it folded by itself.
                    floor: higher(self.fold_point(), self.state.reads_from),
                }))
            }
            Request::ReadLog { asked, .. } => self.permit_log(asked).map(Read::Log),
            Request::FetchBatches {
                path,
                after,
                through,
                bytes_max,
                ..
            } => {
                // Along the asker's history: what was forgotten of another one does not concern it.
                if after.lsn < path.reach(self.chain.forgotten()).lsn {
                    return Err(Refusal::LogCollected {
                        oldest: self.chain.forgotten(),
                    });
                }
                Ok(Read::Batches {
                    positions: self.chain.visible_between(path, *after, *through, BATCHES_MAX),
                    bytes_max: *bytes_max,
                })
            }
            _ => Err(crate::malformed("not a read")),
        }
    }

    /// The history to read along, and as of where: never beyond what is complete here. Above a hole a later record may be
    /// held already, and a page made with it but without the missing one would be no version that ever was.
    fn permit_read(&self, epoch: Epoch, read_point: Lsn, needed: Position) -> Result<(Path, Lsn), Refusal> {
        self.require_vouching()?;
        let path = self.path_of(epoch)?;
        if needed != Position::ZERO && !path.sees(needed) {
            return Err(Refusal::UnknownTimeline { epoch: needed.epoch });
        }
        let complete = self.complete_and_synced();
        let needed = higher(needed, self.state.reads_from);
        if complete.lsn < needed.lsn {
            return Err(Refusal::NotComplete { complete, needed });
        }
        let floor = path.reach(self.state.floor);
        if read_point < floor.lsn {
            return Err(Refusal::BelowFloor { read_point, floor });
        }
        Ok((path, read_point.min(complete.lsn)))
    }

    /// Log along the asker's history, which may be a later one than this segment knows: what both see of it is the same. The asker
    /// knows from the flush headers up to where the group has a part.
    fn permit_log(&self, asked: &LogAsked) -> Result<LogAsked, Refusal> {
        self.require_vouching()?;
        let complete = self.complete_and_synced();
        if complete.lsn < self.state.reads_from.lsn {
            let needed = self.state.reads_from;
            return Err(Refusal::NotComplete { complete, needed });
        }
        let complete = self.chain.back_to_visible(complete, &asked.path);
        if complete.lsn < asked.through {
            let needed = Position::new(asked.path.epoch(), asked.through);
            return Err(Refusal::NotComplete { complete, needed });
        }
        if asked.after < self.state.floor.lsn {
            return Err(Refusal::LogCollected {
                oldest: self.state.floor,
            });
        }
        Ok(asked.clone())
    }

    /// The history of one reign: of the installed one. A reign that is over may read until its successor is installed, no longer.
    fn path_of(&self, epoch: Epoch) -> Result<Path, Refusal> {
        let installed = self.state.path.epoch();
        if epoch < installed {
            return Err(Refusal::StaleEpoch {
                asked: epoch,
                promised: installed,
            });
        }
        if installed < epoch {
            return Err(Refusal::UnknownTimeline { epoch });
        }
        Ok(self.state.path.clone())
    }

    /// No version above this was folded before the last start: that goes as far as a synced state remembers, and no further
    /// than the floor.
    fn fold_point(&self) -> Position {
        if self.is_tail() {
            // It folds nothing.
            return Position::ZERO;
        }
        let (floor, complete) = (self.horizon().floor, self.state.path.reach(self.recyclable));
        if complete.lsn < floor.lsn { complete } else { floor }
    }

    fn require_vouching(&self) -> Result<(), Refusal> {
        if self.state.copying {
            return Err(Refusal::NotComplete {
                complete: Position::ZERO,
                needed: self.durable_here(),
            });
        }
        if self.vouches {
            return Ok(());
        }
        Err(Refusal::Damaged {
            what: "something it acknowledged is lost or damaged".to_owned(),
        })
    }

    /// Neither what waits for its sync, nor what a roll-back took again.
    fn complete_and_synced(&self) -> Position {
        self.readable_here().min(self.complete)
    }
}

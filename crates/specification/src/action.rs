//! The steps that can be taken, as values: a counter-example is a list of them.

use std::fmt;

use crate::names::{Epoch, Flush, Lsn, Seat};
use crate::record::Membership;

/// One step of somebody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(
    missing_docs,
    reason = "the fields say who and what, and stand in the traces by their names"
)]
pub enum Action {
    /// An opener takes the next epoch and reads the record.
    Take,
    /// A segment promises the epoch and answers with what it holds.
    Promise { epoch: Epoch, seat: Seat },
    /// A segment answers without a promise.
    Look { epoch: Epoch, seat: Seat },
    /// An opener has answers enough; it may replace a lost segment.
    Decide {
        epoch: Epoch,
        replaced: Option<(Seat, Seat)>,
    },
    /// An older batch is brought to a segment.
    Copy { epoch: Epoch, seat: Seat, flush: Flush },
    /// The compare-and-swap of an opener succeeds; it may go back to an earlier point.
    Open {
        epoch: Epoch,
        back_to: Option<(Epoch, Lsn)>,
    },
    /// A writer sends its next flush, with or without a part in group 1.
    Send { epoch: Epoch, wide: bool },
    /// A segment receives a writer's batch.
    Receive { seat: Seat, flush: Flush },
    /// A segment syncs its journal.
    Sync { seat: Seat },
    /// A segment loses power and comes back.
    Restart { seat: Seat },
    /// A segment's disk comes back empty.
    Wipe { seat: Seat },
    /// A writer acknowledges its next flush.
    Acknowledge { epoch: Epoch },
    /// A tail lets go what a writer says to be on every full copy.
    LetGo { epoch: Epoch, seat: Seat },
    /// A writer makes the new member and counts by both lists.
    CountJointly { epoch: Epoch },
    /// A writer records both lists.
    RecordJoint { epoch: Epoch },
    /// A writer finds the new member complete up to what it has acknowledged.
    FindComplete { epoch: Epoch },
    /// A writer records the new list alone.
    RecordLast { epoch: Epoch },
    /// A writer records the old list alone.
    Undo { epoch: Epoch },
    /// A writer counts by what it has recorded.
    CountRecorded { epoch: Epoch },
    /// The control plane changes the membership by itself.
    ControlRecords { membership: Membership },
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Action::Take => write!(f, "the next epoch is taken, and the record read"),
            Action::Promise { epoch, seat } => write!(f, "{seat:?} promises {epoch:?} and says what it holds"),
            Action::Look { epoch, seat } => write!(f, "{seat:?} tells {epoch:?} what it holds, without a promise"),
            Action::Decide { epoch, replaced: None } => write!(f, "opener {epoch:?} has answers enough and decides"),
            Action::Decide {
                epoch,
                replaced: Some((leaving, coming)),
            } => {
                write!(
                    f,
                    "opener {epoch:?} has answers enough, decides, and replaces {leaving:?} by {coming:?}"
                )
            }
            Action::Copy { epoch, seat, flush } => write!(f, "epoch {epoch:?} has {flush:?} copied to {seat:?}"),
            Action::Open { epoch, back_to: None } => write!(f, "opener {epoch:?} records its timeline"),
            Action::Open {
                epoch,
                back_to: Some((timeline, lsn)),
            } => {
                write!(
                    f,
                    "opener {epoch:?} records its timeline, going back to {lsn:?} of timeline {timeline:?}"
                )
            }
            Action::Send { epoch, wide } => {
                write!(
                    f,
                    "writer {epoch:?} sends a flush to group 0{}",
                    if wide { " and group 1" } else { "" }
                )
            }
            Action::Receive { seat, flush } => write!(f, "{seat:?} receives {flush:?}"),
            Action::Sync { seat } => write!(f, "{seat:?} syncs its journal"),
            Action::Restart { seat } => write!(f, "{seat:?} restarts"),
            Action::Wipe { seat } => write!(f, "{seat:?} comes back with an empty disk"),
            Action::Acknowledge { epoch } => write!(f, "writer {epoch:?} acknowledges its next flush"),
            Action::LetGo { epoch, seat } => {
                write!(
                    f,
                    "{seat:?} lets go what writer {epoch:?} says that every full copy has"
                )
            }
            Action::CountJointly { epoch } => {
                write!(f, "writer {epoch:?} makes the new member and counts by both lists")
            }
            Action::RecordJoint { epoch } => write!(f, "writer {epoch:?} records both lists"),
            Action::FindComplete { epoch } => write!(f, "writer {epoch:?} finds the new member complete"),
            Action::RecordLast { epoch } => write!(f, "writer {epoch:?} records the new list"),
            Action::Undo { epoch } => write!(f, "writer {epoch:?} records the old list again"),
            Action::CountRecorded { epoch } => write!(f, "writer {epoch:?} counts by what it recorded"),
            Action::ControlRecords { membership } => match membership.joining {
                Some(joining) => write!(f, "the control plane records {:?} and {joining:?}", membership.current),
                None => write!(f, "the control plane records {:?}", membership.current),
            },
        }
    }
}

//! What broken rules make of the messages around the real segment and the real opening.
//!
//! Those two are never changed: a broken variant hands them what they would have seen, or passes on what they would have
//! said, if the rule did not hold.

use std::cmp::Reverse;

use segment::Segment;
use units::{Lsn, Position, SegmentId};
use volume::{Opening, OpeningEffect, Shipper, VolumeRecord};
use wire_format::message::{Promised, Request, Response};
use wire_format::{Batch, EncodedBatch};

use crate::Broken;
use crate::disk::Disk;
use crate::writer::FLUSH_BYTES;

/// What a segment is asked. With links by LSN only, whatever it holds that ends at the LSN of a batch's predecessor stands
/// for that predecessor.
pub(crate) fn asked(broken: Option<Broken>, segment: &Segment, disk: &Disk, request: Request) -> Request {
    match request {
        Request::Append {
            segment: to,
            epoch,
            durable,
            batch,
        } if broken == Some(Broken::LinksByLsn) => Request::Append {
            segment: to,
            epoch,
            durable,
            batch: linked_by_lsn(segment, disk, batch),
        },
        // As if the batch were a copy that the later opener brings.
        Request::Append {
            segment: to,
            epoch,
            durable,
            batch,
        } if broken == Some(Broken::StaleEpochTaken) && epoch < segment.promised() => Request::Append {
            segment: to,
            epoch: segment.promised(),
            durable,
            batch,
        },
        other => other,
    }
}

fn linked_by_lsn(segment: &Segment, disk: &Disk, batch: EncodedBatch) -> EncodedBatch {
    let previous = batch.batch().previous;
    let complete = segment.complete();
    let id = segment.id();
    let stands_in = !disk.keeps(id, previous) && disk.keeps_lsn(id, previous.lsn) && complete.lsn < previous.lsn;
    if !stands_in {
        return batch;
    }
    EncodedBatch::new(Batch {
        previous: complete,
        ..Batch::clone(batch.batch())
    })
}

/// What a segment answers to a batch. With batches counted instead of complete prefixes, it is the batch that is
/// acknowledged. A copy that votes before it is whole says that it has what it was just sent.
pub(crate) fn answered(broken: Option<Broken>, segment: &Segment, request: &Request, response: Response) -> Response {
    if broken == Some(Broken::NewbornVotes) && segment.is_copying() {
        return newborn(segment, request, response);
    }
    match (response, request) {
        (
            Response::Appended {
                segment,
                epoch,
                complete,
            },
            Request::Append { batch, .. },
        ) if broken == Some(Broken::BatchesCounted) && batch.batch().epoch == epoch => Response::Appended {
            segment,
            epoch,
            complete: complete.max(batch.batch().position()),
        },
        (Response::Appended { segment, complete, .. }, Request::Append { batch, .. })
            if broken == Some(Broken::StaleEpochTaken) =>
        {
            Response::Appended {
                segment,
                epoch: batch.batch().epoch,
                complete,
            }
        }
        (other, _) => other,
    }
}

fn newborn(copy: &Segment, request: &Request, response: Response) -> Response {
    let has = match request {
        Request::Append { batch, .. } => batch.batch().position(),
        _ => copy.complete(),
    };
    match response {
        Response::Appended { segment, epoch, .. } => Response::Appended {
            segment,
            epoch,
            complete: has,
        },
        Response::Installed { segment, .. } => Response::Installed {
            segment,
            complete: has,
            vouches: true,
        },
        Response::Promised(promised) => Response::Promised(Promised {
            vouches: true,
            complete: has,
            ..promised
        }),
        other => other,
    }
}

/// A copy that an opening makes is said to be whole as soon as it is there.
pub(crate) fn whole_at_birth(opening: &Opening, promised: &mut Promised) {
    let made = opening.being_made();
    if made.iter().any(|made| made.joining.segment == promised.segment) {
        promised.vouches = true;
        promised.complete = Position::new(promised.path.epoch(), Lsn::MAX);
    }
}

/// What one copy of a sleeping group says is taken for what three say.
pub(crate) fn told_by_one(shipper: &Shipper, response: &Response) -> Vec<(SegmentId, Response)> {
    let Response::Installed {
        segment,
        complete,
        vouches: true,
    } = response
    else {
        return Vec::new();
    };
    let others = shipper
        .other_groups()
        .filter(|(group, _)| shipper.group_durable(*group).is_none());
    let home = others.map(|(group, _)| shipper.standing_of(group));
    let is_home = |copies: &Vec<volume::CopyStanding>| copies.iter().any(|copy| copy.member.segment == *segment);
    let copies = home.into_iter().find(is_home).unwrap_or_default();
    let forged = |copy: volume::CopyStanding| {
        let segment = copy.member.segment;
        let told = Response::Installed {
            segment,
            complete: *complete,
            vouches: true,
        };
        (segment, told)
    };
    copies.into_iter().map(forged).collect()
}

/// The record as an opener reads it that knows of two lists only the new one.
pub(crate) fn new_lists_only(mut record: VolumeRecord) -> VolumeRecord {
    for group in &mut record.groups {
        if let Some(joining) = group.joining.take() {
            group.members = joining;
        }
    }
    record
}

/// The record that it makes, with the groups as they are.
pub(crate) fn with_groups_of(mut record: VolumeRecord, groups_of: &VolumeRecord) -> VolumeRecord {
    record.groups.clone_from(&groups_of.groups);
    record
}

/// What a writer sends. Announced too early, everything that it has sent is said to be durable.
pub(crate) fn announced(broken: Option<Broken>, sent: Position, mut request: Request) -> Request {
    if let Request::Append { durable, .. } | Request::Announce { durable, .. } = &mut request
        && broken == Some(Broken::AnnouncedBeforeDurable)
    {
        *durable = sent;
    }
    request
}

/// Three copies for a quorum: once three have it, a fourth is said to have it, too.
pub(crate) fn forged_acknowledgement(shipper: &Shipper) -> Option<(SegmentId, Response)> {
    let mut standing = shipper.standing();
    standing.sort_by_key(|copy| Reverse(copy.complete));
    let (third, fourth) = (standing.get(2)?, standing.get(3)?);
    let segment = fourth.member.segment;
    let complete = Position::new(shipper.epoch(), third.complete);
    (fourth.complete < third.complete && shipper.path().sees(complete)).then_some((
        segment,
        Response::Appended {
            segment,
            epoch: shipper.epoch(),
            complete,
        },
    ))
}

/// A candidate of any reign: what a copy holds of reigns that are over counts as the last one's.
pub(crate) fn of_any_reign(promised: &mut Promised) {
    let path = &promised.path;
    let of_this_reign = |position: Position| match path.sees(position) || position == Position::ZERO {
        true => position,
        false => Position::new(path.epoch(), position.lsn),
    };
    for flush in &mut promised.held {
        flush.end = of_this_reign(flush.end);
        flush.previous = of_this_reign(flush.previous);
    }
    let highest = promised.held.iter().map(|flush| flush.end).max();
    promised.complete = highest.unwrap_or(promised.complete).max(promised.complete);
}

/// The record of an opener that takes the flush before the last for the last.
pub(crate) fn branched_too_low(mut record: VolumeRecord) -> VolumeRecord {
    if let Some(last) = record.timelines.last_mut() {
        last.branch = Lsn::from_raw(last.branch.raw().saturating_sub(FLUSH_BYTES));
    }
    record
}

/// The end of the log as an opener found it, once it begins to copy it.
pub(crate) fn candidate(effects: &[OpeningEffect]) -> Option<Position> {
    effects.iter().find_map(|effect| match effect {
        OpeningEffect::Send {
            request: Request::FetchBatches { through, .. },
            ..
        } => Some(*through),
        _ => None,
    })
}

/// One promise fewer: after two genuine ones a copy that has said nothing is heard as well, as if it had promised.
pub(crate) fn forged_promise(opening: &Opening, promised: &Promised) -> Option<Promised> {
    let silent = opening.missing();
    let member = opening
        .members()
        .into_iter()
        .find(|member| silent.contains(&member.node))?;
    (silent.len() == 4).then(|| Promised {
        segment: member.segment,
        complete: promised.path.start(),
        durable: promised.path.start(),
        held: Vec::new(),
        ..promised.clone()
    })
}

/// No copying: where the opening asks for batches to copy, every copy is said to have them already.
pub(crate) fn said_to_be_copied(opening: &Opening, effects: &[OpeningEffect]) -> Vec<Response> {
    let through = candidate(effects);
    let said = |complete: Position| {
        let members = opening.members().into_iter();
        members.map(move |member| Response::Appended {
            segment: member.segment,
            epoch: complete.epoch,
            complete,
        })
    };
    through.map(said).into_iter().flatten().collect()
}

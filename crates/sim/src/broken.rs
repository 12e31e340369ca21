//! What broken rules make of the messages around the real segment and the real opening.
//!
//! Those two are never changed: a broken variant hands them what they would have seen, or passes on what they would have
//! said, if the rule did not hold.

use segment::Segment;
use units::Position;
use volume::{Opening, OpeningEffect};
use wire_format::message::{Promised, Request, Response};
use wire_format::{Batch, EncodedBatch};

use crate::Broken;
use crate::disk::Disk;

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
        other => other,
    }
}

fn linked_by_lsn(segment: &Segment, disk: &Disk, batch: EncodedBatch) -> EncodedBatch {
    let previous = batch.batch().previous;
    let complete = segment.complete();
    let stands_in = !disk.keeps(previous) && disk.keeps_lsn(previous.lsn) && complete.lsn < previous.lsn;
    if !stands_in {
        return batch;
    }
    EncodedBatch::new(Batch {
        previous: complete,
        ..Batch::clone(batch.batch())
    })
}

/// What a segment answers to a batch. With batches counted instead of complete prefixes, it is the batch that is
/// acknowledged.
pub(crate) fn answered(broken: Option<Broken>, request: &Request, response: Response) -> Response {
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
        (other, _) => other,
    }
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
    let through = effects.iter().find_map(|effect| match effect {
        OpeningEffect::Send {
            request: Request::FetchBatches { through, .. },
            ..
        } => Some(*through),
        _ => None,
    });
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

//! What a simulated node reads from its store: as the reading threads of the real one do.

use page_store::{PageStore, PassPart, ReadError};
use segment::{Effect, PartId, Read, Segment, Taken};
use timeline::Path;
use units::{Position, SegmentId};
use wire_format::message::{Refusal, Request, Response, VersionCursor};

use crate::Broken;

/// Whether a request is a read, which waits for no journal.
pub(crate) fn is_read(request: &Request) -> bool {
    matches!(
        request,
        Request::FetchBatches { .. }
            | Request::ReadPages { .. }
            | Request::ScanCatalog { .. }
            | Request::ReadFlushHeader { .. }
            | Request::FetchVersions { .. }
            | Request::ReadLog { .. }
    )
}

/// The read behind a request, if the segment permits it, or if it would in a broken variant.
pub(crate) fn permit(segment: &mut Segment, request: &Request, broken: Option<Broken>) -> Result<Read, Refusal> {
    match (broken, request) {
        (Some(Broken::NeededIgnored), Request::ReadPages { .. }) => {
            let mut request = request.clone();
            if let Request::ReadPages { needed, .. } = &mut request {
                *needed = Position::ZERO;
            }
            ask(segment, &request)
        }
        (Some(Broken::ReadsOverHoles), Request::ReadPages { read_point: asked, .. }) => {
            let mut read = ask(segment, request)?;
            if let Read::Pages { read_point, .. } = &mut read {
                *read_point = *asked;
            }
            Ok(read)
        }
        (Some(Broken::AsleepButServes), Request::ReadPages { .. }) => {
            let mut request = request.clone();
            let installed = segment.horizon().path.epoch();
            if let Request::ReadPages { epoch, needed, .. } = &mut request {
                *epoch = installed;
                needed.epoch = installed;
            }
            ask(segment, &request)
        }
        (Some(Broken::LeftTimelineRead), Request::ReadPages { .. }) => {
            let mut read = ask(segment, request)?;
            if let Read::Pages { path, .. } = &mut read
                && let [left @ .., _] = path.branches()
                && let Ok(left) = Path::new(left.to_vec())
            {
                *path = left;
            }
            Ok(read)
        }
        (Some(Broken::BelowTheFloor), Request::ReadPages { read_point, .. }) => {
            let mut request = request.clone();
            if let Request::ReadPages { read_point, .. } = &mut request {
                *read_point = segment.horizon().floor.lsn.max(*read_point);
            }
            let mut read = ask(segment, &request)?;
            if let Read::Pages { read_point: at, .. } = &mut read {
                *at = *read_point.min(at);
            }
            Ok(read)
        }
        _ => ask(segment, request),
    }
}

fn ask(segment: &mut Segment, request: &Request) -> Result<Read, Refusal> {
    let mut effects = Vec::new();
    segment.request(request, &mut effects);
    match effects.pop() {
        Some(Effect::Read(read)) => Ok(read),
        Some(Effect::Answer(Response::Refused(refusal))) => Err(refusal),
        other => unreachable!("a read is carried out or refused, not {other:?}"),
    }
}

/// Writes the versions that a peer gave. `None`: they came twice.
pub(crate) fn take(
    store: &PageStore,
    id: SegmentId,
    part: PartId,
    from: VersionCursor,
    response: Option<Response>,
    broken: Option<Broken>,
) -> Option<Taken> {
    let mut versions = match response {
        Some(Response::Versions(versions)) => versions,
        Some(Response::Refused(refusal)) => return Some(Taken::Refused(refusal)),
        _ => return Some(Taken::Nothing),
    };
    if broken == Some(Broken::CopyLeavesOut) {
        versions = versions.without_content();
    }
    let bytes = versions.content.len() as u64;
    let name = PassPart {
        pass: part.pass,
        part: part.part,
        parts: part.parts,
    };
    match store.take_versions(id, name, &from, &versions) {
        Ok(true) => {
            let versions = versions.without_content();
            Some(Taken::Written { from, versions, bytes })
        }
        Ok(false) => None,
        Err(_) => Some(Taken::Failed),
    }
}

/// Reads what the segment permitted.
pub(crate) fn carry_out(store: &PageStore, id: SegmentId, read: Read) -> Result<Response, ReadError> {
    Ok(match read {
        Read::Pages {
            path,
            read_point,
            first,
            count,
        } => Response::Pages(store.read_pages(id, &path, read_point, first, count)?),
        Read::Catalog {
            path,
            read_point,
            after,
            entries_max,
        } => Response::Catalog(store.scan_catalog(id, &path, read_point, after.as_ref(), entries_max as usize)?),
        Read::FlushHeader { path, at } => {
            let header = store.flush_header(id, &path, at)?;
            Response::FlushHeader {
                end: header.end,
                previous: header.previous,
                boundary: header.boundary,
                marks: header.marks,
            }
        }
        Read::Versions(asked) => Response::Versions(store.versions(id, &asked)?),
        Read::Log(asked) => Response::Log(store.log(id, &asked)?),
        Read::Batches { positions, bytes_max } => {
            Response::Batches(store.read_batches(id, &positions, bytes_max as usize)?)
        }
    })
}

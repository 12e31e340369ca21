//! A copy with what its shell would have journaled, and what is asked of it.

mod copying;
mod holes;
mod journal;
mod mending;
mod reading;
mod reigns;
mod tail;
mod whole;

use std::time::Duration;

use bytes::Bytes;
use timeline::{Branch, Path};
use units::{Epoch, GroupId, Lsn, Position, RelationKey, SegmentId, SegmentKind, VolumeId, Zone};
use wire_format::message::{Member, Promised, Refusal, Request, Response};
use wire_format::{Batch, EncodedBatch, FlushHeader, Item};

use crate::{Effect, Link, Read, Segment, SegmentState};

const VOLUME: VolumeId = VolumeId::from_bytes([1; 16]);

fn lsn(raw: u64) -> Lsn {
    Lsn::from_raw(raw)
}

fn position(epoch: u64, raw: u64) -> Position {
    Position::new(Epoch::from_raw(epoch), lsn(raw))
}

fn id(copy: u8) -> SegmentId {
    SegmentId::from_bytes([copy; 16])
}

/// A path given as (epoch, branch LSN on the timeline before it).
fn path(steps: &[(u64, u64)]) -> Path {
    let mut before = 0;
    let mut branches = Vec::new();
    for &(epoch, branch) in steps {
        branches.push(Branch {
            epoch: Epoch::from_raw(epoch),
            parent: position(before, branch),
        });
        before = epoch;
    }
    Path::new(branches).expect("a path")
}

fn members() -> Vec<Member> {
    let member = |copy: u8| Member {
        segment: id(copy),
        node: format!("storage-{copy}"),
        address: format!("127.0.0.1:700{copy}"),
        zone: Zone::ALL[usize::from(copy - 1) / 2],
        kind: units::SegmentKind::Full,
    };
    (1..=6).map(member).collect()
}

fn batch(epoch: u64, end: u64, previous: Position) -> EncodedBatch {
    EncodedBatch::new(Batch {
        volume: VOLUME,
        group: GroupId::FIRST,
        epoch: Epoch::from_raw(epoch),
        end: lsn(end),
        previous,
        header: Some(FlushHeader {
            groups: vec![GroupId::FIRST],
            boundary: lsn(end),
            written_at_us: 0,
            marks: Bytes::new(),
            catalog: Vec::new(),
            page_flags: Vec::new(),
        }),
        items: vec![Item::Record {
            end: lsn(end),
            bytes: Bytes::from_static(b"record"),
        }],
        elsewhere: Vec::new(),
    })
}

/// The segment under test, with what a shell would have journaled for it.
struct Copy {
    segment: Segment,
    state: Bytes,
    journal: Vec<Link>,
}

impl Copy {
    /// A new full copy of a volume in its first reign.
    fn new() -> Copy {
        Copy::of(SegmentKind::Full)
    }

    fn of(kind: SegmentKind) -> Copy {
        let request = Request::CreateSegment {
            volume: VOLUME,
            group: GroupId::FIRST,
            segment: id(1),
            kind,
            epoch: Epoch::from_raw(1),
            path: path(&[(1, 0)]),
            members: members(),
            copy_from: Vec::new(),
        };
        let mut effects = Vec::new();
        let segment = Segment::create(&request, &mut effects).expect("a fresh segment");
        let [Effect::KeepState(state), Effect::Answer(Response::SegmentCreated)] = &effects[..] else {
            panic!("{effects:?}");
        };
        Copy {
            segment,
            state: state.clone(),
            journal: Vec::new(),
        }
    }

    fn perform(&mut self, effects: Vec<Effect>) -> Option<Response> {
        let mut answer = None;
        for effect in effects {
            match effect {
                Effect::KeepState(state) => self.state = state,
                Effect::KeepBatch(batch) => self.journal.push(Link::of(batch.batch())),
                Effect::Answer(response) => answer = Some(response),
                Effect::Read(_) | Effect::Fetch { .. } | Effect::Take { .. } | Effect::Remove => {}
            }
        }
        self.segment.synced();
        answer
    }

    fn ask(&mut self, request: &Request) -> Response {
        let mut effects = Vec::new();
        self.segment.request(request, &mut effects);
        self.perform(effects).expect("an answer")
    }

    fn append(&mut self, epoch: u64, batch: EncodedBatch) -> Response {
        self.ask(&Request::Append {
            segment: id(1),
            epoch: Epoch::from_raw(epoch),
            durable: Position::ZERO,
            batch,
        })
    }

    /// Appends flushes of one reign that follow each other.
    fn flushes(&mut self, epoch: u64, first_previous: Position, ends: &[u64]) {
        let mut previous = first_previous;
        for end in ends {
            self.append(epoch, batch(epoch, *end, previous));
            previous = position(epoch, *end);
        }
    }

    fn promise(&mut self, epoch: u64, last_opened: Path, above: Position) -> Response {
        self.ask(&Request::Promise {
            segment: id(1),
            epoch: Epoch::from_raw(epoch),
            path: last_opened,
            above,
        })
    }

    fn promised(&mut self, epoch: u64, last_opened: Path, above: Position) -> Promised {
        match self.promise(epoch, last_opened, above) {
            Response::Promised(promised) => promised,
            other => panic!("{other:?}"),
        }
    }

    fn install(&mut self, path: Path) -> Response {
        self.ask(&Request::Install {
            segment: id(1),
            epoch: path.epoch(),
            path,
            members: members(),
        })
    }

    /// All at one position.
    fn announce(&mut self, epoch: u64, durable: u64) -> Response {
        self.announce_apart(epoch, durable, durable, durable)
    }

    fn announce_apart(&mut self, epoch: u64, durable: u64, floor: u64, all_complete: u64) -> Response {
        self.ask(&Request::Announce {
            segment: id(1),
            epoch: Epoch::from_raw(epoch),
            durable: position(epoch, durable),
            floor: position(epoch, floor),
            all_complete: position(epoch, all_complete),
            on_every_full: position(epoch, all_complete),
        })
    }

    /// What its shell does now and then: how far the journal may recycle.
    fn forget(&mut self) -> Position {
        let mut effects = Vec::new();
        let recycle_through = self.segment.forget(self.segment.horizon().all_complete, &mut effects);
        self.perform(effects);
        recycle_through
    }

    /// A restart: only what was journaled is left.
    fn restarted(self) -> Copy {
        let state = SegmentState::decode(self.state.clone()).expect("the journaled state reads back");
        Copy {
            segment: Segment::recover(state, self.journal.clone(), true),
            ..self
        }
    }
}

fn appended(epoch: u64, complete: Position) -> Response {
    Response::Appended {
        segment: id(1),
        epoch: Epoch::from_raw(epoch),
        complete,
    }
}

fn stale(asked: u64, promised: u64) -> Response {
    Response::Refused(Refusal::StaleEpoch {
        asked: Epoch::from_raw(asked),
        promised: Epoch::from_raw(promised),
    })
}

fn read_pages(epoch: u64, read_point: u64, needed: Position) -> Request {
    let relation = RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    };
    Request::ReadPages {
        segment: id(1),
        epoch: Epoch::from_raw(epoch),
        read_point: lsn(read_point),
        needed,
        first: relation.fork(0).page(0),
        count: 1,
    }
}

/// Ends of sixty flushes of eight KiB, and the LSN that many of them further on.
const FLUSH: u64 = 8 << 10;

fn long_flushes() -> Vec<u64> {
    (1..=60).map(|flush| flush * FLUSH).collect()
}

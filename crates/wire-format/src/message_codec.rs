//! Requests and greetings as bytes. The layout is in `docs/formats/wire.md`.

use bytes::Bytes;
use timeline::{Branch, Path};
use units::{ClusterId, GroupId, Position, SegmentId, SegmentKind, VolumeId, Zone};

use crate::codec::{CodecError, Reader, Writer};
use crate::frame::PROTOCOL_VERSION;
use crate::log::LogAsked;
use crate::message::{Hello, HelloAnswer, Member, Request};
use crate::versions::VersionCursor;
use crate::{CatalogKey, EncodedBatch};

const CREATE_SEGMENT: u8 = 1;
const PROMISE: u8 = 2;
const INSTALL: u8 = 3;
const APPEND: u8 = 4;
const ANNOUNCE: u8 = 5;
const FETCH_BATCHES: u8 = 6;
const READ_PAGES: u8 = 7;
const SCAN_CATALOG: u8 = 8;
const READ_FLUSH_HEADER: u8 = 9;
const STATUS: u8 = 10;
const REMOVE_SEGMENT: u8 = 11;
const FETCH_VERSIONS: u8 = 12;
const TELL_STANDING: u8 = 13;
const READ_LOG: u8 = 14;
const SCRUB: u8 = 16;

#[allow(missing_docs, reason = "one function an element, named after it")]
impl Writer {
    pub fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    pub fn position(&mut self, position: Position) {
        self.epoch(position.epoch);
        self.lsn(position.lsn);
    }

    pub fn path(&mut self, path: &Path) {
        self.count(path.branches().len());
        for branch in path.branches() {
            self.epoch(branch.epoch);
            self.position(branch.parent);
        }
    }

    pub fn kind(&mut self, kind: SegmentKind) {
        self.u8(match kind {
            SegmentKind::Full => 0,
            SegmentKind::Tail => 1,
        });
    }

    pub fn members(&mut self, members: &[Member]) {
        self.count(members.len());
        for member in members {
            self.raw(&member.segment.bytes());
            self.text(&member.node);
            self.text(&member.address);
            let zone = Zone::ALL.iter().position(|zone| *zone == member.zone);
            self.u8(zone.expect("every zone is among all zones") as u8);
            self.kind(member.kind);
        }
    }
}

#[allow(missing_docs, reason = "one function an element, named after it")]
impl Reader {
    pub fn text(&mut self, of: &'static str) -> Result<String, CodecError> {
        let bytes = self.bytes(of)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| CodecError::Malformed(of))?;
        Ok(text.to_owned())
    }

    pub fn position(&mut self, of: &'static str) -> Result<Position, CodecError> {
        Ok(Position::new(self.epoch(of)?, self.lsn(of)?))
    }

    pub fn segment(&mut self) -> Result<SegmentId, CodecError> {
        Ok(SegmentId::from_bytes(self.array("segment")?))
    }

    pub fn kind(&mut self) -> Result<SegmentKind, CodecError> {
        match self.u8("kind of segment")? {
            0 => Ok(SegmentKind::Full),
            1 => Ok(SegmentKind::Tail),
            _ => Err(CodecError::Malformed("kind of segment")),
        }
    }

    pub fn path(&mut self) -> Result<Path, CodecError> {
        let branches = (0..self.count(3, "path")?)
            .map(|_| {
                Ok(Branch {
                    epoch: self.epoch("path")?,
                    parent: self.position("path")?,
                })
            })
            .collect::<Result<_, CodecError>>()?;
        Path::new(branches).map_err(|_| CodecError::Malformed("path"))
    }

    pub fn members(&mut self) -> Result<Vec<Member>, CodecError> {
        (0..self.count(20, "members")?)
            .map(|_| {
                Ok(Member {
                    segment: self.segment()?,
                    node: self.text("node")?,
                    address: self.text("address")?,
                    zone: *Zone::ALL
                        .get(usize::from(self.u8("zone")?))
                        .ok_or(CodecError::Malformed("zone"))?,
                    kind: self.kind()?,
                })
            })
            .collect()
    }
}

impl Hello {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.varint(u64::from(self.version));
        out.raw(&self.cluster.bytes());
        out.raw(&self.secret);
        out.text(&self.name);
    }

    pub(crate) fn read(mut input: Reader) -> Result<Hello, CodecError> {
        let version = input.u32("protocol version")?;
        if version != PROTOCOL_VERSION {
            return Ok(Hello {
                version,
                cluster: ClusterId::from_bytes([0; 16]),
                secret: [0; 32],
                name: String::new(),
            });
        }
        let hello = Hello {
            version,
            cluster: ClusterId::from_bytes(input.array("cluster")?),
            secret: input.array("secret")?,
            name: input.text("caller's name")?,
        };
        input.finish()?;
        Ok(hello)
    }
}

impl HelloAnswer {
    pub(crate) fn write(&self, out: &mut Writer) {
        let (welcome, text) = match self {
            HelloAnswer::Welcome { name } => (true, name),
            HelloAnswer::Refused { reason } => (false, reason),
        };
        out.bool(welcome);
        out.text(text);
    }

    pub(crate) fn read(input: &mut Reader) -> Result<HelloAnswer, CodecError> {
        Ok(if input.bool("answer")? {
            HelloAnswer::Welcome {
                name: input.text("node's name")?,
            }
        } else {
            HelloAnswer::Refused {
                reason: input.text("reason")?,
            }
        })
    }
}

impl Request {
    /// The segment that is asked; `None` for a question to the node.
    pub fn segment(&self) -> Option<SegmentId> {
        match self {
            Request::CreateSegment { segment, .. }
            | Request::Promise { segment, .. }
            | Request::Install { segment, .. }
            | Request::Append { segment, .. }
            | Request::Announce { segment, .. }
            | Request::RemoveSegment { segment, .. }
            | Request::FetchVersions { segment, .. }
            | Request::TellStanding { segment }
            | Request::FetchBatches { segment, .. }
            | Request::ReadPages { segment, .. }
            | Request::ScanCatalog { segment, .. }
            | Request::ReadLog { segment, .. }
            | Request::ReadFlushHeader { segment, .. } => Some(*segment),
            Request::Status | Request::Scrub => None,
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.u8(self.kind());
        if let Some(segment) = self.segment() {
            out.raw(&segment.bytes());
        }
        match self {
            Request::CreateSegment {
                volume,
                group,
                segment: _,
                kind,
                epoch,
                path,
                members,
                copy_from,
            } => {
                out.raw(&volume.bytes());
                out.varint(u64::from(group.raw()));
                out.kind(*kind);
                out.epoch(*epoch);
                out.path(path);
                out.members(members);
                out.members(copy_from);
            }
            Request::RemoveSegment { epoch, .. } => out.epoch(*epoch),
            Request::FetchVersions {
                path,
                after,
                from,
                until,
                bytes_max,
                ..
            } => {
                out.path(path);
                out.position(*after);
                from.write(out);
                out.bytes(until);
                out.varint(u64::from(*bytes_max));
            }
            Request::Promise { epoch, path, above, .. } => {
                out.epoch(*epoch);
                out.path(path);
                out.position(*above);
            }
            Request::Install {
                epoch, path, members, ..
            } => {
                out.epoch(*epoch);
                out.path(path);
                out.members(members);
            }
            Request::Append { epoch, durable, .. } => {
                out.epoch(*epoch);
                out.position(*durable);
            }
            Request::Announce {
                epoch,
                durable,
                floor,
                all_complete,
                on_every_full,
                ..
            } => {
                out.epoch(*epoch);
                [durable, floor, all_complete, on_every_full]
                    .into_iter()
                    .for_each(|position| out.position(*position));
            }
            Request::FetchBatches {
                path,
                after,
                through,
                bytes_max,
                ..
            } => {
                out.path(path);
                out.position(*after);
                out.position(*through);
                out.varint(u64::from(*bytes_max));
            }
            Request::ReadPages {
                epoch,
                read_point,
                needed,
                first,
                count,
                ..
            } => {
                out.epoch(*epoch);
                out.lsn(*read_point);
                out.position(*needed);
                out.page_key(*first);
                out.varint(u64::from(*count));
            }
            Request::ScanCatalog {
                epoch,
                read_point,
                needed,
                after,
                entries_max,
                ..
            } => {
                out.epoch(*epoch);
                out.lsn(*read_point);
                out.position(*needed);
                out.bytes(&after.as_ref().map(CatalogKey::encode).unwrap_or_default());
                out.varint(u64::from(*entries_max));
            }
            Request::ReadFlushHeader { epoch, at, .. } => {
                out.epoch(*epoch);
                out.lsn(*at);
            }
            Request::ReadLog { asked, .. } => asked.write(out),
            Request::Status | Request::Scrub | Request::TellStanding { .. } => {}
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Request::CreateSegment { .. } => CREATE_SEGMENT,
            Request::Promise { .. } => PROMISE,
            Request::Install { .. } => INSTALL,
            Request::Append { .. } => APPEND,
            Request::Announce { .. } => ANNOUNCE,
            Request::FetchBatches { .. } => FETCH_BATCHES,
            Request::ReadPages { .. } => READ_PAGES,
            Request::ScanCatalog { .. } => SCAN_CATALOG,
            Request::ReadFlushHeader { .. } => READ_FLUSH_HEADER,
            Request::Status => STATUS,
            Request::Scrub => SCRUB,
            Request::RemoveSegment { .. } => REMOVE_SEGMENT,
            Request::FetchVersions { .. } => FETCH_VERSIONS,
            Request::TellStanding { .. } => TELL_STANDING,
            Request::ReadLog { .. } => READ_LOG,
        }
    }

    pub(crate) fn read(input: &mut Reader, attachment: Bytes) -> Result<Request, CodecError> {
        let kind = input.u8("request")?;
        if kind != APPEND && !attachment.is_empty() {
            return Err(CodecError::Trailing(attachment.len()));
        }
        match kind {
            STATUS => return Ok(Request::Status),
            SCRUB => return Ok(Request::Scrub),
            _ => {}
        }
        let segment = input.segment()?;
        Ok(match kind {
            CREATE_SEGMENT => Request::CreateSegment {
                segment,
                volume: VolumeId::from_bytes(input.array("volume")?),
                group: GroupId::from_raw(input.u32("group")?),
                kind: input.kind()?,
                epoch: input.epoch("epoch")?,
                path: input.path()?,
                members: input.members()?,
                copy_from: input.members()?,
            },
            REMOVE_SEGMENT => Request::RemoveSegment {
                segment,
                epoch: input.epoch("epoch")?,
            },
            FETCH_VERSIONS => Request::FetchVersions {
                segment,
                path: input.path()?,
                after: input.position("first version")?,
                from: VersionCursor::read(input)?,
                until: input.bytes("last key")?,
                bytes_max: input.u32("limit")?,
            },
            TELL_STANDING => Request::TellStanding { segment },
            READ_LOG => Request::ReadLog {
                segment,
                asked: LogAsked::read(input)?,
            },
            PROMISE => Request::Promise {
                segment,
                epoch: input.epoch("epoch")?,
                path: input.path()?,
                above: input.position("position")?,
            },
            INSTALL => Request::Install {
                segment,
                epoch: input.epoch("epoch")?,
                path: input.path()?,
                members: input.members()?,
            },
            APPEND => Request::Append {
                segment,
                epoch: input.epoch("epoch")?,
                durable: input.position("durable position")?,
                batch: EncodedBatch::decode(attachment)?,
            },
            ANNOUNCE => Request::Announce {
                segment,
                epoch: input.epoch("epoch")?,
                durable: input.position("durable position")?,
                floor: input.position("floor")?,
                all_complete: input.position("complete position")?,
                on_every_full: input.position("complete position")?,
            },
            FETCH_BATCHES => Request::FetchBatches {
                segment,
                path: input.path()?,
                after: input.position("first batch")?,
                through: input.position("last batch")?,
                bytes_max: input.u32("limit")?,
            },
            READ_PAGES => Request::ReadPages {
                segment,
                epoch: input.epoch("epoch")?,
                read_point: input.lsn("read point")?,
                needed: input.position("needed position")?,
                first: input.page_key("page")?,
                count: input.u32("page count")?,
            },
            SCAN_CATALOG => Request::ScanCatalog {
                segment,
                epoch: input.epoch("epoch")?,
                read_point: input.lsn("read point")?,
                needed: input.position("needed position")?,
                after: match input.bytes("catalog key")? {
                    key if key.is_empty() => None,
                    key => Some(CatalogKey::decode(&key)?),
                },
                entries_max: input.u32("limit")?,
            },
            READ_FLUSH_HEADER => Request::ReadFlushHeader {
                segment,
                epoch: input.epoch("epoch")?,
                at: input.lsn("position")?,
            },
            _ => return Err(CodecError::Malformed("request kind")),
        })
    }
}

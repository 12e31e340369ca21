//! Answers as bytes. The layout is in `docs/formats/wire.md`.

use bytes::Bytes;
use units::{GroupId, VolumeId};

use crate::EncodedBatch;
use crate::batch_codec::{decode_entry, encode_entry};
use crate::codec::{CodecError, Reader, Writer};
use crate::log::LogPart;
use crate::message::{HeldFlush, NodeStatus, Promised, Refusal, Response, ScrubStatus, SegmentStatus, Standing};
use crate::versions::Versions;

const SEGMENT_CREATED: u8 = 1;
const PROMISED: u8 = 2;
const INSTALLED: u8 = 3;
const APPENDED: u8 = 4;
const ANNOUNCED: u8 = 5;
const BATCHES: u8 = 6;
const PAGES: u8 = 7;
const CATALOG: u8 = 8;
const FLUSH_HEADER: u8 = 9;
const STATUS: u8 = 10;
const REFUSED: u8 = 11;
const SEGMENT_REMOVED: u8 = 12;
const VERSIONS: u8 = 13;
const STANDING: u8 = 14;
const LOG: u8 = 15;

impl Response {
    pub(crate) fn write(&self, out: &mut Writer) {
        match self {
            Response::SegmentCreated => out.u8(SEGMENT_CREATED),
            Response::SegmentRemoved => out.u8(SEGMENT_REMOVED),
            Response::Versions(versions) => {
                out.u8(VERSIONS);
                versions.write(out);
            }
            Response::Standing(standing) => {
                out.u8(STANDING);
                standing.write(out);
            }
            Response::Log(part) => {
                out.u8(LOG);
                part.write(out);
            }
            Response::Promised(promised) => {
                out.u8(PROMISED);
                promised.write(out);
            }
            Response::Installed {
                segment,
                complete,
                vouches,
            } => {
                out.u8(INSTALLED);
                out.raw(&segment.bytes());
                out.position(*complete);
                out.bool(*vouches);
            }
            Response::Appended {
                segment,
                epoch,
                complete,
            } => {
                out.u8(APPENDED);
                out.raw(&segment.bytes());
                out.epoch(*epoch);
                out.position(*complete);
            }
            Response::Announced {
                segment,
                complete,
                vouches,
            } => {
                out.u8(ANNOUNCED);
                out.raw(&segment.bytes());
                out.position(*complete);
                out.bool(*vouches);
            }
            Response::Batches(batches) => {
                out.u8(BATCHES);
                out.count(batches.len());
                batches.iter().for_each(|batch| out.bytes(batch.bytes()));
            }
            Response::Pages(pages) => {
                out.u8(PAGES);
                out.count(pages.len());
                pages.iter().for_each(|page| out.raw(page.bytes()));
            }
            Response::Catalog(entries) => {
                out.u8(CATALOG);
                out.count(entries.len());
                for entry in entries {
                    encode_entry(out, entry, units::Lsn::ZERO);
                }
            }
            Response::FlushHeader {
                end,
                previous,
                boundary,
                marks,
            } => {
                out.u8(FLUSH_HEADER);
                out.position(*end);
                out.position(*previous);
                out.lsn(*boundary);
                out.bytes(marks);
            }
            Response::Status(status) => {
                out.u8(STATUS);
                status.write(out);
            }
            Response::Refused(refusal) => {
                out.u8(REFUSED);
                refusal.write(out);
            }
        }
    }

    pub(crate) fn read(input: &mut Reader, attachment: Bytes) -> Result<Response, CodecError> {
        Ok(match input.u8("response")? {
            SEGMENT_CREATED => Response::SegmentCreated,
            SEGMENT_REMOVED => Response::SegmentRemoved,
            VERSIONS => Response::Versions(Versions::read(input, attachment)?),
            STANDING => Response::Standing(Standing::read(input)?),
            LOG => Response::Log(LogPart::read(input)?),
            PROMISED => Response::Promised(Promised::read(input)?),
            INSTALLED => Response::Installed {
                segment: input.segment()?,
                complete: input.position("complete position")?,
                vouches: input.bool("vote")?,
            },
            APPENDED => Response::Appended {
                segment: input.segment()?,
                epoch: input.epoch("epoch")?,
                complete: input.position("complete position")?,
            },
            ANNOUNCED => Response::Announced {
                segment: input.segment()?,
                complete: input.position("complete position")?,
                vouches: input.bool("vote")?,
            },
            BATCHES => Response::Batches(
                (0..input.count(1, "batches")?)
                    .map(|_| EncodedBatch::decode(input.bytes("batch")?))
                    .collect::<Result<_, CodecError>>()?,
            ),
            PAGES => Response::Pages(
                (0..input.count(units::PAGE_BYTES, "pages")?)
                    .map(|_| input.page())
                    .collect::<Result<_, CodecError>>()?,
            ),
            CATALOG => Response::Catalog(
                (0..input.count(4, "catalog entries")?)
                    .map(|_| decode_entry(input, units::Lsn::ZERO))
                    .collect::<Result<_, CodecError>>()?,
            ),
            FLUSH_HEADER => Response::FlushHeader {
                end: input.position("flush")?,
                previous: input.position("previous flush")?,
                boundary: input.lsn("boundary")?,
                marks: input.bytes("marks")?,
            },
            STATUS => Response::Status(NodeStatus::read(input)?),
            REFUSED => Response::Refused(Refusal::read(input)?),
            _ => return Err(CodecError::Malformed("response kind")),
        })
    }
}

impl Promised {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.segment.bytes());
        out.epoch(self.epoch);
        out.bool(self.vouches);
        out.path(&self.path);
        out.position(self.complete);
        out.position(self.durable);
        out.count(self.held.len());
        for flush in &self.held {
            out.position(flush.end);
            out.epoch(flush.previous.epoch);
            out.lsn_near(flush.previous.lsn, flush.end.lsn);
            out.lsn_near(flush.boundary, flush.end.lsn);
            out.count(flush.groups.len());
            flush.groups.iter().for_each(|group| out.varint(u64::from(group.raw())));
        }
    }

    fn read(input: &mut Reader) -> Result<Promised, CodecError> {
        Ok(Promised {
            segment: input.segment()?,
            epoch: input.epoch("epoch")?,
            vouches: input.bool("vote")?,
            path: input.path()?,
            complete: input.position("complete position")?,
            durable: input.position("durable position")?,
            held: (0..input.count(6, "held flushes")?)
                .map(|_| {
                    let end = input.position("held flush")?;
                    let previous_epoch = input.epoch("held flush")?;
                    Ok(HeldFlush {
                        end,
                        previous: units::Position::new(previous_epoch, input.lsn_near(end.lsn, "held flush")?),
                        boundary: input.lsn_near(end.lsn, "held flush")?,
                        groups: (0..input.count(1, "groups")?)
                            .map(|_| Ok(GroupId::from_raw(input.u32("group")?)))
                            .collect::<Result<_, CodecError>>()?,
                    })
                })
                .collect::<Result<_, CodecError>>()?,
        })
    }
}

impl Standing {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.segment.bytes());
        out.path(&self.path);
        for position in [
            self.complete,
            self.durable,
            self.floor,
            self.all_complete,
            self.on_every_full,
        ] {
            out.position(position);
        }
    }

    fn read(input: &mut Reader) -> Result<Standing, CodecError> {
        Ok(Standing {
            segment: input.segment()?,
            path: input.path()?,
            complete: input.position("complete position")?,
            durable: input.position("durable position")?,
            floor: input.position("floor")?,
            all_complete: input.position("complete position")?,
            on_every_full: input.position("complete position")?,
        })
    }
}

impl NodeStatus {
    fn write(&self, out: &mut Writer) {
        out.count(self.segments.len());
        for segment in &self.segments {
            out.raw(&segment.segment.bytes());
            out.raw(&segment.volume.bytes());
            out.varint(u64::from(segment.group.raw()));
            out.kind(segment.kind);
            out.epoch(segment.promised);
            out.position(segment.complete);
            out.position(segment.durable);
            out.position(segment.floor);
            out.varint(segment.layer_bytes);
            out.bool(segment.vouches);
            out.bool(segment.stranded);
            out.bool(segment.copying);
            out.position(segment.copied_through);
            out.varint(segment.copied_bytes);
            out.varint(segment.copied_bytes_expected);
            out.bool(segment.mending);
        }
        out.varint(self.journal_bytes);
        out.varint(self.memory_table_bytes);
        out.varint(self.pages_read);
        out.bool(self.stopped.is_some());
        if let Some(stopped) = &self.stopped {
            out.text(stopped);
        }
        self.scrub.write(out);
    }

    fn read(input: &mut Reader) -> Result<NodeStatus, CodecError> {
        Ok(NodeStatus {
            segments: (0..input.count(49, "segments")?)
                .map(|_| {
                    Ok(SegmentStatus {
                        segment: input.segment()?,
                        volume: VolumeId::from_bytes(input.array("volume")?),
                        group: GroupId::from_raw(input.u32("group")?),
                        kind: input.kind()?,
                        promised: input.epoch("promise")?,
                        complete: input.position("complete position")?,
                        durable: input.position("durable position")?,
                        floor: input.position("floor")?,
                        layer_bytes: input.varint("layer bytes")?,
                        vouches: input.bool("vote")?,
                        stranded: input.bool("stranded")?,
                        copying: input.bool("copying")?,
                        copied_through: input.position("copied position")?,
                        copied_bytes: input.varint("copied bytes")?,
                        copied_bytes_expected: input.varint("copied bytes")?,
                        mending: input.bool("mending")?,
                    })
                })
                .collect::<Result<_, CodecError>>()?,
            journal_bytes: input.varint("journal bytes")?,
            memory_table_bytes: input.varint("table bytes")?,
            pages_read: input.varint("pages read")?,
            stopped: if input.bool("stopped")? {
                Some(input.text("stopped")?)
            } else {
                None
            },
            scrub: ScrubStatus::read(input)?,
        })
    }
}

impl ScrubStatus {
    fn write(&self, out: &mut Writer) {
        for number in [self.asked, self.ended, self.ended_at] {
            out.varint(number);
        }
        out.bool(self.is_under_way);
        for number in [self.bytes, self.bytes_expected, self.damaged, self.mended] {
            out.varint(number);
        }
        out.bool(self.failed.is_some());
        if let Some(failed) = &self.failed {
            out.text(failed);
        }
    }

    fn read(input: &mut Reader) -> Result<ScrubStatus, CodecError> {
        Ok(ScrubStatus {
            asked: input.varint("pass")?,
            ended: input.varint("pass")?,
            ended_at: input.varint("time")?,
            is_under_way: input.bool("pass")?,
            bytes: input.varint("bytes read")?,
            bytes_expected: input.varint("bytes")?,
            damaged: input.varint("damaged files")?,
            mended: input.varint("mended files")?,
            failed: if input.bool("failed")? {
                Some(input.text("failed")?)
            } else {
                None
            },
        })
    }
}

impl Refusal {
    fn write(&self, out: &mut Writer) {
        match self {
            Refusal::StaleEpoch { asked, promised } => {
                out.u8(1);
                out.epoch(*asked);
                out.epoch(*promised);
            }
            Refusal::UnknownSegment { segment } => {
                out.u8(2);
                out.raw(&segment.bytes());
            }
            Refusal::UnknownTimeline { epoch } => {
                out.u8(3);
                out.epoch(*epoch);
            }
            Refusal::NotComplete { complete, needed } => {
                out.u8(4);
                out.position(*complete);
                out.position(*needed);
            }
            Refusal::BelowFloor { read_point, floor } => {
                out.u8(5);
                out.lsn(*read_point);
                out.position(*floor);
            }
            Refusal::LogCollected { oldest } => {
                out.u8(6);
                out.position(*oldest);
            }
            Refusal::Damaged { what } => {
                out.u8(7);
                out.text(what);
            }
            Refusal::Stopped { what } => {
                out.u8(8);
                out.text(what);
            }
            Refusal::Redo { what } => {
                out.u8(9);
                out.text(what);
            }
            Refusal::Malformed { what } => {
                out.u8(10);
                out.text(what);
            }
            Refusal::LogOnly => out.u8(11),
        }
    }

    fn read(input: &mut Reader) -> Result<Refusal, CodecError> {
        Ok(match input.u8("refusal")? {
            1 => Refusal::StaleEpoch {
                asked: input.epoch("epoch")?,
                promised: input.epoch("epoch")?,
            },
            2 => Refusal::UnknownSegment {
                segment: input.segment()?,
            },
            3 => Refusal::UnknownTimeline {
                epoch: input.epoch("epoch")?,
            },
            4 => Refusal::NotComplete {
                complete: input.position("complete position")?,
                needed: input.position("needed position")?,
            },
            5 => Refusal::BelowFloor {
                read_point: input.lsn("read point")?,
                floor: input.position("floor")?,
            },
            6 => Refusal::LogCollected {
                oldest: input.position("oldest batch")?,
            },
            7 => Refusal::Damaged {
                what: input.text("damage")?,
            },
            8 => Refusal::Stopped {
                what: input.text("stop")?,
            },
            9 => Refusal::Redo {
                what: input.text("redo")?,
            },
            10 => Refusal::Malformed {
                what: input.text("request")?,
            },
            11 => Refusal::LogOnly,
            _ => return Err(CodecError::Malformed("refusal")),
        })
    }
}

//! The log as a segment gives it again: records and flush headers between two positions.

use timeline::Path;
use units::{GroupId, Lsn};

use crate::batch_codec::{decode_item, encode_item};
use crate::codec::{CodecError, Reader, Writer};
use crate::{FlushHeader, Item};

/// What of a group's log is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogAsked {
    /// The history that is read along.
    pub path: Path,
    /// Only what ends above this.
    pub after: Lsn,
    /// So many bytes of the first record above `after` are known already.
    pub offset: u32,
    /// Only what ends at or below this, the end of a flush.
    pub through: Lsn,
    /// About so many bytes in one answer.
    pub bytes_max: u32,
}

/// A part of a group's log.
#[derive(Clone, PartialEq, Debug)]
pub struct LogPart {
    /// Everything that was asked for is in here up to this position. Lower than what was asked for: ask again from here on.
    pub through: Lsn,
    /// Records, in LSN order; a piece at the beginning if a part of the record was known already, and one at the end if the
    /// record is longer than the answer may be.
    pub items: Vec<Item>,
    /// Flushes that end up to `through`, in order; none where the group is not group 0.
    pub flushes: Vec<LoggedFlush>,
}

/// What is known of a flush, but for its catalog entries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoggedFlush {
    /// Its end.
    pub end: Lsn,
    /// The last record end at or below it.
    pub boundary: Lsn,
    /// Wall clock of the writer, in microseconds since 1970.
    pub written_at_us: u64,
    /// Every group that has a part in it.
    pub groups: Vec<GroupId>,
    /// Flags of WAL page headers that are unusual.
    pub page_flags: Vec<(Lsn, u16)>,
}

impl LoggedFlush {
    /// Of the flush that ends at `end`.
    pub fn of(end: Lsn, header: &FlushHeader) -> LoggedFlush {
        LoggedFlush {
            end,
            boundary: header.boundary,
            written_at_us: header.written_at_us,
            groups: header.groups.clone(),
            page_flags: header.page_flags.clone(),
        }
    }

    /// Appends all but its end.
    pub fn write(&self, out: &mut Writer) {
        out.lsn_near(self.boundary, self.end);
        out.varint(self.written_at_us);
        out.count(self.groups.len());
        self.groups.iter().for_each(|group| out.varint(u64::from(group.raw())));
        out.count(self.page_flags.len());
        for (page, flags) in &self.page_flags {
            out.lsn_near(*page, self.end);
            out.varint(u64::from(*flags));
        }
    }

    /// The inverse.
    pub fn read(input: &mut Reader, end: Lsn) -> Result<LoggedFlush, CodecError> {
        Ok(LoggedFlush {
            end,
            boundary: input.lsn_near(end, "boundary")?,
            written_at_us: input.varint("time")?,
            groups: (0..input.count(1, "groups")?)
                .map(|_| Ok(GroupId::from_raw(input.u32("group")?)))
                .collect::<Result<_, CodecError>>()?,
            page_flags: (0..input.count(2, "page flags")?)
                .map(|_| Ok((input.lsn_near(end, "page")?, input.u16("page flags")?)))
                .collect::<Result<_, CodecError>>()?,
        })
    }
}

impl LogAsked {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.path(&self.path);
        out.lsn(self.after);
        out.varint(u64::from(self.offset));
        out.lsn(self.through);
        out.varint(u64::from(self.bytes_max));
    }

    pub(crate) fn read(input: &mut Reader) -> Result<LogAsked, CodecError> {
        Ok(LogAsked {
            path: input.path()?,
            after: input.lsn("first record")?,
            offset: input.u32("offset")?,
            through: input.lsn("last record")?,
            bytes_max: input.u32("limit")?,
        })
    }
}

impl LogPart {
    pub(crate) fn write(&self, out: &mut Writer) {
        out.lsn(self.through);
        out.count(self.items.len());
        let mut base = self.through;
        for item in &self.items {
            base = encode_item(out, item, base);
        }
        out.count(self.flushes.len());
        for flush in &self.flushes {
            out.lsn_near(flush.end, self.through);
            flush.write(out);
        }
    }

    pub(crate) fn read(input: &mut Reader) -> Result<LogPart, CodecError> {
        let through = input.lsn("end of the log")?;
        let count = input.count(2, "items")?;
        let mut items = Vec::with_capacity(count);
        let mut base = through;
        for _ in 0..count {
            let (item, next) = decode_item(input, base)?;
            items.push(item);
            base = next;
        }
        let flushes = (0..input.count(5, "flushes")?)
            .map(|_| {
                let end = input.lsn_near(through, "flush")?;
                LoggedFlush::read(input, end)
            })
            .collect::<Result<_, CodecError>>()?;
        Ok(LogPart {
            through,
            items,
            flushes,
        })
    }
}

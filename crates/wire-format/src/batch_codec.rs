//! Batches as bytes: encoded once by the writer, then only passed on: to six segments, to their journals, to peers.
//!
//! The layout is in `docs/formats/wire.md`. Positions of records are written as distances, so that a record costs three to
//! five bytes of framing.

use bytes::Bytes;
use units::{GroupId, Lsn, VolumeId};

use crate::codec::{CodecError, Reader, Writer};
use crate::{Batch, CatalogEntry, CatalogKey, Elsewhere, FlushHeader, Item};

/// Version of the batch format, in flight and in journals.
pub const BATCH_VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;
const RECORD: u64 = 0;
const FRAGMENT: u64 = 1;
const IMAGE: u64 = 2;
const KIND_BITS: u32 = 2;
/// What a batch has beside its items.
const HAS_HEADER: u8 = 1;
const HAS_ELSEWHERE: u8 = 2;

impl Batch {
    /// Its bytes, checksum included.
    pub fn encode(&self) -> Bytes {
        let size: usize = self.items.iter().map(item_bytes).sum();
        let mut out = Writer::with_capacity(size + 256);
        out.u8(BATCH_VERSION);
        out.raw(&self.volume.bytes());
        out.varint(u64::from(self.group.raw()));
        out.epoch(self.epoch);
        out.lsn(self.end);
        out.epoch(self.previous.epoch);
        out.lsn_near(self.previous.lsn, self.end);
        let header = if self.header.is_some() { HAS_HEADER } else { 0 };
        let elsewhere = if self.elsewhere.is_empty() { 0 } else { HAS_ELSEWHERE };
        out.u8(header | elsewhere);
        if let Some(header) = &self.header {
            encode_header(&mut out, header, self.end);
        }
        if !self.elsewhere.is_empty() {
            encode_elsewhere(&mut out, &self.elsewhere, self.end);
        }
        out.count(self.items.len());
        let mut base = self.end;
        for item in &self.items {
            base = encode_item(&mut out, item, base);
        }
        let checksum = crc32c::crc32c(out.written());
        out.raw(&checksum.to_le_bytes());
        out.finish_to_keep()
    }

    /// The batch in `bytes`; its records are slices of them.
    pub fn decode(bytes: Bytes) -> Result<Batch, CodecError> {
        let mut body = bytes;
        let at = body
            .len()
            .checked_sub(CHECKSUM_BYTES)
            .ok_or(CodecError::Short("batch"))?;
        let checksum = body.split_off(at);
        let found = u32::from_le_bytes([checksum[0], checksum[1], checksum[2], checksum[3]]);
        let computed = crc32c::crc32c(&body);
        if found != computed {
            return Err(CodecError::Checksum { found, computed });
        }
        let mut input = Reader::new(body);
        let version = input.u8("batch version")?;
        if version != BATCH_VERSION {
            return Err(CodecError::Version {
                found: version,
                spoken: BATCH_VERSION,
            });
        }
        let volume = VolumeId::from_bytes(input.array("volume")?);
        let group = GroupId::from_raw(input.u32("group")?);
        let epoch = input.epoch("batch epoch")?;
        let end = input.lsn("batch end")?;
        let previous_epoch = input.epoch("previous batch")?;
        let previous = units::Position::new(previous_epoch, input.lsn_near(end, "previous batch")?);
        let has = input.u8("batch flags")?;
        if has & !(HAS_HEADER | HAS_ELSEWHERE) != 0 {
            return Err(CodecError::Malformed("batch flags"));
        }
        let header = if has & HAS_HEADER != 0 {
            Some(decode_header(&mut input, end)?)
        } else {
            None
        };
        let elsewhere = if has & HAS_ELSEWHERE != 0 {
            decode_elsewhere(&mut input, end)?
        } else {
            Vec::new()
        };
        let count = input.count(2, "items")?;
        let mut items = Vec::with_capacity(count);
        let mut base = end;
        for _ in 0..count {
            let (item, next) = decode_item(&mut input, base)?;
            items.push(item);
            base = next;
        }
        input.finish()?;
        Ok(Batch {
            volume,
            group,
            epoch,
            end,
            previous,
            header,
            items,
            elsewhere,
        })
    }
}

/// About what an item takes, and rather more.
fn item_bytes(item: &Item) -> usize {
    match item {
        Item::Record { bytes, .. } => bytes.len() + 8,
        Item::Fragment { bytes, .. } => bytes.len() + 24,
        Item::Image { .. } => units::PAGE_BYTES + 32,
    }
}

fn encode_header(out: &mut Writer, header: &FlushHeader, end: Lsn) {
    out.count(header.groups.len());
    header
        .groups
        .iter()
        .for_each(|group| out.varint(u64::from(group.raw())));
    out.lsn_near(header.boundary, end);
    out.varint(header.written_at_us);
    out.bytes(&header.marks);
    out.count(header.catalog.len());
    header.catalog.iter().for_each(|entry| encode_entry(out, entry, end));
    out.count(header.page_flags.len());
    for (page, flags) in &header.page_flags {
        out.lsn_near(*page, end);
        out.varint(u64::from(*flags));
    }
}

fn decode_header(input: &mut Reader, end: Lsn) -> Result<FlushHeader, CodecError> {
    let groups = (0..input.count(1, "groups")?)
        .map(|_| Ok(GroupId::from_raw(input.u32("group")?)))
        .collect::<Result<_, CodecError>>()?;
    let boundary = input.lsn_near(end, "boundary")?;
    let written_at_us = input.varint("time")?;
    let marks = input.bytes("marks")?;
    let catalog = (0..input.count(4, "catalog entries")?)
        .map(|_| decode_entry(input, end))
        .collect::<Result<_, CodecError>>()?;
    let page_flags = (0..input.count(2, "page flags")?)
        .map(|_| Ok((input.lsn_near(end, "page")?, input.u16("page flags")?)))
        .collect::<Result<_, CodecError>>()?;
    Ok(FlushHeader {
        groups,
        boundary,
        written_at_us,
        marks,
        catalog,
        page_flags,
    })
}

fn encode_elsewhere(out: &mut Writer, elsewhere: &[Elsewhere], end: Lsn) {
    out.count(elsewhere.len());
    for record in elsewhere {
        out.lsn_near(record.end, end);
        out.count(record.touches.len());
        record.touches.iter().for_each(|at| out.varint(u64::from(*at)));
    }
}

/// None or none of a record would not have been written.
fn decode_elsewhere(input: &mut Reader, end: Lsn) -> Result<Vec<Elsewhere>, CodecError> {
    let malformed = CodecError::Malformed("pages of other groups");
    let elsewhere: Vec<Elsewhere> = (0..input.count(2, "records of other groups")?)
        .map(|_| {
            let end = input.lsn_near(end, "record of other groups")?;
            let touches: Vec<u32> = (0..input.count(1, "pages of other groups")?)
                .map(|_| input.u32("page of another group"))
                .collect::<Result<_, CodecError>>()?;
            let rise = touches.windows(2).all(|two| two[0] < two[1]);
            (rise && !touches.is_empty())
                .then_some(Elsewhere { end, touches })
                .ok_or(malformed)
        })
        .collect::<Result<_, CodecError>>()?;
    (!elsewhere.is_empty()).then_some(elsewhere).ok_or(malformed)
}

/// A catalog entry, its LSN as the distance from `base`.
pub(crate) fn encode_entry(out: &mut Writer, entry: &CatalogEntry, base: Lsn) {
    out.bytes(&entry.key.encode());
    out.lsn_near(entry.lsn, base);
    out.bool(entry.value.is_some());
    if let Some(value) = &entry.value {
        out.bytes(value);
    }
}

pub(crate) fn decode_entry(input: &mut Reader, base: Lsn) -> Result<CatalogEntry, CodecError> {
    let key = CatalogKey::decode(&input.bytes("catalog key")?)?;
    let lsn = input.lsn_near(base, "catalog entry")?;
    let value = if input.bool("catalog entry")? {
        Some(input.bytes("catalog value")?)
    } else {
        None
    };
    Ok(CatalogEntry { key, lsn, value })
}

pub(crate) fn encode_item(out: &mut Writer, item: &Item, base: Lsn) -> Lsn {
    match item {
        Item::Record { end, bytes } => {
            out.varint((bytes.len() as u64) << KIND_BITS | RECORD);
            out.lsn_near(*end, base);
            out.raw(bytes);
            *end
        }
        Item::Fragment {
            end,
            record_bytes,
            offset,
            bytes,
        } => {
            out.varint((bytes.len() as u64) << KIND_BITS | FRAGMENT);
            out.lsn_near(*end, base);
            out.varint(u64::from(*record_bytes));
            out.varint(u64::from(*offset));
            out.raw(bytes);
            *end
        }
        Item::Image { end, key, page } => {
            out.varint((units::PAGE_BYTES as u64) << KIND_BITS | IMAGE);
            out.lsn_near(*end, base);
            out.page_key(*key);
            out.raw(page.bytes());
            *end
        }
    }
}

pub(crate) fn decode_item(input: &mut Reader, base: Lsn) -> Result<(Item, Lsn), CodecError> {
    let head = input.varint("item")?;
    let length = usize::try_from(head >> KIND_BITS).map_err(|_| CodecError::Malformed("item"))?;
    let end = input.lsn_near(base, "item")?;
    let item = match head & ((1 << KIND_BITS) - 1) {
        RECORD => Item::Record {
            end,
            bytes: input.take(length, "record")?,
        },
        FRAGMENT => {
            let (record_bytes, offset) = (input.u32("fragment")?, input.u32("fragment")?);
            let fits = u64::from(offset) + length as u64 <= u64::from(record_bytes);
            let bytes = input.take(length, "fragment")?;
            fits.then_some(Item::Fragment {
                end,
                record_bytes,
                offset,
                bytes,
            })
            .ok_or(CodecError::Malformed("fragment"))?
        }
        IMAGE if length == units::PAGE_BYTES => Item::Image {
            end,
            key: input.page_key("image")?,
            page: input.page()?,
        },
        _ => return Err(CodecError::Malformed("item")),
    };
    Ok((item, end))
}

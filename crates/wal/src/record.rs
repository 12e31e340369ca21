//! The inside of one record: `XLogRecord` and what follows it (`access/xlogrecord.h`).

use units::{ForkKey, Lsn, PAGE_BYTES, PageKey, RelationKey, fork};

use crate::resource_manager;

/// Bytes of a record's fixed header: `SizeOfXLogRecord`.
pub const RECORD_HEADER_BYTES: usize = 24;
/// Block references have ids 0 to 32: `XLR_MAX_BLOCK_ID`.
const BLOCK_ID_MAX: u8 = 32;
/// The upper four bits of a record's info are the resource manager's.
const OPERATION_MASK: u8 = 0xF0;
const SWITCH: u8 = 0x40;
const OVERWRITE_CONTRECORD: u8 = 0xD0;
const ID_TOPLEVEL_XID: u8 = 252;
const ID_ORIGIN: u8 = 253;
pub(crate) const ID_DATA_LONG: u8 = 254;
pub(crate) const ID_DATA_SHORT: u8 = 255;
const BLOCK_FORK_MASK: u8 = 0x0F;
const BLOCK_HAS_IMAGE: u8 = 0x10;
const BLOCK_HAS_DATA: u8 = 0x20;
const BLOCK_WILL_INIT: u8 = 0x40;
const BLOCK_SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;
const IMAGE_APPLY: u8 = 0x02;
const IMAGE_PGLZ: u8 = 0x04;
const IMAGE_LZ4: u8 = 0x08;
const IMAGE_ZSTD: u8 = 0x10;
const IMAGE_COMPRESSED: u8 = IMAGE_PGLZ | IMAGE_LZ4 | IMAGE_ZSTD;

/// The fixed header: `XLogRecord`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// Length of the whole record.
    pub total_bytes: u32,
    /// The transaction that wrote it, or zero.
    pub transaction: u32,
    /// Where the record before it begins.
    pub previous: Lsn,
    /// Operation (upper four bits, the resource manager's) and flags (lower four).
    pub info: u8,
    /// Which resource manager understands it.
    pub resource_manager: u8,
    /// CRC-32C of the rest of the record, then of the header before this field.
    pub checksum: u32,
}

impl RecordHeader {
    /// The header of `record`; `None` if it is shorter than one.
    #[inline]
    pub fn decode(record: &[u8]) -> Option<RecordHeader> {
        let header: &[u8; RECORD_HEADER_BYTES] = record.first_chunk()?;
        let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        Some(RecordHeader {
            total_bytes: u32_at(0),
            transaction: u32_at(4),
            previous: Lsn::from_raw(u64::from(u32_at(12)) << 32 | u64::from(u32_at(8))),
            info: header[16],
            resource_manager: header[17],
            checksum: u32_at(20),
        })
    }

    /// The operation: the upper four bits of its info.
    pub(crate) fn operation(&self) -> u8 {
        self.info & OPERATION_MASK
    }

    /// `XLOG_SWITCH`: the rest of the WAL file is padding.
    pub fn is_switch(&self) -> bool {
        self.resource_manager == resource_manager::XLOG && self.operation() == SWITCH
    }

    /// `XLOG_OVERWRITE_CONTRECORD`: the record before it was never finished.
    pub(crate) fn is_overwrite(&self) -> bool {
        self.resource_manager == resource_manager::XLOG && self.operation() == OVERWRITE_CONTRECORD
    }
}

/// What the checksum of a record should be: CRC-32C of what follows the header, then of the header up to the checksum.
pub fn record_checksum(record: &[u8]) -> u32 {
    let rest = record.get(RECORD_HEADER_BYTES..).unwrap_or_default();
    let header = record.get(..RECORD_HEADER_BYTES - 4).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c(rest), header)
}

/// The bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It ends before something it announced.
    #[error("it ends inside its {0}")]
    Short(&'static str),
    /// Something contradicts itself.
    #[error("{0}")]
    Contradiction(&'static str),
    /// An id that no part of a record has.
    #[error("unknown part {0}")]
    UnknownPart(u8),
}

/// How a page image is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compression {
    /// Not.
    None,
    /// PostgreSQL's own.
    Pglz,
    /// LZ4 block.
    Lz4,
    /// Zstandard frame.
    Zstd,
}

/// An image of a page, with the hole between its two ends left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockImage<'a> {
    /// The image as it stands in the record.
    pub bytes: &'a [u8],
    /// How it is compressed.
    pub compression: Compression,
    /// Where the hole begins.
    pub hole_offset: u16,
    /// How long it is.
    pub hole_bytes: u16,
    /// Whether redo restores the page from it; otherwise it is there for a consistency check.
    pub apply: bool,
}

/// A page that the record refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockReference<'a> {
    /// Its number within the record; positions have meaning.
    pub id: u8,
    /// Which page.
    pub key: PageKey,
    /// Redo makes the page anew.
    pub will_init: bool,
    /// An image of the page.
    pub image: Option<BlockImage<'a>>,
    /// Data that belongs to this page. Empty also if there is none: see `has_data`.
    pub data: &'a [u8],
    /// Whether there is data, if only of length zero.
    pub has_data: bool,
}

impl BlockReference<'_> {
    /// Redo makes the page from the record alone: no earlier version of it is needed.
    pub fn from_nothing(&self) -> bool {
        self.will_init || self.image.is_some_and(|image| image.apply)
    }
}

/// A record taken apart. Borrows from its bytes; no allocation. Its block references are read anew each time they are asked
/// for: most records have one or two, and room for all that there can be would cost more than everything else.
#[derive(Clone, Copy, Debug)]
pub struct DecodedRecord<'a> {
    /// Its fixed header.
    pub header: RecordHeader,
    /// Its main data.
    pub data: &'a [u8],
    /// The replication origin, if it names one.
    pub origin: Option<u16>,
    /// The top-level transaction, if it is logged with a subtransaction's first record.
    pub toplevel_transaction: Option<u32>,
    blocks: Blocks<'a>,
}

/// Bytes still to be read.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    #[inline]
    fn take(&mut self, bytes: usize, of: &'static str) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(DecodeError::Short(of))?;
        self.0 = rest;
        Ok(taken)
    }

    #[inline]
    fn u8(&mut self, of: &'static str) -> Result<u8, DecodeError> {
        Ok(self.take(1, of)?[0])
    }

    #[inline]
    fn u16(&mut self, of: &'static str) -> Result<u16, DecodeError> {
        let bytes = self.take(2, of)?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    #[inline]
    fn u32(&mut self, of: &'static str) -> Result<u32, DecodeError> {
        let bytes = self.take(4, of)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

/// One of the parts that stand between a record's fixed header and the bytes that they announce.
enum Part<'a> {
    Block(BlockReference<'a>, Announced),
    Origin(u16),
    TopLevel(u32),
    MainData(usize),
}

/// Lengths announced by a block's header; the bytes come behind all headers.
#[derive(Clone, Copy)]
struct Announced {
    image_bytes: usize,
    data_bytes: usize,
}

impl<'a> DecodedRecord<'a> {
    /// Takes `record` apart, as `DecodeXLogRecord` in `access/transam/xlogreader.c` does. The checksum is not looked at.
    pub fn decode(record: &'a [u8]) -> Result<DecodedRecord<'a>, DecodeError> {
        let header = RecordHeader::decode(record).ok_or(DecodeError::Short("header"))?;
        if header.total_bytes as usize != record.len() {
            return Err(DecodeError::Contradiction("its length is not what its header says"));
        }
        let parts = Cursor(&record[RECORD_HEADER_BYTES..]);
        let mut cursor = parts;
        let (mut origin, mut toplevel_transaction) = (None, None);
        let mut announced_bytes = 0;
        let mut main_bytes = 0;
        let mut relation = None;
        let mut blocks_end = 0;
        // Headers come first; they end where exactly the announced bytes are left.
        while announced_bytes < cursor.0.len() {
            match next_part(&mut cursor, &mut relation)? {
                Part::MainData(bytes) => {
                    main_bytes = bytes;
                    announced_bytes += bytes;
                    break;
                }
                Part::Origin(number) => origin = Some(number),
                Part::TopLevel(transaction) => toplevel_transaction = Some(transaction),
                Part::Block(block, lengths) => {
                    if block.id < blocks_end {
                        return Err(DecodeError::Contradiction("its block references are out of order"));
                    }
                    blocks_end = block.id + 1;
                    announced_bytes += lengths.image_bytes + lengths.data_bytes;
                }
            }
        }
        if cursor.0.len() != announced_bytes {
            return Err(DecodeError::Contradiction(
                "its parts are not as long as their headers say",
            ));
        }
        let parts_bytes = parts.0.len() - announced_bytes;
        let (block_bytes, data) = cursor.0.split_at(announced_bytes - main_bytes);
        Ok(DecodedRecord {
            header,
            data,
            origin,
            toplevel_transaction,
            blocks: Blocks {
                parts: Cursor(&parts.0[..parts_bytes]),
                bytes: Cursor(block_bytes),
                relation: None,
            },
        })
    }

    /// The operation: the upper four bits of the header's info.
    #[inline]
    pub fn operation(&self) -> u8 {
        self.header.operation()
    }

    /// The block reference with this id.
    #[inline]
    pub fn block(&self, id: u8) -> Option<BlockReference<'a>> {
        self.blocks().find(|block| block.id == id)
    }

    /// Every block reference, in order of their ids.
    #[inline]
    pub fn blocks(&self) -> Blocks<'a> {
        self.blocks
    }
}

/// Walks the block references of a record, which were found sound when it was decoded.
#[derive(Clone, Copy, Debug)]
pub struct Blocks<'a> {
    parts: Cursor<'a>,
    /// What the parts announce.
    bytes: Cursor<'a>,
    relation: Option<RelationKey>,
}

impl<'a> Iterator for Blocks<'a> {
    type Item = BlockReference<'a>;

    #[inline]
    fn next(&mut self) -> Option<BlockReference<'a>> {
        while !self.parts.0.is_empty() {
            // Nothing fails here that did not fail when the record was decoded.
            if let Part::Block(mut block, lengths) = next_part(&mut self.parts, &mut self.relation).ok()? {
                if let Some(image) = &mut block.image {
                    image.bytes = self.bytes.take(lengths.image_bytes, "page image").ok()?;
                }
                block.data = self.bytes.take(lengths.data_bytes, "block data").ok()?;
                return Some(block);
            }
        }
        None
    }
}

#[inline]
fn next_part<'a>(cursor: &mut Cursor<'a>, relation: &mut Option<RelationKey>) -> Result<Part<'a>, DecodeError> {
    Ok(match cursor.u8("part's id")? {
        id if id <= BLOCK_ID_MAX => {
            let (block, lengths) = block_header(cursor, id, relation)?;
            Part::Block(block, lengths)
        }
        ID_DATA_SHORT => Part::MainData(usize::from(cursor.u8("main data's length")?)),
        ID_DATA_LONG => Part::MainData(cursor.u32("main data's length")? as usize),
        ID_ORIGIN => Part::Origin(cursor.u16("origin")?),
        ID_TOPLEVEL_XID => Part::TopLevel(cursor.u32("top-level transaction")?),
        other => return Err(DecodeError::UnknownPart(other)),
    })
}

#[inline]
fn block_header<'a>(
    cursor: &mut Cursor<'a>,
    id: u8,
    relation: &mut Option<RelationKey>,
) -> Result<(BlockReference<'a>, Announced), DecodeError> {
    /// Flags, length of the data.
    const FIXED_BYTES: usize = 3;
    let fixed = cursor.take(FIXED_BYTES, "block header")?;
    let flags = fixed[0];
    let data_bytes = usize::from(u16::from_le_bytes([fixed[1], fixed[2]]));
    let has_data = flags & BLOCK_HAS_DATA != 0;
    if has_data != (data_bytes != 0) {
        return Err(DecodeError::Contradiction("a block's data and its length disagree"));
    }
    let mut image_bytes = 0;
    let mut image = None;
    if flags & BLOCK_HAS_IMAGE != 0 {
        image_bytes = usize::from(cursor.u16("image header")?);
        image = Some(image_header(cursor, image_bytes)?);
    }
    if flags & BLOCK_SAME_RELATION == 0 {
        *relation = Some(RelationKey {
            tablespace: cursor.u32("block's relation")?,
            database: cursor.u32("block's relation")?,
            relation: cursor.u32("block's relation")?,
        });
    }
    let same = DecodeError::Contradiction("the first block refers to the relation of the one before");
    let relation: RelationKey = (*relation).ok_or(same)?;
    let file: ForkKey = relation.fork(flags & BLOCK_FORK_MASK);
    if fork::INIT < file.fork {
        return Err(DecodeError::Contradiction("it refers to a fork that does not exist"));
    }
    let key = file.page(cursor.u32("block number")?);
    let block = BlockReference {
        id,
        key,
        will_init: flags & BLOCK_WILL_INIT != 0,
        image,
        data: &[],
        has_data,
    };
    Ok((
        block,
        Announced {
            image_bytes,
            data_bytes,
        },
    ))
}

fn image_header<'a>(cursor: &mut Cursor<'a>, image_bytes: usize) -> Result<BlockImage<'a>, DecodeError> {
    let hole_offset = cursor.u16("image header")?;
    let info = cursor.u8("image header")?;
    let compression = match info & IMAGE_COMPRESSED {
        0 => Compression::None,
        IMAGE_PGLZ => Compression::Pglz,
        IMAGE_LZ4 => Compression::Lz4,
        IMAGE_ZSTD => Compression::Zstd,
        _ => return Err(DecodeError::Contradiction("an image is compressed in two ways")),
    };
    let has_hole = info & IMAGE_HAS_HOLE != 0;
    let hole_bytes = match (has_hole, compression) {
        (false, _) => 0,
        (true, Compression::None) => PAGE_BYTES
            .checked_sub(image_bytes)
            .and_then(|bytes| u16::try_from(bytes).ok())
            .ok_or(DecodeError::Contradiction("an image is longer than a page"))?,
        (true, _) => cursor.u16("image header")?,
    };
    let hole_end = usize::from(hole_offset) + usize::from(hole_bytes);
    let fits = match (has_hole, compression) {
        (true, _) => hole_offset != 0 && hole_bytes != 0 && hole_end <= PAGE_BYTES && image_bytes <= PAGE_BYTES,
        (false, Compression::None) => hole_offset == 0 && image_bytes == PAGE_BYTES,
        (false, _) => hole_offset == 0 && image_bytes < PAGE_BYTES,
    };
    if !fits {
        return Err(DecodeError::Contradiction("an image and its hole do not make a page"));
    }
    Ok(BlockImage {
        bytes: &[],
        compression,
        hole_offset,
        hole_bytes,
        apply: info & IMAGE_APPLY != 0,
    })
}

//! What the store keeps versions of, and the versions.

use bytes::Bytes;
use units::{ForkKey, PAGE_BYTES, PageKey, Position, RelationKey};
use wire_format::codec::{Reader, Writer};
use wire_format::{CatalogKey, CodecError};

use crate::log::Range;

/// The name of something that has versions. Orders as in layer files.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Key {
    Page(PageKey),
    /// Truncations of a fork.
    Truncation(ForkKey),
    /// Drops of a database in a tablespace.
    DatabaseDrop {
        tablespace: u32,
        database: u32,
    },
    Catalog(CatalogKey),
    /// The last flush headers.
    FlushHeader,
    /// Records that the engine could not read: nobody knows which pages they changed.
    Unreadable,
    /// The records whose ends are in this part of the log.
    Records(Range),
    /// The flush headers of this part of the log.
    Flushes(Range),
}

const PAGE: u8 = 1;
const TRUNCATION: u8 = 2;
const DATABASE_DROP: u8 = 3;
const CATALOG: u8 = 4;
const FLUSH_HEADER: u8 = 5;
const UNREADABLE: u8 = 6;
const RECORDS: u8 = 7;
const FLUSHES: u8 = 8;

impl Key {
    pub(crate) fn write(&self, out: &mut Writer) {
        match self {
            Key::Page(key) => {
                out.u8(PAGE);
                out.page_key(*key);
            }
            Key::Truncation(fork) => {
                out.u8(TRUNCATION);
                out.page_key(fork.page(0));
            }
            Key::DatabaseDrop { tablespace, database } => {
                out.u8(DATABASE_DROP);
                out.varint(u64::from(*tablespace));
                out.varint(u64::from(*database));
            }
            Key::Catalog(key) => {
                out.u8(CATALOG);
                out.bytes(&key.encode());
            }
            Key::FlushHeader => out.u8(FLUSH_HEADER),
            Key::Unreadable => out.u8(UNREADABLE),
            Key::Records(range) => {
                out.u8(RECORDS);
                out.varint(range.0);
            }
            Key::Flushes(range) => {
                out.u8(FLUSHES);
                out.varint(range.0);
            }
        }
    }

    pub(crate) fn read(input: &mut Reader) -> Result<Key, CodecError> {
        Ok(match input.u8("key")? {
            PAGE => Key::Page(input.page_key("key")?),
            TRUNCATION => Key::Truncation(input.page_key("key")?.fork),
            DATABASE_DROP => Key::DatabaseDrop {
                tablespace: input.u32("key")?,
                database: input.u32("key")?,
            },
            CATALOG => Key::Catalog(CatalogKey::decode(&input.bytes("key")?)?),
            FLUSH_HEADER => Key::FlushHeader,
            UNREADABLE => Key::Unreadable,
            RECORDS => Key::Records(Range(input.varint("key")?)),
            FLUSHES => Key::Flushes(Range(input.varint("key")?)),
            _ => return Err(CodecError::Malformed("key")),
        })
    }

    /// Its bytes, as a peer names it.
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(32);
        self.write(&mut out);
        out.finish()
    }

    /// The key that a peer names.
    pub(crate) fn decode(bytes: Bytes) -> Result<Key, CodecError> {
        let mut input = Reader::new(bytes);
        let key = Key::read(&mut input)?;
        input.finish()?;
        Ok(key)
    }

    /// The drop that would end pages of this relation, if it belongs to a database.
    pub(crate) fn drop_of(relation: RelationKey) -> Key {
        Key::DatabaseDrop {
            tablespace: relation.tablespace,
            database: relation.database,
        }
    }
}

/// What happened to a key at one position.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    /// A record that changes the page; `from_nothing`: it needs no earlier version.
    Delta { record: Bytes, from_nothing: bool },
    /// The page itself.
    Image(Bytes),
    /// Pages from this block on are gone. A dropped database is a truncation from zero.
    Truncation { from_block: u32 },
    /// The value of a catalog entry; `None`: gone.
    Entry(Option<Bytes>),
    /// What a flush header says about its flush.
    Header(Bytes),
    /// Why the record could not be read.
    Unreadable(Bytes),
    /// Where the records of a batch are: see [`crate::log`].
    Records(Bytes),
}

/// One version of a key.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Version {
    pub(crate) position: Position,
    pub(crate) value: Value,
}

const DELTA: u8 = 1;
const DELTA_FROM_NOTHING: u8 = 2;
const IMAGE: u8 = 3;
const TRUNCATED: u8 = 4;
const ENTRY: u8 = 5;
const ENTRY_GONE: u8 = 6;
const HEADER: u8 = 7;
const UNREADABLE_RECORD: u8 = 8;
const BATCH_RECORDS: u8 = 9;

impl Version {
    /// Whether a page can be made from this version on, without earlier ones.
    pub(crate) fn is_base(&self) -> bool {
        matches!(self.value, Value::Image(_) | Value::Delta { from_nothing: true, .. })
    }

    /// Bytes it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        match &self.value {
            Value::Delta { record, .. } => record.len(),
            Value::Image(page) => page.len(),
            Value::Truncation { .. } => 4,
            Value::Entry(value) => value.as_ref().map_or(0, Bytes::len),
            Value::Header(header) => header.len(),
            Value::Unreadable(what) => what.len(),
            Value::Records(records) => records.len(),
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.position(self.position);
        match &self.value {
            Value::Delta { record, from_nothing } => {
                out.u8(if *from_nothing { DELTA_FROM_NOTHING } else { DELTA });
                out.bytes(record);
            }
            Value::Image(page) => {
                out.u8(IMAGE);
                out.bytes(page);
            }
            Value::Truncation { from_block } => {
                out.u8(TRUNCATED);
                out.varint(u64::from(*from_block));
            }
            Value::Entry(Some(value)) => {
                out.u8(ENTRY);
                out.bytes(value);
            }
            Value::Entry(None) => out.u8(ENTRY_GONE),
            Value::Header(header) => {
                out.u8(HEADER);
                out.bytes(header);
            }
            Value::Unreadable(what) => {
                out.u8(UNREADABLE_RECORD);
                out.bytes(what);
            }
            Value::Records(records) => {
                out.u8(BATCH_RECORDS);
                out.bytes(records);
            }
        }
    }

    pub(crate) fn read(input: &mut Reader) -> Result<Version, CodecError> {
        let position = input.position("version")?;
        let value = match input.u8("version")? {
            kind @ (DELTA | DELTA_FROM_NOTHING) => Value::Delta {
                record: input.bytes("record")?,
                from_nothing: kind == DELTA_FROM_NOTHING,
            },
            IMAGE => {
                let page = input.bytes("image")?;
                if page.len() != PAGE_BYTES {
                    return Err(CodecError::Malformed("image"));
                }
                Value::Image(page)
            }
            TRUNCATED => Value::Truncation {
                from_block: input.u32("truncation")?,
            },
            ENTRY => Value::Entry(Some(input.bytes("entry")?)),
            ENTRY_GONE => Value::Entry(None),
            HEADER => Value::Header(input.bytes("flush header")?),
            UNREADABLE_RECORD => Value::Unreadable(input.bytes("unreadable record")?),
            BATCH_RECORDS => Value::Records(input.bytes("records of a batch")?),
            _ => return Err(CodecError::Malformed("version")),
        };
        Ok(Version { position, value })
    }
}

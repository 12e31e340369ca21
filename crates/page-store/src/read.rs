//! Making a page from its versions.

use std::io as std_io;

use bytes::Bytes;
use engine::{Engine, EngineError};
use timeline::Path;
use units::{ForkKey, Lsn, Page, PageKey, Position, SegmentId};

use crate::cache::BlockCache;
use crate::key::{Key, Value, Version};
use crate::segment_store::SegmentStore;

/// Why a page or an entry cannot be given. Another copy may have it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No such segment in this store.
    #[error("this store has no segment {0}")]
    UnknownSegment(SegmentId),
    /// The engine cannot make the page.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A file does not say what was written to it.
    #[error("{file} is damaged: {what}")]
    Corrupt {
        /// The file.
        file: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file is gone.
    #[error("{file} is missing")]
    Missing {
        /// The file.
        file: String,
    },
    /// Something that this copy of the segment once held is lost: its pages cannot be made.
    #[error("this copy of segment {0} has lost something: another copy has it")]
    Lost(SegmentId),
    /// A file cannot be read or written.
    #[error("{file}: {what}")]
    Io {
        /// The file.
        file: String,
        /// What the operating system says.
        what: String,
    },
    /// Nothing is known at or below the position.
    #[error("no flush is known at or below {0}")]
    NoFlush(Lsn),
}

impl ReadError {
    pub(crate) fn corrupt(file: &str, what: &str) -> ReadError {
        ReadError::Corrupt {
            file: file.to_owned(),
            what: what.to_owned(),
        }
    }

    pub(crate) fn io(file: &str, error: &std_io::Error) -> ReadError {
        if error.kind() == std_io::ErrorKind::NotFound {
            return ReadError::Missing { file: file.to_owned() };
        }
        ReadError::Io {
            file: file.to_owned(),
            what: error.to_string(),
        }
    }
}

/// Truncations of one fork: each with the first block that is gone.
#[derive(Default)]
pub(crate) struct Truncations(Vec<(Position, u32)>);

impl Truncations {
    /// The last one that takes this block: older versions of the page do not count.
    pub(crate) fn last(&self, block: u32) -> Position {
        let of_block = self.0.iter().filter(|(_, from_block)| *from_block <= block);
        of_block.map(|(position, _)| *position).max().unwrap_or(Position::ZERO)
    }
}

/// What a read needs besides the segment.
pub(crate) struct Reading<'a> {
    pub(crate) engine: &'a dyn Engine,
    pub(crate) cache: &'a BlockCache,
    pub(crate) path: &'a Path,
}

impl Reading<'_> {
    /// The truncations of a fork, drops of its database included, that are visible at the read point.
    pub(crate) fn truncations(
        &self,
        segment: &SegmentStore,
        fork: ForkKey,
        read_point: Lsn,
    ) -> Result<Truncations, ReadError> {
        let mut truncations = Truncations::default();
        for key in [Key::Truncation(fork), Key::drop_of(fork.relation)] {
            for version in segment.visible(&key, self.path, read_point, self.cache)? {
                if let Value::Truncation { from_block } = version.value {
                    truncations.0.push((version.position, from_block));
                }
            }
        }
        Ok(truncations)
    }

    /// An error if a visible record after `known`, up to the read point, could not be read: it may have changed any page.
    fn check_readable(&self, segment: &SegmentStore, known: Position, read_point: Lsn) -> Result<(), ReadError> {
        let unreadable = segment.visible(&Key::Unreadable, self.path, read_point, self.cache)?;
        match unreadable.last() {
            Some(Version {
                position,
                value: Value::Unreadable(what),
            }) if known < *position => Err(ReadError::Engine(EngineError::Malformed {
                end: position.lsn,
                what: String::from_utf8_lossy(what).into_owned(),
            })),
            _ => Ok(()),
        }
    }

    /// The page as of the read point.
    pub(crate) fn page(&self, segment: &SegmentStore, key: PageKey, read_point: Lsn) -> Result<Page, ReadError> {
        let mut versions = segment.visible(&Key::Page(key), self.path, read_point, self.cache)?;
        let mut known = Position::ZERO;
        if !versions.is_empty() {
            known = self.truncations(segment, key.fork, read_point)?.last(key.block);
            versions.retain(|version| known < version.position);
            let base = versions.iter().rev().find(|version| version.is_base());
            known = base.map_or(known, |base| base.position);
        }
        self.check_readable(segment, known, read_point)?;
        materialise(self.engine, key, &versions)
    }
}

/// The page after all of these versions, oldest first. Zeros if there are none.
fn materialise(engine: &dyn Engine, key: PageKey, versions: &[Version]) -> Result<Page, ReadError> {
    let base = versions.iter().rposition(Version::is_base).unwrap_or(0);
    let mut page = Page::zeroed();
    for version in versions.get(base..).unwrap_or_default() {
        match &version.value {
            Value::Image(image) => page = image_page(image),
            Value::Delta { record, .. } => engine.apply(record, version.position.lsn, key, &mut page)?,
            // Never stored under a page's key.
            Value::Truncation { .. } | Value::Entry(_) | Value::Header(_) | Value::Unreadable(_) => {}
        }
    }
    Ok(page)
}

fn image_page(image: &Bytes) -> Page {
    Page::from_bytes(image).expect("an image's length is checked when it is read")
}

//! Making a page from its versions.

use std::io as std_io;

use bytes::Bytes;
use engine::{Engine, EngineError};
use timeline::Path;
use units::{Lsn, Page, PageKey, Position, SegmentId};

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
        ReadError::Io {
            file: file.to_owned(),
            what: error.to_string(),
        }
    }
}

/// What a read needs besides the segment.
pub(crate) struct Reading<'a> {
    pub(crate) engine: &'a dyn Engine,
    pub(crate) cache: &'a BlockCache,
    pub(crate) path: &'a Path,
}

impl Reading<'_> {
    /// The last visible truncation of the page at or below the read point: older versions do not count.
    pub(crate) fn truncated_at(
        &self,
        segment: &SegmentStore,
        key: PageKey,
        read_point: Lsn,
    ) -> Result<Position, ReadError> {
        let mut last = Position::ZERO;
        for truncation in [Key::Truncation(key.fork), Key::drop_of(key.fork.relation)] {
            for version in segment.visible(&truncation, self.path, read_point, self.cache)? {
                if let Value::Truncation { from_block } = version.value
                    && from_block <= key.block
                {
                    last = last.max(version.position);
                }
            }
        }
        Ok(last)
    }

    /// The page as of the read point.
    pub(crate) fn page(&self, segment: &SegmentStore, key: PageKey, read_point: Lsn) -> Result<Page, ReadError> {
        let mut versions = segment.visible(&Key::Page(key), self.path, read_point, self.cache)?;
        if !versions.is_empty() {
            let gone = self.truncated_at(segment, key, read_point)?;
            versions.retain(|version| gone < version.position);
        }
        materialise(self.engine, key, &versions)
    }
}

/// The page after all of these versions, oldest first. Zeros if there are none.
pub(crate) fn materialise(engine: &dyn Engine, key: PageKey, versions: &[Version]) -> Result<Page, ReadError> {
    let base = versions.iter().rposition(Version::is_base).unwrap_or(0);
    let mut page = Page::zeroed();
    for version in versions.get(base..).unwrap_or_default() {
        match &version.value {
            Value::Image(image) => page = image_page(image),
            Value::Delta { record, .. } => engine.apply(record, version.position.lsn, key, &mut page)?,
            // Never stored under a page's key.
            Value::Truncation { .. } | Value::Entry(_) | Value::Header(_) => {}
        }
    }
    Ok(page)
}

fn image_page(image: &Bytes) -> Page {
    Page::from_bytes(image).expect("an image's length is checked when it is read")
}

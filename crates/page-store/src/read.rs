//! Making a page from its versions.

use std::io as std_io;
use std::sync::Arc;

use bytes::Bytes;
use engine::{Engine, EngineError};
use timeline::Path;
use units::{ForkKey, Lsn, PAGE_BYTES, Page, PageKey, Position, SegmentId};

use crate::cache::Cache;
use crate::journal::is_full;
use crate::key::{Key, Value, Version};
use crate::layer::BlockCache;
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
    /// A peer asks for, or gives, something that cannot be.
    #[error("versions between peers: {0}")]
    Malformed(String),
    /// A file is gone.
    #[error("{file} is missing")]
    Missing {
        /// The file.
        file: String,
    },
    /// Something that this copy of the segment once held is lost: its pages cannot be made.
    #[error("this copy of segment {0} has lost something: another copy has it")]
    Lost(SegmentId),
    /// There is no room to write a file.
    #[error("{file}: the disk is full")]
    DiskFull {
        /// The file.
        file: String,
    },
    /// A file cannot be read or written.
    #[error("{file}: {what}")]
    Io {
        /// The file.
        file: String,
        /// What the operating system says.
        what: String,
    },
    /// Versions that the read needs may have been folded since it was permitted.
    #[error("versions are folded up to {through}, and this is a read as of {read_point}")]
    Folded {
        /// As of where.
        read_point: Lsn,
        /// How far versions may be folded.
        through: Lsn,
    },
    /// Log is asked for that is not kept any more.
    #[error("no log is kept below {0}")]
    Collected(Lsn),
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
        if is_full(error) {
            return ReadError::DiskFull { file: file.to_owned() };
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

/// Bytes that a page takes in the cache, about.
const MADE_PAGE_BYTES: usize = PAGE_BYTES + 128;

/// A page as it was made from every visible version up to `newest`. Any path that sees `newest` sees the same ones.
pub(crate) struct MadePage {
    generation: u64,
    newest: Position,
    page: Page,
}

/// Pages that were made.
pub(crate) type PageCache = Cache<(SegmentId, PageKey), Arc<MadePage>>;

/// What a read needs besides the segment.
pub(crate) struct Reading<'a> {
    pub(crate) engine: &'a dyn Engine,
    pub(crate) blocks: &'a BlockCache,
    pub(crate) pages: &'a PageCache,
    /// Whether somebody is shown what it makes: pages stay in the cache, and are refused if versions that they need may be folded.
    /// What background work makes would only push out others, and it folds itself.
    pub(crate) is_readers: bool,
    pub(crate) path: &'a Path,
}

impl Reading<'_> {
    /// The truncations of a fork, drops of its database included, that are above `after` and visible at the read point.
    pub(crate) fn truncations(
        &self,
        segment: &SegmentStore,
        fork: ForkKey,
        after: Position,
        read_point: Lsn,
    ) -> Result<Truncations, ReadError> {
        let mut truncations = Truncations::default();
        for key in [Key::Truncation(fork), Key::drop_of(fork.relation)] {
            for version in segment.visible(&key, self.path, after, read_point, self.blocks)? {
                if let Value::Truncation { from_block } = version.value {
                    truncations.0.push((version.position, from_block));
                }
            }
        }
        Ok(truncations)
    }

    /// An error if a visible record after `known`, up to the read point, could not be read: it may have changed any page.
    fn check_readable(&self, segment: &SegmentStore, known: Position, read_point: Lsn) -> Result<(), ReadError> {
        let unreadable = segment.visible(&Key::Unreadable, self.path, known, read_point, self.blocks)?;
        match unreadable.last() {
            Some(Version {
                position,
                value: Value::Unreadable(what),
            }) => Err(ReadError::Engine(EngineError::Malformed {
                end: position.lsn,
                what: String::from_utf8_lossy(what).into_owned(),
            })),
            _ => Ok(()),
        }
    }

    /// The page as it was made before, if nothing came late since, and the path and the read point see all of it.
    fn made_before(&self, segment: &SegmentStore, key: PageKey, read_point: Lsn) -> Option<Arc<MadePage>> {
        let made = self.pages.get(&(segment.id, key))?;
        let whole = made.generation == segment.generation();
        let seen = made.newest.lsn <= read_point && self.path.sees(made.newest);
        (whole && seen).then_some(made)
    }

    /// The page as of the read point.
    pub(crate) fn page(&self, segment: &SegmentStore, key: PageKey, read_point: Lsn) -> Result<Page, ReadError> {
        // Before any version is looked at: one that comes late from now on spoils what is made here.
        let generation = segment.generation();
        let (page, newest) = self.make(segment, key, read_point)?;
        if !self.is_readers {
            return Ok(page);
        }
        // Before anybody builds on it.
        segment.check_not_folded(read_point)?;
        if let Some(newest) = newest {
            let made = MadePage {
                generation,
                newest,
                page: page.clone(),
            };
            self.pages.insert((segment.id, key), Arc::new(made), MADE_PAGE_BYTES);
        }
        Ok(page)
    }

    /// The page, and the newest version that was applied to make it, if any was.
    fn make(
        &self,
        segment: &SegmentStore,
        key: PageKey,
        read_point: Lsn,
    ) -> Result<(Page, Option<Position>), ReadError> {
        let made = self.made_before(segment, key, read_point);
        let after = made.as_ref().map_or(Position::ZERO, |made| made.newest);
        let mut versions = segment.visible(&Key::Page(key), self.path, after, read_point, self.blocks)?;
        if versions.is_empty() && made.is_none() {
            self.check_readable(segment, Position::ZERO, read_point)?;
            return Ok((Page::zeroed(), None));
        }
        let gone = self.truncations(segment, key.fork, after, read_point)?.last(key.block);
        versions.retain(|version| gone < version.position);
        let base = versions.iter().rposition(Version::is_base);
        let known = base.map_or(gone.max(after), |base| versions[base].position);
        self.check_readable(segment, known, read_point)?;
        let versions = &versions[base.unwrap_or(0)..];
        let start = match made.filter(|_| gone <= after && base.is_none()) {
            Some(made) => made.page.clone(),
            None => Page::zeroed(),
        };
        let page = materialise(self.engine, key, start, versions)?;
        Ok((page, versions.last().map(|newest| newest.position)))
    }
}

/// The page after all of these versions, oldest first.
fn materialise(engine: &dyn Engine, key: PageKey, start: Page, versions: &[Version]) -> Result<Page, ReadError> {
    let mut page = start;
    for version in versions {
        match &version.value {
            Value::Image(image) => page = image_page(image),
            Value::Delta { record, .. } => engine.apply(record, version.position.lsn, key, &mut page)?,
            // Never stored under a page's key.
            Value::Truncation { .. }
            | Value::Entry(_)
            | Value::Header(_)
            | Value::Unreadable(_)
            | Value::Records(_) => {}
        }
    }
    Ok(page)
}

fn image_page(image: &Bytes) -> Page {
    Page::from_bytes(image).expect("an image's length is checked when it is read")
}

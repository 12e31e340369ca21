//! Pages and their names.

use std::fmt;

/// The size of a page: PostgreSQL's `BLCKSZ`.
pub const PAGE_BYTES: usize = 8192;

/// Numbers of the forks of a relation, as PostgreSQL's `ForkNumber`.
pub mod fork {
    /// The relation's own data.
    pub const MAIN: u8 = 0;
    /// The free space map.
    pub const FREE_SPACE: u8 = 1;
    /// The visibility map.
    pub const VISIBILITY: u8 = 2;
    /// What an unlogged relation is reset to.
    pub const INIT: u8 = 3;
}

/// A relation's file: PostgreSQL's `RelFileNode`.
///
/// With `tablespace` and `database` both zero it names one of the volume's own arrays of pages, the transaction-status
/// pages: see [`RelationKey::TRANSACTION_STATUS`] and its neighbours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationKey {
    /// OID of the tablespace.
    pub tablespace: u32,
    /// OID of the database, zero for shared relations.
    pub database: u32,
    /// The relation's file number, which is not its OID.
    pub relation: u32,
}

impl RelationKey {
    /// `pg_xact`: two bits a transaction.
    pub const TRANSACTION_STATUS: RelationKey = RelationKey::status_array(1);
    /// `pg_multixact/offsets`.
    pub const MULTIXACT_OFFSETS: RelationKey = RelationKey::status_array(2);
    /// `pg_multixact/members`.
    pub const MULTIXACT_MEMBERS: RelationKey = RelationKey::status_array(3);
    /// `pg_commit_ts`.
    pub const COMMIT_TIMESTAMPS: RelationKey = RelationKey::status_array(4);

    #[inline]
    const fn status_array(relation: u32) -> RelationKey {
        RelationKey {
            tablespace: 0,
            database: 0,
            relation,
        }
    }

    /// Whether this is an array of transaction-status pages instead of a relation of the engine.
    #[inline]
    pub fn is_status_array(self) -> bool {
        self.tablespace == 0 && self.database == 0
    }

    /// One fork of this relation.
    #[inline]
    pub const fn fork(self, fork: u8) -> ForkKey {
        ForkKey { relation: self, fork }
    }
}

/// One fork of a relation: a file of pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForkKey {
    /// Whose fork.
    pub relation: RelationKey,
    /// Which: one of [`fork`].
    pub fork: u8,
}

impl ForkKey {
    /// One page of this fork.
    #[inline]
    pub const fn page(self, block: u32) -> PageKey {
        PageKey { fork: self, block }
    }
}

/// The name of a page. Orders by tablespace, database, relation, fork and block, as the page store sorts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageKey {
    /// The file it stands in.
    pub fork: ForkKey,
    /// Its number in that file, from zero.
    pub block: u32,
}

impl fmt::Display for RelationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.relation)
    }
}

impl fmt::Display for ForkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fork {
            fork::MAIN => write!(f, "{}", self.relation),
            fork::FREE_SPACE => write!(f, "{}_fsm", self.relation),
            fork::VISIBILITY => write!(f, "{}_vm", self.relation),
            fork::INIT => write!(f, "{}_init", self.relation),
            other => write!(f, "{}_fork{other}", self.relation),
        }
    }
}

impl fmt::Display for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} block {}", self.fork, self.block)
    }
}

impl fmt::Debug for RelationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for ForkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for PageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bytes of one page. Opaque to everything but `redo`.
#[derive(Clone, PartialEq, Eq)]
pub struct Page(Box<[u8; PAGE_BYTES]>);

impl Page {
    /// A page that nothing was written to yet.
    #[inline]
    pub fn zeroed() -> Page {
        Page(Box::new([0; PAGE_BYTES]))
    }

    /// `None` unless `bytes` are exactly one page.
    #[inline]
    pub fn from_bytes(bytes: &[u8]) -> Option<Page> {
        let mut page = Page::zeroed();
        (bytes.len() == PAGE_BYTES).then(|| page.0.copy_from_slice(bytes))?;
        Some(page)
    }

    /// The bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8; PAGE_BYTES] {
        &self.0
    }

    /// The bytes, to be changed.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8; PAGE_BYTES] {
        &mut self.0
    }

    /// Whether nothing was ever written to it.
    #[inline]
    pub fn is_zeroed(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Page(first bytes {:02x?})", &self.0[..24])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_print_like_files() {
        let relation = RelationKey {
            tablespace: 1663,
            database: 5,
            relation: 16384,
        };
        assert_eq!(
            relation.fork(fork::VISIBILITY).page(3).to_string(),
            "1663/5/16384_vm block 3"
        );
        assert!(!relation.is_status_array());
        assert!(RelationKey::MULTIXACT_MEMBERS.is_status_array());
    }

    #[test]
    fn a_page_is_exactly_one_page_long() {
        assert!(Page::from_bytes(&[0; PAGE_BYTES - 1]).is_none());
        assert!(Page::from_bytes(&[0; PAGE_BYTES]).is_some_and(|page| page.is_zeroed()));
    }
}

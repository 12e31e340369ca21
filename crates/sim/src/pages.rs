//! What a page must show: exactly the visible records up to some LSN that was good enough for its reader (DESIGN §4.8).

use std::collections::BTreeMap;

use timeline::Path;
use units::{Lsn, Page, Position};
use wire_format::CatalogEntry;

use crate::Promise;
use crate::checker::{Checker, Logged, Violation};
use crate::toy::{self, Record};

impl Checker {
    /// Every record of the path's history up to an LSN, oldest first.
    fn records<'a>(&'a self, path: &'a Path, through: Lsn) -> impl Iterator<Item = &'a Record> {
        self.log(path, through).map(|logged| &logged.record)
    }

    fn log<'a>(&'a self, path: &'a Path, through: Lsn) -> impl Iterator<Item = &'a Logged> {
        let flushes = self.flushes.values().filter_map(|flush| flush.logged.as_ref());
        flushes.filter(move |logged| logged.record.name.lsn <= through && path.sees(logged.record.name))
    }

    /// The whole catalog as of an LSN.
    pub(crate) fn catalog(&self, path: &Path, through: Lsn) -> Vec<CatalogEntry> {
        let mut expected = BTreeMap::new();
        for entry in self.log(path, through).flat_map(|logged| &logged.entries) {
            expected.insert(entry.key.clone(), entry.clone());
        }
        expected.into_values().filter(|entry| entry.value.is_some()).collect()
    }

    /// Where the last change of a page up to `through` ends.
    pub(crate) fn last_change(&self, path: &Path, through: Lsn, block: u32) -> Lsn {
        let changing = self.records(path, through).filter(|record| record.changes_block(block));
        changing.last().map_or(Lsn::ZERO, |record| record.name.lsn)
    }

    /// What the page lists as of an LSN.
    fn list(&self, path: &Path, through: Lsn, block: u32) -> Vec<Position> {
        let mut listed = Vec::new();
        for record in self.records(path, through) {
            record.change(block, &mut listed);
        }
        listed
    }

    /// Somebody was shown the whole catalog as of an LSN.
    pub(crate) fn catalog_shown(&self, path: &Path, through: Lsn, shown: &[CatalogEntry]) -> Result<(), Violation> {
        let expected = self.catalog(path, through);
        if shown == expected {
            return Ok(());
        }
        let what = format!("the catalog as of {through} is {shown:?}, where it is {expected:?}");
        Err(Promise::PagesAreExact.broken(what))
    }

    /// Somebody was shown a page who needs everything up to the first LSN of `between` and nothing above the second.
    pub(crate) fn page_shown(
        &self,
        path: &Path,
        block: u32,
        between: (Lsn, Lsn),
        page: &Page,
    ) -> Result<(), Violation> {
        let (needed, read_point) = between;
        let shown = toy::listed(page);
        let mut expected = self.list(path, needed, block);
        if shown == expected {
            return Ok(());
        }
        let later = self.records(path, read_point);
        for record in later.filter(|record| needed < record.name.lsn) {
            record.change(block, &mut expected);
            if shown == expected {
                return Ok(());
            }
        }
        let what = format!(
            "block {block} on the timeline of {:?} lists {shown:?}: that is no version from {needed} to {read_point}, where it is \
             {expected:?}",
            path.epoch()
        );
        Err(Promise::PagesAreExact.broken(what))
    }
}

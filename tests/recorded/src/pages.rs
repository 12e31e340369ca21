//! Pages in memory, to which records are applied as storage nodes do it.

use std::collections::HashMap;

use engine::{Engine, Touch};
use redo::PostgreSql;
use units::{Page, PageKey};
use wal::Record;

/// The pages that a recording makes.
#[derive(Clone, Default)]
pub struct Pages {
    pages: HashMap<PageKey, Page>,
    touches: Vec<Touch>,
}

impl Pages {
    /// Those after these records.
    pub fn after(records: &[Record]) -> Pages {
        let mut pages = Pages::default();
        records.iter().for_each(|record| {
            pages.apply(record);
        });
        pages
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.pages.len()
    }

    /// One of them.
    pub fn get(&self, key: PageKey) -> Option<&Page> {
        self.pages.get(&key)
    }

    /// Applies the record to every page it touches; to how many. Pages that were there before the recording began, those of
    /// the catalogs, are left out, and so is what redo cannot do.
    pub fn apply(&mut self, record: &Record) -> usize {
        self.touches.clear();
        PostgreSql
            .touches(&record.bytes, record.end, &mut self.touches)
            .expect("PostgreSQL wrote it");
        let mut applied = 0;
        for touch in &self.touches {
            let Touch::Page { key, from_nothing } = *touch else {
                continue;
            };
            let known = from_nothing || key.fork.relation.is_status_array();
            let page = if known {
                self.pages.entry(key).or_insert_with(Page::zeroed)
            } else if let Some(page) = self.pages.get_mut(&key) {
                page
            } else {
                continue;
            };
            match PostgreSql.apply(&record.bytes, record.end, key, page) {
                Ok(()) => applied += 1,
                Err(engine::EngineError::Unsupported { .. }) => drop(self.pages.remove(&key)),
                Err(error) => panic!("{error}"),
            }
        }
        applied
    }
}

//! The one file of the metadata store.

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::message::{StoredVolume, Writer};

/// Version of what is in the file.
pub const FORMAT_VERSION: u64 = 1;
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");
const VERSION: &str = "format_version";
const REVISION: &str = "revision";
const EPOCH: &str = "epoch";
const RECORD: &str = "record";
const WRITER_NAME: &str = "writer_name";
const WRITER_ADDRESS: &str = "writer_address";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, read or written.
    #[error("metadata store: {0}")]
    Database(#[from] redb::Error),
    /// It was written by another build.
    #[error(
        "the metadata store has format version {0}, this build reads version {FORMAT_VERSION}; pg_dump with the other build moves the data"
    )]
    Version(u64),
}

fn database(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(error.into())
}

/// The store. Every change is synced before it returns.
pub(crate) struct Store {
    database: Database,
}

impl Store {
    /// Opens the file, or makes it.
    pub(crate) fn open(file: &Path) -> Result<Store, StoreError> {
        let store = Store {
            database: Database::create(file).map_err(database)?,
        };
        let found = store.number(VERSION)?;
        match found {
            None => store.change(|numbers, _| numbers.insert(VERSION, FORMAT_VERSION).map(|_| ()).map_err(database))?,
            Some(FORMAT_VERSION) => {}
            Some(other) => return Err(StoreError::Version(other)),
        }
        Ok(store)
    }

    fn change<T>(
        &self,
        change: impl FnOnce(
            &mut redb::Table<'_, &'static str, u64>,
            &mut redb::Table<'_, &'static str, &'static str>,
        ) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut transaction = self.database.begin_write().map_err(database)?;
        transaction.set_durability(Durability::Immediate).map_err(database)?;
        let outcome = {
            let mut numbers = transaction.open_table(NUMBERS).map_err(database)?;
            let mut texts = transaction.open_table(TEXTS).map_err(database)?;
            change(&mut numbers, &mut texts)?
        };
        transaction.commit().map_err(database)?;
        Ok(outcome)
    }

    fn number(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let transaction = self.database.begin_read().map_err(database)?;
        match transaction.open_table(NUMBERS) {
            Ok(table) => Ok(table.get(name).map_err(database)?.map(|value| value.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(database(error)),
        }
    }

    fn text(&self, name: &str) -> Result<Option<String>, StoreError> {
        let transaction = self.database.begin_read().map_err(database)?;
        match transaction.open_table(TEXTS) {
            Ok(table) => Ok(table.get(name).map_err(database)?.map(|value| value.value().to_owned())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(database(error)),
        }
    }

    pub(crate) fn read(&self) -> Result<StoredVolume, StoreError> {
        Ok(StoredVolume {
            revision: self.number(REVISION)?.unwrap_or(0),
            epoch: self.number(EPOCH)?.unwrap_or(0),
            record: self.text(RECORD)?,
            reported_durable: None,
        })
    }

    /// `false`: there is a volume already.
    pub(crate) fn create(&self, record: &str) -> Result<bool, StoreError> {
        self.change(|numbers, texts| {
            if texts.get(RECORD).map_err(database)?.is_some() {
                return Ok(false);
            }
            texts.insert(RECORD, record).map_err(database)?;
            numbers.insert(REVISION, 1).map_err(database)?;
            numbers.insert(EPOCH, 1).map_err(database)?;
            Ok(true)
        })
    }

    pub(crate) fn take_epoch(&self) -> Result<(), StoreError> {
        self.change(|numbers, _| {
            for name in [EPOCH, REVISION] {
                let next = numbers.get(name).map_err(database)?.map_or(0, |value| value.value()) + 1;
                numbers.insert(name, next).map_err(database)?;
            }
            Ok(())
        })
    }

    /// `false`: it is not at this revision any more, or another epoch is taken.
    pub(crate) fn compare_and_swap(&self, epoch: u64, revision: u64, record: &str) -> Result<bool, StoreError> {
        self.change(|numbers, texts| {
            let is = |name: &'static str| -> Result<u64, StoreError> {
                Ok(numbers.get(name).map_err(database)?.map_or(0, |value| value.value()))
            };
            if is(EPOCH)? != epoch || is(REVISION)? != revision {
                return Ok(false);
            }
            texts.insert(RECORD, record).map_err(database)?;
            numbers.insert(REVISION, revision + 1).map_err(database)?;
            Ok(true)
        })
    }

    pub(crate) fn writer(&self) -> Result<Option<Writer>, StoreError> {
        let (name, address) = (self.text(WRITER_NAME)?, self.text(WRITER_ADDRESS)?);
        Ok(name.zip(address).map(|(name, address)| Writer { name, address }))
    }

    pub(crate) fn set_writer(&self, name: &str, address: &str) -> Result<(), StoreError> {
        self.change(|_, texts| {
            texts.insert(WRITER_NAME, name).map_err(database)?;
            texts.insert(WRITER_ADDRESS, address).map_err(database)?;
            Ok(())
        })
    }
}

//! The one file of the metadata store.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Instant;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use crate::message::{StoredVolume, Writer};
use crate::metrics::SYNC_SECONDS;

/// Version of what is in the file.
pub const FORMAT_VERSION: u64 = 1;
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");
/// The storage nodes: name and entry.
const STORAGE: TableDefinition<'_, &str, &str> = TableDefinition::new("storage");
const VERSION: &str = "format_version";
const REVISION: &str = "revision";
const EPOCH: &str = "epoch";
const RECORD: &str = "record";
const PLAN: &str = "plan";
const WRITER_NAME: &str = "writer_name";
const WRITER_ADDRESS: &str = "writer_address";
const RETENTION_SECONDS: &str = "retention_seconds";

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, read or written.
    #[error("metadata store: {0}")]
    Database(#[from] redb::Error),
    /// The file or its folder cannot be made, synced or named.
    #[error("metadata store, {path}: {error}")]
    Io {
        /// What it was about.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// It was written by another build.
    #[error(
        "the metadata store has format version {0}, this build reads version {FORMAT_VERSION}; pg_dump with the other build moves the data"
    )]
    Version(u64),
    /// What it keeps of a storage node is not what this program writes.
    #[error("metadata store: its entry of {name} cannot be understood: {error}")]
    StorageNode {
        /// The node.
        name: String,
        /// Why.
        error: String,
    },
}

fn database(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Database(error.into())
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError + '_ {
    move |error| StoreError::Io {
        path: path.to_owned(),
        error,
    }
}

/// Makes an empty store.
fn make(file: &Path) -> Result<(), StoreError> {
    let new = file.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&new)(error)),
        _ => {}
    }
    let store = Store {
        database: Database::create(&new).map_err(database)?,
    };
    store.change(|numbers, _| numbers.insert(VERSION, FORMAT_VERSION).map(|_| ()).map_err(database))?;
    drop(store);
    File::open(&new).and_then(|file| file.sync_all()).map_err(io(&new))?;
    std::fs::rename(&new, file).map_err(io(file))
}

/// Syncs the names of the file and of the folder that it is in.
fn sync_name(file: &Path) -> Result<(), StoreError> {
    let folders = file.ancestors().skip(1).take(2);
    for folder in folders.filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io(folder))?;
    }
    Ok(())
}

/// The store. Every change is synced before it returns.
pub(crate) struct Store {
    database: Database,
}

impl Store {
    /// Opens the file, or makes it. It is made under another name first: a crash leaves a whole file or none. When this
    /// returns, the file and its name are durable.
    pub(crate) fn open(file: &Path) -> Result<Store, StoreError> {
        // An error is not an absence: no empty store takes the place of one that cannot be looked at just now.
        if !file.try_exists().map_err(io(file))? {
            make(file)?;
        }
        // Again for one that was there: whoever made it may not have come so far.
        sync_name(file)?;
        let store = Store {
            database: Database::open(file).map_err(database)?,
        };
        match store.number(VERSION)? {
            Some(FORMAT_VERSION) => Ok(store),
            other => Err(StoreError::Version(other.unwrap_or(0))),
        }
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
        let began = Instant::now();
        transaction.commit().map_err(database)?;
        SYNC_SECONDS.observe_duration(began.elapsed());
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
            plan: self.text(PLAN)?,
        })
    }

    /// `false`: there is a volume already. A plan that is there stays.
    pub(crate) fn plan(&self, plan: &str) -> Result<bool, StoreError> {
        self.change(|_, texts| {
            if texts.get(RECORD).map_err(database)?.is_some() {
                return Ok(false);
            }
            if texts.get(PLAN).map_err(database)?.is_none() {
                texts.insert(PLAN, plan).map_err(database)?;
            }
            Ok(true)
        })
    }

    /// `false`: there is a volume already, or another epoch is taken.
    pub(crate) fn create(&self, epoch: u64, record: &str) -> Result<bool, StoreError> {
        self.change(|numbers, texts| {
            let taken = numbers.get(EPOCH).map_err(database)?.map_or(0, |value| value.value());
            if texts.get(RECORD).map_err(database)?.is_some() || taken != epoch {
                return Ok(false);
            }
            texts.insert(RECORD, record).map_err(database)?;
            texts.remove(PLAN).map_err(database)?;
            let revision = numbers
                .get(REVISION)
                .map_err(database)?
                .map_or(0, |value| value.value());
            numbers.insert(REVISION, revision + 1).map_err(database)?;
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

    /// For how long somebody wants old versions to be kept.
    pub(crate) fn retention_seconds(&self) -> Result<Option<u64>, StoreError> {
        self.number(RETENTION_SECONDS)
    }

    pub(crate) fn set_retention_seconds(&self, seconds: u64) -> Result<(), StoreError> {
        self.change(|numbers, _| numbers.insert(RETENTION_SECONDS, seconds).map(|_| ()).map_err(database))
    }

    /// Every storage node's name and entry.
    pub(crate) fn storage(&self) -> Result<Vec<(String, String)>, StoreError> {
        let transaction = self.database.begin_read().map_err(database)?;
        let table = match transaction.open_table(STORAGE) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(error) => return Err(database(error)),
        };
        let mut nodes = Vec::new();
        for entry in table.iter().map_err(database)? {
            let (name, entry) = entry.map_err(database)?;
            nodes.push((name.value().to_owned(), entry.value().to_owned()));
        }
        Ok(nodes)
    }

    /// Keeps a storage node's entry.
    pub(crate) fn keep_storage(&self, name: &str, entry: &str) -> Result<(), StoreError> {
        self.change_storage(|table| table.insert(name, entry).map(|_| ()))
    }

    /// Forgets a storage node.
    pub(crate) fn forget_storage(&self, name: &str) -> Result<(), StoreError> {
        self.change_storage(|table| table.remove(name).map(|_| ()))
    }

    fn change_storage(
        &self,
        change: impl FnOnce(&mut redb::Table<'_, &'static str, &'static str>) -> Result<(), redb::StorageError>,
    ) -> Result<(), StoreError> {
        let mut transaction = self.database.begin_write().map_err(database)?;
        transaction.set_durability(Durability::Immediate).map_err(database)?;
        change(&mut transaction.open_table(STORAGE).map_err(database)?).map_err(database)?;
        transaction.commit().map_err(database)
    }
}

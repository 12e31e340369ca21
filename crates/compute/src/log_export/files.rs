//! WAL files in a folder.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use units::Lsn;
use wal::WAL_PAGE_BYTES;

use crate::last_page::{LastPage, LogFacts};

/// Files that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Something is in the folder.
    #[error("{0} is not empty")]
    NotEmpty(PathBuf),
    /// A file or folder cannot be made or written.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> FilesError + '_ {
    move |error| FilesError::Io {
        path: path.to_owned(),
        error,
    }
}

/// The files, each as long as PostgreSQL makes it.
pub(super) struct WalFiles {
    folder: PathBuf,
    facts: LogFacts,
    open: Option<(u64, File)>,
    made: u64,
}

impl WalFiles {
    /// In a folder that is empty, or is made.
    pub(super) fn new(folder: &Path, facts: LogFacts) -> Result<WalFiles, FilesError> {
        std::fs::create_dir_all(folder).map_err(io(folder))?;
        if std::fs::read_dir(folder).map_err(io(folder))?.next().is_some() {
            return Err(FilesError::NotEmpty(folder.to_owned()));
        }
        Ok(WalFiles {
            folder: folder.to_owned(),
            facts,
            open: None,
            made: 0,
        })
    }

    /// What stands before the first record that is known: page headers by which a reader comes to it.
    pub(super) fn begin(&mut self, start: Lsn) -> Result<(), FilesError> {
        let page = start.raw() - start.raw() % WAL_PAGE_BYTES;
        let file = start.raw() - start.raw() % self.facts.wal_file_bytes;
        if file < page {
            // Tools look there for the size of the files.
            let header = LastPage::new(Lsn::from_raw(file + wal::LONG_HEADER_BYTES), self.facts).unknown();
            self.write(Lsn::from_raw(file), &header)?;
        }
        if page < start.raw() {
            let header = LastPage::new(start, self.facts).unknown();
            self.write(Lsn::from_raw(page), &header)?;
        }
        Ok(())
    }

    /// Writes what stands from `at` on.
    pub(super) fn write(&mut self, at: Lsn, mut bytes: &[u8]) -> Result<(), FilesError> {
        let mut at = at.raw();
        while !bytes.is_empty() {
            let number = at / self.facts.wal_file_bytes;
            let offset = at % self.facts.wal_file_bytes;
            let room = (self.facts.wal_file_bytes - offset) as usize;
            let (here, rest) = bytes.split_at(room.min(bytes.len()));
            let path = self.folder.join(self.name(number));
            let file = self.file(number, &path)?;
            file.write_all_at(here, offset).map_err(io(&path))?;
            (at, bytes) = (at + here.len() as u64, rest);
        }
        Ok(())
    }

    fn file(&mut self, number: u64, path: &Path) -> Result<&File, FilesError> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != number) {
            self.sync()?;
            let mut options = OpenOptions::new();
            let file = options.write(true).create_new(true).open(path).map_err(io(path))?;
            file.set_len(self.facts.wal_file_bytes).map_err(io(path))?;
            self.made += 1;
            self.open = Some((number, file));
        }
        Ok(&self.open.as_ref().expect("it was opened just now").1)
    }

    fn sync(&mut self) -> Result<(), FilesError> {
        if let Some((number, file)) = self.open.take() {
            let path = self.folder.join(self.name(number));
            file.sync_all().map_err(io(&path))?;
        }
        Ok(())
    }

    /// Makes everything durable; how many files there are.
    pub(super) fn finish(mut self) -> Result<u64, FilesError> {
        self.sync()?;
        let folder = File::open(&self.folder).and_then(|folder| folder.sync_all());
        folder.map_err(io(&self.folder))?;
        Ok(self.made)
    }

    /// `XLogFileName`.
    fn name(&self, number: u64) -> String {
        let per_id = (1_u64 << 32) / self.facts.wal_file_bytes;
        format!(
            "{:08X}{:08X}{:08X}",
            self.facts.timeline,
            number / per_id,
            number % per_id
        )
    }
}

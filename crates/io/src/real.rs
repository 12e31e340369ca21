//! A folder of the operating system's file system.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Disk;

/// Files kept open, at most; the one opened longest ago is closed first.
const OPEN_FILES_MAX: usize = 128;

/// A folder, and the files of it that are open.
pub struct RealDisk {
    root: PathBuf,
    open: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    files: BTreeMap<String, (u64, Arc<File>)>,
    opened: u64,
}

impl RealDisk {
    /// The folder `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> RealDisk {
        RealDisk {
            root: root.into(),
            open: Mutex::default(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn open_files(&self) -> std::sync::MutexGuard<'_, OpenFiles> {
        // The map is whole between any two statements: a panic elsewhere leaves nothing half done in it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, name: &str, create: bool) -> io::Result<Arc<File>> {
        let mut open = self.open_files();
        if let Some((_, file)) = open.files.get(name) {
            return Ok(file.clone());
        }
        let path = self.path(name);
        if create && let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .truncate(false)
            .open(&path)?;
        let file = Arc::new(file);
        if OPEN_FILES_MAX <= open.files.len() {
            let oldest = open
                .files
                .iter()
                .min_by_key(|(_, (opened, _))| *opened)
                .map(|(name, _)| name.clone());
            oldest.and_then(|name| open.files.remove(&name));
        }
        open.opened += 1;
        let opened = open.opened;
        open.files.insert(name.to_owned(), (opened, file.clone()));
        Ok(file)
    }

    fn close(&self, name: &str) {
        self.open_files().files.remove(name);
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

impl Disk for RealDisk {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(self.path(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        Ok(self.file(file, false)?.metadata()?.len())
    }

    fn read_at(&self, file: &str, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file(file, false)?.read_exact_at(buffer, at)
    }

    fn write_at(&self, file: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(file, true)?.write_all_at(bytes, at)
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        self.file(file, false)?.set_len(length)
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        self.file(file, false)?.sync_data()
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.path(folder))?;
        File::open(self.path(folder))?.sync_all()?;
        // The folder's own name, too: it may have been made just now.
        File::open(folder_of(&self.path(folder)))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.close(from);
        self.close(to);
        std::fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        self.close(file);
        match std::fs::remove_file(self.path(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

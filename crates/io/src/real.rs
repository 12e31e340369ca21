//! A folder of the operating system's file system.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Disk;
use crate::direct::{self, DirectLog};

/// Files kept open, at most. The one used longest ago is closed first, never the one that log is written to: what a failed
/// write leaves behind is reported by a sync of the same open file, and perhaps of no other.
const OPEN_FILES_MAX: usize = 128;

/// A folder, and the files of it that are open.
pub struct RealDisk {
    root: PathBuf,
    open: Mutex<OpenFiles>,
    /// The file that log is written to, and how; `None`: through the page cache.
    log: Mutex<(String, Option<DirectLog>)>,
}

#[derive(Default)]
struct OpenFiles {
    /// With when it was used last.
    files: BTreeMap<String, (u64, Arc<File>)>,
    uses: u64,
}

impl RealDisk {
    /// The folder `root`, which must exist.
    pub fn new(root: impl Into<PathBuf>) -> RealDisk {
        RealDisk {
            root: root.into(),
            open: Mutex::default(),
            log: Mutex::default(),
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
        open.uses += 1;
        let use_now = open.uses;
        if let Some((used, file)) = open.files.get_mut(name) {
            *used = use_now;
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
                .min_by_key(|(_, (used, _))| *used)
                .map(|(name, _)| name.clone());
            oldest.and_then(|name| open.files.remove(&name));
        }
        open.files.insert(name.to_owned(), (use_now, file.clone()));
        Ok(file)
    }

    fn close(&self, name: &str) {
        self.open_files().files.remove(name);
        self.forget_log(name);
    }

    fn log(&self) -> std::sync::MutexGuard<'_, (String, Option<DirectLog>)> {
        // A write that was left half done has taken from the log what it knew of its end.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_log(&self, name: &str) {
        let mut log = self.log();
        if log.0 == name {
            *log = Default::default();
        }
    }

    /// Whether it could be written past the page cache.
    fn write_directly(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<bool> {
        let mut log = self.log();
        if log.0 != name {
            let direct = match DirectLog::open(&self.path(name)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                opened => opened?,
            };
            *log = (name.to_owned(), direct);
        }
        log.1.as_mut().map_or(Ok(false), |direct| direct.write_at(at, bytes))
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

    fn read_at_rest(&self, file: &str, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        if direct::read_at(&self.path(file), at, buffer)? {
            return Ok(());
        }
        self.read_at(file, at, buffer)
    }

    fn write_at(&self, file: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(file, true)?.write_all_at(bytes, at)
    }

    fn write_log_at(&self, file: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        if self.write_directly(file, at, bytes)? {
            return Ok(());
        }
        self.write_at(file, at, bytes)
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        self.forget_log(file);
        self.file(file, false)?.set_len(length)
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        self.file(file, false)?.sync_data()
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        std::fs::create_dir_all(self.path(folder))?;
        File::open(self.path(folder))?.sync_all()?;
        if folder.is_empty() {
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own, removed when the test is over.
    struct Folder(PathBuf);

    impl Folder {
        fn new(test: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("borealis-io-{test}-{}", std::process::id()));
            std::fs::create_dir_all(&path).expect("a folder for temporary files");
            Folder(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_file_is_written_cut_renamed_listed_and_removed() {
        let folder = Folder::new("life");
        let disk = RealDisk::new(&folder.0);
        assert_eq!(
            disk.list("journal").unwrap(),
            Vec::<String>::new(),
            "no such folder is an empty one"
        );
        disk.write_at("journal/1", 0, b"one and more").unwrap();
        disk.truncate("journal/1", 3).unwrap();
        disk.write_at("journal/1", 3, b"!").unwrap();
        disk.sync("journal/1").unwrap();
        disk.sync_names("journal").unwrap();
        disk.sync_names("").unwrap();
        disk.write_at("journal/2", 0, b"two").unwrap();
        disk.rename("journal/1", "journal/2").unwrap();
        assert_eq!(disk.list("journal").unwrap(), ["2"]);
        assert_eq!(disk.read_all("journal/2").unwrap(), b"one!");
        let mut beyond = [0; 5];
        let error = disk.read_at("journal/2", 0, &mut beyond).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        disk.remove("journal/2").unwrap();
        disk.remove("journal/2").unwrap();
        assert_eq!(disk.length("journal/2").unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Wherever it begins and ends, also in the last block, which is not a whole one.
    #[test]
    fn what_is_at_rest_reads_the_same() {
        let folder = Folder::new("rest");
        let disk = RealDisk::new(&folder.0);
        let bytes: Vec<u8> = (0..300_001_u32).map(|at| (at.wrapping_mul(at) >> 7) as u8).collect();
        disk.write_at("layer", 0, &bytes).unwrap();
        disk.sync("layer").unwrap();
        for (at, length) in [
            (0, 300_001),
            (0, 1),
            (4095, 2),
            (4096, 4096),
            (299_999, 2),
            (131_000, 150_000),
            (300_001, 0),
        ] {
            let mut read = vec![0; length];
            disk.read_at_rest("layer", at as u64, &mut read).unwrap();
            assert!(read == bytes[at..at + length], "{length} bytes at {at}");
        }
        let mut beyond = [0; 3];
        let error = disk.read_at_rest("layer", 299_999, &mut beyond).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = disk.read_at_rest("none", 0, &mut beyond).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn open_files_are_bounded_and_the_one_in_use_stays_open() {
        let folder = Folder::new("handles");
        let disk = RealDisk::new(&folder.0);
        disk.write_at("log", 0, b"x").unwrap();
        let log = disk.file("log", false).unwrap();
        for number in 0..3 * OPEN_FILES_MAX {
            disk.write_at(&format!("layer-{number}"), 0, b"x").unwrap();
            disk.write_at("log", 0, b"x").unwrap();
        }
        assert!(disk.open_files().files.len() <= OPEN_FILES_MAX);
        assert!(Arc::ptr_eq(&log, &disk.file("log", false).unwrap()));
        assert_eq!(disk.read_all("layer-0").unwrap(), b"x", "opened again");
    }

    /// Directly or not, the file holds what was written, its length and all before it stays, and nothing follows that was not
    /// there.
    #[test]
    fn log_arrives_whatever_way_it_goes() {
        let folder = Folder::new("log");
        let disk = RealDisk::new(&folder.0);
        let length = 3 << 20;
        disk.write_at("log", 0, &vec![7; length]).unwrap();
        let mut expected = vec![7; length];
        let mut state = 0x9E37_79B9_u32;
        let mut at = 1000;
        loop {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Mostly short writes; some end a block, some are too long to go directly, some come after a gap.
            let bytes = match state >> 28 {
                0 => 200 << 10,
                1 => 4096 - at % 4096,
                2 => 8192 - at % 4096,
                _ => 1 + (state >> 8) as usize % 3000,
            };
            at += if state >> 27 == 7 { 5000 } else { 0 };
            if length < at + bytes {
                break;
            }
            disk.write_log_at("log", at as u64, &vec![state as u8; bytes]).unwrap();
            expected[at..at + bytes].fill(state as u8);
            at += bytes;
            let held = disk.read_all("log").unwrap();
            assert_eq!(held.len(), length);
            assert!(held[..at] == expected[..at], "up to {at}");
            assert!(held[at..].iter().all(|byte| matches!(byte, 0 | 7)));
            // What a gap will jump over is as the file has it.
            expected[at..].copy_from_slice(&held[at..]);
            disk.sync("log").unwrap();
        }
        disk.write_log_at("log", at as u64, &vec![1; length - at]).unwrap();
        disk.write_log_at("log", length as u64, b"beyond").unwrap();
        assert_eq!(
            disk.length("log").unwrap(),
            length as u64 + 6,
            "longer by what was written"
        );
        disk.truncate("log", 10).unwrap();
        disk.write_log_at("log", 10, b"after the cut").unwrap();
        assert_eq!(disk.length("log").unwrap(), 23);
        disk.write_log_at("new", 0, b"made").unwrap();
        assert_eq!(disk.read_all("new").unwrap(), b"made");
        disk.rename("new", "log").unwrap();
        disk.write_log_at("log", 4, b" anew").unwrap();
        assert_eq!(disk.read_all("log").unwrap(), b"made anew");
    }
}

//! What a storage node needs of a file system.

use std::io;

/// Files below one root, named by relative paths such as `journal/0000000001`.
///
/// Nothing is durable before [`Disk::sync`] of the file; a new, renamed or removed name not before [`Disk::sync_names`] of
/// its folder. After a failed sync nothing may be assumed of what was written since the sync before.
pub trait Disk: Send + Sync {
    /// Names in a folder, sorted; a folder that does not exist is empty.
    fn list(&self, folder: &str) -> io::Result<Vec<String>>;

    /// Length of a file in bytes.
    fn length(&self, file: &str) -> io::Result<u64>;

    /// Reads exactly `buffer.len()` bytes from `at` on.
    fn read_at(&self, file: &str, at: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// As [`Disk::read_at`], but what the device holds, not what the operating system remembers of it, where that can be had.
    fn read_at_rest(&self, file: &str, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.read_at(file, at, buffer)
    }

    /// Writes at `at`, creating the file (and its folder) if need be. May write a part before it fails.
    fn write_at(&self, file: &str, at: u64, bytes: &[u8]) -> io::Result<()>;

    /// As [`Disk::write_at`], for a file that is written front to back and synced after every few writes. What lies behind the
    /// written bytes may become zeros, up to the next multiple of 4096.
    fn write_log_at(&self, file: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_at(file, at, bytes)
    }

    /// Cuts the file to `length` bytes.
    fn truncate(&self, file: &str, length: u64) -> io::Result<()>;

    /// Makes the file's content durable.
    fn sync(&self, file: &str) -> io::Result<()>;

    /// Makes the names in a folder durable.
    fn sync_names(&self, folder: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; one that does not exist is no error.
    fn remove(&self, file: &str) -> io::Result<()>;

    /// The whole content of a file.
    fn read_all(&self, file: &str) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.length(file)?).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut bytes = vec![0; length];
        self.read_at(file, 0, &mut bytes)?;
        Ok(bytes)
    }
}

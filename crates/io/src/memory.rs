//! A disk in memory that can lose power, fill up, fail to sync and rot.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Disk;

#[derive(Clone, Default)]
struct MemoryFile {
    content: Vec<u8>,
    /// What the platter has.
    synced: Vec<u8>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, MemoryFile>,
    /// Names that survive a power cut, and which of today's files they lead to.
    durable_names: BTreeMap<String, MemoryFile>,
    capacity: Option<u64>,
    syncs_fail: bool,
}

/// Shared by its clones.
#[derive(Clone, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
}

impl MemoryDisk {
    /// An empty disk without limits.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The power is cut: what was not synced is gone, but for `torn` bytes of what followed the synced part of each file.
    pub fn cut_power(&self, torn: usize) {
        let mut state = self.state();
        let mut left = BTreeMap::new();
        for (name, durable) in &state.durable_names {
            let mut file = durable.clone();
            if let Some(current) = state.files.get(name) {
                file = current.clone();
            }
            let kept = file.synced.len();
            // What was cut off, but not synced, may be back: it is never asked for, so its absence is as good.
            let more = file.content.get(kept..).unwrap_or_default();
            let mut content = file.synced.clone();
            content.extend_from_slice(&more[..torn.min(more.len())]);
            left.insert(
                name.clone(),
                MemoryFile {
                    synced: content.clone(),
                    content,
                },
            );
        }
        state.durable_names = left.clone();
        state.files = left;
        state.syncs_fail = false;
    }

    /// From now on at most so many bytes fit in all files together; `None`: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Whether syncs fail from now on.
    pub fn fail_syncs(&self, fail: bool) {
        self.state().syncs_fail = fail;
    }

    /// Flips one bit of a file, as rot does.
    pub fn flip_bit(&self, file: &str, at: u64) {
        let mut state = self.state();
        if let Some(file) = state.files.get_mut(file) {
            for bytes in [&mut file.content, &mut file.synced] {
                if let Some(byte) = bytes.get_mut(at as usize) {
                    *byte ^= 1;
                }
            }
        }
    }

    /// Bytes in all files.
    pub fn bytes_used(&self) -> u64 {
        self.state().files.values().map(|file| file.content.len() as u64).sum()
    }
}

fn in_folder<'a>(name: &'a str, folder: &str) -> Option<&'a str> {
    if folder.is_empty() {
        return (!name.contains('/')).then_some(name);
    }
    let rest = name.strip_prefix(folder)?.strip_prefix('/')?;
    (!rest.contains('/')).then_some(rest)
}

impl Disk for MemoryDisk {
    fn list(&self, folder: &str) -> io::Result<Vec<String>> {
        let state = self.state();
        let names = state.files.keys().filter_map(|name| in_folder(name, folder));
        Ok(names.map(str::to_owned).collect())
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        let state = self.state();
        let found = state.files.get(file).ok_or(io::ErrorKind::NotFound)?;
        Ok(found.content.len() as u64)
    }

    fn read_at(&self, file: &str, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let found = state.files.get(file).ok_or(io::ErrorKind::NotFound)?;
        let bytes = (at as usize)
            .checked_add(buffer.len())
            .and_then(|end| found.content.get(at as usize..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, file: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let used = self.bytes_used();
        let mut state = self.state();
        let capacity = state.capacity;
        let found = state.files.entry(file.to_owned()).or_default();
        let end = at as usize + bytes.len();
        let grows = end.saturating_sub(found.content.len()) as u64;
        let fits = match capacity {
            Some(capacity) if capacity < used + grows => bytes.len().saturating_sub((used + grows - capacity) as usize),
            _ => bytes.len(),
        };
        let written = at as usize + fits;
        if found.content.len() < written {
            found.content.resize(written, 0);
        }
        found.content[at as usize..written].copy_from_slice(&bytes[..fits]);
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        let mut state = self.state();
        let found = state.files.get_mut(file).ok_or(io::ErrorKind::NotFound)?;
        found.content.truncate(length as usize);
        Ok(())
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.syncs_fail {
            return Err(io::Error::other("the disk failed to sync"));
        }
        let found = state.files.get_mut(file).ok_or(io::ErrorKind::NotFound)?;
        found.synced = found.content.clone();
        Ok(())
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        let mut state = self.state();
        if state.syncs_fail {
            return Err(io::Error::other("the disk failed to sync"));
        }
        let State {
            files, durable_names, ..
        } = &mut *state;
        durable_names.retain(|name, _| in_folder(name, folder).is_none() || files.contains_key(name));
        for (name, file) in files.iter() {
            if in_folder(name, folder).is_some() {
                durable_names.insert(name.clone(), file.clone());
            }
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        self.state().files.remove(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_power_cut_takes_what_was_not_synced() {
        let disk = MemoryDisk::new();
        disk.write_at("log/1", 0, b"synced").unwrap();
        disk.sync("log/1").unwrap();
        disk.sync_names("log").unwrap();
        disk.write_at("log/1", 6, b"torn off").unwrap();
        disk.write_at("log/2", 0, b"its name was never synced").unwrap();
        disk.sync("log/2").unwrap();
        disk.cut_power(4);
        assert_eq!(disk.list("log").unwrap(), ["1"]);
        assert_eq!(disk.read_all("log/1").unwrap(), b"syncedtorn");
    }

    #[test]
    fn a_full_disk_writes_what_fits_and_says_so() {
        let disk = MemoryDisk::new();
        disk.set_capacity(Some(4));
        let full = disk.write_at("file", 0, b"sixsix").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(disk.read_all("file").unwrap(), b"sixs");
    }
}

//! A disk in memory that can lose power, fill up, fail to sync, stop in the middle of anything, and rot.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Disk;

#[derive(Clone, Default)]
struct MemoryFile {
    content: Vec<u8>,
    /// What the platter has.
    synced: Vec<u8>,
    /// Content and platter are the same up to here.
    same_through: usize,
}

impl MemoryFile {
    fn sync(&mut self) {
        self.synced.truncate(self.same_through);
        self.synced.extend_from_slice(&self.content[self.same_through..]);
        self.same_through = self.content.len();
    }
}

#[derive(Default)]
struct State {
    /// By number: a file keeps its content whatever its name.
    files: BTreeMap<u64, MemoryFile>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    /// The names that survive a power cut.
    durable_names: BTreeMap<String, u64>,
    capacity: Option<u64>,
    syncs_fail: bool,
    /// Changes that still happen before the disk stops.
    changes_left: Option<u64>,
}

impl State {
    fn number(&self, name: &str) -> io::Result<u64> {
        Ok(*self.names.get(name).ok_or(io::ErrorKind::NotFound)?)
    }

    fn file(&self, name: &str) -> io::Result<&MemoryFile> {
        let number = self.number(name)?;
        Ok(self.files.get(&number).ok_or(io::ErrorKind::NotFound)?)
    }

    fn file_mut(&mut self, name: &str) -> io::Result<&mut MemoryFile> {
        let number = self.number(name)?;
        Ok(self.files.get_mut(&number).ok_or(io::ErrorKind::NotFound)?)
    }

    fn bytes_used(&self) -> u64 {
        let named = self.names.values().filter_map(|number| self.files.get(number));
        named.map(|file| file.content.len() as u64).sum()
    }

    /// Counts a change; an error once the disk has stopped.
    fn change(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            Some(0) => Err(io::Error::other("the disk has stopped")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
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

    /// The power is cut: what was not synced is gone, but for `torn` bytes of what followed the synced part of each file,
    /// and names are what they were when they were last synced. Afterwards the disk works again.
    pub fn cut_power(&self, torn: usize) {
        let mut state = self.state();
        for file in state.files.values_mut() {
            let more = file.content.get(file.synced.len()..).unwrap_or_default();
            let kept = &more[..torn.min(more.len())];
            file.synced.extend_from_slice(kept);
            file.content = file.synced.clone();
            file.same_through = file.content.len();
        }
        state.names = state.durable_names.clone();
        let State { files, names, .. } = &mut *state;
        files.retain(|number, _| names.values().any(|named| named == number));
        state.syncs_fail = false;
        state.changes_left = None;
    }

    /// From now on at most so many bytes fit in all files together; `None`: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// Whether syncs fail from now on.
    pub fn fail_syncs(&self, fail: bool) {
        self.state().syncs_fail = fail;
    }

    /// After so many more changes (writes, syncs, names) every further one fails, as if the machine had stopped there;
    /// `None`: never, and a disk that has stopped goes on.
    pub fn stop_after(&self, changes: Option<u64>) {
        self.state().changes_left = changes;
    }

    /// Whether a change has failed because of [`MemoryDisk::stop_after`], or the next one will.
    pub fn has_stopped(&self) -> bool {
        self.state().changes_left == Some(0)
    }

    /// Flips one bit of a file, as rot does.
    pub fn flip_bit(&self, file: &str, at: u64) {
        if let Ok(file) = self.state().file_mut(file) {
            for bytes in [&mut file.content, &mut file.synced] {
                if let Some(byte) = bytes.get_mut(at as usize) {
                    *byte ^= 1;
                }
            }
        }
    }

    /// Bytes in all files.
    pub fn bytes_used(&self) -> u64 {
        self.state().bytes_used()
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
        let names = state.names.keys().filter_map(|name| in_folder(name, folder));
        Ok(names.map(str::to_owned).collect())
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        Ok(self.state().file(file)?.content.len() as u64)
    }

    fn read_at(&self, file: &str, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        let content = &state.file(file)?.content;
        let bytes = (at as usize)
            .checked_add(buffer.len())
            .and_then(|end| content.get(at as usize..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, file: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        if !state.names.contains_key(file) {
            let number = state.next_file;
            state.next_file += 1;
            state.names.insert(file.to_owned(), number);
            state.files.insert(number, MemoryFile::default());
        }
        let (used, capacity) = (state.bytes_used(), state.capacity);
        let file = state.file_mut(file)?;
        file.same_through = file.same_through.min(at as usize);
        let content = &mut file.content;
        let end = at as usize + bytes.len();
        let grows = end.saturating_sub(content.len()) as u64;
        let fits = match capacity {
            Some(capacity) if capacity < used + grows => bytes.len().saturating_sub((used + grows - capacity) as usize),
            _ => bytes.len(),
        };
        let written = at as usize + fits;
        if content.len() < written {
            content.resize(written, 0);
        }
        content[at as usize..written].copy_from_slice(&bytes[..fits]);
        if fits < bytes.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let file = state.file_mut(file)?;
        file.content.truncate(length as usize);
        file.same_through = file.same_through.min(length as usize);
        Ok(())
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        if state.syncs_fail {
            return Err(io::Error::other("the disk failed to sync"));
        }
        state.file_mut(file)?.sync();
        Ok(())
    }

    fn sync_names(&self, folder: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        if state.syncs_fail {
            return Err(io::Error::other("the disk failed to sync"));
        }
        let State {
            names, durable_names, ..
        } = &mut *state;
        durable_names.retain(|name, _| in_folder(name, folder).is_none());
        let of_folder = names.iter().filter(|(name, _)| in_folder(name, folder).is_some());
        durable_names.extend(of_folder.map(|(name, number)| (name.clone(), *number)));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let number = state.number(from)?;
        state.names.remove(from);
        state.names.insert(to.to_owned(), number);
        Ok(())
    }

    fn remove(&self, file: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.names.remove(file);
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

    #[test]
    fn a_rename_that_was_not_synced_is_undone_by_a_power_cut() {
        let disk = MemoryDisk::new();
        for (name, content) in [("it", b"old"), ("next", b"new")] {
            disk.write_at(name, 0, content).unwrap();
            disk.sync(name).unwrap();
        }
        disk.sync_names("").unwrap();
        disk.rename("next", "it").unwrap();
        assert_eq!(disk.read_all("it").unwrap(), b"new");
        disk.cut_power(0);
        assert_eq!(disk.read_all("it").unwrap(), b"old");
        assert_eq!(disk.read_all("next").unwrap(), b"new");
    }

    #[test]
    fn a_disk_that_stops_changes_nothing_more() {
        let disk = MemoryDisk::new();
        disk.stop_after(Some(1));
        disk.write_at("file", 0, b"first").unwrap();
        assert!(disk.write_at("file", 5, b"second").is_err());
        assert!(disk.remove("file").is_err());
        assert_eq!(disk.read_all("file").unwrap(), b"first");
        disk.stop_after(None);
        disk.remove("file").unwrap();
    }
}

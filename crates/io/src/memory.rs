//! A disk in memory that can lose power, fill up, fail to sync, stop in the middle of anything, and rot.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Disk;

/// What a disk writes as a whole or not at all.
const SECTOR_BYTES: usize = 512;

#[derive(Clone, Default)]
struct MemoryFile {
    content: Vec<u8>,
    /// What the platter has.
    synced: Vec<u8>,
    /// Where content and platter may differ, if they have the same length.
    changed: Range<usize>,
}

impl MemoryFile {
    /// Writes at `at`, as zeros between the end and there.
    fn write(&mut self, at: usize, bytes: &[u8]) {
        let (from, end) = (at.min(self.content.len()), at + bytes.len());
        self.changed = match self.changed.is_empty() {
            true => from..end,
            false => self.changed.start.min(from)..self.changed.end.max(end),
        };
        if self.content.len() < end {
            self.content.resize(end, 0);
        }
        self.content[at..end].copy_from_slice(bytes);
    }

    /// A part of what was changed reaches the platter.
    fn persist(&mut self, part: Range<usize>) {
        let part = part.start..part.end.min(self.content.len());
        if part.start < part.end {
            if self.synced.len() < part.end {
                self.synced.resize(part.end, 0);
            }
            self.synced[part.clone()].copy_from_slice(&self.content[part]);
        }
    }

    fn sync(&mut self) {
        self.synced.truncate(self.content.len());
        self.persist(self.changed.clone());
        self.changed = 0..0;
    }

    fn lose_what_is_not_synced(&mut self) {
        self.content = self.synced.clone();
        self.changed = 0..0;
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
    /// How much of the next write is written before it fails.
    torn_write: Option<usize>,
    /// A write into this folder is about to go elsewhere: to a place in another file.
    misdirected: Option<(String, (String, u64))>,
    /// Syncs say that all is well, and make nothing durable.
    syncs_lie: bool,
    /// Changes so far.
    changes: u64,
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

    /// What is not durable is gone.
    fn power_is_back(&mut self) {
        self.files.values_mut().for_each(MemoryFile::lose_what_is_not_synced);
        self.names = self.durable_names.clone();
        let State { files, names, .. } = self;
        files.retain(|number, _| names.values().any(|named| named == number));
    }

    /// Where a write really goes.
    fn place(&mut self, file: &str, at: u64) -> (String, u64) {
        let strays = |(folder, _): &mut (String, _)| in_folder(file, folder).is_some();
        match self.misdirected.take_if(strays) {
            Some((_, place)) => place,
            None => (file.to_owned(), at),
        }
    }

    fn bytes_used(&self) -> u64 {
        let named = self.names.values().filter_map(|number| self.files.get(number));
        named.map(|file| file.content.len() as u64).sum()
    }

    /// Counts a change; an error once the disk has stopped.
    fn change(&mut self) -> io::Result<()> {
        self.changes += 1;
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

    /// The power is cut: what was not synced is gone, but for the first `torn` bytes of what was changed in each file, and
    /// names are what they were when they were last synced. Afterwards the disk works again.
    pub fn cut_power(&self, torn: usize) {
        let mut state = self.state();
        for file in state.files.values_mut() {
            let from = file.changed.start;
            file.persist(from..file.changed.end.min(from.saturating_add(torn)));
        }
        state.power_is_back();
        drop(state);
        self.calm();
    }

    /// The power is cut while the disk writes in an order of its own: `survives` is asked for every sector that was changed
    /// since its file was synced, and once for all names that were not synced.
    pub fn cut_power_anyhow(&self, mut survives: impl FnMut() -> bool) {
        let mut state = self.state();
        for file in state.files.values_mut() {
            let changed = file.changed.clone();
            let mut at = changed.start;
            while at < changed.end {
                let next = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
                if survives() {
                    file.persist(at..next.min(changed.end));
                }
                at = next;
            }
        }
        if survives() {
            state.durable_names = state.names.clone();
        }
        state.power_is_back();
        drop(state);
        self.calm();
    }

    /// The next write fails after it has written so many bytes.
    pub fn tear_next_write(&self, bytes: usize) {
        self.state().torn_write = Some(bytes);
    }

    /// From now on at most so many bytes fit in all files together; `None`: no limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The next write into `folder` goes to another place, and the disk says that all is well.
    pub fn misdirect_next_write(&self, folder: &str, to_file: &str, at: u64) {
        self.state().misdirected = Some((folder.to_owned(), (to_file.to_owned(), at)));
    }

    /// Whether syncs do nothing from now on, and say that all is well: what a program comes to that believes in a sync that
    /// failed.
    pub fn lie_about_syncs(&self, lie: bool) {
        self.state().syncs_lie = lie;
    }

    /// Nothing that was to go wrong does any more, but for a lack of room: it works like a new one.
    pub fn calm(&self) {
        let mut state = self.state();
        state.changes_left = None;
        state.torn_write = None;
        state.misdirected = None;
        state.syncs_fail = false;
        state.syncs_lie = false;
    }

    /// Bytes that a power cut would take now.
    pub fn unsynced_bytes(&self) -> u64 {
        self.state().files.values().map(|file| file.changed.len() as u64).sum()
    }

    /// Changes (writes, syncs, names) that were asked for since the disk was made.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Whether syncs fail from now on. What a failed sync did not make durable, no other one will: it has to be written again.
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

/// Up to a multiple of this a write of log may leave zeros behind itself.
const LOG_BLOCK_BYTES: u64 = 4096;

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
        if state.misdirected.is_some() {
            let (stray, stray_at) = state.place(file, at);
            if (stray.as_str(), stray_at) != (file, at) {
                let stray = state.file_mut(&stray)?;
                stray.write(stray_at as usize, bytes);
                // It is the disk that errs: what was there is gone for good.
                stray.persist(stray_at as usize..stray_at as usize + bytes.len());
                return Ok(());
            }
        }
        let capacity = state.capacity;
        let used = capacity.map_or(0, |_| state.bytes_used());
        let torn = state.torn_write.take();
        let file = state.file_mut(file)?;
        let grows = (at as usize + bytes.len()).saturating_sub(file.content.len()) as u64;
        let fits = match capacity {
            Some(capacity) if 0 < grows && capacity < used + grows => {
                bytes.len().saturating_sub((used + grows - capacity) as usize)
            }
            _ => bytes.len(),
        };
        file.write(at as usize, &bytes[..fits.min(torn.unwrap_or(fits))]);
        match torn {
            Some(_) => Err(io::Error::other("the write was torn")),
            None if fits < bytes.len() => Err(io::ErrorKind::StorageFull.into()),
            None => Ok(()),
        }
    }

    fn write_log_at(&self, file: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        // What may become zeros does.
        let end = at + bytes.len() as u64;
        let length = self.length(file).unwrap_or(0);
        let zeros = (end.next_multiple_of(LOG_BLOCK_BYTES).min(length)).saturating_sub(end);
        self.write_at(file, at, &[bytes, &vec![0; zeros as usize]].concat())
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let file = state.file_mut(file)?;
        file.content.truncate(length as usize);
        Ok(())
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let (fails, lies) = (state.syncs_fail, state.syncs_lie);
        let file = state.file_mut(file)?;
        if lies {
            file.changed = 0..0;
            return Ok(());
        }
        if fails {
            // As Linux does: it is read as it was written, but no later sync will write it.
            file.changed = 0..0;
            return Err(io::Error::other("the disk failed to sync"));
        }
        file.sync();
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
    fn a_power_cut_takes_overwrites_that_were_not_synced() {
        let disk = MemoryDisk::new();
        disk.write_at("log", 0, &[b'.'; 1024]).unwrap();
        disk.sync("log").unwrap();
        disk.sync_names("").unwrap();
        disk.write_at("log", 4, b"torn off").unwrap();
        disk.cut_power(4);
        assert_eq!(disk.read_all("log").unwrap()[..12], *b"....torn....");
        disk.write_at("log", 0, &[b'!'; 1024]).unwrap();
        let mut sectors = [false, true, false].into_iter();
        disk.cut_power_anyhow(|| sectors.next().expect("two sectors and the names"));
        let content = disk.read_all("log").unwrap();
        assert_eq!(content[..12], *b"....torn....");
        assert_eq!(content[512..], [b'!'; 512]);
    }

    #[test]
    fn a_full_disk_still_takes_overwrites() {
        let disk = MemoryDisk::new();
        disk.write_at("file", 0, b"sixsix").unwrap();
        disk.set_capacity(Some(4));
        disk.write_at("file", 0, b"tentwo").unwrap();
        assert!(disk.write_at("file", 6, b"!").is_err());
        assert_eq!(disk.read_all("file").unwrap(), b"tentwo");
    }

    #[test]
    fn what_a_failed_sync_lost_is_read_until_the_power_goes() {
        let disk = MemoryDisk::new();
        disk.write_at("file", 0, b"content").unwrap();
        disk.sync_names("").unwrap();
        disk.fail_syncs(true);
        assert!(disk.sync("file").is_err());
        disk.fail_syncs(false);
        disk.sync("file").unwrap();
        assert_eq!(disk.read_all("file").unwrap(), b"content");
        disk.cut_power(100);
        assert_eq!(disk.read_all("file").unwrap(), b"");
    }

    #[test]
    fn a_misdirected_write_is_found_elsewhere() {
        let disk = MemoryDisk::new();
        for name in ["layers/1", "layers/2"] {
            disk.write_at(name, 0, b"......").unwrap();
        }
        disk.misdirect_next_write("layers", "layers/1", 3);
        disk.write_at("journal/1", 0, b"log").unwrap();
        disk.write_at("layers/2", 0, b"ab").unwrap();
        assert_eq!(disk.read_all("layers/1").unwrap(), b"...ab.");
        assert_eq!(disk.read_all("layers/2").unwrap(), b"......");
        disk.write_at("layers/2", 0, b"ab").unwrap();
        assert_eq!(disk.read_all("layers/2").unwrap(), b"ab....");
    }

    #[test]
    fn a_sync_that_lies_makes_nothing_durable() {
        let disk = MemoryDisk::new();
        disk.sync_names("").unwrap();
        disk.write_at("file", 0, b"content").unwrap();
        disk.sync_names("").unwrap();
        assert_eq!(disk.unsynced_bytes(), 7);
        disk.lie_about_syncs(true);
        disk.sync("file").unwrap();
        disk.cut_power(100);
        assert_eq!(disk.read_all("file").unwrap(), b"");
    }

    #[test]
    fn a_torn_write_fails_once() {
        let disk = MemoryDisk::new();
        disk.tear_next_write(3);
        assert!(disk.write_at("file", 0, b"sixsix").is_err());
        assert_eq!(disk.read_all("file").unwrap(), b"six");
        disk.write_at("file", 0, b"sixsix").unwrap();
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

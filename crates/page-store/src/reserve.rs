//! Journal files that are ready before they are needed.
//!
//! A sync of a file that neither grows nor gets its blocks allocated changes nothing but its content: that is what makes a
//! commit cheap. So the journal writes into files that were filled with zeros and synced before, or that it has used before.
//!
//! Invariants:
//! - A file has a name of its own for each of its lives, and the name is durable before anything is written in that life.
//! - Files that are filled, renamed or removed here never hold up an append for longer than a rename and a sync of names.

use std::io as std_io;
use std::sync::{Arc, Mutex, TryLockError};

use io::Disk;

use crate::journal_files::{FOLDER, file_name, spare_name};
use crate::locked;

/// Files that the journal no longer needs, kept for their next life, at most: one is made the next file when the file that is
/// written is half full, the other covers what comes in while upkeep is busy.
pub(crate) const SPARES_MAX: usize = 2;
/// A file is filled in so many steps, each synced, so that no sync has much to write at once.
const FILLING_STEPS: u64 = 16;
/// Zeros written at once.
const ZEROS: &[u8] = &[0; 64 << 10];

/// The next file of the journal, before it is begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextFile {
    /// Bytes of it that are allocated.
    pub(crate) allocated: u64,
    /// Whether its name is durable.
    pub(crate) named: bool,
}

/// What is known of the file that the journal will need next.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
enum Next {
    /// It is not wanted yet.
    #[default]
    Far,
    /// The journal will need a file that begins here.
    Wanted(u64),
    /// The file that begins here is allocated, and its name is durable.
    Ready(u64),
}

/// Shared by the journal, which takes files, and upkeep, which provides them.
pub(crate) struct Reserve {
    disk: Arc<dyn Disk>,
    file_bytes: u64,
    /// Locked for a moment only, if need be while `spares` is.
    next: Mutex<Next>,
    /// Each named after the start of an earlier life, or of the life it was made for. Held over renames and syncs of names,
    /// never while a file is filled.
    spares: Mutex<Vec<u64>>,
    /// Held while a file is filled.
    filling: Mutex<()>,
}

impl Reserve {
    /// A reserve of files of `file_bytes`. `spares` are there already; `unused` are journal files that hold nothing. What can
    /// be used becomes a spare, the rest is removed.
    pub(crate) fn open(
        disk: Arc<dyn Disk>,
        file_bytes: u64,
        spares: &[u64],
        unused: &[u64],
    ) -> std_io::Result<Reserve> {
        let mut kept = Vec::new();
        let spares = spares.iter().map(|start| (*start, spare_name(*start)));
        let unused = unused.iter().map(|start| (*start, file_name(*start)));
        for (start, name) in spares.chain(unused) {
            let whole = disk.length(&name)? == file_bytes && !kept.contains(&start);
            if !whole || SPARES_MAX <= kept.len() {
                disk.remove(&name)?;
                continue;
            }
            if name != spare_name(start) {
                disk.rename(&name, &spare_name(start))?;
            }
            kept.push(start);
        }
        Ok(Reserve {
            disk,
            file_bytes,
            next: Mutex::default(),
            spares: Mutex::new(kept),
            filling: Mutex::default(),
        })
    }

    /// The journal will soon need a file that begins here. May be said as often as one likes.
    pub(crate) fn want(&self, start: u64) {
        let mut next = locked(&self.next);
        if *next != Next::Ready(start) {
            *next = Next::Wanted(start);
        }
    }

    /// The file that begins here, as far as there is one: the caller allocates what is missing, and makes the name durable.
    pub(crate) fn take(&self, start: u64) -> std_io::Result<NextFile> {
        let mut spares = locked(&self.spares);
        if std::mem::take(&mut *locked(&self.next)) == Next::Ready(start) {
            return Ok(NextFile {
                allocated: self.file_bytes,
                named: true,
            });
        }
        let Some(spare) = spares.last().copied() else {
            return Ok(NextFile {
                allocated: 0,
                named: false,
            });
        };
        self.disk.rename(&spare_name(spare), &file_name(start))?;
        spares.pop();
        Ok(NextFile {
            allocated: self.file_bytes,
            named: false,
        })
    }

    /// Gets the file ready that the journal wants, if it wants one. `pace` is called now and then while it is filled.
    pub(crate) fn prepare(&self, pace: &dyn Fn()) -> std_io::Result<bool> {
        let Next::Wanted(start) = *locked(&self.next) else {
            return Ok(false);
        };
        let _alone = match self.filling.try_lock() {
            Ok(alone) => alone,
            Err(TryLockError::Poisoned(alone)) => alone.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(false),
        };
        if locked(&self.spares).is_empty() {
            self.fill(start, pace)?;
        }
        let mut spares = locked(&self.spares);
        if *locked(&self.next) != Next::Wanted(start) {
            // It has begun the file without us, and may have taken the spare for it.
            return Ok(true);
        }
        let Some(spare) = spares.last().copied() else {
            return Ok(false);
        };
        self.disk.rename(&spare_name(spare), &file_name(start))?;
        spares.pop();
        self.disk.sync_names(FOLDER)?;
        *locked(&self.next) = Next::Ready(start);
        Ok(true)
    }

    /// Makes a spare of zeros.
    fn fill(&self, number: u64, pace: &dyn Fn()) -> std_io::Result<()> {
        let name = spare_name(number);
        let mut allocated = 0;
        while allocated < self.file_bytes {
            let through = self.step_end(allocated + 1).min(self.file_bytes);
            let filled = write_zeros(&*self.disk, &name, allocated, through).and_then(|()| self.disk.sync(&name));
            if let Err(error) = filled {
                // On a full disk every byte may be needed elsewhere.
                let _ = self.disk.remove(&name);
                return Err(error);
            }
            allocated = through;
            pace();
        }
        locked(&self.spares).push(number);
        Ok(())
    }

    /// A journal file is no longer needed: it is kept for another life, or removed. Durable when this returns.
    pub(crate) fn give_back(&self, start: u64) -> std_io::Result<()> {
        let mut spares = locked(&self.spares);
        let name = file_name(start);
        let whole = self.disk.length(&name).is_ok_and(|length| length == self.file_bytes);
        if whole && spares.len() < SPARES_MAX && !spares.contains(&start) {
            self.disk.rename(&name, &spare_name(start))?;
            spares.push(start);
        } else {
            self.disk.remove(&name)?;
        }
        self.disk.sync_names(FOLDER)
    }

    /// Where the step of filling ends that covers the first `bytes` bytes.
    fn step_end(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of((self.file_bytes / FILLING_STEPS).max(1))
    }

    /// Allocates more of a file that has `allocated` bytes, so that it has `needed`, and if there is room some more, so that
    /// not every append has to. Answers with how much it has then; on an error nothing has changed.
    pub(crate) fn extend(&self, name: &str, allocated: u64, needed: u64) -> std_io::Result<u64> {
        let more = self.step_end(needed).min(self.file_bytes);
        let mut refused = None;
        for through in [more, needed] {
            if through < needed {
                continue;
            }
            match write_zeros(&*self.disk, name, allocated, through) {
                Ok(()) => return Ok(through),
                Err(error) => refused = Some(error),
            }
        }
        // Whatever was allocated in vain. If this fails, too, it is behind the end, where nothing counts.
        let _ = self.disk.truncate(name, allocated);
        Err(refused.expect("it was tried to allocate what is needed"))
    }
}

fn write_zeros(disk: &dyn Disk, name: &str, from: u64, through: u64) -> std_io::Result<()> {
    let mut at = from;
    while at < through {
        let bytes = ZEROS.len().min(usize::try_from(through - at).unwrap_or(ZEROS.len()));
        disk.write_at(name, at, &ZEROS[..bytes])?;
        at += bytes as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use io::MemoryDisk;

    use super::*;

    const FILE_BYTES: u64 = 64 << 10;

    #[test]
    fn a_file_that_is_ready_is_not_made_again() {
        let disk = Arc::new(MemoryDisk::new());
        let reserve = Reserve::open(disk.clone(), FILE_BYTES, &[], &[]).unwrap();
        assert!(!reserve.prepare(&|| ()).unwrap(), "nothing is wanted");
        reserve.want(FILE_BYTES);
        assert!(reserve.prepare(&|| ()).unwrap());
        // The journal says so with every entry.
        reserve.want(FILE_BYTES);
        assert!(!reserve.prepare(&|| ()).unwrap(), "it is ready");
        let taken = reserve.take(FILE_BYTES).unwrap();
        assert!(taken.named && taken.allocated == FILE_BYTES);
        reserve.want(2 * FILE_BYTES);
        assert!(reserve.prepare(&|| ()).unwrap(), "the one after it is another");
    }
}

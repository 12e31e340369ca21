//! One partition of the overlay: pages that the volume does not have yet, in memory or in the spill file.
//!
//! The rules alone: whoever calls holds the partition's lock, and says what may be forgotten.
//!
//! Invariants:
//! - An entry has either a slot in memory or a block of the spill file, never both, never none.
//! - An entry is only forgotten if the judge says so, or by name.

use std::io;

use units::PageKey;

use crate::fixed_table::{FixedTable, Hashed, mix};
use crate::page::PageBytes;

const NONE: u32 = u32::MAX;

impl Hashed for PageKey {
    fn hashed(&self) -> u64 {
        let relation = self.fork.relation;
        mix(&[
            relation.tablespace,
            relation.database,
            relation.relation,
            u32::from(self.fork.fork),
            self.block,
        ])
    }
}

/// Until when a page has to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keep {
    /// Until the volume has this much log.
    pub lsn: u64,
    /// Until this transaction and all before it ended, if not zero.
    pub xid: u32,
    /// Until no VACUUM runs.
    pub vacuum: bool,
    /// As long as the page is as it is.
    pub forever: bool,
    /// Until there is no other room: a page of the free space map or of the visibility map.
    pub map: bool,
}

/// Where a page is kept, and until when.
#[derive(Clone, Copy)]
pub struct Kept {
    keep: Keep,
    slot: u32,
    spill_block: u32,
}

/// A place in memory for a page.
#[derive(Clone, Copy)]
pub struct Slot {
    /// Index of its entry; of the next free slot, while it has none.
    entry: u32,
    referenced: bool,
}

/// What stands in front of a partition.
#[derive(Clone, Copy)]
pub struct PartitionHeader {
    free_slot: u32,
    hand: u32,
    spill_free_count: u32,
}

/// A partition's memory.
pub struct Partition<'a> {
    /// Its counters.
    pub header: &'a mut PartitionHeader,
    /// What is kept.
    pub table: FixedTable<'a, PageKey, Kept>,
    /// Who uses which page of memory.
    pub slots: &'a mut [Slot],
    /// The pages.
    pub pages: &'a mut [PageBytes],
    /// Blocks of the spill file that are free: the first `spill_free_count` of these.
    pub spill_free: &'a mut [u32],
}

/// The spill file.
pub trait Spill {
    /// Reads a block.
    fn read(&self, block: u32, page: &mut PageBytes) -> io::Result<()>;
    /// Writes a block.
    fn write(&self, block: u32, page: &PageBytes) -> io::Result<()>;
}

/// Why a page was not stored. What was stored before is unchanged.
#[derive(Debug)]
pub enum StoreError {
    /// There is no memory, and the caller did not want the spill file yet.
    NoMemory,
    /// Neither memory nor spill file has room.
    Full,
    /// The spill file cannot be written.
    Spill(io::Error),
}

/// How full a partition is.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Pages kept.
    pub entries: u64,
    /// Of them in the spill file.
    pub spilled: u64,
    /// Kept as long as they are as they are.
    pub forever: u64,
    /// Of the free space maps and visibility maps.
    pub maps: u64,
    /// Kept because of command ids.
    pub commands: u64,
    /// Kept because of a VACUUM.
    pub vacuum: u64,
}

impl Partition<'_> {
    /// A slot to begin with.
    pub const SLOT: Slot = Slot {
        entry: NONE,
        referenced: false,
    };
    /// A header to begin with.
    pub const HEADER: PartitionHeader = PartitionHeader {
        free_slot: 0,
        hand: 0,
        spill_free_count: 0,
    };
    /// An entry to begin with.
    pub const PLACE: crate::fixed_table::Place<PageKey, Kept> = FixedTable::<PageKey, Kept>::PLACE;

    /// Makes the memory an empty partition whose blocks of the spill file begin with `first_spill_block`.
    pub fn clear(&mut self, first_spill_block: u32) {
        assert!(!self.slots.is_empty() && self.slots.len() == self.pages.len());
        self.table.clear();
        let count = self.slots.len() as u32;
        for (index, slot) in (0..count).zip(self.slots.iter_mut()) {
            *slot = Slot {
                entry: if index + 1 < count { index + 1 } else { NONE },
                ..Self::SLOT
            };
        }
        for (index, block) in (first_spill_block..).zip(self.spill_free.iter_mut()) {
            *block = index;
        }
        *self.header = PartitionHeader {
            spill_free_count: self.spill_free.len() as u32,
            ..Self::HEADER
        };
    }

    /// Copies the page out, if it is kept.
    pub fn read(&mut self, key: &PageKey, page: &mut PageBytes, spill: &dyn Spill) -> io::Result<bool> {
        let Some(kept) = self.table.get(key).copied() else {
            return Ok(false);
        };
        if kept.slot == NONE {
            spill.read(kept.spill_block, page)?;
        } else {
            page.copy_from_slice(&self.pages[kept.slot as usize]);
            self.slots[kept.slot as usize].referenced = true;
        }
        Ok(true)
    }

    /// Keeps a page, in place of an older one with its name.
    pub fn store(
        &mut self,
        key: PageKey,
        page: &PageBytes,
        keep: Keep,
        spill: Option<&dyn Spill>,
        may_forget: &mut dyn FnMut(&Keep) -> bool,
    ) -> Result<(), StoreError> {
        if let Some(index) = self.table.find(&key) {
            let kept = *self.table.at(index).1;
            if kept.slot != NONE {
                self.fill(kept.slot, index, page);
                self.table.at(index).1.keep = keep;
                return Ok(());
            }
            // The entry itself must not be the one that is forgotten, so its blocks change only after a slot is found.
            if let Some(slot) = self.take_slot(may_forget) {
                self.fill(slot, index, page);
                self.free_spill_block(kept.spill_block);
                *self.table.at(index).1 = Kept {
                    keep,
                    slot,
                    spill_block: NONE,
                };
                return Ok(());
            }
            spill
                .ok_or(StoreError::NoMemory)?
                .write(kept.spill_block, page)
                .map_err(StoreError::Spill)?;
            self.table.at(index).1.keep = keep;
            return Ok(());
        }
        let slot = match self.take_slot(may_forget) {
            Some(slot) => slot,
            None => self.spill_one(spill.ok_or(StoreError::NoMemory)?, may_forget)?,
        };
        let kept = Kept {
            keep,
            slot,
            spill_block: NONE,
        };
        let index = self
            .table
            .insert(key, kept)
            .expect("there are as many places as slots and spill blocks together");
        self.fill(slot, index, page);
        Ok(())
    }

    /// Forgets a page by name.
    pub fn remove(&mut self, key: &PageKey) -> bool {
        let Some(kept) = self.table.remove(key) else {
            return false;
        };
        if kept.slot == NONE {
            self.free_spill_block(kept.spill_block);
        } else {
            self.free_slot(kept.slot);
        }
        true
    }

    /// Until when the page has to stay, if it is kept.
    pub fn keep_of(&mut self, key: &PageKey) -> Option<Keep> {
        self.table.get(key).map(|kept| kept.keep)
    }

    /// Forgets all pages that `wanted` accepts; says how many.
    pub fn remove_all(&mut self, wanted: &dyn Fn(&PageKey, &Keep) -> bool) -> usize {
        let mut removed = 0;
        while let Some(key) = self.table.sweep(|key, kept| wanted(key, &kept.keep)) {
            removed += usize::from(self.remove(&key));
        }
        removed
    }

    /// Until when each page has to stay.
    pub fn keeps(&self) -> impl Iterator<Item = &Keep> {
        self.table.iter().map(|(_, kept)| &kept.keep)
    }

    /// How full it is.
    pub fn usage(&self) -> Usage {
        let mut usage = Usage {
            entries: self.table.len() as u64,
            ..Usage::default()
        };
        for (_, kept) in self.table.iter() {
            usage.spilled += u64::from(kept.slot == NONE);
            usage.forever += u64::from(kept.keep.forever);
            usage.maps += u64::from(kept.keep.map);
            usage.commands += u64::from(kept.keep.xid != 0);
            usage.vacuum += u64::from(kept.keep.vacuum);
        }
        usage
    }

    fn fill(&mut self, slot: u32, entry: u32, page: &PageBytes) {
        self.pages[slot as usize].copy_from_slice(page);
        self.slots[slot as usize] = Slot {
            entry,
            referenced: true,
        };
    }

    fn free_slot(&mut self, slot: u32) {
        self.slots[slot as usize] = Slot {
            entry: self.header.free_slot,
            ..Self::SLOT
        };
        self.header.free_slot = slot;
    }

    fn free_spill_block(&mut self, block: u32) {
        self.spill_free[self.header.spill_free_count as usize] = block;
        self.header.spill_free_count += 1;
    }

    /// A slot that is free, or whose page may be forgotten and was not read lately.
    fn take_slot(&mut self, may_forget: &mut dyn FnMut(&Keep) -> bool) -> Option<u32> {
        let free = self.header.free_slot;
        if free != NONE {
            self.header.free_slot = self.slots[free as usize].entry;
            return Some(free);
        }
        // The first round clears the marks, the second finds what the first passed over.
        for _ in 0..self.slots.len() * 2 {
            let slot = self.turn_hand();
            if std::mem::take(&mut self.slots[slot as usize].referenced) {
                continue;
            }
            let (key, kept) = self.table.at(self.slots[slot as usize].entry);
            if may_forget(&kept.keep) {
                self.table.remove(&key);
                return Some(slot);
            }
        }
        None
    }

    /// Frees a slot by writing its page to the spill file.
    fn spill_one(&mut self, spill: &dyn Spill, may_forget: &mut dyn FnMut(&Keep) -> bool) -> Result<u32, StoreError> {
        if self.header.spill_free_count == 0 {
            self.forget_spilled(may_forget);
        }
        let last = self.header.spill_free_count.checked_sub(1).ok_or(StoreError::Full)?;
        let (block, slot) = (self.spill_free[last as usize], self.turn_hand());
        spill
            .write(block, &self.pages[slot as usize])
            .map_err(StoreError::Spill)?;
        self.header.spill_free_count = last;
        let (_, kept) = self.table.at(self.slots[slot as usize].entry);
        (kept.slot, kept.spill_block) = (NONE, block);
        Ok(slot)
    }

    /// Forgets what it may of what is in the spill file.
    fn forget_spilled(&mut self, may_forget: &mut dyn FnMut(&Keep) -> bool) {
        while let Some(key) = self.table.sweep(|_, kept| kept.slot == NONE && may_forget(&kept.keep)) {
            self.remove(&key);
        }
    }

    fn turn_hand(&mut self) -> u32 {
        let slot = self.header.hand;
        self.header.hand = (slot + 1) % self.slots.len() as u32;
        slot
    }
}

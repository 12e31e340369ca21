//! The parts that need no server: tables in fixed memory, the overlay's rules, what a page tells, and reading ahead.
//!
//! The library itself cannot be linked outside of PostgreSQL, so its files are compiled into this test.

#[path = "../src/fixed_table.rs"]
mod fixed_table;
#[expect(dead_code, reason = "the library in a server uses what no test here calls")]
#[path = "../src/overlay_partition.rs"]
mod overlay_partition;
#[expect(dead_code, reason = "the library in a server uses what no test here calls")]
#[path = "../src/page.rs"]
mod page;
#[path = "../src/readahead.rs"]
mod readahead;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use fixed_table::{FixedTable, Hashed, mix};
use overlay_partition::{Keep, Partition, Spill, StoreError};
use page::PageBytes;
use proptest::prelude::*;
use readahead::Readahead;
use units::{PAGE_BYTES, PageKey, RelationKey};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Number(u32);

impl Hashed for Number {
    fn hashed(&self) -> u64 {
        // Few different values, so that chains get long.
        mix(&[self.0 % 5])
    }
}

fn key(block: u32) -> PageKey {
    RelationKey {
        tablespace: 1663,
        database: 5,
        relation: 16384,
    }
    .fork(0)
    .page(block)
}

const NOTHING: Keep = Keep {
    lsn: 0,
    xid: 0,
    vacuum: false,
    forever: false,
    map: false,
};

/// A spill file in memory, which may break.
#[derive(Default)]
struct Memory {
    blocks: RefCell<BTreeMap<u32, PageBytes>>,
    broken: bool,
}

impl Spill for Memory {
    fn read(&self, block: u32, page: &mut PageBytes) -> io::Result<()> {
        page.copy_from_slice(self.blocks.borrow().get(&block).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write(&self, block: u32, page: &PageBytes) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.blocks.borrow_mut().insert(block, *page);
        Ok(())
    }
}

/// Runs `body` with an empty partition of `slots` pages in memory and `spill` in the file.
fn with_partition(slots: usize, spill: usize, body: impl FnOnce(&mut Partition<'_>)) {
    let (mut header, mut table) = (
        Partition::HEADER,
        FixedTable::<PageKey, overlay_partition::Kept>::HEADER,
    );
    let (mut buckets, mut places) = (vec![0; 7], vec![Partition::PLACE; slots + spill]);
    let (mut used, mut pages, mut free) = (
        vec![Partition::SLOT; slots],
        vec![[0; PAGE_BYTES]; slots],
        vec![0; spill],
    );
    let mut partition = Partition {
        header: &mut header,
        table: FixedTable::new(&mut table, &mut buckets, &mut places),
        slots: &mut used,
        pages: &mut pages,
        spill_free: &mut free,
    };
    partition.clear(100);
    body(&mut partition);
}

fn page_of(byte: u8) -> PageBytes {
    [byte; PAGE_BYTES]
}

/// What may not be forgotten moves to the spill file, and comes back from there; then there is no room.
#[test]
fn pages_spill_in_order_and_then_there_is_no_room() {
    with_partition(2, 2, |partition| {
        let spill = Memory::default();
        let never = &mut |_: &Keep| false;
        for block in 0..2 {
            partition
                .store(key(block), &page_of(block as u8 + 1), NOTHING, None, never)
                .expect("there is memory");
        }
        let full = partition.store(key(2), &page_of(3), NOTHING, None, never);
        assert!(matches!(full, Err(StoreError::NoMemory)));
        for block in 2..4 {
            partition
                .store(key(block), &page_of(block as u8 + 1), NOTHING, Some(&spill), never)
                .expect("there is a file");
        }
        let full = partition.store(key(4), &page_of(5), NOTHING, Some(&spill), never);
        assert!(matches!(full, Err(StoreError::Full)));
        assert_eq!(partition.usage().spilled, 2);
        assert!(spill.blocks.borrow().keys().all(|block| (100..102).contains(block)));
        // A spilled page is replaced in place while there is no memory.
        partition
            .store(key(0), &page_of(9), NOTHING, Some(&spill), never)
            .expect("it has a place");
        for (block, byte) in [(0, 9), (1, 2), (2, 3), (3, 4)] {
            let mut page = page_of(0);
            assert!(partition.read(&key(block), &mut page, &spill).expect("readable"));
            assert_eq!(page, page_of(byte), "block {block}");
        }
        // Once they may be forgotten, there is room again.
        partition
            .store(key(4), &page_of(5), NOTHING, Some(&spill), &mut |_| true)
            .expect("the others may go");
        assert_eq!(partition.remove_all(&|key, _| key.block == 4), 1);
        assert!(!partition.remove(&key(4)));
    });
}

/// A spill file that cannot be written loses nothing.
#[test]
fn a_broken_spill_file_loses_nothing() {
    with_partition(1, 1, |partition| {
        let broken = Memory {
            broken: true,
            ..Memory::default()
        };
        partition
            .store(key(0), &page_of(1), NOTHING, None, &mut |_| false)
            .expect("there is memory");
        let stored = partition.store(key(1), &page_of(2), NOTHING, Some(&broken), &mut |_| false);
        assert!(matches!(stored, Err(StoreError::Spill(_))));
        let mut page = page_of(0);
        assert!(partition.read(&key(0), &mut page, &broken).expect("in memory"));
        assert_eq!(page, page_of(1));
        assert!(!partition.read(&key(1), &mut page, &broken).expect("not there"));
        let working = Memory::default();
        partition
            .store(key(1), &page_of(2), NOTHING, Some(&working), &mut |_| false)
            .expect("the block is still free");
    });
}

proptest! {
    /// A table is a map.
    #[test]
    fn a_table_is_a_map(steps in prop::collection::vec((0u32..20, any::<u8>(), 0u8..3), 0..200)) {
        let (mut header, mut buckets, mut places) =
            (FixedTable::<Number, u8>::HEADER, vec![0; 3], vec![FixedTable::<Number, u8>::PLACE; 8]);
        let mut table = FixedTable::new(&mut header, &mut buckets, &mut places);
        table.clear();
        let mut model = BTreeMap::new();
        for (number, value, step) in steps {
            let number = Number(number);
            match step {
                0 if !model.contains_key(&number.0) => {
                    let inserted = table.insert(number, value).is_some();
                    prop_assert_eq!(inserted, model.len() < 8);
                    if inserted {
                        model.insert(number.0, value);
                    }
                }
                1 => {
                    let removals = table.removals();
                    let removed = table.remove(&number);
                    prop_assert_eq!(removed, model.remove(&number.0));
                    prop_assert_eq!(table.removals(), removals + u64::from(removed.is_some()));
                }
                _ => {}
            }
            prop_assert_eq!(table.get(&number).copied(), model.get(&number.0).copied());
            prop_assert_eq!(table.len(), model.len());
        }
        let mut swept = Vec::new();
        while let Some(number) = table.sweep(|_, _| true) {
            table.remove(&number);
            swept.push(number.0);
        }
        swept.sort_unstable();
        prop_assert_eq!(swept, model.into_keys().collect::<Vec<_>>());
    }

    /// A partition never gives an old page, and never forgets one that must stay.
    #[test]
    fn a_partition_keeps_what_must_stay(steps in prop::collection::vec((0u32..12, 1u8.., any::<bool>(), 0u8..4), 0..300)) {
        with_partition(3, 4, |partition| {
            let (spill, mut model) = (Memory::default(), BTreeMap::new());
            for (block, byte, forever, step) in steps {
                if step == 0 {
                    partition.remove(&key(block));
                    model.remove(&block);
                    continue;
                }
                let keep = Keep { forever, ..NOTHING };
                let spill_now: Option<&dyn Spill> = if step == 1 { None } else { Some(&spill) };
                if partition.store(key(block), &page_of(byte), keep, spill_now, &mut |keep| !keep.forever).is_ok() {
                    model.insert(block, (byte, forever));
                }
                for (block, (byte, forever)) in &model {
                    let mut page = page_of(0);
                    let found = partition.read(&key(*block), &mut page, &spill).expect("readable");
                    assert!(found || !forever, "block {block} was forgotten");
                    assert!(!found || page == page_of(*byte), "block {block} is old");
                }
            }
        });
    }

    /// Any bytes give an answer.
    #[test]
    fn any_page_gives_an_answer(head in prop::collection::vec(any::<u8>(), 600), lower in any::<u16>(), special in any::<u16>()) {
        let mut bytes: PageBytes = page_of(0x5a);
        bytes[..600].copy_from_slice(&head);
        bytes[12..14].copy_from_slice(&lower.to_le_bytes());
        for special in [special, 8192, 8176, 8184, 0] {
            bytes[16..18].copy_from_slice(&special.to_le_bytes());
            let _ = (page::latest_command_xid(&bytes, || 7), page::is_sequence(&bytes), page::has_cycle_id(&bytes));
            let _ = (page::lsn(&bytes), page::is_all_visible(&bytes), page::is_heap(&bytes));
            let _ = page::has_logged_values_left(&bytes);
        }
    }
}

/// A heap page with one tuple.
fn heap_page(xmin: u32, xmax: u32, command: u32, flags: u16) -> PageBytes {
    let mut page = page_of(0);
    page[12..14].copy_from_slice(&28u16.to_le_bytes());
    page[16..18].copy_from_slice(&8192u16.to_le_bytes());
    page[24..28].copy_from_slice(&(8000u32 | 1 << 15 | 32 << 17).to_le_bytes());
    page[8000..8004].copy_from_slice(&xmin.to_le_bytes());
    page[8004..8008].copy_from_slice(&xmax.to_le_bytes());
    page[8008..8012].copy_from_slice(&command.to_le_bytes());
    page[8020..8022].copy_from_slice(&flags.to_le_bytes());
    page
}

/// Which transaction a page waits for, by the flags of htup_details.h.
#[test]
fn command_ids_of_running_transactions_are_seen() {
    const XMIN_COMMITTED: u16 = 0x0100;
    const XMAX_INVALID: u16 = 0x0800;
    let seen = |page: PageBytes| page::latest_command_xid(&page, || 1000);
    assert_eq!(
        seen(heap_page(500, 0, 0, XMAX_INVALID)),
        None,
        "the first command's number is what redo writes"
    );
    assert_eq!(seen(heap_page(500, 0, 3, XMAX_INVALID)), Some(500));
    assert_eq!(seen(heap_page(500, 0, 3, XMIN_COMMITTED | XMAX_INVALID)), None);
    assert_eq!(
        seen(heap_page(500, 600, 3, XMIN_COMMITTED)),
        Some(600),
        "deleted by a later command"
    );
    assert_eq!(seen(heap_page(500, 500, 0, 0x0020)), Some(500), "a combined command id");
    assert_eq!(
        seen(heap_page(500, 9, 3, XMIN_COMMITTED | 0x1000)),
        Some(1000),
        "a multixact's members are not on the page"
    );
    assert_eq!(
        seen(heap_page(500, 600, 3, XMIN_COMMITTED | 0x0080)),
        None,
        "only locked"
    );
    let mut speculative = heap_page(500, 0, 0, XMAX_INVALID);
    speculative[8016..8018].copy_from_slice(&0xFFFEu16.to_le_bytes());
    assert_eq!(seen(speculative), Some(500));
    assert!(page::precedes(u32::MAX, 5) && !page::precedes(5, u32::MAX) && page::precedes(2, u32::MAX));
}

/// Announcements grow while blocks follow each other, cover every block once, and stop at the end.
/// A sequence's page as `fill_seq_with_data` lays it out: one tuple, at the end.
fn sequence_page(last_value: u64, log_cnt: u64) -> PageBytes {
    let mut page = page_of(0);
    let (special, tuple) = (PAGE_BYTES - 8, PAGE_BYTES - 8 - 48);
    page[12..14].copy_from_slice(&28u16.to_le_bytes());
    page[16..18].copy_from_slice(&(special as u16).to_le_bytes());
    page[special..special + 4].copy_from_slice(&0x1717u32.to_le_bytes());
    page[24..28].copy_from_slice(&(tuple as u32 | 1 << 15 | 41 << 17).to_le_bytes());
    page[tuple + 22] = 24;
    page[tuple + 24..tuple + 32].copy_from_slice(&last_value.to_le_bytes());
    page[tuple + 32..tuple + 40].copy_from_slice(&log_cnt.to_le_bytes());
    page
}

#[test]
fn a_sequence_stays_while_its_log_is_ahead_of_it() {
    assert!(page::is_sequence(&sequence_page(7, 0)));
    assert!(!page::has_logged_values_left(&sequence_page(7, 0)));
    assert!(page::has_logged_values_left(&sequence_page(7, 1)));
    assert!(page::has_logged_values_left(&sequence_page(7, 32)));
    let mut broken = sequence_page(7, 0);
    broken[24..28].copy_from_slice(&0x7FFFu32.to_le_bytes());
    assert!(page::has_logged_values_left(&broken), "a tuple beyond the page");
    assert!(!page::has_logged_values_left(&page_of(0)));
}

#[test]
fn reading_ahead_grows_and_stops_at_the_end() {
    let mut readahead = Readahead::new();
    let mut announced_to = 0;
    for block in 0..100 {
        let soon = u32::from(readahead.wanted_soon(key(block), 100, 32));
        assert!((1..=32).contains(&soon) && block + soon <= 100);
        announced_to = announced_to.max(block + soon);
    }
    assert_eq!(announced_to, 100);
    let mut readahead = Readahead::new();
    assert!(
        (0..50).all(|step| readahead.wanted_soon(key(step * 7 % 100), 100, 32) == 1),
        "jumps announce nothing"
    );
    // As ANALYZE reads a table that has a few more blocks than its sample.
    let mut readahead = Readahead::new();
    let mut alone = 0;
    let mut announced_to = 0;
    for block in (0..1000).filter(|block| block % 10 != 3 && block % 17 > 1) {
        alone += u32::from(announced_to <= block);
        announced_to = announced_to.max(block + u32::from(readahead.wanted_soon(key(block), 1000, 32)));
    }
    assert!(alone <= 5, "{alone} pages were not announced before they were read");
}

//! What a page tells about itself, read from its bytes (PostgreSQL's bufpage.h, htup_details.h, nbtree.h, sequence.c).
//!
//! Invariant: total. Any 8192 bytes give an answer.

use units::{Lsn, PAGE_BYTES};

/// The bytes of a page.
pub type PageBytes = [u8; PAGE_BYTES];

/// No record ends below this: the log begins with its second file, and the smallest file is 1 MiB. What stands lower is
/// the mark of a page that nobody logged (0, `GistBuildLSN`, `initdb`'s 0/28).
pub const LOWEST_REAL_LSN: Lsn = Lsn::from_raw(0x10_0000);

const PD_ALL_VISIBLE: u16 = 0x0004;
const SEQUENCE_MAGIC: u32 = 0x1717;
const CYCLE_ID_MAX: u16 = 0xFF7F;
const PAGE_HEADER_BYTES: usize = 24;
const TUPLE_HEADER_BYTES: usize = 23;
const LINE_POINTER_NORMAL: u32 = 1;
const COMBO_COMMAND: u16 = 0x0020;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMIN_KNOWN: u16 = 0x0300;
const XMAX_KNOWN: u16 = 0x0C00;
const XMAX_IS_MULTI: u16 = 0x1000;
const SPECULATIVE_OFFSET: u16 = 0xFFFE;

fn u16_at(page: &PageBytes, at: usize) -> u16 {
    u16::from_le_bytes([page[at], page[at + 1]])
}

fn u32_at(page: &PageBytes, at: usize) -> u32 {
    u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]])
}

/// The end of the last record that changed it.
pub fn lsn(page: &PageBytes) -> Lsn {
    Lsn::from_raw(u64::from(u32_at(page, 0)) << 32 | u64::from(u32_at(page, 4)))
}

/// Whether nothing was ever written to it.
pub fn is_zeroed(page: &PageBytes) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// Whether it claims that everybody sees all its rows.
pub fn is_all_visible(page: &PageBytes) -> bool {
    u16_at(page, 10) & PD_ALL_VISIBLE != 0
}

fn special_bytes(page: &PageBytes) -> usize {
    PAGE_BYTES.saturating_sub(usize::from(u16_at(page, 16)))
}

/// Whether it is a page of a sequence that is behind its log: a record holds the sequence as it will be after 32 further
/// values (`SEQ_LOG_VALS`), of which `log_cnt` are left. Redo would skip those.
pub fn has_logged_values_left(page: &PageBytes) -> bool {
    if !is_sequence(page) {
        return false;
    }
    let tuple = (u32_at(page, PAGE_HEADER_BYTES) & 0x7FFF) as usize;
    let data = page
        .get(tuple + 22)
        .map(|header_bytes| tuple + usize::from(*header_bytes));
    // `last_value` stands before it; what is no tuple counts as behind.
    let left = data.and_then(|data| page.get(data + 8..data + 16));
    left.is_none_or(|left| left.iter().any(|byte| *byte != 0))
}

/// Whether it is the one page of a sequence (`SEQ_MAGIC`).
pub fn is_sequence(page: &PageBytes) -> bool {
    special_bytes(page) == 8 && u32_at(page, PAGE_BYTES - 8) == SEQUENCE_MAGIC
}

/// Whether it could be a page of a heap: it has no special space.
pub fn is_heap(page: &PageBytes) -> bool {
    !is_zeroed(page) && special_bytes(page) == 0
}

/// Whether it is a page of a btree; other indexes put numbers above the largest cycle id at the same place.
pub fn is_btree(page: &PageBytes) -> bool {
    special_bytes(page) == 16 && u16_at(page, PAGE_BYTES - 2) <= CYCLE_ID_MAX
}

/// Whether the parts of the page follow each other.
fn has_sound_header(page: &PageBytes) -> bool {
    let [lower, upper, special] = [12, 14, 16].map(|at| usize::from(u16_at(page, at)));
    PAGE_HEADER_BYTES <= lower && lower <= upper && upper <= special && special <= PAGE_BYTES
}

/// What a page belongs to, as far as its special space tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A sequence.
    Sequence,
    /// A heap.
    Heap,
    /// A btree.
    Btree,
    /// A hash index.
    Hash,
    /// A GIN index.
    Gin,
    /// A GiST index.
    Gist,
    /// An SP-GiST index.
    Spgist,
    /// A BRIN index.
    Brin,
    /// An index of an extension.
    Generic,
    /// None of these.
    Other,
}

/// What it is a page of: each index marks its pages with a number at their end (`HASHO_PAGE_ID` and the like), but GIN,
/// whose flags stand there.
pub fn kind(page: &PageBytes) -> Kind {
    const HASH: u16 = 0xFF80;
    const GIST: u16 = 0xFF81;
    const SPGIST: u16 = 0xFF82;
    const BRIN: std::ops::RangeInclusive<u16> = 0xF091..=0xF093;
    /// All flags together (ginblock.h).
    const GIN_FLAGS_MAX: u16 = 0x00FF;
    if is_zeroed(page) || !has_sound_header(page) {
        return Kind::Other;
    }
    match (special_bytes(page), u16_at(page, PAGE_BYTES - 2)) {
        (0, _) => Kind::Heap,
        (8, _) if is_sequence(page) => Kind::Sequence,
        (16, ..=CYCLE_ID_MAX) => Kind::Btree,
        (16, HASH) => Kind::Hash,
        (16, GIST) => Kind::Gist,
        (8, SPGIST) => Kind::Spgist,
        (8, id) if BRIN.contains(&id) => Kind::Brin,
        (8, ..=GIN_FLAGS_MAX) => Kind::Gin,
        _ => Kind::Generic,
    }
}

const BRIN_META: u16 = 0xF091;
const BRIN_RANGE_MAP: u16 = 0xF092;

fn brin_type(page: &PageBytes) -> Option<u16> {
    (kind(page) == Kind::Brin).then(|| u16_at(page, PAGE_BYTES - 2))
}

/// The last block of a BRIN index's range map, if this is the page that says so (`BrinMetaPageData`).
pub fn last_range_map(page: &PageBytes) -> Option<u32> {
    const MAGIC: u32 = 0xA810_9CFA;
    let is_meta = brin_type(page) == Some(BRIN_META) && u32_at(page, PAGE_HEADER_BYTES) == MAGIC;
    is_meta.then(|| u32_at(page, PAGE_HEADER_BYTES + 12))
}

/// Whether it is a page of a BRIN index's range map.
pub fn is_range_map(page: &PageBytes) -> bool {
    brin_type(page) == Some(BRIN_RANGE_MAP)
}

/// Whether it was split while a VACUUM ran, which redo does not note (`btpo_cycleid`).
pub fn has_cycle_id(page: &PageBytes) -> bool {
    is_btree(page) && u16_at(page, PAGE_BYTES - 2) != 0
}

/// The latest transaction that may still run and whose command ids redo would lose: the log has neither command ids nor
/// speculative tokens. A transaction's first command has number zero, which is what redo writes.
///
/// `next_xid` stands for a multixact's members, which are not on the page.
pub fn latest_command_xid(page: &PageBytes, next_xid: impl Fn() -> u32) -> Option<u32> {
    if !is_heap(page) {
        return None;
    }
    let lower = usize::from(u16_at(page, 12)).min(PAGE_BYTES);
    let pointers = (PAGE_HEADER_BYTES..lower.saturating_sub(3))
        .step_by(4)
        .map(|at| u32_at(page, at));
    let mut latest: Option<u32> = None;
    for pointer in pointers {
        let (tuple, state) = ((pointer & 0x7FFF) as usize, pointer >> 15 & 3);
        if state != LINE_POINTER_NORMAL || tuple + TUPLE_HEADER_BYTES > PAGE_BYTES {
            continue;
        }
        let flags = u16_at(page, tuple + 20);
        let speculative = u16_at(page, tuple + 16) == SPECULATIVE_OFFSET;
        if u32_at(page, tuple + 8) == 0 && flags & COMBO_COMMAND == 0 && !speculative {
            continue;
        }
        let inserter = (flags & XMIN_KNOWN == 0).then(|| u32_at(page, tuple));
        let deletes = flags & (XMAX_KNOWN | XMAX_LOCK_ONLY) == 0;
        let deleter = deletes.then(|| {
            if flags & XMAX_IS_MULTI == 0 {
                u32_at(page, tuple + 4)
            } else {
                next_xid()
            }
        });
        for xid in [inserter, deleter].into_iter().flatten().filter(|xid| *xid != 0) {
            latest = Some(latest.map_or(xid, |latest| if precedes(latest, xid) { xid } else { latest }));
        }
    }
    latest
}

/// Whether transaction `one` is older than `other`, on the circle of transaction ids (`TransactionIdPrecedes`).
pub fn precedes(one: u32, other: u32) -> bool {
    const FIRST_NORMAL: u32 = 3;
    if one < FIRST_NORMAL || other < FIRST_NORMAL {
        return one < other;
    }
    (one.wrapping_sub(other) as i32) < 0
}

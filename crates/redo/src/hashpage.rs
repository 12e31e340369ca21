//! Pages of hash indexes: buckets and their overflow pages, the meta page, bitmaps of free overflow pages. Follows
//! `access/hash/hashpage.c`, `hashovfl.c`, `hashutil.c` and `access/hash.h`.

use units::PAGE_BYTES;

use crate::bufpage::{HEADER_BYTES, PageMut};
use crate::fault::{Applied, Fault};

/// `sizeof(HashPageOpaqueData)`, and what stands in it.
const OPAQUE_BYTES: usize = 16;
pub(crate) const PREVIOUS_AT: usize = 0;
pub(crate) const NEXT_AT: usize = 4;
const BUCKET_AT: usize = 8;
const FLAGS_AT: usize = 12;
const PAGE_ID_AT: usize = 14;
/// `HASHO_PAGE_ID`.
const PAGE_ID: u16 = 0xFF80;

/// `LH_PAGE_TYPE` and its values.
const TYPE_MASK: u16 = 0x000F;
pub(crate) const UNUSED: u16 = 0;
pub(crate) const OVERFLOW: u16 = 1 << 0;
pub(crate) const BUCKET: u16 = 1 << 1;
const BITMAP: u16 = 1 << 2;
const META: u16 = 1 << 3;
/// `LH_BUCKET_NEEDS_SPLIT_CLEANUP`.
pub(crate) const NEEDS_SPLIT_CLEANUP: u16 = 1 << 6;
/// `LH_PAGE_HAS_DEAD_TUPLES`: a hint.
pub(crate) const HAS_DEAD_TUPLES: u16 = 1 << 7;

/// `InvalidBlockNumber` and `InvalidBucket`.
pub(crate) const NONE: u32 = u32::MAX;

/// What stands in `HashMetaPageData`, which follows the page header.
const META_AT: usize = HEADER_BYTES;
const VERSION_AT: usize = META_AT + 4;
const TUPLES_AT: usize = META_AT + 8;
const FILL_FACTOR_AT: usize = META_AT + 16;
const BITMAP_SPACE_AT: usize = META_AT + 18;
const BITMAP_BYTES_AT: usize = META_AT + 20;
const BITMAP_SHIFT_AT: usize = META_AT + 22;
const MAX_BUCKET_AT: usize = META_AT + 24;
const HIGH_MASK_AT: usize = META_AT + 28;
const LOW_MASK_AT: usize = META_AT + 32;
const OVERFLOW_POINT_AT: usize = META_AT + 36;
const FIRST_FREE_AT: usize = META_AT + 40;
const BITMAPS_COUNT_AT: usize = META_AT + 44;
const PROCEDURE_AT: usize = META_AT + 48;
const SPARES_AT: usize = META_AT + 52;
const BITMAP_BLOCKS_AT: usize = SPARES_AT + 4 * SPLIT_POINTS_MAX as usize;
/// `sizeof(HashMetaPageData)`: its double is aligned.
const META_BYTES: usize = 4544;
/// `HASH_MAGIC` and `HASH_VERSION`.
const MAGIC: u32 = 0x0644_0640;
const VERSION: u32 = 4;

/// `HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE`, `HASH_SPLITPOINT_PHASE_BITS`, `HASH_MAX_SPLITPOINTS`, `HASH_MAX_BITMAPS`.
const GROUPS_WITH_ONE_PHASE: u32 = 10;
const PHASE_BITS: u32 = 2;
const PHASE_MASK: u32 = (1 << PHASE_BITS) - 1;
const SPLIT_POINTS_MAX: u32 = 98;
const BITMAPS_MAX: u32 = 1024;

/// The largest power of two of bytes that fits between header and special space.
const BITMAP_BYTES: u16 = 4096;

const _: () = {
    assert!(BITMAP_BLOCKS_AT + 4 * BITMAPS_MAX as usize <= META_AT + META_BYTES);
    assert!(META_AT + META_BYTES <= PAGE_BYTES - OPAQUE_BYTES);
};

impl PageMut<'_> {
    /// Where a field of the special space stands.
    fn hash_opaque(&self, at: usize) -> Result<usize, Fault> {
        self.check()?;
        let special = PAGE_BYTES - OPAQUE_BYTES;
        if self.special() != special || self.u16(special + PAGE_ID_AT) != PAGE_ID {
            return Err(Fault::Mismatch("the page is no page of a hash index"));
        }
        Ok(special + at)
    }

    fn hash_type(&self) -> Result<u16, Fault> {
        Ok(self.u16(self.hash_opaque(FLAGS_AT)?) & TYPE_MASK)
    }

    /// A page with items: a bucket's own or one of its overflow pages.
    pub(crate) fn check_bucket(&self) -> Applied {
        match self.hash_type()? {
            BUCKET | OVERFLOW => Ok(()),
            _ => Err(Fault::Mismatch("the page belongs to no bucket")),
        }
    }

    fn check_meta(&self) -> Applied {
        match self.hash_type()? {
            META => Ok(()),
            _ => Err(Fault::Mismatch("the page is no meta page of a hash index")),
        }
    }

    /// `_hash_pageinit`, and the special space as `_hash_initbuf` sets it.
    pub(crate) fn init_hash(&mut self, previous: u32, bucket: u32, flags: u16) {
        self.init(OPAQUE_BYTES);
        let special = self.special();
        self.set_u32(special + PREVIOUS_AT, previous);
        self.set_u32(special + NEXT_AT, NONE);
        self.set_u32(special + BUCKET_AT, bucket);
        self.set_u16(special + FLAGS_AT, flags);
        self.set_u16(special + PAGE_ID_AT, PAGE_ID);
    }

    /// `hasho_prevblkno` or `hasho_nextblkno`.
    pub(crate) fn set_hash_link(&mut self, at: usize, block: u32) -> Applied {
        self.check_bucket()?;
        let at = self.hash_opaque(at)?;
        self.set_u32(at, block);
        Ok(())
    }

    pub(crate) fn set_hash_flags(&mut self, flags: u16) -> Applied {
        self.check_bucket()?;
        let at = self.hash_opaque(FLAGS_AT)?;
        self.set_u16(at, flags);
        Ok(())
    }

    pub(crate) fn clear_hash_flags(&mut self, flags: u16) -> Applied {
        let at = self.hash_opaque(FLAGS_AT)?;
        let known = self.u16(at);
        self.set_u16(at, known & !flags);
        Ok(())
    }

    /// `_hash_initbitmapbuffer`: every overflow page is in use, also those that do not exist yet.
    pub(crate) fn init_hash_bitmap(&mut self, bytes: u16) -> Applied {
        self.init_hash(NONE, NONE, BITMAP);
        let end = HEADER_BYTES + usize::from(bytes);
        if self.upper() < end {
            return Err(Fault::Mismatch("a bitmap is longer than a page"));
        }
        self.bytes_mut()[HEADER_BYTES..end].fill(0xFF);
        self.set_lower(end);
        Ok(())
    }

    /// `SETBIT` and `CLRBIT`, whose 32-bit words are little-endian.
    pub(crate) fn set_hash_bit(&mut self, bit: u32, used: bool) -> Applied {
        if self.hash_type()? != BITMAP {
            return Err(Fault::Mismatch("the page is no bitmap of a hash index"));
        }
        let at = HEADER_BYTES + (bit / 8) as usize;
        if self.lower() <= at {
            return Err(Fault::Mismatch("the bitmap has no such bit"));
        }
        let mask = 1 << (bit % 8);
        let byte = &mut self.bytes_mut()[at];
        *byte = if used { *byte | mask } else { *byte & !mask };
        Ok(())
    }

    /// `_hash_init_metabuffer`.
    pub(crate) fn init_hash_meta(&mut self, tuples: f64, procedure: u32, fill_factor: u16) -> Applied {
        let buckets = initial_buckets(tuples, fill_factor)?;
        let split_point = split_point(buckets);
        self.init_hash(NONE, NONE, META);
        self.set_u32(META_AT, MAGIC);
        self.set_u32(VERSION_AT, VERSION);
        self.set_u16(FILL_FACTOR_AT, fill_factor);
        self.set_u16(BITMAP_SPACE_AT, (PAGE_BYTES - HEADER_BYTES - OPAQUE_BYTES) as u16);
        self.set_u16(BITMAP_BYTES_AT, BITMAP_BYTES);
        self.set_u16(BITMAP_SHIFT_AT, (8 * BITMAP_BYTES).ilog2() as u16);
        self.set_u32(PROCEDURE_AT, procedure);
        self.set_u32(MAX_BUCKET_AT, buckets - 1);
        let high_mask = (buckets + 1).next_power_of_two() - 1;
        self.set_u32(HIGH_MASK_AT, high_mask);
        self.set_u32(LOW_MASK_AT, high_mask >> 1);
        self.set_u32(SPARES_AT + 4 * split_point as usize, 1);
        self.set_u32(OVERFLOW_POINT_AT, split_point);
        self.set_lower(META_AT + META_BYTES);
        Ok(())
    }

    /// `hashm_ntuples`, through `change`.
    pub(crate) fn change_hash_tuples(&mut self, change: impl FnOnce(f64) -> f64) -> Applied {
        self.check_meta()?;
        let (low, high) = (self.u32(TUPLES_AT), self.u32(TUPLES_AT + 4));
        let tuples = change(f64::from_bits(u64::from(high) << 32 | u64::from(low)));
        self.bytes_mut()[TUPLES_AT..TUPLES_AT + 8].copy_from_slice(&tuples.to_le_bytes());
        Ok(())
    }

    /// `hashm_firstfree`.
    pub(crate) fn set_hash_first_free(&mut self, bit: u32) -> Applied {
        self.check_meta()?;
        self.set_u32(FIRST_FREE_AT, bit);
        Ok(())
    }

    /// The first bitmap stands behind the first buckets (`hash_xlog_init_bitmap_page`).
    pub(crate) fn add_first_hash_bitmap(&mut self) -> Applied {
        self.check_meta()?;
        let block = self.u32(MAX_BUCKET_AT).wrapping_add(2);
        self.add_hash_bitmap(block)
    }

    pub(crate) fn add_hash_bitmap(&mut self, block: u32) -> Applied {
        self.check_meta()?;
        let count = self.u32(BITMAPS_COUNT_AT);
        if BITMAPS_MAX <= count {
            return Err(Fault::Mismatch("the meta page has no room for another bitmap"));
        }
        self.set_u32(BITMAP_BLOCKS_AT + 4 * count as usize, block);
        self.set_u32(BITMAPS_COUNT_AT, count + 1);
        Ok(())
    }

    /// One more overflow page at the current split point: `hashm_spares`.
    pub(crate) fn add_hash_spare(&mut self) -> Applied {
        self.check_meta()?;
        let at = spares_at(self.u32(OVERFLOW_POINT_AT))?;
        let spares = self.u32(at).wrapping_add(1);
        self.set_u32(at, spares);
        Ok(())
    }

    pub(crate) fn set_hash_max_bucket(&mut self, bucket: u32) -> Applied {
        self.check_meta()?;
        self.set_u32(MAX_BUCKET_AT, bucket);
        Ok(())
    }

    pub(crate) fn set_hash_masks(&mut self, low: u32, high: u32) -> Applied {
        self.check_meta()?;
        self.set_u32(LOW_MASK_AT, low);
        self.set_u32(HIGH_MASK_AT, high);
        Ok(())
    }

    /// A new split point, and how many overflow pages stand before it.
    pub(crate) fn set_hash_split_point(&mut self, point: u32, spares: u32) -> Applied {
        self.check_meta()?;
        let at = spares_at(point)?;
        self.set_u32(at, spares);
        self.set_u32(OVERFLOW_POINT_AT, point);
        Ok(())
    }
}

fn spares_at(split_point: u32) -> Result<usize, Fault> {
    if SPLIT_POINTS_MAX <= split_point {
        return Err(Fault::Mismatch("a hash index has no such split point"));
    }
    Ok(SPARES_AT + 4 * split_point as usize)
}

/// How many buckets an index of so many tuples begins with.
fn initial_buckets(tuples: f64, fill_factor: u16) -> Result<u32, Fault> {
    const BUCKETS_MIN: u32 = 2;
    const BUCKETS_MAX: u32 = 0x4000_0000;
    let wanted = tuples / f64::from(fill_factor);
    if wanted.is_nan() {
        return Err(Fault::Mismatch("the index begins with no number of tuples"));
    }
    if wanted <= f64::from(BUCKETS_MIN) {
        return Ok(BUCKETS_MIN);
    }
    if f64::from(BUCKETS_MAX) <= wanted {
        return Ok(BUCKETS_MAX);
    }
    Ok(buckets_through(split_point(wanted as u32)))
}

/// `_hash_spareindex`: the split point at which an index has so many buckets, one at least.
fn split_point(buckets: u32) -> u32 {
    let group = buckets.next_power_of_two().ilog2();
    if group < GROUPS_WITH_ONE_PHASE {
        return group;
    }
    let phase = (buckets - 1) >> (group - (PHASE_BITS + 1)) & PHASE_MASK;
    GROUPS_WITH_ONE_PHASE + ((group - GROUPS_WITH_ONE_PHASE) << PHASE_BITS) + phase
}

/// `_hash_get_totalbuckets`: how many buckets there are after a split point.
fn buckets_through(split_point: u32) -> u32 {
    let Some(phases) = split_point.checked_sub(GROUPS_WITH_ONE_PHASE) else {
        return 1 << split_point;
    };
    let before = 1 << (GROUPS_WITH_ONE_PHASE + (phases >> PHASE_BITS) - 1);
    before + (before >> PHASE_BITS) * ((phases & PHASE_MASK) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `_hash_spareindex` and `_hash_get_totalbuckets` at the ends of groups and phases.
    #[test]
    fn split_points_are_counted_as_postgresql_counts_them() {
        let expected = [
            (1, 0, 1),
            (2, 1, 2),
            (3, 2, 4),
            (512, 9, 512),
            (513, 10, 640),
            (640, 10, 640),
            (641, 11, 768),
            (769, 12, 896),
            (1024, 13, 1024),
            (1025, 14, 1280),
            (2048, 17, 2048),
            (0x4000_0000, 93, 0x4000_0000),
        ];
        for (buckets, point, total) in expected {
            assert_eq!(split_point(buckets), point, "of {buckets} buckets");
            assert_eq!(buckets_through(point), total, "after point {point}");
        }
    }

    #[test]
    fn an_index_begins_with_two_buckets_at_least_and_not_with_no_number() {
        assert_eq!(initial_buckets(-1.0, 307), Ok(2));
        assert_eq!(initial_buckets(0.0, 307), Ok(2));
        assert_eq!(initial_buckets(307.0 * 513.0, 307), Ok(640));
        assert_eq!(initial_buckets(f64::MAX, 10), Ok(0x4000_0000));
        assert_eq!(initial_buckets(1.0, 0), Ok(0x4000_0000));
        assert!(initial_buckets(0.0, 0).is_err());
    }
}

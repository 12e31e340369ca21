//! Leaves of a posting tree, whose segments a record changes one by one. Follows `ginRedoRecompress` in
//! `access/gin/ginxlog.c`; what the record holds is made by `computeLeafRecompressWALData` in `gindatapage.c`.

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault, slice_at, u8_at, u16_at};
use crate::ginblock::{COMPRESSED, DATA, DATA_AT, DATA_BYTES_MAX, LEAF};
use crate::ginpostinglist::{Segment, compress, merged, plain_items};
use crate::heap_tuple::TUPLE_ID_BYTES;

/// `ginxlogSegmentAction`: what becomes of the segment with this number, or before it.
struct Action<'a> {
    segment: u8,
    change: Change<'a>,
}

enum Change<'a> {
    Delete,
    /// A new segment before the one with the number.
    Insert(Segment<'a>),
    Replace(Segment<'a>),
    /// Tuple ids, not compressed.
    AddItems(&'a [u8]),
}

impl<'a> Action<'a> {
    /// The action at the head of `data`, and what follows it.
    fn at_head(data: &'a [u8]) -> Result<(Action<'a>, &'a [u8]), Fault> {
        let (segment, kind) = (u8_at(data, 0)?, u8_at(data, 1)?);
        let rest = &data[2..];
        let (change, bytes) = match kind {
            1 => (Change::Delete, 0),
            2 | 3 => {
                let new = Segment::at_head(rest)?;
                let change = if kind == 2 {
                    Change::Insert(new)
                } else {
                    Change::Replace(new)
                };
                (change, new.bytes().len())
            }
            4 => {
                let items = slice_at(rest, 2, TUPLE_ID_BYTES * usize::from(u16_at(rest, 0)?))?;
                (Change::AddItems(items), 2 + items.len())
            }
            _ => return Err(Fault::Mismatch("the record does what is unknown to a posting list")),
        };
        Ok((Action { segment, change }, &rest[bytes..]))
    }
}

/// The segments of a page, while they are put together.
struct Contents {
    bytes: [u8; DATA_BYTES_MAX],
    used: usize,
}

impl Contents {
    const EMPTY: Contents = Contents {
        bytes: [0; DATA_BYTES_MAX],
        used: 0,
    };

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    fn push(&mut self, segments: &[u8]) -> Applied {
        let target = self.bytes[self.used..].get_mut(..segments.len());
        target
            .ok_or(Fault::Mismatch("the page has no room for a posting list"))?
            .copy_from_slice(segments);
        self.used += segments.len();
        Ok(())
    }
}

const OUTSIDE: Fault = Fault::Mismatch("the contents of a GIN data page are longer than the page");

/// The segments of a leaf, as they stand on it.
fn segments<'a>(page: &'a PageMut<'_>) -> Result<&'a [u8], Fault> {
    let end = page.lower();
    if !(DATA_AT..=DATA_AT + DATA_BYTES_MAX).contains(&end) {
        return Err(OUTSIDE);
    }
    Ok(&page.bytes()[DATA_AT..end])
}

/// What becomes of a leaf from before version 9.4, which has its tuple ids as they are: one segment, or none.
fn converted(page: &PageMut<'_>) -> Result<Contents, Fault> {
    let bytes = TUPLE_ID_BYTES * usize::from(page.gin_count()?);
    if DATA_BYTES_MAX < bytes {
        return Err(OUTSIDE);
    }
    let mut contents = Contents::EMPTY;
    if 0 < bytes {
        let items = plain_items(&page.bytes()[DATA_AT..DATA_AT + bytes]);
        contents.used = compress(items, &mut contents.bytes)?;
    }
    Ok(contents)
}

/// `ginRedoRecompress`: actions in the order of the segments, between which segments stay as they are.
pub(crate) fn recompress(page: &mut PageMut<'_>, data: &[u8]) -> Applied {
    page.expect_gin_flags(DATA | LEAF, DATA | LEAF)?;
    let is_compressed = page.gin_flags()? & COMPRESSED != 0;
    let converted = if is_compressed { None } else { Some(converted(page)?) };
    let mut rest = match &converted {
        Some(contents) => contents.as_slice(),
        None => segments(page)?,
    };
    let mut new = Contents::EMPTY;
    let mut number: u16 = 0;
    let count = u16_at(data, 0)?;
    let mut actions = &data[2..];
    for _ in 0..count {
        let (action, others) = Action::at_head(actions)?;
        actions = others;
        let segment = u16::from(action.segment);
        if segment < number {
            return Err(Fault::Mismatch("the record changes segments out of order"));
        }
        while number < segment {
            new.push(take_segment(&mut rest)?.bytes())?;
            number += 1;
        }
        if let Change::Insert(segment) = action.change {
            new.push(segment.bytes())?;
            continue;
        }
        let segment = take_segment(&mut rest)?;
        number += 1;
        match action.change {
            Change::Replace(replacement) => new.push(replacement.bytes())?,
            Change::AddItems(items) => {
                let items = merged(plain_items(items), segment.items());
                new.used += compress(items, &mut new.bytes[new.used..])?;
            }
            Change::Delete | Change::Insert(_) => {}
        }
    }
    if count == 0 || !actions.is_empty() {
        return Err(Fault::Mismatch(
            "the record's changes to a posting list are not as many as it says",
        ));
    }
    new.push(rest)?;
    page.bytes_mut()[DATA_AT..DATA_AT + new.used].copy_from_slice(new.as_slice());
    page.set_gin_data_bytes(new.used);
    if !is_compressed {
        page.change_gin_flags(0, COMPRESSED)?;
        page.set_gin_count(0)?;
    }
    Ok(())
}

fn take_segment<'a>(rest: &mut &'a [u8]) -> Result<Segment<'a>, Fault> {
    let segment = Segment::at_head(rest).map_err(|_| Fault::Mismatch("the page has no such segment"))?;
    *rest = &rest[segment.bytes().len()..];
    Ok(segment)
}

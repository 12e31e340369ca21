//! Items of index pages, of which single ones go or get another version. Follows `PageIndex…` in `storage/page/bufpage.c`.

use units::PAGE_BYTES;

use crate::bufpage::{HEADER_BYTES, POINTER_BYTES, PageMut, Pointer, UNUSED, aligned};
use crate::fault::{Applied, Fault};

impl PageMut<'_> {
    /// `PageIndexTupleDelete`.
    pub(crate) fn delete_index_tuple(&mut self, number: u16) -> Applied {
        self.check()?;
        let gone = self.stored(number)?;
        let bytes = aligned(gone.bytes);
        let (from, end) = (PageMut::pointer_at(number) + POINTER_BYTES, self.lower());
        self.bytes_mut().copy_within(from..end, from - POINTER_BYTES);
        let upper = self.upper();
        self.bytes_mut().copy_within(upper..gone.offset, upper + bytes);
        self.set_upper(upper + bytes);
        self.set_lower(end - POINTER_BYTES);
        self.shift_items(gone.offset, bytes as isize)
    }

    /// `PageIndexTupleDeleteNoCompact`: the others keep their numbers. The last line pointer goes, any other is left
    /// unused.
    pub(crate) fn delete_index_tuple_in_place(&mut self, number: u16) -> Applied {
        self.check()?;
        let gone = self.stored(number)?;
        let bytes = aligned(gone.bytes);
        if number < self.pointers() {
            self.set_pointer(number, UNUSED);
        } else {
            self.set_lower(self.lower() - POINTER_BYTES);
        }
        let upper = self.upper();
        self.bytes_mut().copy_within(upper..gone.offset, upper + bytes);
        self.set_upper(upper + bytes);
        self.shift_items(gone.offset, bytes as isize)
    }

    /// Items at or below `offset` were moved by so many bytes.
    fn shift_items(&mut self, offset: usize, by: isize) -> Applied {
        for number in 1..=self.pointers() {
            let pointer = self.pointer(number)?;
            if pointer.has_storage() && pointer.offset <= offset {
                let moved = pointer
                    .offset
                    .checked_add_signed(by)
                    .filter(|moved| *moved < PAGE_BYTES);
                let offset = moved.ok_or(Fault::Mismatch("a line pointer leads outside the page's items"))?;
                self.set_pointer(number, Pointer { offset, ..pointer });
            }
        }
        Ok(())
    }

    /// `PageIndexMultiDelete`: `numbers` rise. Two or fewer are taken out one by one, which leaves another order.
    pub(crate) fn delete_index_tuples(&mut self, numbers: &[u16]) -> Applied {
        if numbers.len() <= 2 {
            return numbers
                .iter()
                .rev()
                .try_for_each(|number| self.delete_index_tuple(*number));
        }
        self.check()?;
        let mut gone = numbers.iter().peekable();
        let mut kept = 0;
        for number in 1..=self.pointers() {
            let pointer = self.stored(number)?;
            if gone.next_if_eq(&&number).is_none() {
                kept += 1;
                self.set_pointer(kept, pointer);
            }
        }
        if gone.next().is_some() {
            return Err(Fault::Mismatch("items to delete are not on the page, or out of order"));
        }
        self.set_lower(HEADER_BYTES + POINTER_BYTES * usize::from(kept));
        self.compact()
    }

    /// `PageIndexTupleOverwrite`.
    pub(crate) fn overwrite_index_tuple(&mut self, number: u16, item: &[u8]) -> Applied {
        self.check()?;
        let old = self.stored(number)?;
        let (old_bytes, new_bytes) = (aligned(old.bytes), aligned(item.len()));
        if old_bytes + (self.upper() - self.lower()) < new_bytes {
            return Err(Fault::Mismatch("the page has no room for the new version of an item"));
        }
        let by = old_bytes as isize - new_bytes as isize;
        let upper = self.upper();
        let moved = upper
            .checked_add_signed(by)
            .ok_or(Fault::Mismatch("the page has no room"))?;
        if by != 0 {
            self.bytes_mut().copy_within(upper..old.offset, moved);
            self.set_upper(moved);
            self.shift_items(old.offset, by)?;
        }
        let offset = old
            .offset
            .checked_add_signed(by)
            .ok_or(Fault::Mismatch("the page has no room"))?;
        let pointer = Pointer {
            offset,
            bytes: item.len(),
            ..old
        };
        self.set_pointer(number, pointer);
        self.bytes_mut()[offset..offset + item.len()].copy_from_slice(item);
        Ok(())
    }
}

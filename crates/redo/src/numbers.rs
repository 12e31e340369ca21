//! Line pointer numbers out of a record, without an allocation.

use std::ops::Deref;

use crate::bufpage::{HEADER_BYTES, POINTER_BYTES};
use crate::fault::{Applied, Fault};

/// No page has more line pointers.
const NUMBERS_MAX: usize = (units::PAGE_BYTES - HEADER_BYTES) / POINTER_BYTES;

/// As many numbers as a page can have line pointers, at most.
pub(crate) struct Numbers {
    numbers: [u16; NUMBERS_MAX],
    count: usize,
}

impl Default for Numbers {
    fn default() -> Numbers {
        Numbers {
            numbers: [0; NUMBERS_MAX],
            count: 0,
        }
    }
}

impl Numbers {
    /// All of these.
    pub(crate) fn of(numbers: impl Iterator<Item = u16>) -> Result<Numbers, Fault> {
        let mut all = Numbers::default();
        for number in numbers {
            all.push(number)?;
        }
        Ok(all)
    }

    pub(crate) fn push(&mut self, number: u16) -> Applied {
        let place = self.numbers.get_mut(self.count);
        *place.ok_or(Fault::Mismatch("the record names more items than a page has"))? = number;
        self.count += 1;
        Ok(())
    }
}

impl Deref for Numbers {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        &self.numbers[..self.count]
    }
}

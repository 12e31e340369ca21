//! Why redo of one record on one page stopped.

/// Without the names that the caller adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// Not implemented.
    Unsupported,
    /// Record and page do not belong together, or one of them is damaged.
    Mismatch(&'static str),
}

pub(crate) type Applied = Result<(), Fault>;

/// Little-endian numbers out of a record's bytes.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Fault> {
    let bytes = bytes
        .get(at..at + 2)
        .ok_or(Fault::Mismatch("the record is too short"))?;
    Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
}

#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Fault> {
    let bytes = bytes
        .get(at..at + 4)
        .ok_or(Fault::Mismatch("the record is too short"))?;
    Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

#[inline]
pub(crate) fn u8_at(bytes: &[u8], at: usize) -> Result<u8, Fault> {
    bytes.get(at).copied().ok_or(Fault::Mismatch("the record is too short"))
}

/// `count` bytes from `at` on.
#[inline]
pub(crate) fn slice_at(bytes: &[u8], at: usize, count: usize) -> Result<&[u8], Fault> {
    let end = at.checked_add(count);
    end.and_then(|end| bytes.get(at..end))
        .ok_or(Fault::Mismatch("the record is too short"))
}

/// `count` 16-bit numbers from `at` on.
#[inline]
pub(crate) fn u16s_at(
    bytes: &[u8],
    at: usize,
    count: usize,
) -> Result<impl DoubleEndedIterator<Item = u16> + ExactSizeIterator + Clone + '_, Fault> {
    let numbers = slice_at(bytes, at, 2 * count)?;
    Ok(numbers.chunks_exact(2).map(|two| u16::from_le_bytes([two[0], two[1]])))
}

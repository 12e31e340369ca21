//! Full-page images: plain, pglz, lz4, zstd. Follows `RestoreBlockImage` in `access/transam/xlogreader.c`.

use std::io::Read;

use units::{Lsn, PAGE_BYTES, Page};
use wal::{BlockImage, Compression};

use crate::bufpage::PageMut;
use crate::fault::{Applied, Fault};

/// An image that does not unpack to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a page image does not unpack to a page")]
pub struct ImageError;

/// The page in an image, as it was logged.
pub fn restore(image: &BlockImage<'_>) -> Result<Page, ImageError> {
    let mut page = Page::zeroed();
    unpack(image, page.bytes_mut())?;
    Ok(page)
}

/// Unpacks to the head of the page, then moves what stands behind the hole to its end.
fn unpack(image: &BlockImage<'_>, page: &mut [u8; PAGE_BYTES]) -> Result<(), ImageError> {
    let (hole, hole_bytes) = (usize::from(image.hole_offset), usize::from(image.hole_bytes));
    let bytes = PAGE_BYTES.checked_sub(hole_bytes).ok_or(ImageError)?;
    if bytes < hole {
        return Err(ImageError);
    }
    let unpacked = &mut page[..bytes];
    match image.compression {
        Compression::None => {
            if image.bytes.len() != bytes {
                return Err(ImageError);
            }
            unpacked.copy_from_slice(image.bytes);
        }
        Compression::Pglz => pglz_decompress(image.bytes, unpacked).ok_or(ImageError)?,
        Compression::Lz4 => {
            let written = lz4_flex::block::decompress_into(image.bytes, unpacked).map_err(|_| ImageError)?;
            if written != bytes {
                return Err(ImageError);
            }
        }
        Compression::Zstd => {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(image.bytes).map_err(|_| ImageError)?;
            decoder.read_exact(unpacked).map_err(|_| ImageError)?;
        }
    }
    if hole_bytes != 0 {
        page.copy_within(hole..bytes, hole + hole_bytes);
        page[hole..hole + hole_bytes].fill(0);
    }
    Ok(())
}

/// The image becomes the page; its LSN becomes the record's, unless it is a page of zeros
/// (`XLogReadBufferForRedoExtended`).
pub(crate) fn apply(image: &BlockImage<'_>, end: Lsn, page: &mut PageMut<'_>) -> Applied {
    unpack(image, page.bytes_mut()).map_err(|_| Fault::Mismatch("its page image does not unpack to a page"))?;
    if !page.is_new() {
        page.set_lsn(end);
    }
    Ok(())
}

/// `pglz_decompress` in `common/pg_lzcompress.c`: `None` unless exactly all of `source` gives exactly all of `target`.
fn pglz_decompress(source: &[u8], target: &mut [u8]) -> Option<()> {
    let mut input = source.iter().copied();
    let mut at = 0;
    'blocks: while at < target.len() {
        let control = input.next()?;
        for bit in 0..8 {
            if at == target.len() {
                break 'blocks;
            }
            if control & 1 << bit == 0 {
                target[at] = input.next()?;
                at += 1;
                continue;
            }
            let (first, second) = (usize::from(input.next()?), usize::from(input.next()?));
            let mut length = (first & 0x0F) + 3;
            let back = (first & 0xF0) << 4 | second;
            if length == 18 {
                length += usize::from(input.next()?);
            }
            if back == 0 || at < back {
                return None;
            }
            // The last match may say more than there is room for.
            for _ in 0..length.min(target.len() - at) {
                target[at] = target[at - back];
                at += 1;
            }
        }
    }
    input.next().is_none().then_some(())
}

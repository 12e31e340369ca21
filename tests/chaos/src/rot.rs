//! Bits that flip in a storage node's files.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::fault::{Files, Rot};

/// Layout of a journal's entry: docs/formats/journal.md.
const ENTRY_MAGIC: [u8; 4] = [0x17, 0xA1, 0x4E, 0xB0];
const ENTRY_LENGTH_AT: usize = 4;
const ENTRY_OFFSET_AT: usize = 12;
const ENTRY_SYNCED_AT: usize = 20;
const ENTRY_HEADER_BYTES: usize = 45;
/// Digits of a journal file's name: its first offset.
const JOURNAL_NAME_BYTES: usize = 20;
/// The blocks in which the journal is written. The one with its end is written again.
const BLOCK_BYTES: u64 = 4096;

/// Flips one bit in the folder of a storage node. What it hit, for people; `None`: there is nothing yet that it could hit.
pub fn flip(folder: &Path, rot: &Rot) -> Result<Option<String>> {
    let target = match rot.files {
        Files::Journal => in_journal(&folder.join("journal"), rot.place)?,
        Files::Layer => in_layers(&folder.join("layers"), rot.place)?,
        Files::All => None,
    };
    let Some((path, at)) = target else {
        return Ok(None);
    };
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    let bit = rot.place % 8;
    file.write_all_at(&[byte[0] ^ (1 << bit)], at)?;
    file.sync_data()?;
    Ok(Some(format!("bit {bit} of byte {at} of {}", path.display())))
}

/// Files whose names are numbers, in their order.
fn numbered(folder: &Path, digits: usize) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.len() == digits && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

fn in_layers(folder: &Path, place: u64) -> Result<Option<(PathBuf, u64)>> {
    let paths = numbered(folder, 16)?;
    let Some(path) = paths.get((place >> 32) as usize % paths.len().max(1)) else {
        return Ok(None);
    };
    let bytes = match fs::metadata(path) {
        Ok(found) => found.len(),
        // Merged away just now.
        Err(_) => return Ok(None),
    };
    let at = (place & 0xFFFF_FFFF).checked_rem(bytes);
    Ok(at.map(|at| (path.clone(), at)))
}

/// A byte of an entry that a later entry calls synced.
fn in_journal(folder: &Path, place: u64) -> Result<Option<(PathBuf, u64)>> {
    let (mut entries, mut synced) = (Vec::new(), 0);
    for path in numbered(folder, JOURNAL_NAME_BYTES)? {
        let start: u64 = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok())
            .context("a journal file is named by a number")?;
        let Ok(bytes) = fs::read(&path) else {
            // It became a spare just now.
            continue;
        };
        let (found, through) = entries_of(&bytes, start);
        synced = synced.max(through);
        entries.extend(found.into_iter().map(|(at, end)| (path.clone(), start, at, end)));
    }
    entries.retain(|(_, start, _, end)| start + end + BLOCK_BYTES <= synced);
    let Some((path, _, at, end)) = entries.get((place >> 32) as usize % entries.len().max(1)) else {
        return Ok(None);
    };
    let within = (place & 0xFFFF_FFFF) % (end - at);
    Ok(Some((path.clone(), at + within)))
}

/// Begin and end of each entry in a file, and the highest synced offset that one of them names.
fn entries_of(bytes: &[u8], start: u64) -> (Vec<(u64, u64)>, u64) {
    let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let (mut entries, mut synced, mut at) = (Vec::new(), 0, 0);
    while bytes.get(at..at + 4) == Some(&ENTRY_MAGIC[..]) && long(at + ENTRY_OFFSET_AT) == Some(start + at as u64) {
        let length = bytes
            .get(at + ENTRY_LENGTH_AT..at + ENTRY_LENGTH_AT + 4)
            .and_then(|four| Some(u32::from_le_bytes(four.try_into().ok()?)));
        let Some(end) = length.map(|length| at + ENTRY_HEADER_BYTES + length as usize) else {
            break;
        };
        if bytes.len() < end {
            break;
        }
        synced = synced.max(long(at + ENTRY_SYNCED_AT).unwrap_or(0));
        entries.push((at as u64, end as u64));
        at = end;
    }
    (entries, synced)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u64, synced: u64, payload: usize) -> Vec<u8> {
        let mut bytes = ENTRY_MAGIC.to_vec();
        bytes.extend((payload as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(offset.to_le_bytes());
        bytes.extend(synced.to_le_bytes());
        bytes.resize(ENTRY_HEADER_BYTES + payload, 7);
        bytes
    }

    #[test]
    fn only_bytes_below_a_synced_offset_are_hit() {
        let folder = system_tests::new_directory("rot");
        let (start, payload) = (1 << 24, 5000);
        let length = (ENTRY_HEADER_BYTES + payload) as u64;
        let mut bytes = entry(start, 0, payload);
        bytes.extend(entry(start + length, start + length, payload));
        bytes.extend(entry(start + 2 * length, start + length + BLOCK_BYTES, payload));
        bytes.resize(1 << 16, 0);
        fs::write(folder.join(format!("{start:020}")), &bytes).unwrap();
        for place in (0..u64::MAX).step_by(usize::MAX / 100) {
            let (_, at) = in_journal(&folder, place).unwrap().unwrap();
            assert!(at < length, "{at}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_empty_journal_has_nothing_to_hit() {
        let folder = system_tests::new_directory("rot-empty");
        assert!(in_journal(&folder, 5).unwrap().is_none());
        assert!(in_layers(&folder, 5).unwrap().is_none());
        fs::remove_dir_all(&folder).unwrap();
    }
}

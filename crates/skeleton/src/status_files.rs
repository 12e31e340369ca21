//! Transaction-status pages as files: `pg_xact`, `pg_multixact`, `pg_commit_ts`.

use std::collections::BTreeMap;

use units::{PAGE_BYTES, Page, PageKey, RelationKey};
use wal::{
    Marks, commit_timestamp_page, multixact_member_page, multixact_offset_page, next_multixact, transaction_status_page,
};

/// `SLRU_PAGES_PER_SEGMENT`.
const PAGES_PER_FILE: u32 = 32;

const FOLDERS: [(RelationKey, &str); 4] = [
    (RelationKey::TRANSACTION_STATUS, "pg_xact"),
    (RelationKey::MULTIXACT_OFFSETS, "pg_multixact/offsets"),
    (RelationKey::MULTIXACT_MEMBERS, "pg_multixact/members"),
    (RelationKey::COMMIT_TIMESTAMPS, "pg_commit_ts"),
];

/// The array whose files stand in a folder.
pub fn array_of_folder(folder: &str) -> Option<RelationKey> {
    FOLDERS
        .iter()
        .find(|(_, known)| *known == folder)
        .map(|(array, _)| *array)
}

/// The first page in the file of this name: hexadecimal, four digits at least.
pub fn first_page_of_file(name: &str) -> Option<u32> {
    let number = u32::from_str_radix(name, 16).ok()?;
    (file_name(number) == name).then(|| number.checked_mul(PAGES_PER_FILE))?
}

/// `SlruFileName`.
fn file_name(number: u32) -> String {
    format!("{number:04X}")
}

/// A run of pages of one array, from `first` to `last`, around the end of the array if `last` comes before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusRange {
    /// Which array.
    pub array: RelationKey,
    /// Its first page.
    pub first: u32,
    /// Its last page.
    pub last: u32,
    /// Pages of the array before it begins again.
    pub pages: u32,
}

impl StatusRange {
    fn of(first: PageKey, last: PageKey, end: PageKey) -> StatusRange {
        StatusRange {
            array: first.fork.relation,
            first: first.block,
            last: last.block,
            pages: end.block + 1,
        }
    }

    /// Runs of consecutive pages: (first, count).
    pub fn runs(&self) -> Vec<(u32, u32)> {
        if self.first <= self.last {
            return vec![(self.first, self.last - self.first + 1)];
        }
        vec![(self.first, self.pages - self.first), (0, self.last + 1)]
    }
}

/// The pages that a starting PostgreSQL reads or may ever read again, but for the members of multixacts: from the oldest
/// transaction to the next one, that included (`TrimCLOG`, `TrimMultiXact`).
pub fn needed(marks: &Marks) -> Vec<StatusRange> {
    let state = &marks.state;
    let oldest_multixact = next_multixact(state.oldest_multixact.wrapping_sub(1));
    let next = next_multixact(state.next_multixact.wrapping_sub(1));
    let mut ranges = vec![
        StatusRange::of(
            transaction_status_page(state.oldest_transaction),
            transaction_status_page(state.next_transaction as u32),
            transaction_status_page(u32::MAX),
        ),
        StatusRange::of(
            multixact_offset_page(oldest_multixact),
            multixact_offset_page(next),
            multixact_offset_page(u32::MAX),
        ),
    ];
    if marks.parameters.track_commit_timestamp && state.oldest_commit_timestamp != 0 {
        ranges.push(StatusRange::of(
            commit_timestamp_page(state.oldest_commit_timestamp),
            commit_timestamp_page(state.next_transaction as u32),
            commit_timestamp_page(u32::MAX),
        ));
    }
    ranges
}

/// The pages of members, from those of the oldest multixact on. `oldest_offset` says where they begin: the entry of the
/// oldest multixact on its page of offsets, or nothing if there is no multixact.
pub fn needed_members(marks: &Marks, oldest_offset: Option<u32>) -> StatusRange {
    let next = marks.state.next_multixact_offset;
    StatusRange::of(
        multixact_member_page(oldest_offset.unwrap_or(next)),
        multixact_member_page(next),
        multixact_member_page(u32::MAX),
    )
}

/// Where the members of the oldest multixact begin, out of its page; `None` if there is none.
pub fn oldest_offset(marks: &Marks, page: &Page) -> Option<u32> {
    let state = &marks.state;
    if state.oldest_multixact == state.next_multixact {
        return None;
    }
    let at = 4 * (state.oldest_multixact % wal::MULTIXACT_OFFSETS_PER_PAGE) as usize;
    let bytes = &page.bytes()[at..at + 4];
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The pages as files: (path, content). What lies before the first page of a file is zeros.
pub fn files(pages: &BTreeMap<PageKey, Page>) -> Vec<(String, Vec<u8>)> {
    let mut files: BTreeMap<(&str, u32), Vec<u8>> = BTreeMap::new();
    for (key, page) in pages {
        let Some((_, folder)) = FOLDERS.iter().find(|(array, _)| *array == key.fork.relation) else {
            continue;
        };
        let file = files.entry((folder, key.block / PAGES_PER_FILE)).or_default();
        let at = (key.block % PAGES_PER_FILE) as usize * PAGE_BYTES;
        file.resize(file.len().max(at + PAGE_BYTES), 0);
        file[at..at + PAGE_BYTES].copy_from_slice(page.bytes());
    }
    files
        .into_iter()
        .map(|((folder, number), bytes)| (format!("{folder}/{}", file_name(number)), bytes))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_around_the_wraparound_are_all_needed() {
        let mut marks = Marks::default();
        marks.state.oldest_transaction = u32::MAX - 10;
        marks.state.next_transaction = (1 << 32) + 40_000;
        marks.state.oldest_multixact = 1;
        marks.state.next_multixact = 1;
        let ranges = needed(&marks);
        assert_eq!(ranges[0].runs(), [(131_071, 1), (0, 2)]);
        assert_eq!(ranges[1].runs(), [(0, 1)]);
    }

    #[test]
    fn pages_stand_at_their_place_in_their_file() {
        let mut pages = BTreeMap::new();
        let page = Page::from_bytes(&[7; PAGE_BYTES]).expect("one page");
        pages.insert(transaction_status_page(33 * 32_768), page);
        let files = files(&pages);
        assert_eq!(files[0].0, "pg_xact/0001");
        assert_eq!(files[0].1.len(), 2 * PAGE_BYTES);
        assert_eq!((files[0].1[0], files[0].1[PAGE_BYTES]), (0, 7));
    }
}

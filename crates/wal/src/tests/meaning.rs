//! What records do that they do not say by block references.

use engine::Touch;
use units::{Lsn, PageKey, RelationKey, fork};

use super::{sample_records, with_record};
use crate::resource_manager as manager;
use crate::{
    DecodedRecord, MapTruncation, RecordError, StateChange, commit_timestamp_page, encode_record,
    multixact_member_page, multixact_offset_page, state_changes, status_page, touches, transaction_status_page,
};

const RELATION: RelationKey = RelationKey {
    tablespace: 1663,
    database: 5,
    relation: 16384,
};

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn relation_bytes() -> Vec<u8> {
    numbers(&[RELATION.tablespace, RELATION.database, RELATION.relation])
}

fn changed(key: PageKey) -> Touch {
    Touch::Page {
        key,
        from_nothing: false,
    }
}

fn made(key: PageKey) -> Touch {
    Touch::Page {
        key,
        from_nothing: true,
    }
}

fn touched(manager: u8, info: u8, transaction: u32, data: &[u8]) -> Vec<Touch> {
    with_record(manager, info, transaction, data, |record| {
        let mut found = Vec::new();
        touches(record, &mut found).unwrap();
        found
    })
}

/// A record with main data and references to these blocks of `RELATION`, without data or images.
fn with_blocks(manager: u8, info: u8, data: &[u8], blocks: &[u32]) -> Vec<u8> {
    let mut parts = Vec::new();
    for (id, block) in blocks.iter().enumerate() {
        parts.extend([id as u8, fork::MAIN, 0, 0]);
        parts.extend(relation_bytes());
        parts.extend(block.to_le_bytes());
    }
    let plain = encode_record(manager, info, 700, units::Lsn::ZERO, data);
    let mut record = plain[..24].to_vec();
    record.extend(parts);
    record.extend(&plain[24..]);
    let length = record.len() as u32;
    record[..4].copy_from_slice(&length.to_le_bytes());
    record
}

/// A heap record with these flags at `flags_at` clears the bits of the heap blocks `cleared`.
fn check_visibility(manager: u8, info: u8, (flags_at, flags): (usize, u8), blocks: &[u32], cleared: &[u32]) {
    let mut data = vec![0; 14];
    data[flags_at] = flags;
    let bytes = with_blocks(manager, info, &data, blocks);
    let record = DecodedRecord::decode(&bytes).unwrap();
    let (mut found, mut changes) = (Vec::new(), Vec::new());
    touches(&record, &mut found).unwrap();
    state_changes(&record, &mut changes).unwrap();
    let main = blocks
        .iter()
        .map(|block| changed(RELATION.fork(fork::MAIN).page(*block)));
    let map_pages = cleared
        .iter()
        .map(|block| RELATION.fork(fork::VISIBILITY).page(block / 32672));
    let expected: Vec<Touch> = main.chain(map_pages.clone().map(changed)).collect();
    assert_eq!(found, expected, "{}", record.kind().unwrap());
    for map_page in map_pages {
        let extended = StateChange::ForkExtended {
            fork: map_page.fork,
            blocks: map_page.block + 1,
            if_exists: true,
        };
        assert!(changes.contains(&extended));
    }
}

#[test]
fn heap_records_clear_bits_of_the_visibility_map() {
    check_visibility(manager::HEAP, 0x00, (2, 1), &[32671], &[32671]);
    check_visibility(manager::HEAP, 0x80, (2, 1), &[32672], &[32672]);
    check_visibility(manager::HEAP, 0x00, (2, 0xFE), &[32671], &[]);
    check_visibility(manager::HEAP, 0x10, (7, 1), &[3], &[3]);
    check_visibility(manager::HEAP, 0x10, (7, 2), &[3], &[]);
    check_visibility(manager::HEAP, 0x60, (7, 1), &[3], &[3]);
    check_visibility(manager::HEAP2, 0x50, (0, 1), &[40000], &[40000]);
    check_visibility(manager::HEAP2, 0x60, (7, 1), &[3], &[3]);
    // Setting the bits refers to the map's page.
    check_visibility(manager::HEAP2, 0x40, (4, 3), &[0, 7], &[]);
    check_visibility(manager::HEAP, 0x70, (2, 1), &[3], &[]);
}

#[test]
fn an_update_clears_bits_for_the_old_and_the_new_row() {
    for info in [0x20, 0x40, 0xA0] {
        // Block reference 0 is the new page, 1 the old one, if it is another.
        check_visibility(manager::HEAP, info, (7, 1), &[3, 70000], &[70000]);
        check_visibility(manager::HEAP, info, (7, 2), &[3, 70000], &[3]);
        check_visibility(manager::HEAP, info, (7, 3), &[3, 70000], &[70000, 3]);
        check_visibility(manager::HEAP, info, (7, 1), &[3], &[3]);
        // Both on one page of the map: named once.
        check_visibility(manager::HEAP, info, (7, 3), &[3, 4], &[3]);
    }
}

#[test]
fn a_commit_touches_the_status_of_all_its_transactions_and_drops_files() {
    let mut data = 0_u64.to_le_bytes().to_vec();
    data.extend(numbers(&[1 << 1 | 1 << 2, 3, 32767, 32768, 32769, 1]));
    data.extend(relation_bytes());
    let drops = [fork::MAIN, fork::FREE_SPACE, fork::VISIBILITY, fork::INIT].map(|fork| Touch::Truncate {
        fork: RELATION.fork(fork),
        from_block: 0,
    });
    let status = [0, 1].map(|page| changed(status_page(RelationKey::TRANSACTION_STATUS, page)));
    let times = [39, 40].map(|page| changed(status_page(RelationKey::COMMIT_TIMESTAMPS, page)));
    let found = touched(manager::TRANSACTION, 0x80, 32700, &data);
    assert_eq!(found, [&status[..], &times[..], &drops[..]].concat());
    // An abort drops what the transaction had made.
    let found = touched(manager::TRANSACTION, 0xA0, 32700, &data);
    assert_eq!(found, [&status[..], &drops[..]].concat());
}

#[test]
fn a_prepared_transaction_ends_under_its_own_number() {
    let mut data = 0_u64.to_le_bytes().to_vec();
    data.extend(numbers(&[1 << 4 | 1 << 5 | 1 << 7, 40_000]));
    data.extend(b"name\0");
    data.extend(0x1234_u64.to_le_bytes());
    data.extend(0_u64.to_le_bytes());
    let found = touched(manager::TRANSACTION, 0x80 | 0x40, 0, &data);
    assert_eq!(found, [changed(transaction_status_page(40_000))]);
    with_record(manager::TRANSACTION, 0x80 | 0x30, 0, &data, |record| {
        let mut changes = Vec::new();
        state_changes(record, &mut changes).unwrap();
        assert_eq!(changes, [StateChange::PreparedFinished { transaction: 40_000 }]);
        let mut found = Vec::new();
        touches(record, &mut found).unwrap();
        let status = changed(transaction_status_page(40_000));
        assert_eq!(found, [status, changed(commit_timestamp_page(40_000))]);
    });
}

#[test]
fn a_multixact_also_sets_the_offset_of_the_next_one() {
    let create = |multixact: u32, offset: u32, members: u32| {
        let mut data = numbers(&[multixact, offset, members]);
        data.extend(numbers(&vec![7; members as usize * 2]));
        touched(manager::MULTIXACT, 0x20, 0, &data)
    };
    let offsets = |multixact| changed(multixact_offset_page(multixact));
    let members = |offset| changed(multixact_member_page(offset));
    assert_eq!(create(5, 9, 2), [offsets(5), members(9)]);
    assert_eq!(create(2047, 9, 2), [offsets(2047), offsets(2048), members(9)]);
    assert_eq!(create(5, 1635, 2), [offsets(5), members(1635), members(1636)]);
    // Both circles close; multixact zero is none.
    let last = u32::MAX;
    assert_eq!(
        create(last, last, 2),
        [offsets(last), offsets(1), members(last), members(0)]
    );
}

#[test]
fn new_status_pages_are_made_from_nothing() {
    let page = numbers(&[7]);
    for (manager, info, array) in [
        (manager::CLOG, 0x00, RelationKey::TRANSACTION_STATUS),
        (manager::COMMIT_TIMESTAMP, 0x00, RelationKey::COMMIT_TIMESTAMPS),
        (manager::MULTIXACT, 0x00, RelationKey::MULTIXACT_OFFSETS),
        (manager::MULTIXACT, 0x10, RelationKey::MULTIXACT_MEMBERS),
    ] {
        assert_eq!(touched(manager, info, 0, &page), [made(status_page(array, 7))]);
    }
    assert_eq!(touched(manager::CLOG, 0x10, 0, &numbers(&[7, 8, 9])), []);
}

#[test]
fn a_truncation_clears_the_tails_of_the_maps() {
    let mut data = numbers(&[100]);
    data.extend(relation_bytes());
    data.extend(numbers(&[7]));
    let truncate = |fork, from_block| Touch::Truncate {
        fork: RELATION.fork(fork),
        from_block,
    };
    let expected = [
        truncate(fork::MAIN, 100),
        changed(RELATION.fork(fork::FREE_SPACE).page(2)),
        truncate(fork::FREE_SPACE, 3),
        changed(RELATION.fork(fork::VISIBILITY).page(0)),
        truncate(fork::VISIBILITY, 1),
    ];
    assert_eq!(touched(manager::STORAGE, 0x20, 0, &data), expected);
    data[..4].fill(0);
    let expected = [
        truncate(fork::MAIN, 0),
        truncate(fork::FREE_SPACE, 2),
        truncate(fork::VISIBILITY, 0),
    ];
    assert_eq!(touched(manager::STORAGE, 0x20, 0, &data), expected);
}

#[test]
fn maps_are_truncated_where_postgresql_truncates_them() {
    let free_space = |blocks| {
        let map = MapTruncation::of_free_space(RELATION, blocks);
        (map.blocks, map.clears_tail)
    };
    // Each lowest page describes 4069 blocks; before the first stand two upper ones, before number 4069 one more.
    assert_eq!(free_space(0), (2, false));
    assert_eq!(free_space(1), (3, true));
    assert_eq!(free_space(4069), (3, false));
    assert_eq!(free_space(4070), (4, true));
    assert_eq!(free_space(4069 * 4069), (4069 + 1 + 2, false));
    let visibility = |blocks| {
        let map = MapTruncation::of_visibility(RELATION, blocks);
        (map.blocks, map.clears_tail)
    };
    assert_eq!(visibility(0), (0, false));
    assert_eq!(visibility(32672), (1, false));
    assert_eq!(visibility(32673), (2, true));
    assert_eq!(visibility(u32::MAX), (131_458, true));
}

#[test]
fn a_dropped_database_goes_from_every_tablespace() {
    let drop = |tablespace| Touch::DropDatabase {
        tablespace,
        database: 5,
    };
    assert_eq!(
        touched(manager::DATABASE, 0x20, 0, &numbers(&[5, 2, 1663, 9])),
        [drop(1663), drop(9)]
    );
}

#[test]
fn an_image_makes_a_page_from_nothing_only_if_it_is_applied() {
    let mut seen = 0;
    for record in sample_records() {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        let mut found = Vec::new();
        touches(&decoded, &mut found).unwrap();
        for block in decoded.blocks() {
            let applied = block.image.is_some_and(|image| image.apply);
            assert_eq!(found.contains(&made(block.key)), applied || block.will_init);
            seen += u32::from(applied);
        }
    }
    assert!(100 < seen);
}

#[test]
fn a_hint_without_an_image_changes_nothing() {
    let bytes = with_blocks(manager::XLOG, 0xA0, &[], &[3]);
    let record = DecodedRecord::decode(&bytes).unwrap();
    let (mut found, mut changes) = (Vec::new(), Vec::new());
    touches(&record, &mut found).unwrap();
    state_changes(&record, &mut changes).unwrap();
    assert_eq!((found, changes), (vec![], vec![]));
}

#[test]
fn the_sample_changes_what_the_script_says() {
    let mut count = std::collections::BTreeMap::new();
    for record in sample_records() {
        let decoded = DecodedRecord::decode(&record.bytes).unwrap();
        let (mut pages, mut changes) = (Vec::new(), Vec::new());
        touches(&decoded, &mut pages).unwrap();
        state_changes(&decoded, &mut changes).unwrap();
        let is_heap = decoded.header.resource_manager == manager::HEAP;
        let clears = |touch: &Touch| matches!(touch, Touch::Page { key, .. } if key.fork.fork == fork::VISIBILITY);
        if is_heap && pages.iter().any(clears) {
            *count.entry("bits cleared").or_insert(0) += 1;
        }
        for change in &changes {
            let name = match change {
                StateChange::Prepared { payload, .. } => {
                    assert_eq!(payload.len(), decoded.data.len());
                    "prepared"
                }
                StateChange::PreparedFinished { .. } => "prepared finished",
                StateChange::RelationMapUpdated { bytes, .. } => {
                    assert_eq!(bytes.len(), 512, "a map file of PostgreSQL 15");
                    "map"
                }
                StateChange::DatabaseCreated { .. } => "database",
                StateChange::DatabaseCopied { source_database, .. } => {
                    assert_eq!(*source_database, 1, "template1");
                    "copied"
                }
                StateChange::DatabaseDropped { .. } => "database dropped",
                StateChange::TablespaceCreated { path: b"", .. } => "tablespace",
                StateChange::TablespaceDropped { .. } => "tablespace dropped",
                StateChange::RestorePoint { name: b"named", .. } => "restore point",
                StateChange::OriginAdvanced { remote_lsn, .. } => {
                    assert_eq!(remote_lsn.to_string(), "0/123");
                    "origin"
                }
                StateChange::OriginDropped { .. } => "origin dropped",
                StateChange::ForkTruncated { .. } => "truncated",
                _ => continue,
            };
            *count.entry(name).or_insert(0) += 1;
        }
    }
    assert!(10 < count["bits cleared"]);
    for (name, times) in [
        ("prepared", 3),
        ("prepared finished", 3),
        ("copied", 1),
        ("database", 1),
        ("database dropped", 1),
        ("tablespace", 1),
        ("tablespace dropped", 1),
        ("restore point", 1),
        ("origin", 1),
        ("origin dropped", 1),
    ] {
        assert_eq!(count.get(name), Some(&times), "{name}");
    }
    assert!(count.contains_key("map") && count.contains_key("truncated"));
}

/// What a record of transaction 700 changes that came from this origin.
fn changed_from(origin: u16, info: u8, data: &[u8]) -> Vec<String> {
    const ORIGIN: u8 = 253;
    const HEADER_BYTES: usize = 24;
    let mut record = encode_record(manager::TRANSACTION, info, 700, Lsn::ZERO, data);
    let [low, high] = origin.to_le_bytes();
    record.splice(HEADER_BYTES..HEADER_BYTES, [ORIGIN, low, high]);
    let total = record.len() as u32;
    record[..4].copy_from_slice(&total.to_le_bytes());
    let mut changes = Vec::new();
    state_changes(&DecodedRecord::decode(&record).unwrap(), &mut changes).unwrap();
    changes.iter().map(|change| format!("{change:?}")).collect()
}

#[test]
fn transactions_from_elsewhere_say_how_far_their_origin_came() {
    const HAS_ORIGIN: u32 = 1 << 5;
    let end = [&[0; 8][..], &numbers(&[HAS_ORIGIN, 0x99, 1, 5, 0])].concat();
    // xl_xact_prepare: the origin stands behind the length of the identifier.
    let mut prepared = vec![0; 80];
    prepared[54] = 2;
    prepared[56..64].copy_from_slice(&0x1_0000_0099u64.to_le_bytes());
    let advanced = StateChange::OriginAdvanced {
        origin: 3,
        remote_lsn: Lsn::from_raw(0x1_0000_0099),
        force: false,
    };
    let advanced = format!("{advanced:?}");
    for (info, data) in [(0x80, &end), (0xA0, &end), (0x10, &prepared)] {
        assert_eq!(changed_from(3, info, data).last(), Some(&advanced), "{info:#x}");
        for without_progress in [0, u16::MAX] {
            let changes = changed_from(without_progress, info, data);
            assert!(!changes.iter().any(|change| change.contains("Origin")), "{changes:?}");
        }
    }
}

#[test]
fn without_tracking_commit_timestamps_are_gone() {
    const PARAMETER_CHANGE: u8 = 0x60;
    let parameters = |track: u8| [&numbers(&[100, 8, 10, 5, 64, 1])[..], &[0, track, 0, 0]].concat();
    let gone = Touch::Truncate {
        fork: RelationKey::COMMIT_TIMESTAMPS.fork(fork::MAIN),
        from_block: 0,
    };
    assert_eq!(touched(manager::XLOG, PARAMETER_CHANGE, 0, &parameters(0)), [gone]);
    assert_eq!(touched(manager::XLOG, PARAMETER_CHANGE, 0, &parameters(1)), []);
}

#[test]
fn a_truncation_of_transaction_status_changes_no_page() {
    for (manager, info) in [
        (manager::CLOG, 0x10),
        (manager::COMMIT_TIMESTAMP, 0x10),
        (manager::MULTIXACT, 0x30),
    ] {
        assert_eq!(touched(manager, info, 0, &numbers(&[9, 8, 7, 6, 5])), [], "{manager}");
    }
}

#[test]
fn what_postgresql_15_does_not_write_is_refused() {
    let kind = |manager, info| with_record(manager, info, 0, &[], |record| record.kind());
    assert_eq!(kind(22, 0), Err(RecordError::UnknownManager(22)));
    for extension in [128, 255] {
        let refused = kind(extension, 0).unwrap_err();
        assert_eq!(refused, RecordError::ExtensionManager(extension));
        let text = refused.to_string();
        assert!(
            text.contains(&extension.to_string()) && text.contains("shared_preload_libraries"),
            "{text}"
        );
    }
    let unknown = RecordError::UnknownOperation {
        manager: "Heap",
        info: 0x90,
    };
    assert_eq!(kind(manager::HEAP, 0x90), Err(unknown));
    assert!(kind(manager::GIST, 0x40).is_err());
    assert_eq!(kind(manager::HEAP, 0x80).unwrap().to_string(), "Heap/INSERT+INIT");
    // The lower four bits are flags of the log.
    assert_eq!(
        kind(manager::TRANSACTION, 0x81).unwrap().to_string(),
        "Transaction/COMMIT"
    );
}

#[test]
fn data_cut_short_names_the_field() {
    let error = with_record(manager::TRANSACTION, 0x80, 5, &[0; 9], |record| {
        touches(record, &mut Vec::new())
    });
    assert!(matches!(error, Err(RecordError::Short { field: "flags", .. })));
    let huge = numbers(&[5, u32::MAX]);
    let error = with_record(manager::DATABASE, 0x20, 5, &huge, |record| {
        touches(record, &mut Vec::new())
    });
    assert!(matches!(
        error,
        Err(RecordError::Short {
            field: "tablespaces",
            ..
        })
    ));
}

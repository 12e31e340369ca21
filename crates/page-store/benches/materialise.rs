//! Reading a page that is an image and a hundred records behind it, from a store whose files are in memory.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use engine::{Engine, Touch};
use io::MemoryDisk;
use page_store::{JournalEntry, PageStore, StoreConfig};
use recorded_wal::{Load, Pages, Recording};
use redo::PostgreSql;
use timeline::{Branch, Path};
use units::{Epoch, GroupId, Page, PageKey, Position, SegmentId, VolumeId};
use wal::Record;
use wire_format::{Batch, EncodedBatch, FlushHeader, Item};

const SEGMENT: SegmentId = SegmentId::from_bytes([7; 16]);
const EPOCH: Epoch = Epoch::from_raw(1);
const DELTAS: usize = 100;

/// A page with a hundred deltas: what it was, what happens to it, what it is then.
struct Chain {
    key: PageKey,
    before: Page,
    records: Vec<Record>,
    after: Page,
}

fn pages_of(record: &Record) -> Vec<PageKey> {
    let mut touches = Vec::new();
    let touched = PostgreSql.touches(&record.bytes, record.end, &mut touches);
    touched.expect("PostgreSQL wrote it");
    let key = |touch| match touch {
        Touch::Page { key, from_nothing } => (!from_nothing).then_some(key),
        _ => None,
    };
    touches.into_iter().filter_map(key).collect()
}

impl Chain {
    /// In the middle of the load, the next hundred records that change its busiest page.
    fn of(load: &Load) -> Chain {
        let recording = Recording::of(load);
        let (mut pages, mut first) = (Pages::after(&recording.records_before()), recording.records());
        let records = first.split_off(first.len() / 2);
        first.iter().for_each(|record| {
            pages.apply(record);
        });
        let mut changes: HashMap<PageKey, usize> = HashMap::new();
        let keys = records
            .iter()
            .flat_map(pages_of)
            .filter(|key| pages.get(*key).is_some());
        keys.filter(|key| !key.fork.relation.is_status_array())
            .for_each(|key| *changes.entry(key).or_default() += 1);
        let (key, _) = changes.into_iter().max_by_key(|(_, count)| *count).expect("a page");
        let before = pages.get(key).expect("it is known").clone();
        let of_page = records.into_iter().filter(|record| pages_of(record).contains(&key));
        let records: Vec<Record> = of_page.take(DELTAS).collect();
        assert_eq!(records.len(), DELTAS);
        records.iter().for_each(|record| {
            pages.apply(record);
        });
        let after = pages.get(key).expect("it is known").clone();
        Chain {
            key,
            before,
            records,
            after,
        }
    }

    fn end(&self) -> Position {
        Position::new(EPOCH, self.records[DELTAS - 1].end)
    }

    fn batch(&self) -> EncodedBatch {
        let image = Item::Image {
            end: self.records[0].start,
            key: self.key,
            page: self.before.clone(),
        };
        let record = |record: &Record| Item::Record {
            end: record.end,
            bytes: record.bytes.clone(),
        };
        EncodedBatch::new(Batch {
            volume: VolumeId::from_bytes([1; 16]),
            group: GroupId::FIRST,
            epoch: EPOCH,
            end: self.end().lsn,
            previous: Position::ZERO,
            header: Some(FlushHeader {
                groups: vec![GroupId::FIRST],
                boundary: self.end().lsn,
                written_at_us: 0,
                marks: Bytes::new(),
                catalog: Vec::new(),
                page_flags: Vec::new(),
            }),
            items: std::iter::once(image).chain(self.records.iter().map(record)).collect(),
            elsewhere: Vec::new(),
        })
    }

    /// A store that has all of it, and keeps no page that it made.
    fn store(&self, cache_bytes_max: usize) -> PageStore {
        let config = StoreConfig {
            cache_bytes_max,
            page_cache_bytes_max: 0,
            ..StoreConfig::default()
        };
        let opened = PageStore::open(Arc::new(MemoryDisk::new()), config, Arc::new(PostgreSql));
        let store = opened.expect("an empty disk").store;
        let state = JournalEntry::State {
            segment: SEGMENT,
            bytes: Bytes::new(),
        };
        let batch = JournalEntry::Batch {
            segment: SEGMENT,
            batch: self.batch(),
        };
        store.append(&[state]).expect("room");
        store.sync().expect("a good disk");
        store.append(&[batch]).expect("room");
        store.sync().expect("a good disk");
        store
    }
}

fn bench(criterion: &mut Criterion) {
    let branch = Branch {
        epoch: EPOCH,
        parent: Position::ZERO,
    };
    let path = Path::new(vec![branch]).expect("a path");
    for load in [Load::PGBENCH, Load::INDEX_BUILD] {
        let chain = Chain::of(&load);
        let mut group = criterion.benchmark_group(format!("materialise/{}", load.name));
        group.sample_size(15);
        for (place, cache_bytes_max, writes_layer) in [
            ("memory", 0, false),
            ("layer-in-cache", 32 << 20, true),
            ("layer-in-file", 0, true),
        ] {
            let store = chain.store(cache_bytes_max);
            store.settle();
            if writes_layer {
                store.write_tables().expect("a good disk");
            }
            let read = || {
                let pages = store.read_pages(SEGMENT, &path, chain.end().lsn, chain.key, 1);
                pages.expect("the page")
            };
            assert!(
                read()[0].bytes() == chain.after.bytes(),
                "another page than redo made of the load"
            );
            group.bench_function(place, |bencher| bencher.iter(read));
        }
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);

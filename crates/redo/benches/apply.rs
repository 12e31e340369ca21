//! Applying recorded log to pages in memory: which pages each record touches, and redo on all of them.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use recorded_wal::{Load, Pages, Recording};

fn bench(criterion: &mut Criterion) {
    for load in [Load::PGBENCH, Load::INDEX_BUILD, Load::GIN] {
        let recording = Recording::of(&load);
        let before = Pages::after(&recording.records_before());
        let records = recording.records();
        let mut group = criterion.benchmark_group(format!("apply/{}", load.name));
        group.throughput(Throughput::Elements(records.len() as u64));
        group.sample_size(15);
        group.bench_function("records", |bencher| {
            let replay = |pages: &mut Pages| records.iter().map(|record| pages.apply(record)).sum::<usize>();
            bencher.iter_batched_ref(|| before.clone(), replay, BatchSize::PerIteration);
        });
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);

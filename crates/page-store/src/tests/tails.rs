//! The store of a tail: it keeps log as it came until nobody wants it, and gives it to a full copy that lags.

use proptest::prelude::*;
use units::{Lsn, Position};

use super::copies::{Target, only};
use super::toy::*;
use super::world::*;

/// Everything that is complete on the lagging full copy as well.
fn let_go(world: &mut World, full: &mut Target) {
    full.follow(world);
    let known = world.let_go.map_or(Position::ZERO, |known| world.path.reach(known));
    let bound = full.complete.lsn.min(world.newest_complete().lsn);
    world.let_go = Some(if known.lsn < bound { full.complete } else { known });
    world.announce(0, true);
}

/// While every full copy keeps up, a tail writes nothing but its journal, and that stays short.
#[test]
fn a_tail_whose_full_copies_keep_up_makes_no_layers() {
    let mut world = World::new();
    let mut full = Target::new();
    let_go(&mut world, &mut full);
    for _ in 0..200 {
        appended(&mut world, 10);
        full.fetch(&world);
        let_go(&mut world, &mut full);
        world.upkeep();
        let status = world.store.status();
        assert_eq!(status.layers_count, 0);
        assert!(status.journal_bytes <= 3 * config().journal_file_bytes, "{status:?}");
        assert!(status.table_bytes < config().table_bytes_max as u64 / 4, "{status:?}");
    }
    world.restart(Some(0));
    assert!(world.store.damaged().is_empty());
}

/// The journal is not pinned by a full copy that is away: the log goes to layers, unfolded, and those go when it is back.
#[test]
fn what_a_full_copy_lacks_goes_to_layers_and_is_given_as_it_came() {
    let mut world = World::new();
    let mut full = Target::new();
    appended(&mut world, 50);
    full.fetch(&world);
    let_go(&mut world, &mut full);
    for _ in 0..60 {
        appended(&mut world, 50);
        let_go(&mut world, &mut full);
        world.upkeep();
    }
    let status = world.store.status();
    assert!(0 < status.layers_count);
    assert!(
        status.journal_bytes < 2 * config().journal_retained_bytes_max,
        "{status:?}"
    );
    world.restart(Some(0));
    let_go(&mut world, &mut full);
    let before = full.complete;
    full.finish_pass(&world);
    assert!(before.lsn < full.complete.lsn);
    full.fetch(&world);
    full.check(&world);
    let_go(&mut world, &mut full);
    world.upkeep();
    assert_eq!(world.store.status().layers_count, 0, "nobody wants them any more");
}

/// A record in pieces that ends above what was let go is given, although its first pieces lie below.
#[test]
fn a_record_in_pieces_is_kept_until_all_of_it_is_let_go() {
    use wire_format::{EncodedBatch, Item};

    let mut world = World::new();
    let mut full = Target::new();
    appended(&mut world, 5);
    full.fetch(&world);
    let end = world.last.lsn.advanced_by(18);
    for offset in [0, 2] {
        let mut batch = (**world.next_batch(&[], 1).batch()).clone();
        batch.items = vec![Item::Fragment {
            end,
            record_bytes: 4,
            offset,
            bytes: bytes::Bytes::from_static(&[2, 50]),
        }];
        let batch = EncodedBatch::new(batch);
        if offset == 0 {
            // The full copies have the first piece, and one of them lacks the second.
            full.complete = batch.batch().position();
        }
        world.append_batch(batch);
        world.store.sync().expect("a good disk");
    }
    world.unsynced.clear();
    world.let_go = Some(full.complete);
    world.recycled = world.last;
    world.store.set_horizon(
        SEGMENT,
        crate::Horizon {
            path: world.path.clone(),
            durable: world.last,
            floor: Position::ZERO,
            recycle_through: world.last,
            let_go: world.let_go,
        },
    );
    world.upkeep();
    world.restart(Some(0));
    let asked = wire_format::message::VersionsAsked {
        path: world.path.clone(),
        after: full.complete,
        from: Default::default(),
        until: bytes::Bytes::new(),
        bytes_max: 1 << 20,
        through: world.last,
        floor: Position::ZERO,
    };
    let given = world.store.versions(SEGMENT, &asked).expect("a good disk");
    let taken = full.store.take_versions(SEGMENT, only(1), &Default::default(), &given);
    assert_eq!(taken, Ok(true));
    let read = full
        .store
        .read_pages(SEGMENT, &world.path, Lsn::from_raw(1000), FORK.page(2), 1);
    assert!(!read.expect("a page")[0].is_zeroed());
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Vec<u8>>, u8),
    FullFetches,
    FullTakes(usize, u32),
    LetGo,
    Maintain,
    WriteTables,
    Branch(u64),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pair = prop_oneof![
        30 => (0..BLOCKS as u8, 20..255u8).prop_map(|(block, byte)| vec![block, byte]),
        1 => (0..BLOCKS as u8).prop_map(|from| vec![TRUNCATE, from]),
    ];
    let flush = (prop::collection::vec(pair, 1..6), any::<u8>());
    let step = prop_oneof![
        20 => flush.prop_map(|(records, catalog)| Step::Append(records, catalog)),
        2 => Just(Step::FullFetches),
        4 => (any::<usize>(), 1..400u32).prop_map(|(pick, bytes)| Step::FullTakes(pick, bytes)),
        4 => Just(Step::LetGo),
        4 => Just(Step::Maintain),
        2 => Just(Step::WriteTables),
        1 => (0..4u64).prop_map(Step::Branch),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens, a full copy gets from the tail all that it lacks, and then reads as the model says.
    #[test]
    fn a_full_copy_that_lags_gets_everything_from_a_tail(steps in steps()) {
        let mut world = World::new();
        let mut full = Target::new();
        let_go(&mut world, &mut full);
        for step in steps {
            match step {
                Step::Append(records, catalog) => {
                    world.append(&records, catalog);
                    world.sync();
                }
                Step::FullFetches => full.fetch(&world),
                Step::FullTakes(pick, bytes) => full.copy(&world, pick, bytes, false),
                Step::LetGo => let_go(&mut world, &mut full),
                Step::Maintain => world.upkeep(),
                Step::WriteTables => world.store.write_tables().expect("a good disk"),
                Step::Branch(back) => world.branch(back),
                Step::Restart => world.restart(Some(0)),
            }
        }
        full.finish_pass(&world);
        full.check(&world);
        full.upkeep(&world);
        full.check(&world);
    }
}

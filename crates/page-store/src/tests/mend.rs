//! Layers that lost something and are mended from another store, against the naive model.

use bytes::Bytes;
use io::Disk;
use proptest::prelude::*;
use units::{Lsn, Position};
use wire_format::message::VersionsAsked;

use super::toy::*;
use super::world::*;
use crate::{Mend, Opened, ReadError};

/// Two stores that take the same log; each writes tables and folds when it pleases.
pub(super) struct Twins {
    pub(super) rotten: World,
    pub(super) peer: World,
}

impl Twins {
    fn each(&mut self, mut act: impl FnMut(&mut World)) {
        act(&mut self.rotten);
        act(&mut self.peer);
    }

    /// Three layers of several blocks in both. The peer has folded further.
    fn new() -> Twins {
        let mut twins = Twins {
            rotten: World::new(),
            peer: World::new(),
        };
        for _ in 0..3 {
            twins.each(|world| appended(world, 60));
            twins.rotten.announce(300, false);
            twins.rotten.store.write_tables().expect("a good disk");
        }
        twins.each(|world| appended(world, 10));
        twins.peer.announce(100, false);
        twins.peer.store.write_tables().expect("a good disk");
        twins.peer.upkeep();
        twins
    }

    fn layers(&self) -> Vec<String> {
        let names = self.rotten.disk.list("layers").expect("a folder");
        names.into_iter().map(|name| format!("layers/{name}")).collect()
    }

    fn begin(&self) -> Option<Mend> {
        self.rotten.store.begin_mend(SEGMENT).expect("a disk that answers")
    }

    /// How far a peer must have everything, and no further unless it has folded more.
    fn enough(&self, mend: &Mend) -> Position {
        let newest = self.peer.newest_complete();
        let Some(through) = mend.needs_through(&self.peer.path) else {
            return newest;
        };
        let through = through.max(self.peer.floor);
        let mut ends = self.peer.model.batches.keys();
        let enough = ends.find(|end| through <= end.lsn && self.peer.path.sees(**end));
        enough.copied().unwrap_or(newest)
    }

    /// Everything that is wanted, in small pieces. Answers with the highest floor that was named.
    fn take_all(&self, mend: &mut Mend) -> Lsn {
        let mut floor = Lsn::ZERO;
        let through = self.enough(mend);
        while let Some(from) = mend.wants() {
            let asked = VersionsAsked {
                path: self.peer.path.clone(),
                after: Position::ZERO,
                from,
                until: Bytes::new(),
                bytes_max: 500,
                through,
                floor: Position::ZERO,
            };
            let versions = self.peer.store.versions(SEGMENT, &asked).expect("a sound store");
            floor = floor.max(versions.floor.lsn);
            self.rotten.store.mend(mend, &versions).expect("a good disk");
        }
        floor
    }

    pub(super) fn mend(&mut self) {
        let mut mend = self.begin().expect("something to mend");
        let floor = self.take_all(&mut mend);
        assert!(
            self.rotten.store.end_mend(mend).expect("a good disk"),
            "nothing else is lost"
        );
        assert!(self.rotten.store.damaged().is_empty());
        self.rotten.floor = self.rotten.floor.max(floor);
    }

    /// It is as if nothing had been lost, also after folding and after a restart.
    fn check(&mut self) {
        self.rotten.check();
        let scrubbed = self.rotten.store.scrub(&|_| true).expect("a good disk");
        assert_eq!(scrubbed.damaged, 0);
        self.rotten.reopen();
        self.rotten.check();
        self.rotten.announce(0, true);
        self.rotten.store.write_tables().expect("a good disk");
        self.rotten.upkeep();
        self.rotten.check();
    }
}

fn found(twins: &Twins) -> u64 {
    twins
        .rotten
        .store
        .scrub(&|_| true)
        .expect("a disk that answers")
        .damaged
}

#[test]
fn a_layer_with_a_flipped_bit_is_mended_in_its_place() {
    let mut twins = Twins::new();
    let layer = twins.layers().remove(1);
    twins.rotten.disk.flip_bit(&layer, 20);
    assert_eq!(found(&twins), 1);
    twins.mend();
    assert!(!twins.layers().contains(&layer), "its file is gone");
    twins.check();
}

/// Not only in memory: after a restart it still counts as lost, and is mended then.
#[test]
fn what_a_restart_finds_rotten_is_mended_after_it() {
    let mut twins = Twins::new();
    let layers = twins.layers();
    twins.rotten.disk.flip_bit(&layers[0], 20);
    assert_eq!(found(&twins), 1);
    // A part of one, and another as a whole.
    let end = twins.rotten.disk.length(&layers[2]).expect("it is there");
    twins.rotten.disk.flip_bit(&layers[2], end - 1);
    let Opened { store, segments } = open(&twins.rotten.disk);
    assert!(!segments[0].vouches);
    twins.rotten.store = store;
    twins.mend();
    twins.check();
}

/// A layer that has another one's bytes is sound by itself, and yet not what belongs there.
#[test]
fn a_start_tells_a_layer_by_its_number() {
    let mut twins = Twins::new();
    let layers = twins.layers();
    let other = twins.rotten.disk.read_all(&layers[0]).expect("it is there");
    twins.rotten.disk.truncate(&layers[1], 0).expect("a good disk");
    twins.rotten.disk.write_at(&layers[1], 0, &other).expect("a good disk");
    let Opened { store, segments } = open(&twins.rotten.disk);
    assert!(!segments[0].vouches);
    twins.rotten.store = store;
    twins.mend();
    twins.check();
}

#[test]
fn what_is_found_lost_while_it_is_mended_is_mended_too() {
    let mut twins = Twins::new();
    let layers = twins.layers();
    twins.rotten.disk.flip_bit(&layers[0], 20);
    assert_eq!(found(&twins), 1);
    let mut mend = twins.begin().expect("something to mend");
    twins.take_all(&mut mend);
    twins.rotten.disk.flip_bit(&layers[1], 20);
    assert_eq!(found(&twins), 1);
    assert!(!twins.rotten.store.end_mend(mend).expect("a good disk"));
    assert_eq!(twins.rotten.store.damaged(), [SEGMENT]);
    assert_eq!(twins.layers(), layers, "what came to nothing has left no file");
    twins.mend();
    twins.check();
}

/// Images made meanwhile would lack what is lost.
#[test]
fn nothing_is_folded_while_something_is_lost() {
    let mut twins = Twins::new();
    let layer = twins.layers().remove(0);
    twins.rotten.disk.remove(&layer).expect("a good disk");
    twins.rotten.store = open(&twins.rotten.disk).store;
    for _ in 0..10 {
        twins.each(|world| appended(world, 60));
        twins.rotten.announce(0, true);
        twins.rotten.store.write_tables().expect("a good disk");
        twins.rotten.upkeep();
    }
    twins.mend();
    twins.check();
}

/// Nobody can say what it acknowledged.
#[test]
fn a_store_that_lost_log_before_it_was_opened_is_not_mended() {
    let mut twins = Twins::new();
    let (file, end) = super::damage::written_file(&twins.rotten.disk);
    twins.rotten.disk.flip_bit(&file, end / 2);
    twins.rotten.store = open(&twins.rotten.disk).store;
    assert!(twins.begin().is_none());
    assert!(!twins.rotten.store.is_mendable(SEGMENT));
}

#[test]
fn a_full_disk_leaves_everything_as_it_was() {
    let twins = Twins::new();
    let layers = twins.layers();
    twins.rotten.disk.flip_bit(&layers[0], 20);
    assert_eq!(found(&twins), 1);
    let mut mend = twins.begin().expect("something to mend");
    twins.take_all(&mut mend);
    let used = twins.rotten.disk.bytes_used();
    twins.rotten.disk.set_capacity(Some(used));
    let ended = twins.rotten.store.end_mend(mend);
    assert!(matches!(ended, Err(ReadError::DiskFull { .. })), "{ended:?}");
    twins.rotten.disk.set_capacity(None);
    assert_eq!(twins.layers(), layers);
    assert_eq!(twins.rotten.store.damaged(), [SEGMENT]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whatever is written over whatever part of any layer, whenever it is found.
    #[test]
    fn any_damage_to_layers_is_mended(
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..3000)), 1..4),
        restart in any::<bool>(),
        later in 0..80usize,
        truncates in any::<bool>(),
    ) {
        let mut twins = Twins::new();
        let layers = twins.layers();
        for (which, at, garbage) in &damages {
            let layer = which.get(&layers);
            let length = twins.rotten.disk.length(layer).expect("it is there");
            twins.rotten.disk.write_at(layer, at.index(length as usize) as u64, garbage).expect("a good disk");
        }
        if restart {
            twins.rotten.store = open(&twins.rotten.disk).store;
        }
        found(&twins);
        twins.each(|world| {
            if truncates {
                world.append(&[vec![TRUNCATE, 3]], 1);
            }
            appended(world, later);
        });
        twins.peer.announce(50, false);
        twins.peer.store.write_tables().expect("a good disk");
        twins.peer.upkeep();
        if !twins.rotten.store.damaged().is_empty() {
            twins.mend();
        }
        twins.check();
    }
}

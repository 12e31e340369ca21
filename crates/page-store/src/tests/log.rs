//! The log is given again as it came.

use units::Lsn;
use wire_format::Item;
use wire_format::log::LogAsked;

use super::toy::*;
use super::world::*;
use crate::ReadError;

fn asked(world: &World, after: Lsn, offset: u32) -> LogAsked {
    LogAsked {
        path: world.path.clone(),
        after,
        offset,
        through: world.last.lsn,
        bytes_max: 0,
    }
}

#[test]
fn a_record_that_is_longer_than_an_answer_comes_in_pieces() {
    let mut world = World::new();
    let long: Vec<u8> = (0..30_000_u32).map(|at| 20 + (at % 5) as u8 * (at % 2) as u8).collect();
    let long: Vec<u8> = long.chunks(2).flat_map(|pair| [pair[0] % 5, pair[1]]).collect();
    world.append(&[vec![1, 50], long.clone(), vec![2, 60]], 1);
    world.sync();
    world.store.write_tables().expect("a good disk");
    let (mut record, mut whole, mut answers) = (Vec::new(), Vec::new(), 0);
    let (mut after, mut offset) = (Lsn::ZERO, 0);
    while after < world.last.lsn {
        let part = world
            .store
            .log(SEGMENT, &asked(&world, after, offset))
            .expect("the log");
        (after, offset, answers) = (part.through, 0, answers + 1);
        for item in part.items {
            match item {
                Item::Record { bytes, .. } => whole.push(bytes.to_vec()),
                Item::Fragment {
                    record_bytes,
                    offset: at,
                    bytes,
                    ..
                } => {
                    assert_eq!((record_bytes, at), (long.len() as u32, record.len() as u32));
                    record.extend_from_slice(&bytes);
                    offset = if record.len() < long.len() {
                        record.len() as u32
                    } else {
                        0
                    };
                }
                Item::Image { .. } => unreachable!("only records"),
            }
        }
    }
    assert!(8 <= answers, "{answers} answers");
    assert!(record == long);
    assert_eq!(whole, [vec![1, 50], vec![2, 60]]);
    world.check();
}

/// What lies below the fold point is gone from layers, and nobody gets a part of it.
#[test]
fn log_below_the_fold_point_is_refused_and_takes_no_room() {
    let mut world = World::new();
    let mut most = 0;
    for _ in 0..40 {
        appended(&mut world, 100);
        world.announce(20, true);
        world.upkeep();
        world.check();
        most = most.max(world.disk.bytes_used());
    }
    let refused = world
        .store
        .log(SEGMENT, &asked(&world, Lsn::from_raw(world.floor.raw() - 1), 0));
    assert_eq!(refused.err(), Some(ReadError::Collected(world.floor)));
    assert!(most < 400 << 10, "{most} bytes on the disk for six pages");
}

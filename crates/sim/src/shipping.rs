//! What a simulated writer ships, and what becomes of what its shipper asks for.

use std::collections::VecDeque;

use bytes::Bytes;
use units::{GroupId, Lsn, Position};
use volume::{FlushParts, Share, ShipperEffect};
use wire_format::{Elsewhere, Item};

use crate::checker::{Flush, Logged, Violation};
use crate::layout::Route;
use crate::toy::{Change, Record};
use crate::world::World;
use crate::writer::{FLUSH_BYTES, Long, News, Stage};
use crate::{Broken, broken};

impl World {
    /// The writer has something to flush: records of equal length, so that branches reuse the same LSNs, and sometimes a
    /// long one in pieces.
    pub(crate) fn work(&mut self, at: usize) -> Result<(), Violation> {
        if self.resting() {
            return Ok(());
        }
        if self.writers[at].layout.is_none() {
            return self.read_catalog(at);
        }
        let written_at_us = self.wall_clock_us(at);
        let Stage::Writing(shipper) = &self.writers[at].stage else {
            return Ok(());
        };
        // A window that ends inside a record yields to its pieces: the durable LSN cannot move without them.
        if !shipper.can_submit() && self.writers[at].long.is_none() {
            return Ok(());
        }
        if self.writers[at].long.is_none() && self.random.chance(50) {
            let pieces_count = 2 + self.random.below(4);
            let (logged, route) = self.log(at, pieces_count);
            self.writers[at].long = Some(Long {
                pieces: pieces(&logged.record, pieces_count as usize),
                logged,
                route,
            });
        }
        let (item, route, logged) = match self.writers[at].long.take() {
            Some(mut long) => {
                let piece = long.pieces.pop_front().expect("it has pieces left");
                let route = long.route.clone();
                if long.pieces.is_empty() {
                    (piece, route, Some(long.logged))
                } else {
                    self.writers[at].long = Some(long);
                    (piece, route, None)
                }
            }
            None => {
                let (logged, route) = self.log(at, 1);
                let (end, bytes) = (logged.record.name.lsn, logged.record.encode());
                (Item::Record { end, bytes }, route, Some(logged))
            }
        };
        let writer = &mut self.writers[at];
        let end = Lsn::from_raw(writer.last.lsn.raw() + FLUSH_BYTES);
        let catalog = logged.as_ref().map_or(Vec::new(), |logged| logged.entries.clone());
        if logged.is_some() {
            writer.boundary = end;
        }
        let (first, others) = shares(item, &route);
        let others_named = others.iter().map(|(group, _)| *group);
        let position = Position::new(writer.epoch, end);
        let flush = Flush {
            previous: writer.last,
            boundary: writer.boundary,
            groups: std::iter::once(GroupId::FIRST).chain(others_named).collect(),
            logged,
        };
        self.checker.flushed(position, flush);
        writer.last = position;
        let parts = FlushParts {
            end,
            boundary: match self.broken {
                Some(Broken::BoundaryIgnored) => end,
                _ => writer.boundary,
            },
            first,
            others,
            marks: marks(position),
            written_at_us,
            catalog,
            ..FlushParts::default()
        };
        let mut effects = Vec::new();
        if let Stage::Writing(shipper) = &mut writer.stage {
            let submitted = shipper.submit(parts, &mut effects);
            submitted.expect("the flushes of the toy engine are small");
        }
        self.ticks += 1;
        self.perform_shipping(at, effects)
    }

    /// The next record, which ends with the last of so many flushes, what it does to the catalog, and where it goes.
    fn log(&mut self, at: usize, flushes: u64) -> (Logged, Route) {
        let writer = &mut self.writers[at];
        let end = Lsn::from_raw(writer.last.lsn.raw() + flushes * FLUSH_BYTES);
        let name = Position::new(writer.epoch, end);
        let record = Record::any(name, self.weather.blocks, &mut self.random);
        let layout = writer
            .layout
            .as_mut()
            .expect("nothing is written before the catalog is read");
        let mut entries = Vec::new();
        let mut route = layout.look(&record, &mut entries);
        let takes_away = matches!(record.changes[..], [Change::Truncate(_) | Change::Drop]);
        if takes_away && self.broken == Some(Broken::TruncationForgotten) {
            route.retain(|(group, _)| *group == GroupId::FIRST);
        }
        entries.push(record.entry());
        (Logged { record, entries }, route)
    }

    pub(crate) fn perform_shipping(&mut self, at: usize, effects: Vec<ShipperEffect>) -> Result<(), Violation> {
        for effect in effects {
            if self.dies_here(at) {
                return Ok(());
            }
            match effect {
                ShipperEffect::Connect(_, members) => {
                    let segments = self.connected_of(at, &members);
                    self.tell(at, News::Connected { segments })?;
                }
                ShipperEffect::GroupAdvanced { group, durable } => {
                    self.writers[at].client.group_advanced(group, durable);
                }
                ShipperEffect::TooLong(_) => unreachable!("the flushes of the toy volume are small"),
                ShipperEffect::Send { segment, request } => {
                    let request = broken::announced(self.broken, self.writers[at].last, request);
                    self.send(at, segment, request);
                }
                ShipperEffect::DurableAdvanced(durable) => {
                    let disks: Vec<_> = self.nodes.iter().map(|node| &node.disk).collect();
                    self.checker.acknowledged(at, self.writers[at].epoch, durable, &disks)?;
                    self.writers[at].client.durable_advanced(durable);
                }
                ShipperEffect::Fenced { .. } => self.writers[at].stage = Stage::Over,
                ShipperEffect::Trouble { .. } => {}
            }
        }
        Ok(())
    }
}

/// What of a flush goes to which group.
fn shares(item: Item, route: &Route) -> (Share, Vec<(GroupId, Share)>) {
    if route.is_empty() {
        return (Share::of(vec![item]), Vec::new());
    }
    let end = match &item {
        Item::Record { end, .. } | Item::Fragment { end, .. } => *end,
        Item::Image { .. } => unreachable!("the toy engine ships records"),
    };
    let (mut first, mut others) = (Share::default(), Vec::new());
    for (group, elsewhere) in route {
        let mut share = Share::of(vec![item.clone()]);
        if !elsewhere.is_empty() {
            let touches = elsewhere.clone();
            share.elsewhere.push(Elsewhere { end, touches });
        }
        if *group == GroupId::FIRST {
            first = share;
        } else {
            others.push((*group, share));
        }
    }
    (first, others)
}

/// What stands for the engine's marks after a flush: its name.
pub(crate) fn marks(at: Position) -> Bytes {
    Bytes::from(at.to_string())
}

/// A record cut into pieces of about equal length.
fn pieces(record: &Record, count: usize) -> VecDeque<Item> {
    let bytes = record.encode();
    let piece_bytes = bytes.len().div_ceil(count);
    let cuts = (0..bytes.len()).step_by(piece_bytes);
    let piece = |at: usize| Item::Fragment {
        end: record.name.lsn,
        record_bytes: bytes.len() as u32,
        offset: at as u32,
        bytes: bytes.slice(at..bytes.len().min(at + piece_bytes)),
    };
    cuts.map(piece).collect()
}

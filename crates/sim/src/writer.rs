//! A simulated instance: the real opening, then the real shipper.

use std::collections::VecDeque;

use bytes::Bytes;
use units::{Epoch, Lsn, Position, SegmentId};
use volume::{FlushParts, Opened, Opening, OpeningEffect, Share, Shipper, ShipperEffect, ShipperLimits, VolumeRecord};
use wire_format::Item;
use wire_format::message::Response;

use crate::checker::Violation;
use crate::client::Client;
use crate::tally::Fault;
use crate::toy::Record;
use crate::world::{Event, World};
use crate::{Broken, Promise, broken};

/// Log in one flush: so much that segments forget the links of some dozen flushes that every copy has.
pub(crate) const FLUSH_BYTES: u64 = 8 << 10;

/// What reaches a writer. While it is paused, it all waits.
#[derive(Debug)]
pub(crate) enum News {
    Connected {
        segment: SegmentId,
    },
    Disconnected {
        segment: SegmentId,
    },
    Response {
        segment: SegmentId,
        response: Box<Response>,
    },
    Swapped(bool),
    /// A copy answered a reader.
    PageRead {
        question: u64,
        response: Box<Response>,
    },
    Tick,
    Work,
    /// A backend wants a page.
    Read,
}

#[derive(Debug)]
pub(crate) enum Stage {
    Opening(Box<Opening>),
    Writing(Box<Shipper>),
    /// It died, gave up or was fenced.
    Over,
}

/// One writer.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) stage: Stage,
    pub(crate) epoch: Epoch,
    pub(crate) revision: u64,
    pub(crate) paused: bool,
    waiting: Vec<News>,
    /// Its last flush, and the last record end in it.
    last: Position,
    boundary: Lsn,
    /// What is still to come of the long record being shipped.
    pieces: VecDeque<Item>,
    long_record: Option<Record>,
    pub(crate) client: Client,
    /// The life of the metadata store that it took its epoch in.
    pub(crate) metadata_life: u64,
    /// Microseconds that its wall clock is ahead.
    pub(crate) clock_ahead_us: u64,
}

impl Writer {
    pub(crate) fn new(epoch: Epoch, revision: u64, stage: Stage) -> Writer {
        Writer {
            stage,
            epoch,
            revision,
            paused: false,
            waiting: Vec::new(),
            last: Position::ZERO,
            boundary: Lsn::ZERO,
            pieces: VecDeque::new(),
            long_record: None,
            client: Client::default(),
            metadata_life: 0,
            clock_ahead_us: 0,
        }
    }

    pub(crate) fn alive(&self) -> bool {
        !matches!(self.stage, Stage::Over)
    }
}

impl World {
    /// Something reaches a writer.
    pub(crate) fn tell(&mut self, at: usize, news: News) -> Result<(), Violation> {
        let writer = &mut self.writers[at];
        if writer.paused {
            if !matches!(news, News::Tick | News::Work | News::Read) {
                writer.waiting.push(news);
            }
            return Ok(());
        }
        match news {
            News::Response { .. } | News::PageRead { .. } | News::Swapped(_) => self.messages += 1,
            _ => {}
        }
        let ticks = matches!(news, News::Tick);
        let now = self.now();
        let writer = &mut self.writers[at];
        match &mut writer.stage {
            Stage::Opening(opening) => {
                let mut effects = Vec::new();
                let mut outcome = Ok(());
                match news {
                    News::Connected { segment } => opening.connected(segment, &mut effects),
                    News::Disconnected { segment } => opening.disconnected(segment, &mut effects),
                    News::Response { segment, mut response } => {
                        if let Response::Promised(promised) = &mut *response
                            && self.broken == Some(Broken::CandidateOfAnyEpoch)
                        {
                            broken::of_any_reign(promised);
                        }
                        let promised = match &*response {
                            Response::Promised(promised) if self.broken == Some(Broken::OnePromiseFewer) => {
                                Some(promised.clone())
                            }
                            _ => None,
                        };
                        outcome = opening.response(now, segment, *response, &mut effects);
                        if let Some(forged) = promised.and_then(|promised| broken::forged_promise(opening, &promised)) {
                            let silent = forged.segment;
                            outcome = outcome
                                .and_then(|()| opening.response(now, silent, Response::Promised(forged), &mut effects));
                        }
                    }
                    News::Swapped(swapped) => outcome = opening.recorded(swapped, &mut effects),
                    News::Tick => outcome = opening.tick(now, &mut effects),
                    News::Work | News::Read | News::PageRead { .. } => {}
                }
                if self.broken == Some(Broken::ShownBeforeDecided)
                    && let Some(candidate) = broken::candidate(&effects)
                {
                    self.checker.shown(candidate);
                }
                if matches!(self.broken, Some(Broken::NoCopying | Broken::CandidateOfAnyEpoch)) {
                    for said in broken::said_to_be_copied(opening, &effects) {
                        if let Response::Appended { segment, .. } = said {
                            outcome = outcome.and_then(|()| opening.response(now, segment, said, &mut effects));
                        }
                    }
                }
                self.ticks += u64::from(ticks && !effects.is_empty());
                if let Err(error) = outcome {
                    if matches!(error, volume::OpeningError::RecordOutdated { .. }) {
                        if self.metadata.went_back() {
                            self.outdated_stops += 1;
                            self.writers[at].stage = Stage::Over;
                            return Ok(());
                        }
                        let what = format!("the store never went back in time, but: {error}");
                        return Err(Promise::RecordLeads.broken(what));
                    }
                    self.writers[at].stage = Stage::Over;
                    return Ok(());
                }
                self.perform_opening(at, effects)
            }
            Stage::Writing(shipper) => {
                let mut effects = Vec::new();
                match news {
                    News::Connected { segment } => shipper.connected(segment, &mut effects),
                    News::Disconnected { segment } => shipper.disconnected(segment),
                    News::Response { segment, response } => {
                        shipper.response(now, segment, &response, &mut effects);
                        if self.broken == Some(Broken::ThreeAcknowledge)
                            && let Some((fourth, forged)) = broken::forged_acknowledgement(shipper)
                        {
                            shipper.response(now, fourth, &forged, &mut effects);
                        }
                    }
                    News::Swapped(_) => {}
                    News::Tick => {
                        shipper.raise_floor(match self.broken {
                            Some(Broken::BelowTheFloor) => shipper.durable(),
                            _ => writer.client.floor(now),
                        });
                        shipper.tick(now, &mut effects);
                    }
                    News::PageRead { question, response } => return self.page_read(at, question, &response),
                    News::Work => return self.work(at),
                    News::Read => return self.read_pages(at),
                }
                self.ticks += u64::from(ticks && !effects.is_empty());
                self.perform_shipping(at, effects)
            }
            Stage::Over => Ok(()),
        }
    }

    fn perform_opening(&mut self, at: usize, effects: Vec<OpeningEffect>) -> Result<(), Violation> {
        for effect in effects {
            if self.dies_here(at) {
                return Ok(());
            }
            match effect {
                OpeningEffect::Send { segment, request } => self.send(at, segment, request),
                OpeningEffect::CompareAndSwap(record) => {
                    let record = match self.broken {
                        Some(Broken::BranchOffByOne) => broken::branched_too_low(record),
                        _ => record,
                    };
                    let late = self.strikes(Fault::MetadataLate, 100);
                    let pause = match late {
                        true => self.random.millis(5, 600),
                        false => self.random.micros(200, 5000),
                    };
                    if late {
                        self.note(Fault::MetadataLate, None);
                    }
                    let record = Box::new(record);
                    self.schedule(self.now() + pause, Event::Swap { writer: at, record });
                }
                OpeningEffect::Connect(..) => unreachable!("the toy volume has one group"),
                OpeningEffect::Create { .. } => unreachable!("nobody replaces copies of the toy volume"),
                OpeningEffect::Opened(opened) => self.begin_reign(at, *opened)?,
            }
        }
        Ok(())
    }

    /// The swap reaches the store, or is lost on the way there or back.
    pub(crate) fn swap(&mut self, at: usize, record: &VolumeRecord) -> Result<(), Violation> {
        let writer = &self.writers[at];
        if writer.metadata_life != self.metadata.life {
            return Ok(());
        }
        let (epoch, revision) = (writer.epoch, writer.revision);
        let lost = self.strikes(Fault::SwapLost, 50);
        if lost {
            self.note(Fault::SwapLost, None);
        }
        let swapped = !lost && self.metadata.compare_and_swap(epoch, revision, record);
        if swapped {
            if self.metadata.went_back() {
                let what = format!("{epoch:?} opened the volume with an old copy of the metadata store");
                return Err(Promise::RecordLeads.broken(what));
            }
            let path = record.path().expect("an opener extends a path");
            self.checker.recorded(&path)?;
        }
        // Without an answer the record is read again, and that decides.
        let unknown = !lost && self.strikes(Fault::OutcomeUnknown, 100);
        if unknown {
            self.note(Fault::OutcomeUnknown, None);
        }
        let event = if lost || unknown {
            Event::ReadAgain {
                writer: at,
                record: Box::new(record.clone()),
            }
        } else {
            Event::News {
                writer: at,
                news: News::Swapped(swapped),
            }
        };
        let pause = self.random.micros(200, 20_000);
        self.schedule(self.now() + pause, event);
        Ok(())
    }

    pub(crate) fn read_again(&mut self, at: usize, record: &VolumeRecord) -> Result<(), Violation> {
        let swapped =
            self.broken == Some(Broken::UnknownSwapBelieved) || self.metadata.holds(self.writers[at].epoch, record);
        self.tell(at, News::Swapped(swapped))
    }

    /// Whether a writer or opener dies before its next effect.
    fn dies_here(&mut self, at: usize) -> bool {
        if self.writers[at].alive() && self.strikes(Fault::WriterKilledAtEffect, 1) {
            self.note(Fault::WriterKilledAtEffect, None);
            self.writers[at].stage = Stage::Over;
        }
        !self.writers[at].alive()
    }

    fn begin_reign(&mut self, at: usize, opened: Opened) -> Result<(), Violation> {
        let disks: Vec<_> = self.nodes.iter().map(|node| &node.disk).collect();
        self.checker.opened(&opened.path, opened.branch, opened.last, &disks)?;
        if opened.marks != marks(opened.last) {
            let what = format!("the marks at {} are not those of {}", opened.branch, opened.last);
            return Err(Promise::FlushesAreWhole.broken(what));
        }
        let limits = ShipperLimits {
            window_bytes_max: (1 + self.random.below(20)) * FLUSH_BYTES,
            small_flushes_max: 1 + self.random.below(16) as usize,
            retained_bytes_max: 200 + self.random.below(20) * 200,
        };
        let (last, branch) = (opened.last, opened.branch);
        let shipper = Shipper::of(opened, limits);
        let writer = &mut self.writers[at];
        writer.stage = Stage::Writing(Box::new(shipper));
        (writer.last, writer.boundary) = (last, branch);
        writer.client.durable_advanced(branch);
        // The connections stay; whoever is connected is told of the reign.
        for segment in self.connected_to(at) {
            self.tell(at, News::Connected { segment })?;
        }
        Ok(())
    }

    /// The writer has something to flush: records of equal length, so that branches reuse the same LSNs, and sometimes a
    /// long one in pieces.
    fn work(&mut self, at: usize) -> Result<(), Violation> {
        if self.resting() {
            return Ok(());
        }
        let written_at_us = self.wall_clock_us(at);
        let writer = &mut self.writers[at];
        let Stage::Writing(shipper) = &mut writer.stage else {
            return Ok(());
        };
        // A window that ends inside a record yields to its pieces: the durable LSN cannot move without them.
        if !shipper.can_submit() && writer.pieces.is_empty() {
            return Ok(());
        }
        let end = Lsn::from_raw(writer.last.lsn.raw() + FLUSH_BYTES);
        if writer.pieces.is_empty() && self.random.chance(50) {
            let pieces_count = 2 + self.random.below(4);
            let end = Lsn::from_raw(writer.last.lsn.raw() + pieces_count * FLUSH_BYTES);
            let record = Record::any(Position::new(writer.epoch, end), &mut self.random);
            writer.pieces = pieces(&record, pieces_count as usize);
            writer.long_record = Some(record);
        }
        let (item, record) = match writer.pieces.pop_front() {
            Some(piece) => {
                let last = writer.pieces.is_empty();
                (piece, if last { writer.long_record.take() } else { None })
            }
            None => {
                let record = Record::any(Position::new(writer.epoch, end), &mut self.random);
                let bytes = record.encode();
                (Item::Record { end, bytes }, Some(record))
            }
        };
        let catalog = record.as_ref().map_or(Vec::new(), |record| vec![record.entry()]);
        if record.is_some() {
            writer.boundary = end;
        }
        let position = Position::new(writer.epoch, end);
        self.checker.flushed(position, writer.last, writer.boundary, record);
        writer.last = position;
        let parts = FlushParts {
            end,
            boundary: match self.broken {
                Some(Broken::BoundaryIgnored) => end,
                _ => writer.boundary,
            },
            first: Share::of(vec![item]),
            marks: marks(position),
            written_at_us,
            catalog,
            ..FlushParts::default()
        };
        let mut effects = Vec::new();
        let submitted = shipper.submit(parts, &mut effects);
        submitted.expect("the flushes of the toy engine are small");
        self.ticks += 1;
        self.perform_shipping(at, effects)
    }

    pub(crate) fn perform_shipping(&mut self, at: usize, effects: Vec<ShipperEffect>) -> Result<(), Violation> {
        for effect in effects {
            if self.dies_here(at) {
                return Ok(());
            }
            match effect {
                ShipperEffect::Connect(..) | ShipperEffect::GroupAdvanced { .. } | ShipperEffect::TooLong(_) => {
                    unreachable!("the toy volume has one group, and its flushes are small")
                }
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

    /// A paused writer wakes, and finds everything that came meanwhile.
    pub(crate) fn wake(&mut self, at: usize) -> Result<(), Violation> {
        let writer = &mut self.writers[at];
        writer.paused = false;
        for news in std::mem::take(&mut writer.waiting) {
            self.tell(at, news)?;
        }
        Ok(())
    }
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

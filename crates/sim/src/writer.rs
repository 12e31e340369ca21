//! A simulated instance: the real opening, then the real shipper.

use std::collections::VecDeque;

use units::{Epoch, Lsn, Position, SegmentId};
use volume::{Opened, Opening, OpeningEffect, OpeningError, Shipper, ShipperLimits, VolumeRecord};
use wire_format::Item;
use wire_format::message::Response;

use crate::checker::{Logged, Violation};
use crate::client::Client;
use crate::event::Event;
use crate::holding::Holding;
use crate::layout::{Layout, Route};
use crate::rescue::Rescue;
use crate::tally::Fault;
use crate::world::World;
use crate::{Broken, Promise, broken, shipping};

/// Log in one flush: so much that segments forget the links of some dozen flushes that every copy has.
pub(crate) const FLUSH_BYTES: u64 = 8 << 10;

/// What reaches a writer. While it is paused, it all waits.
#[derive(Debug)]
pub(crate) enum News {
    Connected {
        segments: Vec<SegmentId>,
    },
    Disconnected {
        node: usize,
    },
    Response {
        segment: SegmentId,
        response: Box<Response>,
    },
    Swapped(bool),
    /// A segment was made.
    Created {
        segment: SegmentId,
    },
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

/// A record that leaves in pieces.
#[derive(Debug)]
pub(crate) struct Long {
    pub(crate) pieces: VecDeque<Item>,
    pub(crate) logged: Logged,
    pub(crate) route: Route,
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
    pub(crate) last: Position,
    pub(crate) boundary: Lsn,
    /// What is still to come of the long record being shipped.
    pub(crate) long: Option<Long>,
    pub(crate) client: Client,
    /// The catalog, once it is read.
    pub(crate) layout: Option<Layout>,
    /// What it does for groups without a write quorum, while it opens the volume.
    pub(crate) rescue: Option<Box<Rescue>>,
    /// What it does with the record, while it writes.
    pub(crate) holding: Option<Box<Holding>>,
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
            long: None,
            client: Client::default(),
            layout: None,
            rescue: None,
            holding: None,
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
            Stage::Opening(_) => self.tell_opener(at, news),
            Stage::Writing(shipper) => {
                let mut effects = Vec::new();
                match news {
                    News::Connected { segments } => {
                        segments
                            .into_iter()
                            .for_each(|segment| shipper.connected(segment, &mut effects));
                    }
                    News::Disconnected { node } => {
                        self.on_node[node]
                            .iter()
                            .for_each(|segment| shipper.disconnected(*segment));
                    }
                    News::Response { segment, response } => {
                        shipper.response(now, segment, &response, &mut effects);
                        if self.broken == Some(Broken::ThreeAcknowledge)
                            && let Some((fourth, forged)) = broken::forged_acknowledgement(shipper)
                        {
                            shipper.response(now, fourth, &forged, &mut effects);
                        }
                        if self.broken == Some(Broken::OneCopyTellsTheEnd) {
                            for forged in broken::told_by_one(shipper, &response) {
                                shipper.response(now, forged.0, &forged.1, &mut effects);
                            }
                        }
                    }
                    News::Tick => {
                        shipper.raise_floor(match self.broken {
                            Some(Broken::BelowTheFloor) => shipper.durable(),
                            _ => writer.client.floor(now),
                        });
                        shipper.tick(now, &mut effects);
                    }
                    News::Swapped(swapped) => return self.swapped(at, swapped),
                    News::Created { segment } => return self.created(at, segment),
                    News::PageRead { question, response } => return self.answer_read(at, question, &response),
                    News::Work => return self.work(at),
                    News::Read => return self.read_pages(at),
                }
                self.ticks += u64::from(ticks && !effects.is_empty());
                self.perform_shipping(at, effects)?;
                if ticks { self.hold(at) } else { Ok(()) }
            }
            Stage::Over => Ok(()),
        }
    }

    fn tell_opener(&mut self, at: usize, news: News) -> Result<(), Violation> {
        let now = self.now();
        let ticks = matches!(news, News::Tick);
        let Stage::Opening(opening) = &mut self.writers[at].stage else {
            return Ok(());
        };
        let mut effects = Vec::new();
        let mut outcome = Ok(());
        match news {
            News::Connected { segments } => {
                segments
                    .into_iter()
                    .for_each(|segment| opening.connected(segment, &mut effects));
            }
            News::Disconnected { node } => {
                let segments = self.on_node[node].iter();
                segments.for_each(|segment| opening.disconnected(*segment, &mut effects));
            }
            News::Response { segment, mut response } => {
                if let Response::Promised(promised) = &mut *response {
                    match self.broken {
                        Some(Broken::CandidateOfAnyEpoch) => broken::of_any_reign(promised),
                        Some(Broken::ReplacedBeforeCopied) => broken::whole_at_birth(opening, promised),
                        Some(Broken::NoListOfParts) => {
                            promised.held.iter_mut().for_each(|held| held.groups.truncate(1))
                        }
                        _ => {}
                    }
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
                    outcome =
                        outcome.and_then(|()| opening.response(now, silent, Response::Promised(forged), &mut effects));
                }
            }
            News::Swapped(swapped) => outcome = opening.recorded(swapped, &mut effects),
            News::Tick => outcome = opening.tick(now, &mut effects),
            News::Work | News::Read | News::PageRead { .. } | News::Created { .. } => {}
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
        let Err(error) = outcome else {
            self.perform_opening(at, effects)?;
            return if ticks { self.rescue(at) } else { Ok(()) };
        };
        self.writers[at].stage = Stage::Over;
        if !matches!(error, OpeningError::RecordOutdated { .. } | OpeningError::Groups { .. }) {
            return Ok(());
        }
        if self.metadata.went_back() {
            self.outdated_stops += 1;
            return Ok(());
        }
        let what = format!("the store never went back in time, but: {error}");
        Err(Promise::RecordLeads.broken(what))
    }

    pub(crate) fn perform_opening(&mut self, at: usize, effects: Vec<OpeningEffect>) -> Result<(), Violation> {
        for effect in effects {
            if self.dies_here(at) {
                return Ok(());
            }
            match effect {
                OpeningEffect::Send { segment, request } => self.send(at, segment, request),
                OpeningEffect::CompareAndSwap(record) => {
                    let record = match self.broken {
                        Some(Broken::BranchOffByOne) => broken::branched_too_low(record),
                        Some(Broken::NewListFenced) => broken::with_groups_of(record, self.metadata.newest()),
                        _ => record,
                    };
                    self.ask_to_swap(at, record);
                }
                OpeningEffect::Connect(_, members) => {
                    let segments = self.connected_of(at, &members);
                    self.tell(at, News::Connected { segments })?;
                }
                OpeningEffect::Create { request, .. } => {
                    if let Some(segment) = request.segment() {
                        self.call(at, segment, request);
                    }
                }
                OpeningEffect::Opened(opened) => self.begin_reign(at, *opened)?,
            }
        }
        Ok(())
    }

    /// A swap is on its way to the store.
    pub(crate) fn ask_to_swap(&mut self, at: usize, record: VolumeRecord) {
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
            self.writers[at].revision = self.metadata.revision();
            let path = record.path().expect("whoever changes the record keeps its path");
            self.checker.recorded(&path)?;
            self.grouped(record)?;
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
        let writer = &self.writers[at];
        let (epoch, revision) = (writer.epoch, writer.revision);
        let swapped = self.broken == Some(Broken::UnknownSwapBelieved) || self.metadata.holds(epoch, record);
        if !swapped && self.metadata.is_unchanged(epoch, revision) && writer.alive() {
            self.ask_to_swap(at, record.clone());
            return Ok(());
        }
        self.tell(at, News::Swapped(swapped))
    }

    /// Whether a writer or opener dies before its next effect.
    pub(crate) fn dies_here(&mut self, at: usize) -> bool {
        if self.writers[at].alive() && self.strikes(Fault::WriterKilledAtEffect, 1) {
            self.note(Fault::WriterKilledAtEffect, None);
            self.writers[at].stage = Stage::Over;
        }
        !self.writers[at].alive()
    }

    fn begin_reign(&mut self, at: usize, opened: Opened) -> Result<(), Violation> {
        let disks: Vec<_> = self.nodes.iter().map(|node| &node.disk).collect();
        self.checker.opened(&opened.path, opened.branch, opened.last, &disks)?;
        if opened.marks != shipping::marks(opened.last) {
            let what = format!("the marks at {} are not those of {}", opened.branch, opened.last);
            return Err(Promise::FlushesAreWhole.broken(what));
        }
        let limits = ShipperLimits {
            window_bytes_max: (1 + self.random.below(20)) * FLUSH_BYTES,
            small_flushes_max: 1 + self.random.below(16) as usize,
            retained_bytes_max: 200 + self.random.below(20) * 200,
        };
        let (last, branch) = (opened.last, opened.branch);
        self.rebuilt += self.rebuilt_by(at, &opened.record);
        let holding = Box::new(Holding::of(opened.record.clone()));
        let shipper = Shipper::of(opened, limits);
        let writer = &mut self.writers[at];
        writer.holding = Some(holding);
        writer.stage = Stage::Writing(Box::new(shipper));
        (writer.last, writer.boundary) = (last, branch);
        writer.client.durable_advanced(branch);
        // The connections stay; whoever is connected is told of the reign.
        let segments = self.connected_to(at);
        self.tell(at, News::Connected { segments })
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

//! Everything that can happen in a simulated world.

use segment::Read;
use units::{Epoch, SegmentId};
use volume::VolumeRecord;
use wire_format::message::Response;

use crate::node::{Arrival, ReplyTo};
use crate::writer::News;

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Event {
    Arrive {
        node: usize,
        arrival: Arrival,
    },
    ArriveAtBoot {
        node: usize,
        boot: u64,
        arrival: Arrival,
    },
    Turn {
        node: usize,
        boot: u64,
    },
    Synced {
        node: usize,
        boot: u64,
    },
    NodeTick {
        node: usize,
        boot: u64,
    },
    Maintain {
        node: usize,
        boot: u64,
    },
    /// Whoever mends looks what there is to do.
    Mend {
        node: usize,
        boot: u64,
    },
    /// A read that a segment permitted is carried out.
    Read {
        node: usize,
        boot: u64,
        segment: SegmentId,
        to: ReplyTo,
        read: Box<Read>,
    },
    StartNode {
        node: usize,
    },
    Connect {
        writer: usize,
        node: usize,
    },
    Response {
        writer: usize,
        node: usize,
        connection: u64,
        segment: SegmentId,
        response: Box<Response>,
    },
    News {
        writer: usize,
        news: News,
    },
    WriterTick {
        writer: usize,
    },
    WriterWork {
        writer: usize,
    },
    ReaderWork {
        writer: usize,
    },
    /// A reader waits no longer for an answer.
    NoAnswer {
        writer: usize,
        question: u64,
    },
    GiveUp {
        writer: usize,
    },
    Wake {
        writer: usize,
    },
    Swap {
        writer: usize,
        record: Box<VolumeRecord>,
    },
    ReadAgain {
        writer: usize,
        record: Box<VolumeRecord>,
    },
    /// An opener dies if it has not opened the volume yet.
    KillOpener {
        writer: usize,
    },
    /// A rival begins if the opener has not opened the volume yet.
    Duel {
        writer: usize,
    },
    /// An opener that took an epoch hears of it only now.
    BeginOpening {
        /// Of the metadata store.
        life: u64,
        epoch: Epoch,
        revision: u64,
        record: Box<VolumeRecord>,
    },
    /// A paused node goes on, with everything that came meanwhile.
    Thaw {
        node: usize,
    },
    /// There is room on a disk again.
    DiskFreed {
        node: usize,
    },
    PutMetadataBack,
    /// What somebody wanted of a node is over.
    WishEnds {
        node: usize,
    },
    Supervise,
    Fault,
}

impl Event {
    /// The node whose process it is that something happens to.
    pub(crate) fn process(&self) -> Option<usize> {
        match self {
            Event::Arrive { node, .. }
            | Event::ArriveAtBoot { node, .. }
            | Event::Turn { node, .. }
            | Event::Synced { node, .. }
            | Event::NodeTick { node, .. }
            | Event::Maintain { node, .. }
            | Event::Mend { node, .. }
            | Event::Read { node, .. } => Some(*node),
            _ => None,
        }
    }
}

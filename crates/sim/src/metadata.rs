//! The metadata store: a taken epoch and the volume's record under compare-and-swap.

use units::Epoch;
use volume::VolumeRecord;

use crate::random::Random;

/// What the store holds.
#[derive(Clone, Debug)]
struct Content {
    epoch: Epoch,
    revision: u64,
    record: VolumeRecord,
}

/// The store. Every change is atomic and durable, as the rules expect of the real one, until somebody puts an old copy in its
/// place.
#[derive(Debug)]
pub(crate) struct Metadata {
    content: Content,
    /// Copies that were taken before each change of the record, oldest first.
    copies: Vec<Content>,
    /// The true content, while an old copy is in its place.
    newest: Option<Content>,
    /// Counts how often another copy was put in its place: what is on its way to the one before never arrives.
    pub(crate) life: u64,
    /// The broken variant of protocol.md, hole 1: a swap is not bound to what its opener read.
    loose: bool,
}

impl Metadata {
    pub(crate) fn new(record: VolumeRecord, epoch: Epoch, loose: bool) -> Metadata {
        Metadata {
            content: Content {
                epoch,
                revision: 1,
                record,
            },
            copies: Vec::new(),
            newest: None,
            life: 0,
            loose,
        }
    }

    /// Takes the next epoch: the epoch, the revision and the record as of that moment.
    pub(crate) fn take_epoch(&mut self) -> (Epoch, u64, VolumeRecord) {
        let content = &mut self.content;
        content.epoch = content.epoch.next();
        content.revision += 1;
        (content.epoch, content.revision, content.record.clone())
    }

    /// Replaces the record, if nothing was changed and no epoch was taken since `revision`.
    pub(crate) fn compare_and_swap(&mut self, epoch: Epoch, revision: u64, record: &VolumeRecord) -> bool {
        if !self.loose && (epoch != self.content.epoch || revision != self.content.revision) {
            return false;
        }
        self.copies.push(self.content.clone());
        self.content.revision += 1;
        // What is stored is text, as in the real store.
        self.content.record = VolumeRecord::parse(&record.to_text()).expect("a record reads back as it was written");
        true
    }

    /// Raised by every change.
    pub(crate) fn revision(&self) -> u64 {
        self.content.revision
    }

    /// Whether nothing was changed since: whoever does not know how its swap ended may try again.
    pub(crate) fn is_unchanged(&self, epoch: Epoch, revision: u64) -> bool {
        epoch == self.content.epoch && revision == self.content.revision
    }

    /// The newest record, whatever the store says now.
    pub(crate) fn newest(&self) -> &VolumeRecord {
        &self.newest.as_ref().unwrap_or(&self.content).record
    }

    /// What an opener finds that does not know how its swap ended and reads again.
    pub(crate) fn holds(&self, epoch: Epoch, record: &VolumeRecord) -> bool {
        epoch == self.content.epoch && *record == self.content.record
    }

    /// The last timeline that was ever opened, whatever the store says now.
    pub(crate) fn last_opened(&self) -> Epoch {
        self.newest().last().map_or(Epoch::ZERO, |last| last.epoch)
    }

    /// Puts some old copy in the place of the store, one that lacks a timeline. `false`: there is none, or it is one already.
    /// Copies tell an opener of timelines that the record lacks; that members have changed since, nobody tells it: after that
    /// no copy of the store from before may be used.
    pub(crate) fn go_back(&mut self, random: &mut Random) -> bool {
        let now = &self.content.record;
        let may_be_used = |old: &&Content| old.record.groups == now.groups && old.record.last() != now.last();
        let copies: Vec<&Content> = self.copies.iter().filter(may_be_used).collect();
        if self.newest.is_some() || copies.is_empty() {
            return false;
        }
        let old = copies[random.below(copies.len() as u64) as usize].clone();
        self.newest = Some(std::mem::replace(&mut self.content, old));
        self.life += 1;
        true
    }

    /// Whether the store is an old copy of itself.
    pub(crate) fn went_back(&self) -> bool {
        self.newest.is_some()
    }

    /// Puts the newest copy back.
    pub(crate) fn put_back(&mut self) {
        if let Some(newest) = self.newest.take() {
            self.content = newest;
            self.life += 1;
        }
    }
}

//! Whoever reads pages in the instance of a simulated writer: backends, and what is read ahead for them.
//!
//! As the page broker does, a question says as of where (the read point) and what the page must have at least (*needed*:
//! where its last change that the writer knows of ends). A page that was read ahead is given to a backend only if its copy
//! had to be complete up to what that backend needs. Reads under way hold the floor down.

use std::collections::BTreeMap;
use std::time::Duration;

use timeline::Path;
use units::{Epoch, GroupId, Lsn, Page, Position, SegmentId};
use wire_format::message::{Request, Response};

use crate::checker::Violation;
use crate::event::Event;
use crate::layout::Layout;
use crate::toy::FORK;
use crate::world::World;
use crate::writer::{FLUSH_BYTES, Stage};
use crate::{Broken, Promise};

/// Questions under way of one instance, at most.
const QUESTIONS_MAX: usize = 8;
/// Durable positions remembered as read points to come back to.
const READ_POINTS_MAX: usize = 4;

/// A question to one copy.
#[derive(Clone, Copy, Debug)]
struct Question {
    group: GroupId,
    block: u32,
    needed: Lsn,
    read_point: Lsn,
    ahead: bool,
}

/// A page that was read ahead.
#[derive(Debug)]
struct Kept {
    page: Page,
    /// What its copy had to be complete up to.
    complete: Lsn,
    read_point: Lsn,
}

/// The reads of one instance.
#[derive(Default, Debug)]
pub(crate) struct Client {
    asked: u64,
    under_way: BTreeMap<u64, Question>,
    /// The question for the catalog, with which a reign begins.
    catalog: Option<u64>,
    /// The last durable batch of each group beside group 0 that is awake.
    groups: BTreeMap<GroupId, Lsn>,
    kept: BTreeMap<u32, Kept>,
    /// Where the durable LSN stood lately, oldest first: a read point may be any of them.
    durable: Vec<Lsn>,
    /// A read point that a slow reader stays at until then.
    slow: Option<(Lsn, Duration)>,
}

impl Client {
    /// Everything up to here is durable.
    pub(crate) fn durable_advanced(&mut self, durable: Lsn) {
        self.durable.push(durable);
        if READ_POINTS_MAX < self.durable.len() {
            self.durable.remove(0);
        }
    }

    /// Whoever has all batches of the group up to here has everything durable of it.
    pub(crate) fn group_advanced(&mut self, group: GroupId, durable: Lsn) {
        self.groups.insert(group, durable);
    }

    /// What a copy of the group must be complete up to so that it has everything up to `needed` (hole 20). `None` while the
    /// group sleeps.
    fn needed(&self, group: GroupId, needed: Lsn) -> Option<Lsn> {
        if group == GroupId::FIRST {
            return Some(needed);
        }
        self.groups.get(&group).map(|durable| needed.min(*durable))
    }

    /// No read needs a version below.
    pub(crate) fn floor(&self, now: Duration) -> Lsn {
        let under_way = self.under_way.values().map(|question| question.read_point);
        let read_points = under_way.chain(self.durable.first().copied());
        read_points.chain(self.slow_read_point(now)).min().unwrap_or(Lsn::ZERO)
    }

    fn slow_read_point(&self, now: Duration) -> Option<Lsn> {
        self.slow
            .filter(|(_, until)| now < *until)
            .map(|(read_point, _)| read_point)
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn give_up(&mut self, question: u64) {
        self.under_way.remove(&question);
        self.catalog.take_if(|asked| *asked == question);
    }
}

impl World {
    /// A backend wants a page; another may soon be wanted.
    pub(crate) fn read_pages(&mut self, at: usize) -> Result<(), Violation> {
        let Stage::Writing(shipper) = &self.writers[at].stage else {
            return Ok(());
        };
        let (path, durable) = (shipper.path().clone(), shipper.durable());
        let Some((block, _)) = self.some_block(at, durable) else {
            return Ok(());
        };
        let changed = self.checker.last_change(&path, durable, block);
        if let Some(kept) = self.writers[at].client.kept.remove(&block)
            && changed <= kept.complete
        {
            return self
                .checker
                .page_shown(&path, block, (changed, kept.read_point), &kept.page);
        }
        let read_point = self.read_point(at, durable);
        if let Some((block, group)) = self.some_block(at, read_point) {
            let question = Question {
                group,
                block,
                needed: self.checker.last_change(&path, read_point, block),
                read_point,
                ahead: false,
            };
            self.ask_for_page(at, &path, question)?;
        }
        let Some((block, group)) = self.some_block(at, durable) else {
            return Ok(());
        };
        let ahead = Question {
            group,
            block,
            needed: match self.random.below(3) {
                0 => Lsn::ZERO,
                1 => Lsn::from_raw(durable.raw().saturating_sub(self.random.below(6) * FLUSH_BYTES)),
                _ => durable,
            },
            read_point: durable,
            ahead: true,
        };
        self.ask_for_page(at, &path, ahead)
    }

    /// Some block that there is as of a read point, and its group.
    fn some_block(&mut self, at: usize, read_point: Lsn) -> Option<(u32, GroupId)> {
        let layout = self.writers[at].layout.as_ref()?;
        let groups = layout.groups_at(read_point);
        if groups.is_empty() {
            return None;
        }
        let block = self.random.below(groups.len() as u64) as usize;
        Some((block as u32, groups[block]))
    }

    /// A question that counts as lost after a while; its number.
    fn question(&mut self, at: usize) -> u64 {
        self.ticks += 1;
        let client = &mut self.writers[at].client;
        client.asked += 1;
        let question = client.asked;
        let pause = self.random.millis(50, 300);
        self.schedule(self.now() + pause, Event::NoAnswer { writer: at, question });
        question
    }

    /// Some copy of a group.
    fn some_copy(&mut self, at: usize, group: GroupId) -> Option<SegmentId> {
        let holding = self.writers[at].holding.as_deref()?;
        let copies = holding.copies.get(&group)?;
        Some(copies[self.random.below(copies.len() as u64) as usize])
    }

    /// A reign begins with the catalog as of its branch.
    pub(crate) fn read_catalog(&mut self, at: usize) -> Result<(), Violation> {
        let Stage::Writing(shipper) = &self.writers[at].stage else {
            return Ok(());
        };
        let (epoch, branch) = (shipper.epoch(), shipper.path().start().lsn);
        if self.writers[at].client.catalog.is_some() {
            return Ok(());
        }
        let question = self.question(at);
        self.writers[at].client.catalog = Some(question);
        if let Some(segment) = self.some_copy(at, GroupId::FIRST) {
            let request = Request::ScanCatalog {
                segment,
                epoch,
                read_point: branch,
                needed: Position::new(epoch, branch),
                after: None,
                entries_max: u32::MAX,
            };
            self.send_question(at, segment, question, request);
        }
        Ok(())
    }

    /// A copy answered a reader.
    pub(crate) fn answer_read(&mut self, at: usize, number: u64, response: &Response) -> Result<(), Violation> {
        if self.writers[at].client.catalog != Some(number) {
            return self.page_read(at, number, response);
        }
        self.writers[at].client.catalog = None;
        let writer = &mut self.writers[at];
        let (Stage::Writing(shipper), Some(holding)) = (&writer.stage, &writer.holding) else {
            return Ok(());
        };
        let Response::Catalog(entries) = response else {
            return Ok(());
        };
        let branch = shipper.path().start().lsn;
        self.checker.catalog_shown(shipper.path(), branch, entries)?;
        let record = &holding.record;
        let layout = Layout::read(entries, record.geometry(), record.groups.len(), branch);
        writer.layout = Some(layout);
        Ok(())
    }

    /// As of some durable position of late: of those the newest is asked for the most. Or as of a slow reader's.
    fn read_point(&mut self, at: usize, durable: Lsn) -> Lsn {
        let now = self.now();
        let client = &mut self.writers[at].client;
        let slow = client.slow_read_point(now);
        if let Some(slow) = slow
            && self.random.chance(300)
        {
            return slow;
        }
        if slow.is_none() && self.random.chance(30) {
            let until = now + self.random.millis(100, 1200);
            client.slow = Some((durable, until));
        }
        let back = self.random.below(2 * READ_POINTS_MAX as u64) as usize;
        client.durable.iter().rev().nth(back).copied().unwrap_or(durable)
    }

    fn ask_for_page(&mut self, at: usize, path: &Path, question: Question) -> Result<(), Violation> {
        let client = &self.writers[at].client;
        if QUESTIONS_MAX <= client.under_way.len() {
            return Ok(());
        }
        let Some(needed) = client.needed(question.group, question.needed) else {
            return self.wake_groups(at, vec![question.group]);
        };
        let number = self.question(at);
        self.writers[at].client.under_way.insert(number, question);
        let Some(segment) = self.some_copy(at, question.group) else {
            return Ok(());
        };
        let epoch: Epoch = path.epoch();
        let request = Request::ReadPages {
            segment,
            epoch,
            read_point: question.read_point,
            needed: Position::new(epoch, needed),
            first: FORK.page(question.block),
            count: 1,
        };
        self.send_question(at, segment, number, request);
        Ok(())
    }

    /// A copy answered.
    fn page_read(&mut self, at: usize, number: u64, response: &Response) -> Result<(), Violation> {
        let Stage::Writing(shipper) = &self.writers[at].stage else {
            return Ok(());
        };
        let path = shipper.path().clone();
        let client = &mut self.writers[at].client;
        let Some(question) = client.under_way.remove(&number) else {
            return Ok(());
        };
        let Response::Pages(pages) = response else {
            // Refused: another copy would be asked.
            return Ok(());
        };
        let [page] = &pages[..] else {
            let what = format!("{} pages answer the question for one", pages.len());
            return Err(Promise::PagesAreExact.broken(what));
        };
        self.pages_read += 1;
        let between = (question.needed, question.read_point);
        if path.start().lsn < question.read_point {
            self.checker.shown(Position::new(path.epoch(), question.read_point));
        }
        self.checker.page_shown(&path, question.block, between, page)?;
        if !question.ahead {
            return Ok(());
        }
        let believed = match self.broken {
            Some(Broken::AsNewAsItsReadPoint) => question.read_point,
            _ => question.needed,
        };
        let kept = Kept {
            page: page.clone(),
            complete: believed,
            read_point: question.read_point,
        };
        self.writers[at].client.kept.insert(question.block, kept);
        Ok(())
    }
}

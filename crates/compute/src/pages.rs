//! Pages from the volume: which copy is asked, and what happens when it does not answer.
//!
//! Invariant: no read waits for one copy, or for two. A copy that takes long is listened to while further ones are asked, and
//! when all were asked, all are asked again, until one answers or the read's limit is over.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use node_link::NodeLink;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use units::{Epoch, GroupId, Lsn, Page, PageKey, Position, SegmentId, SegmentKind};
use wire_format::{Refusal, Request, Response};

use crate::catalog::Catalog;
use crate::groups::Groups;
use crate::metrics::{PAGE_READ_SECONDS, PAGES_READ, READS_HEDGED, READS_UNDER_WAY, count_failure};

/// Blocks that are read from the same copy while it answers, so that its caches are of use.
const AFFINITY_BLOCKS: u32 = 128;
/// Pause while a group that was asleep is woken.
const WAKING_PAUSE: Duration = Duration::from_millis(2);
/// Pause before all copies are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);
/// How long the copies that were asked may take before one more is asked, once two were. Doubles with every round, up to a
/// quarter of the read's limit: where all are slow, asking more often would make them slower.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why pages could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadPagesError {
    /// No copy answered in time.
    #[error("{key} could not be read at {needed}: {what}")]
    Unreachable {
        /// The first page.
        key: PageKey,
        /// What it had to be at least.
        needed: Lsn,
        /// What the copies said.
        what: String,
    },
    /// A copy answered that the page cannot be made.
    #[error("{key} is damaged: {what}")]
    Wrong {
        /// The first page.
        key: PageKey,
        /// What is wrong.
        what: String,
    },
    /// Another writer holds the volume.
    #[error("this instance was replaced: the volume is at epoch {promised}")]
    Fenced {
        /// Who holds it.
        promised: Epoch,
    },
}

/// A copy that pages are read from.
pub struct Copy {
    /// Its group.
    pub group: GroupId,
    /// Its segment.
    pub segment: SegmentId,
    /// What it keeps: a tail is never asked.
    pub kind: SegmentKind,
    /// The node's name, for messages.
    pub node: String,
    /// The connection for reads, apart from the log's.
    pub link: NodeLink,
    /// Up to where the copy is complete, as far as acknowledged.
    pub complete: Cell<Position>,
}

/// Reads pages at the durable position.
pub struct PageSource {
    epoch: Epoch,
    copies: RefCell<BTreeMap<GroupId, Vec<Rc<Copy>>>>,
    /// Which group has which page.
    catalog: Rc<RefCell<Catalog>>,
    groups: Rc<Groups>,
    durable: watch::Receiver<Lsn>,
    read_limit: Duration,
    hedge: Duration,
    /// Read points of reads under way, each with how many: the floor stays below them.
    under_way: RefCell<BTreeMap<Lsn, usize>>,
    /// Pages read from storage nodes.
    pub pages_read: Cell<u64>,
}

impl PageSource {
    /// Reads from `copies` on the timeline of `epoch`, up to `durable`.
    pub(crate) fn new(
        epoch: Epoch,
        copies: Vec<Rc<Copy>>,
        (catalog, groups): (Rc<RefCell<Catalog>>, Rc<Groups>),
        durable: watch::Receiver<Lsn>,
        read_limit: Duration,
        hedge: Duration,
    ) -> PageSource {
        let (under_way, pages_read) = (RefCell::default(), Cell::new(0));
        let source = PageSource {
            epoch,
            copies: RefCell::default(),
            catalog,
            groups,
            durable,
            read_limit,
            hedge,
            under_way,
            pages_read,
        };
        source.set_copies(copies);
        source
    }

    /// From now on these are asked, in the place of those before them. Reads under way go on with whom they have.
    pub fn set_copies(&self, copies: Vec<Rc<Copy>>) {
        let mut by_group: BTreeMap<GroupId, Vec<Rc<Copy>>> = BTreeMap::new();
        for copy in copies.into_iter().filter(|copy| copy.kind == SegmentKind::Full) {
            by_group.entry(copy.group).or_default().push(copy);
        }
        self.copies.replace(by_group);
    }

    /// The lowest read point that is still in use: nothing at or above it may be collected.
    pub fn lowest_read_point(&self) -> Lsn {
        let lowest = self.under_way.borrow().keys().next().copied();
        lowest.unwrap_or_else(|| self.durable())
    }

    /// Up to where the volume is durable.
    pub fn durable(&self) -> Lsn {
        *self.durable.borrow()
    }

    /// Waits until the volume is durable up to `needed`; up to where it is, in the end. The error is how far it got in time.
    pub async fn reach(&self, needed: Lsn) -> Result<Lsn, Lsn> {
        let mut durable = self.durable.clone();
        match timeout_at(
            Instant::now() + self.read_limit,
            durable.wait_for(|durable| needed <= *durable),
        )
        .await
        {
            Ok(Ok(durable)) => Ok(*durable),
            _ => Err(self.durable()),
        }
    }

    /// `count` pages from `first` on, from a copy that has all log up to `needed`. They may be newer, but only that much is
    /// promised: the copy may lack what is between `needed` and the read point.
    pub async fn read(&self, first: PageKey, count: u32, needed: Lsn) -> Result<Vec<Page>, ReadPagesError> {
        let _counted = READS_UNDER_WAY.hold();
        let began = Instant::now();
        let read = self.read_until(began + self.read_limit, first, count, needed).await;
        match &read {
            Ok(pages) => {
                PAGE_READ_SECONDS.observe_duration(began.elapsed());
                PAGES_READ.add(pages.len() as u64);
            }
            Err(error) => count_failure(error),
        }
        read
    }

    async fn read_until(
        &self,
        deadline: Instant,
        first: PageKey,
        count: u32,
        needed: Lsn,
    ) -> Result<Vec<Page>, ReadPagesError> {
        let mut pages = self.read_run(deadline, first, count, needed).await?;
        // The pages behind a stripe's end may be in another group.
        while (pages.len() as u32) < count {
            let done = pages.len() as u32;
            let next = first.fork.page(first.block + done);
            pages.extend(self.read_run(deadline, next, count - done, needed).await?);
        }
        Ok(pages)
    }

    /// The first of `count` pages from `first` on: those that one group has.
    async fn read_run(
        &self,
        deadline: Instant,
        first: PageKey,
        count: u32,
        needed: Lsn,
    ) -> Result<Vec<Page>, ReadPagesError> {
        let read_point = match self.reach(needed).await {
            Ok(durable) => durable,
            Err(durable) => {
                let what = format!("the volume is durable up to {durable} only; is a write quorum missing?");
                return Err(ReadPagesError::Unreachable {
                    key: first,
                    needed,
                    what,
                });
            }
        };
        let _under_way = UnderWay::begin(&self.under_way, read_point);
        let (group, count) = {
            let catalog = self.catalog.borrow();
            (
                catalog.stripes.group_of(first),
                catalog.stripes.run(first, count).max(1),
            )
        };
        let needed = loop {
            if let Some(needed) = self.groups.needed(group, needed) {
                break needed;
            }
            if deadline < Instant::now() + RETRY_PAUSE {
                let what = format!("{group} does not tell where it ends; is a read quorum missing?");
                return Err(ReadPagesError::Unreachable {
                    key: first,
                    needed,
                    what,
                });
            }
            tokio::time::sleep(WAKING_PAUSE).await;
        };
        let mut patience = PATIENCE;
        loop {
            let round = Round {
                group,
                first,
                count,
                needed,
                read_point,
                patience,
                deadline,
            };
            let what = match self.read_once(&round).await {
                Ok(pages) => {
                    self.pages_read.set(self.pages_read.get() + pages.len() as u64);
                    return Ok(pages);
                }
                Err(Failure::Fenced(promised)) => return Err(ReadPagesError::Fenced { promised }),
                Err(Failure::Wrong(what)) => return Err(ReadPagesError::Wrong { key: first, what }),
                Err(Failure::Other(what)) => what,
            };
            if deadline < Instant::now() + RETRY_PAUSE {
                return Err(ReadPagesError::Unreachable {
                    key: first,
                    needed,
                    what,
                });
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            patience = (2 * patience).min(self.read_limit / 4);
        }
    }

    /// Asks one copy after the other: the next as soon as one refuses, or when those that were asked take long. The first that
    /// has the pages counts.
    async fn read_once(&self, round: &Round) -> Result<Vec<Page>, Failure> {
        let mut said = "no copy is connected".to_owned();
        let mut asked = Asked::default();
        let mut candidates = self.candidates(round).into_iter();
        let mut pause = self.hedge;
        loop {
            match candidates.next() {
                Some(copy) => {
                    if !asked.is_empty() {
                        READS_HEDGED.increment();
                    }
                    let answer = self.ask(copy.clone(), round);
                    asked.add(copy, answer);
                }
                // Every copy was asked. After a last pause they are asked anew: one that refused may be ready by now.
                None if asked.is_empty() => return Err(Failure::Other(said)),
                None => {}
            }
            let limit = round.deadline.min(Instant::now() + pause);
            match timeout_at(limit, asked.answer()).await {
                Ok((copy, Err(Failure::Other(what)))) => said = format!("{}: {what}", copy.node),
                Ok((_, answer)) => return answer,
                Err(_) => {
                    let silent = asked.nodes().join(", ");
                    said = format!("{silent}: no answer in time");
                    if candidates.len() == 0 || round.deadline <= Instant::now() {
                        return Err(Failure::Other(said));
                    }
                    pause = round.patience;
                }
            }
        }
    }

    /// The copies to ask, best first: complete enough as far as known, then the others, which may answer `NotComplete`.
    fn candidates(&self, round: &Round) -> Vec<Rc<Copy>> {
        let (first, needed) = (round.first, round.needed);
        let start = (first.block / AFFINITY_BLOCKS) as usize + first.fork.relation.relation as usize;
        let copies = self.copies.borrow();
        let copies = copies.get(&round.group).map_or(&[][..], Vec::as_slice);
        let count = copies.len();
        let mut connected: Vec<Rc<Copy>> = (0..count)
            .map(|offset| copies[(start + offset) % count].clone())
            .filter(|copy| copy.link.is_connected())
            .collect();
        connected.sort_by_key(|copy| (copy.complete.get().lsn < needed, copy.link.in_flight() / 8));
        connected
    }

    async fn ask(&self, copy: Rc<Copy>, round: &Round) -> Result<Vec<Page>, Failure> {
        let count = round.count;
        let request = Request::ReadPages {
            segment: copy.segment,
            epoch: self.epoch,
            read_point: round.read_point,
            needed: Position::new(self.epoch, round.needed),
            first: round.first,
            count,
        };
        match copy.link.call(request).await {
            Ok(Response::Pages(pages)) if pages.len() == count as usize => Ok(pages),
            Ok(Response::Refused(Refusal::StaleEpoch { promised, .. })) => Err(Failure::Fenced(promised)),
            Ok(Response::Refused(Refusal::Redo { what })) => Err(Failure::Wrong(what)),
            Ok(Response::Refused(refusal)) => Err(Failure::Other(refusal.to_string())),
            Ok(_) => Err(Failure::Other("an answer to another question".into())),
            Err(error) => Err(Failure::Other(error.to_string())),
        }
    }
}

enum Failure {
    Fenced(Epoch),
    Wrong(String),
    Other(String),
}

/// What one round over the copies is about.
struct Round {
    group: GroupId,
    first: PageKey,
    count: u32,
    needed: Lsn,
    read_point: Lsn,
    patience: Duration,
    deadline: Instant,
}

/// A read under way at its read point.
struct UnderWay<'a> {
    points: &'a RefCell<BTreeMap<Lsn, usize>>,
    read_point: Lsn,
}

impl UnderWay<'_> {
    fn begin(points: &RefCell<BTreeMap<Lsn, usize>>, read_point: Lsn) -> UnderWay<'_> {
        *points.borrow_mut().entry(read_point).or_default() += 1;
        UnderWay { points, read_point }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut points = self.points.borrow_mut();
        if let Some(readers) = points.get_mut(&self.read_point) {
            *readers -= 1;
            if *readers == 0 {
                points.remove(&self.read_point);
            }
        }
    }
}

/// Copies that were asked and have not answered.
struct Asked<F> {
    waiting: Vec<(Rc<Copy>, Pin<Box<F>>)>,
}

impl<F> Default for Asked<F> {
    fn default() -> Asked<F> {
        Asked { waiting: Vec::new() }
    }
}

impl<F: Future> Asked<F> {
    fn add(&mut self, copy: Rc<Copy>, answer: F) {
        self.waiting.push((copy, Box::pin(answer)));
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn nodes(&self) -> Vec<&str> {
        self.waiting.iter().map(|(copy, _)| copy.node.as_str()).collect()
    }

    /// The next answer of any of them; never, if there are none. Cancel-safe.
    async fn answer(&mut self) -> (Rc<Copy>, F::Output) {
        poll_fn(|context| {
            let polled = self.waiting.iter_mut().enumerate();
            let ready = polled
                .filter_map(|(at, (_, answer))| match answer.as_mut().poll(context) {
                    Poll::Ready(answer) => Some((at, answer)),
                    Poll::Pending => None,
                })
                .next();
            match ready {
                Some((at, answer)) => Poll::Ready((self.waiting.swap_remove(at).0, answer)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests;

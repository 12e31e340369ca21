//! Pages from the volume: which copy is asked, and what happens when it does not answer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use node_link::NodeLink;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use units::{Epoch, Lsn, Page, PageKey, Position, SegmentId};
use wire_format::{Refusal, Request, Response};

/// Blocks that are read from the same copy while it answers, so that its caches are of use.
const AFFINITY_BLOCKS: u32 = 128;
/// Pause before all copies are tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

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
    /// Its segment.
    pub segment: SegmentId,
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
    copies: Vec<Rc<Copy>>,
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
    pub fn new(
        epoch: Epoch,
        copies: Vec<Rc<Copy>>,
        durable: watch::Receiver<Lsn>,
        read_limit: Duration,
        hedge: Duration,
    ) -> PageSource {
        let (under_way, pages_read) = (RefCell::default(), Cell::new(0));
        PageSource {
            epoch,
            copies,
            durable,
            read_limit,
            hedge,
            under_way,
            pages_read,
        }
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
        let deadline = Instant::now() + self.read_limit;
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
        *self.under_way.borrow_mut().entry(read_point).or_default() += 1;
        let answer = self.read_at(first, count, needed, read_point, deadline).await;
        let mut under_way = self.under_way.borrow_mut();
        if let Some(readers) = under_way.get_mut(&read_point) {
            *readers -= 1;
            if *readers == 0 {
                under_way.remove(&read_point);
            }
        }
        answer
    }

    async fn read_at(
        &self,
        first: PageKey,
        count: u32,
        needed: Lsn,
        read_point: Lsn,
        deadline: Instant,
    ) -> Result<Vec<Page>, ReadPagesError> {
        loop {
            let candidates = self.candidates(first, needed);
            let mut said = if candidates.is_empty() {
                "no copy is connected".to_owned()
            } else {
                String::new()
            };
            let mut at = 0;
            while let Some(copy) = candidates.get(at) {
                let ask = |copy: &Rc<Copy>| self.ask(copy.clone(), first, count, needed, read_point);
                let answer = match candidates.get(at + 1) {
                    Some(second) => {
                        let (answer, asked) = hedged(self.hedge, ask(copy), || ask(second)).await;
                        at += asked;
                        answer
                    }
                    None => {
                        at += 1;
                        let limit = deadline.min(Instant::now() + self.read_limit / 4);
                        timeout_at(limit, ask(copy))
                            .await
                            .unwrap_or(Err(Failure::Other("no answer in time".into())))
                    }
                };
                match answer {
                    Ok(pages) => {
                        self.pages_read.set(self.pages_read.get() + pages.len() as u64);
                        return Ok(pages);
                    }
                    Err(Failure::Fenced(promised)) => return Err(ReadPagesError::Fenced { promised }),
                    Err(Failure::Wrong(what)) => return Err(ReadPagesError::Wrong { key: first, what }),
                    Err(Failure::Other(what)) => said = format!("{}: {what}", copy.node),
                }
            }
            if deadline < Instant::now() + RETRY_PAUSE {
                return Err(ReadPagesError::Unreachable {
                    key: first,
                    needed,
                    what: said,
                });
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// The copies to ask, best first: complete enough as far as known, then the others, which may answer `NotComplete`.
    fn candidates(&self, first: PageKey, needed: Lsn) -> Vec<Rc<Copy>> {
        let start = (first.block / AFFINITY_BLOCKS) as usize + first.fork.relation.relation as usize;
        let count = self.copies.len();
        let mut connected: Vec<Rc<Copy>> = (0..count)
            .map(|offset| self.copies[(start + offset) % count].clone())
            .filter(|copy| copy.link.is_connected())
            .collect();
        connected.sort_by_key(|copy| (copy.complete.get().lsn < needed, copy.link.in_flight() / 8));
        connected
    }

    async fn ask(
        &self,
        copy: Rc<Copy>,
        first: PageKey,
        count: u32,
        needed: Lsn,
        read_point: Lsn,
    ) -> Result<Vec<Page>, Failure> {
        let needed = Position::new(self.epoch, needed);
        let request = Request::ReadPages {
            segment: copy.segment,
            epoch: self.epoch,
            read_point,
            needed,
            first,
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

/// The first answer of `first`, or, if it takes longer than `pause`, the better of it and a second try; with how many
/// were asked.
async fn hedged<T, F: Future<Output = Result<T, Failure>>>(
    pause: Duration,
    first: F,
    second: impl FnOnce() -> F,
) -> (Result<T, Failure>, usize) {
    tokio::pin!(first);
    if let Ok(answer) = tokio::time::timeout(pause, &mut first).await {
        return (answer, 1);
    }
    let second = second();
    tokio::pin!(second);
    tokio::select! {
        answer = &mut first => match answer {
            Ok(pages) => (Ok(pages), 2),
            Err(_) => (second.await, 2),
        },
        answer = &mut second => match answer {
            Ok(pages) => (Ok(pages), 2),
            Err(_) => (first.await, 2),
        },
    }
}

//! The page broker: one for the instance, asked by every backend over a unix socket.
//!
//! A backend asks one question at a time and waits. What a sequential scan will want next is read ahead; a page from there is
//! given only if it was read from a copy that was complete up to the LSN the backend needs, so it is never staler than a
//! fresh read may be.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use units::{ForkKey, Lsn, PAGE_BYTES, Page, PageKey};
use wire_format::broker::{
    AnswerHeader, BROKER_VERSION, BrokerQuestion, BrokerRequest, FORK_SIZE_BYTES, FORKS_LISTED_MAX, ForkSize,
    REQUEST_BYTES, Status,
};

use crate::metrics::{BACKENDS, BACKENDS_REFUSED, READ_AHEAD_HITS, READ_AHEAD_PAGES, count_question};
use crate::pages::{PageSource, ReadPagesError};
use crate::read_ahead::ReadAhead;

/// Pause after a backend could not be let in, such as for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is known of a fork in the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForkInfo {
    /// Its size, `None` if it does not exist.
    pub blocks: Option<u32>,
    /// Whether its relation has an INIT fork, which makes it an unlogged one.
    pub unlogged: bool,
}

/// What the broker knows of the volume's forks: the catalog of the log as far as it was received.
pub trait Forks {
    /// What is known of one.
    fn fork(&self, fork: ForkKey) -> ForkInfo;
    /// The first `count_max` after `after` of a tablespace and of a database, if one is given.
    fn list(&self, tablespace: Option<u32>, database: Option<u32>, after: ForkKey, count_max: usize) -> Vec<ForkSize>;
}

/// The broker's view of the volume.
pub struct Broker {
    source: Rc<PageSource>,
    forks: Rc<RefCell<dyn Forks>>,
    ahead: RefCell<ReadAhead>,
    arrived: Notify,
    backends: Cell<usize>,
    backends_max: usize,
    wal_file_bytes: u64,
    /// Pages given to backends out of the read-ahead cache.
    pub pages_read_ahead: Cell<u64>,
}

impl Broker {
    /// A broker over `source` and `forks`.
    pub fn new(
        source: Rc<PageSource>,
        forks: Rc<RefCell<dyn Forks>>,
        readahead_pages_max: usize,
        backends_max: usize,
        wal_file_bytes: u64,
    ) -> Rc<Broker> {
        Rc::new(Broker {
            source,
            forks,
            ahead: RefCell::new(ReadAhead::new(readahead_pages_max)),
            arrived: Notify::new(),
            backends: Cell::new(0),
            backends_max,
            wal_file_bytes,
            pages_read_ahead: Cell::new(0),
        })
    }

    /// Listens on `socket` and serves backends until the task is dropped.
    pub async fn serve(self: Rc<Broker>, socket: &Path) -> io::Result<()> {
        match std::fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(socket)?;
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "broker.accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if self.backends_max <= self.backends.get() {
                BACKENDS_REFUSED.increment();
                tracing::warn!(
                    limit = self.backends_max,
                    "broker.refuse: more backends than `backends_max`"
                );
                continue;
            }
            let broker = self.clone();
            tokio::task::spawn_local(async move {
                broker.backends.set(broker.backends.get() + 1);
                let _counted = BACKENDS.hold();
                if let Err(error) = broker.serve_backend(stream).await {
                    tracing::debug!(%error, "broker.disconnect");
                }
                broker.backends.set(broker.backends.get() - 1);
            });
        }
    }

    async fn serve_backend(self: &Rc<Broker>, mut stream: UnixStream) -> io::Result<()> {
        let mut hello = [0; 8];
        stream.read_exact(&mut hello).await?;
        let version = u32::from_le_bytes([hello[0], hello[1], hello[2], hello[3]]);
        let mut answer = [0; 8];
        answer[..4].copy_from_slice(&BROKER_VERSION.to_le_bytes());
        answer[4..].copy_from_slice(&std::process::id().to_le_bytes());
        stream.write_all(&answer).await?;
        if version != BROKER_VERSION {
            tracing::error!(
                theirs = version,
                ours = BROKER_VERSION,
                "broker.refuse: library of another version"
            );
            return Ok(());
        }
        let mut bytes = [0; REQUEST_BYTES];
        let mut out = Vec::with_capacity(16 + PAGE_BYTES);
        loop {
            match stream.read_exact(&mut bytes).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                other => other?,
            };
            let request = BrokerRequest::decode(&bytes).map_err(io::Error::other)?;
            out.clear();
            count_question(&request.question);
            match request.question {
                BrokerQuestion::ForkBlocks { fork, needed } => {
                    self.answer_fork(request.number, fork, needed, &mut out).await;
                }
                BrokerQuestion::ListForks {
                    tablespace,
                    database,
                    after,
                } => {
                    let forks = self.forks.borrow().list(tablespace, database, after, FORKS_LISTED_MAX);
                    answer_forks(request.number, &forks, &mut out);
                }
                BrokerQuestion::ReadPage { key, needed, count } => {
                    self.answer_page(request.number, key, needed, count, &mut out).await;
                }
            }
            stream.write_all(&out).await?;
        }
    }

    async fn answer_fork(&self, number: u32, fork: ForkKey, needed: Lsn, out: &mut Vec<u8>) {
        let needed = without_page_header(needed, self.wal_file_bytes);
        // What is durable was received before.
        if let Err(durable) = self.source.reach(needed).await {
            let text = format!("the log of its change at {needed} is durable up to {durable} only");
            return answer_error(number, Status::ReadFailed, text, out);
        }
        let info = self.forks.borrow().fork(fork);
        let status = if info.blocks.is_some() {
            Status::Ok
        } else {
            Status::Absent
        };
        let value = info.blocks.unwrap_or(0);
        out.extend_from_slice(
            &AnswerHeader {
                number,
                status,
                value,
                payload_bytes: 1,
            }
            .encode(),
        );
        out.push(u8::from(info.unlogged));
    }

    async fn answer_page(self: &Rc<Broker>, number: u32, key: PageKey, needed: Lsn, count: u16, out: &mut Vec<u8>) {
        let needed = without_page_header(needed, self.wal_file_bytes);
        match self.page(key, needed, count).await {
            Ok(page) => {
                let payload_bytes = PAGE_BYTES as u32;
                out.extend_from_slice(
                    &AnswerHeader {
                        number,
                        status: Status::Ok,
                        value: 0,
                        payload_bytes,
                    }
                    .encode(),
                );
                out.extend_from_slice(page.bytes());
            }
            Err(error) => {
                tracing::error!(page = %key, %needed, %error, "page.read");
                let status = match &error {
                    ReadPagesError::Unreachable { .. } => Status::ReadFailed,
                    ReadPagesError::Wrong { .. } => Status::Corrupt,
                    ReadPagesError::Fenced { .. } => Status::Fenced,
                };
                answer_error(number, status, error.to_string(), out);
            }
        }
    }

    async fn page(self: &Rc<Broker>, key: PageKey, needed: Lsn, count: u16) -> Result<Page, ReadPagesError> {
        loop {
            let arriving = self.arrived.notified();
            tokio::pin!(arriving);
            arriving.as_mut().enable();
            let taken = self.ahead.borrow_mut().take(key, needed);
            if let Some(page) = taken {
                self.pages_read_ahead.set(self.pages_read_ahead.get() + 1);
                READ_AHEAD_HITS.increment();
                self.read_ahead(key, count);
                return Ok(page);
            }
            if !self.ahead.borrow().is_on_the_way(&key) {
                break;
            }
            arriving.await;
        }
        self.read_ahead(key, count);
        let mut pages = self.source.read(key, 1, needed).await?;
        pages.pop().ok_or_else(|| ReadPagesError::Wrong {
            key,
            what: "a storage node answered no page".into(),
        })
    }

    /// Starts reading what a sequential scan will want after `key`.
    fn read_ahead(self: &Rc<Broker>, key: PageKey, count: u16) {
        let fork_blocks = self.forks.borrow().fork(key.fork).blocks.unwrap_or(0);
        let Some(keys) = self.ahead.borrow_mut().begin(key, count, fork_blocks) else {
            return;
        };
        READ_AHEAD_PAGES.add(keys.len() as u64);
        let broker = self.clone();
        tokio::task::spawn_local(async move {
            // What the pages will be good for: a copy that has less log would answer with older ones.
            let complete = broker.source.durable();
            let read = broker.source.read(keys[0], keys.len() as u32, complete).await;
            let pages = read.unwrap_or_else(|error| {
                // Nobody was promised these pages; whoever asks for one gets the error of its own read.
                tracing::debug!(%error, "page.read_ahead");
                Vec::new()
            });
            broker.ahead.borrow_mut().arrived(&keys, complete, pages);
            broker.arrived.notify_waiters();
        });
    }
}

fn answer_error(number: u32, status: Status, text: String, out: &mut Vec<u8>) {
    let mut text = text.into_bytes();
    text.truncate(PAGE_BYTES);
    let payload_bytes = text.len() as u32;
    out.extend_from_slice(
        &AnswerHeader {
            number,
            status,
            value: 0,
            payload_bytes,
        }
        .encode(),
    );
    out.extend_from_slice(&text);
}

fn answer_forks(number: u32, forks: &[ForkSize], out: &mut Vec<u8>) {
    out.extend_from_slice(
        &AnswerHeader {
            number,
            status: Status::Ok,
            value: forks.len() as u32,
            payload_bytes: (forks.len() * FORK_SIZE_BYTES) as u32,
        }
        .encode(),
    );
    forks.iter().for_each(|fork| out.extend_from_slice(&fork.encode()));
}

/// PostgreSQL's insert position may stand just behind the header of a WAL page, where no record ever ends: the record
/// before it ends at the page's beginning.
fn without_page_header(lsn: Lsn, wal_file_bytes: u64) -> Lsn {
    const SHORT_HEADER: u64 = 24;
    const LONG_HEADER: u64 = 40;
    let at = lsn.raw();
    let behind_long_header = at % wal_file_bytes == LONG_HEADER;
    let behind_short_header = at % PAGE_BYTES as u64 == SHORT_HEADER && SHORT_HEADER < at % wal_file_bytes;
    match (behind_long_header, behind_short_header) {
        (true, _) => Lsn::from_raw(at - LONG_HEADER),
        (_, true) => Lsn::from_raw(at - SHORT_HEADER),
        _ => lsn,
    }
}

#[cfg(test)]
mod tests {
    use units::Epoch;

    use super::*;
    use crate::fake_node::{Node, copy, on_one_thread};

    /// Every fork has a hundred blocks.
    struct Hundred;

    impl Forks for Hundred {
        fn fork(&self, _: ForkKey) -> ForkInfo {
            ForkInfo {
                blocks: Some(100),
                unlogged: false,
            }
        }

        fn list(&self, _: Option<u32>, _: Option<u32>, _: ForkKey, _: usize) -> Vec<ForkSize> {
            Vec::new()
        }
    }

    #[test]
    fn what_is_read_ahead_comes_from_a_copy_that_has_all_log() {
        let durable = Lsn::from_raw(5000);
        let fork = units::RelationKey {
            tablespace: 1663,
            database: 5,
            relation: 9,
        }
        .fork(0);
        on_one_thread(async {
            let (tell, mut asked) = tokio::sync::mpsc::unbounded_channel();
            let copy = copy("storage-1", Node::Tells(tell)).await;
            let limit = Duration::from_secs(10);
            let (_keep, durable_now) = tokio::sync::watch::channel(durable);
            let source = PageSource::new(
                Epoch::from_raw(7),
                vec![copy],
                Default::default(),
                durable_now,
                limit,
                limit,
            );
            let broker = Broker::new(Rc::new(source), Rc::new(RefCell::new(Hundred)), 64, 1, 16 << 20);
            broker
                .page(fork.page(0), Lsn::from_raw(300), 8)
                .await
                .expect("the node answers");
            let mut both = [asked.recv().await.unwrap(), asked.recv().await.unwrap()];
            both.sort_unstable();
            assert_eq!(both, [(0, Lsn::from_raw(300)), (1, durable)]);
        });
    }

    #[test]
    fn an_lsn_behind_a_page_header_is_the_page_boundary() {
        const FILE: u64 = 16 << 20;
        let check = |at: u64, expected: u64| {
            assert_eq!(
                without_page_header(Lsn::from_raw(at), FILE),
                Lsn::from_raw(expected),
                "at {at}"
            );
        };
        check(8192 + 24, 8192);
        check(8192 + 32, 8192 + 32);
        check(FILE + 40, FILE);
        check(8192 + 40, 8192 + 40); // a record may well end there: only the first page of a file has the long header
    }
}

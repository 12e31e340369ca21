//! The ledger on the clients' side: what was asked, what was acknowledged, what is unknown, and what readers were shown.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::bank::{Deed, Movement};

/// Pauses without an acknowledgement that are remembered.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// What is known of a transaction's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Its client is at it, or lost the connection before anything of its end was sent: without effect then.
    Open,
    /// Asked to be prepared; whether it is, is unknown.
    Preparing,
    /// Acknowledged as prepared, and not finished yet as far as the client knows.
    Prepared,
    /// Its end was sent, and no answer came yet, or ever.
    Unknown,
    /// The database said that it is committed.
    Acknowledged,
    /// Looked up after it was unknown: it is there.
    Found,
    /// Looked up after it was unknown, rolled back, or refused: it must not be there, ever.
    Absent,
}

impl Outcome {
    /// Whether it has to be there: `None`, either is right.
    pub fn must_be_there(self) -> Option<bool> {
        match self {
            Outcome::Acknowledged | Outcome::Found => Some(true),
            Outcome::Open | Outcome::Absent => Some(false),
            Outcome::Preparing | Outcome::Prepared | Outcome::Unknown => None,
        }
    }
}

/// One transaction.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it does.
    pub deed: Deed,
    /// How it ended.
    pub outcome: Outcome,
}

/// What one client wrote down. Its transactions are numbered from 1.
#[derive(Clone, Default, Debug)]
pub struct Account {
    /// In the order of their numbers.
    pub entries: Vec<Entry>,
    /// The highest number that was acknowledged, or found.
    pub floor: i64,
    /// Numbers that readers saw in its counter.
    pub shown: BTreeSet<i64>,
}

impl Account {
    /// The entry of a number.
    pub fn entry(&mut self, number: i64) -> &mut Entry {
        &mut self.entries[usize::try_from(number - 1).expect("numbers begin at 1")]
    }
}

/// A time without any acknowledgement, from the begin of the run.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// When it began.
    pub from: Duration,
    /// When it ended.
    pub to: Duration,
}

impl Pause {
    /// How long it was.
    pub fn length(self) -> Duration {
        self.to - self.from
    }
}

struct Clock {
    last: Instant,
    acknowledged: usize,
    pauses: Vec<Pause>,
}

/// Everything that clients and readers wrote down.
pub struct Book {
    began: Instant,
    accounts: Vec<Mutex<Account>>,
    clock: Mutex<Clock>,
    violations: Mutex<Vec<String>>,
    /// Clients are to stand still between two transactions.
    held: AtomicBool,
    stopped: AtomicBool,
    resting: AtomicUsize,
    /// Transactions whose connection broke when their end had been sent.
    unknown: AtomicUsize,
    /// Looks at the whole that readers took.
    readings: AtomicUsize,
}

impl Book {
    /// An empty one.
    pub fn new(clients_count: usize) -> Book {
        let began = Instant::now();
        Book {
            began,
            accounts: (0..clients_count).map(|_| Mutex::default()).collect(),
            clock: Mutex::new(Clock {
                last: began,
                acknowledged: 0,
                pauses: Vec::new(),
            }),
            violations: Mutex::default(),
            held: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            resting: AtomicUsize::new(0),
            unknown: AtomicUsize::new(0),
            readings: AtomicUsize::new(0),
        }
    }

    /// Time of the run.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many clients there are.
    pub fn clients_count(&self) -> usize {
        self.accounts.len()
    }

    /// What one client wrote down.
    pub fn account(&self, client: usize) -> MutexGuard<'_, Account> {
        self.accounts[client].lock().expect("nobody panics with an account")
    }

    /// Writes a new transaction down, before anything of it is sent. Its number.
    pub fn open(&self, client: usize, deed: Deed) -> i64 {
        let mut account = self.account(client);
        account.entries.push(Entry {
            deed,
            outcome: Outcome::Open,
        });
        account.entries.len() as i64
    }

    /// What is known now.
    pub fn note(&self, client: usize, number: i64, outcome: Outcome) {
        let mut account = self.account(client);
        account.entry(number).outcome = outcome;
        if outcome.must_be_there() == Some(true) {
            account.floor = account.floor.max(number);
        }
        drop(account);
        if outcome == Outcome::Acknowledged {
            self.acknowledge();
        }
    }

    /// A connection broke when the end of its transaction had been sent.
    pub fn count_unknown(&self) {
        self.unknown.fetch_add(1, Ordering::Relaxed);
    }

    /// The outcome as it stands.
    pub fn outcome(&self, client: usize, number: i64) -> Outcome {
        self.account(client).entry(number).outcome
    }

    fn acknowledge(&self) {
        let mut clock = self.clock.lock().expect("nobody panics with the clock");
        let now = Instant::now();
        if PAUSE_MIN < now - clock.last {
            let pause = Pause {
                from: clock.last - self.began,
                to: now - self.began,
            };
            clock.pauses.push(pause);
        }
        clock.last = now;
        clock.acknowledged += 1;
    }

    /// Acknowledgements so far.
    pub fn acknowledged(&self) -> usize {
        self.clock.lock().expect("nobody panics with the clock").acknowledged
    }

    /// Time since the latest acknowledgement.
    pub fn silence(&self) -> Duration {
        self.clock.lock().expect("nobody panics with the clock").last.elapsed()
    }

    /// Pauses so far, without those in which the clients were told to stand still.
    pub fn pauses(&self) -> Vec<Pause> {
        self.clock.lock().expect("nobody panics with the clock").pauses.clone()
    }

    /// Writes down what must not be.
    pub fn violation(&self, what: String) {
        eprintln!("{:>8.1} s  VIOLATION: {what}", self.now().as_secs_f64());
        self.violations
            .lock()
            .expect("nobody panics with the violations")
            .push(format!("at {:.1} s: {what}", self.now().as_secs_f64()));
    }

    /// The first violation.
    pub fn first_violation(&self) -> Option<String> {
        let violations = self.violations.lock().expect("nobody panics with the violations");
        violations.first().cloned()
    }

    /// Tells the clients to stand still.
    pub fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Lets them go on. The time that they stood still is no pause.
    pub fn release(&self) {
        self.clock.lock().expect("nobody panics with the clock").last = Instant::now();
        self.held.store(false, Ordering::SeqCst);
    }

    /// Whether they are to stand still.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Ends everything.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Whether all is over.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// A client stands still, with nothing unknown, or goes on.
    pub fn rest(&self, rests: bool) {
        if rests {
            self.resting.fetch_add(1, Ordering::SeqCst);
        } else {
            self.resting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Whether all clients stand still.
    pub fn all_rest(&self) -> bool {
        self.resting.load(Ordering::SeqCst) == self.accounts.len()
    }

    /// A reader has looked at everything.
    pub fn count_reading(&self) {
        self.readings.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts for the summary.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            unknown: self.unknown.load(Ordering::Relaxed),
            readings: self.readings.load(Ordering::Relaxed),
            ..Totals::default()
        };
        for client in 0..self.clients_count() {
            for entry in &self.account(client).entries {
                match entry.outcome {
                    Outcome::Acknowledged => totals.acknowledged += 1,
                    Outcome::Found => totals.found += 1,
                    Outcome::Absent => totals.absent += 1,
                    Outcome::Open => totals.given_up += 1,
                    Outcome::Preparing | Outcome::Prepared | Outcome::Unknown => {}
                }
                if entry.outcome == Outcome::Acknowledged {
                    *totals.kinds.entry(entry.deed.kind).or_default() += 1;
                }
            }
        }
        totals
    }

    /// Writes the ledger into a file, for whoever looks for the cause of a violation.
    pub fn write_to(&self, path: &Path) -> Result<()> {
        let file = std::fs::File::create(path).with_context(|| format!("make {}", path.display()))?;
        let mut out = std::io::BufWriter::new(file);
        for client in 0..self.clients_count() {
            let account = self.account(client);
            for (index, entry) in account.entries.iter().enumerate() {
                let Entry { deed, outcome } = entry;
                writeln!(out, "client {client} number {} {outcome:?} {deed:?}", index + 1)?;
            }
            writeln!(out, "client {client} shown {:?}", account.shown)?;
        }
        out.flush()?;
        Ok(())
    }
}

/// Counts for the summary.
#[derive(Clone, Default, Debug)]
pub struct Totals {
    /// Transactions that the database acknowledged.
    pub acknowledged: usize,
    /// Those by kind.
    pub kinds: BTreeMap<&'static str, usize>,
    /// Transactions whose connection broke when their end had been sent.
    pub unknown: usize,
    /// Looked up, and there.
    pub found: usize,
    /// Looked up, rolled back or refused: not there.
    pub absent: usize,
    /// Lost before their end was sent.
    pub given_up: usize,
    /// Looks of readers.
    pub readings: usize,
}

/// What a ledger says of a client's transactions that are there: everything that the database has to hold for it.
#[derive(Default, Debug)]
pub struct Expected {
    /// Movements of each transaction.
    pub movements: BTreeMap<i64, Vec<Movement>>,
    /// Lines of each batch that is not deleted.
    pub batches: BTreeMap<i64, u32>,
    /// Of each document: the transaction that wrote it last, and its pieces.
    pub documents: BTreeMap<u64, (i64, u64)>,
}

impl Expected {
    /// From the transactions that are there.
    pub fn of(account: &Account, there: &BTreeSet<i64>) -> Expected {
        let mut expected = Expected::default();
        for number in there {
            let Some(entry) = account.entries.get((*number - 1) as usize) else {
                continue;
            };
            let deed = &entry.deed;
            expected.movements.insert(*number, deed.movements.clone());
            if let Some(size) = deed.batch {
                expected.batches.insert(*number, size);
            }
            if let Some((deleted, _)) = deed.deleted {
                expected.batches.remove(&deleted);
            }
            if let Some((slot, pieces)) = deed.document {
                expected.documents.insert(slot, (*number, pieces));
            }
        }
        expected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::Ending;

    fn deed(batch: Option<u32>, deleted: Option<(i64, u32)>, document: Option<(u64, u64)>) -> Deed {
        Deed {
            kind: "test",
            movements: Vec::new(),
            with_savepoint: false,
            batch,
            deleted,
            document,
            ending: Ending::Commit,
        }
    }

    #[test]
    fn what_must_be_there_follows_from_the_transactions_that_are() {
        let book = Book::new(1);
        book.open(0, deed(Some(5), None, Some((1, 10))));
        book.open(0, deed(Some(6), None, Some((1, 20))));
        book.open(0, deed(None, Some((1, 5)), None));
        let account = book.account(0);
        let without_the_second = Expected::of(&account, &BTreeSet::from([1, 3]));
        assert_eq!(without_the_second.batches, BTreeMap::new());
        assert_eq!(without_the_second.documents, BTreeMap::from([(1, (1, 10))]));
        let without_the_third = Expected::of(&account, &BTreeSet::from([1, 2]));
        assert_eq!(without_the_third.batches, BTreeMap::from([(1, 5), (2, 6)]));
        assert_eq!(without_the_third.documents, BTreeMap::from([(1, (2, 20))]));
    }

    #[test]
    fn only_what_was_acknowledged_or_found_raises_the_floor() {
        let book = Book::new(1);
        for outcome in [Outcome::Acknowledged, Outcome::Unknown, Outcome::Found, Outcome::Absent] {
            let number = book.open(0, deed(None, None, None));
            book.note(0, number, outcome);
        }
        assert_eq!(book.account(0).floor, 3);
        let totals = book.totals();
        assert_eq!((totals.acknowledged, totals.found, totals.absent), (1, 1, 1));
    }
}

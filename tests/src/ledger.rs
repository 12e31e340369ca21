//! A client that remembers what the database acknowledged to it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::NoTls;

use crate::Cluster;

/// How long one insert may take before the client gives the connection up. Longer than a slow disk needs: a client that gives
/// up commits that would still come only makes it later.
const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Book {
    acknowledged: BTreeSet<i64>,
    /// When the latest insert was acknowledged.
    last: Option<Instant>,
    /// The longest time between two acknowledgements of one client.
    longest_gap: Duration,
    errors: u64,
    last_error: Option<String>,
}

impl Book {
    fn count(&mut self, error: &anyhow::Error) {
        self.errors += 1;
        self.last_error = Some(format!("{error:#}"));
    }
}

/// Clients that insert one row a transaction, reconnect when the connection breaks, and write down what was acknowledged.
pub struct Ledger {
    stop: Arc<AtomicBool>,
    book: Arc<Mutex<Book>>,
    clients: Vec<JoinHandle<()>>,
}

impl Ledger {
    /// Starts `clients_count` clients.
    pub fn start(cluster: &Cluster, clients_count: u32) -> Result<Ledger> {
        cluster.sql("CREATE TABLE IF NOT EXISTS ledger (id bigint PRIMARY KEY, filler text)")?;
        let stop = Arc::new(AtomicBool::new(false));
        let book = Arc::new(Mutex::new(Book::default()));
        let clients = (0..clients_count)
            .map(|client| {
                let (stop, book, url) = (stop.clone(), book.clone(), cluster.url().to_owned());
                std::thread::spawn(move || client_thread(&url, i64::from(client) << 40, &stop, &book))
            })
            .collect();
        Ok(Ledger { stop, book, clients })
    }

    /// Acknowledged inserts so far.
    pub fn acknowledged(&self) -> usize {
        self.book
            .lock()
            .expect("no client panics with the book")
            .acknowledged
            .len()
    }

    /// Time since the latest acknowledgement.
    pub fn silence(&self) -> Duration {
        let last = self.book.lock().expect("no client panics with the book").last;
        last.map_or(Duration::MAX, |last| last.elapsed())
    }

    /// Waits until `count` more inserts are acknowledged.
    pub fn wait_for_more(&self, count: usize, limit: Duration) -> Result<Duration> {
        let (from, started) = (self.acknowledged(), Instant::now());
        while self.acknowledged() < from + count {
            ensure!(
                started.elapsed() < limit,
                "only {} of {count} further inserts within {limit:?}; the latest error was {:?}",
                self.acknowledged() - from,
                self.book.lock().expect("no client panics with the book").last_error
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(started.elapsed())
    }

    /// Stops the clients and checks that nothing acknowledged is missing. Returns how many inserts were acknowledged and
    /// the longest time any client waited between two acknowledgements.
    pub fn settle(mut self, cluster: &Cluster) -> Result<(usize, Duration)> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            client.join().map_err(|_| anyhow::anyhow!("a ledger client panicked"))?;
        }
        let rows = cluster.sql("SELECT id FROM ledger ORDER BY id")?;
        let present: BTreeSet<i64> = rows
            .lines()
            .map(|line| line.parse().context("an id is a number"))
            .collect::<Result<_>>()?;
        let book = self.book.lock().expect("no client panics with the book");
        let missing: Vec<&i64> = book.acknowledged.difference(&present).take(10).collect();
        ensure!(
            missing.is_empty(),
            "acknowledged rows are missing, the first: {missing:?}"
        );
        ensure!(!book.acknowledged.is_empty(), "the ledger is empty: nothing was proven");
        eprintln!(
            "ledger: {} acknowledged, {} present, {} errors, longest gap {:?}",
            book.acknowledged.len(),
            present.len(),
            book.errors,
            book.longest_gap
        );
        Ok((book.acknowledged.len(), book.longest_gap))
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn client_thread(url: &str, first: i64, stop: &AtomicBool, book: &Mutex<Book>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime for one client");
    runtime.block_on(async {
        let mut next = first;
        let mut last = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if let Err(error) = session(url, &mut next, &mut last, stop, book).await {
                note(&error);
                book.lock().expect("no client panics with the book").count(&error);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
}

/// Errors are expected while things are killed; they are shown with `BOREALIS_TEST_VERBOSE`.
fn note(error: &anyhow::Error) {
    if std::env::var_os("BOREALIS_TEST_VERBOSE").is_some() {
        eprintln!("ledger client: {error:#}");
    }
}

async fn session(url: &str, next: &mut i64, last: &mut Instant, stop: &AtomicBool, book: &Mutex<Book>) -> Result<()> {
    let connecting = tokio_postgres::connect(url, NoTls);
    let (client, connection) = tokio::time::timeout(STATEMENT_LIMIT, connecting)
        .await
        .context("connect in time")??;
    let connection = tokio::spawn(connection);
    let filler = "x".repeat(100);
    while !stop.load(Ordering::Relaxed) {
        // An id is used once: after an error nobody knows whether its row is there.
        let id = *next;
        *next += 1;
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&id, &filler];
        let insert = client.execute("INSERT INTO ledger VALUES ($1, $2)", &values);
        let inserted = tokio::time::timeout(STATEMENT_LIMIT, insert).await;
        match inserted {
            Ok(Ok(_)) => {
                let now = Instant::now();
                let mut book = book.lock().expect("no client panics with the book");
                book.acknowledged.insert(id);
                book.longest_gap = book.longest_gap.max(now - *last);
                book.last = Some(now);
                *last = now;
            }
            Ok(Err(error)) => {
                connection.abort();
                return Err(error.into());
            }
            Err(_) => {
                connection.abort();
                anyhow::bail!("no answer within {STATEMENT_LIMIT:?}");
            }
        }
    }
    connection.abort();
    Ok(())
}

//! Clients that move money, and write down each transaction before it is sent and when it is acknowledged.
//!
//! A client whose connection breaks connects again, waits until no session of its own is left that could still commit, and
//! looks up what became of its last transaction. What it finds then is final, and checked at the end like an acknowledgement.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::bank::{Deed, Ending, prepared_name};
use crate::book::{Book, Outcome};
use crate::random::Random;

/// How long one step may take before the client gives the connection up: longer than any fault, so that a commit that waits for
/// its quorum is not given up.
const STEP_LIMIT: Duration = Duration::from_secs(90);
/// Before a broken connection is made anew.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// Between two looks whether something is over.
const POLL: Duration = Duration::from_millis(50);

/// A connection to the cluster's endpoint that ends when it is dropped.
pub(crate) struct Session {
    pub(crate) client: Client,
    connection: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Session {
    pub(crate) async fn connect(url: &str, name: &str) -> Result<Session> {
        let mut config: tokio_postgres::Config = url.parse().context("the endpoint's URL")?;
        config.application_name(name);
        let (client, connection) = in_time(config.connect(NoTls)).await?;
        let connection = tokio::spawn(async move {
            // Whoever waits for an answer hears of the end.
            let _ = connection.await;
        });
        Ok(Session { client, connection })
    }

    /// Rows of a query whose columns are read as text.
    pub(crate) async fn rows(&self, query: &str) -> Result<Vec<tokio_postgres::SimpleQueryRow>> {
        let messages = in_time(self.client.simple_query(query)).await?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    async fn run(&self, statement: &str) -> Result<()> {
        in_time(self.client.batch_execute(statement)).await
    }
}

async fn in_time<T>(step: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T> {
    let done = tokio::time::timeout(STEP_LIMIT, step).await;
    let done = done.with_context(|| format!("no answer within {STEP_LIMIT:?}"))?;
    done.map_err(|error| match error.as_db_error() {
        Some(said) => anyhow::anyhow!("{}: {}", said.code().code(), said.message()),
        None => error.into(),
    })
}

/// Runs one client until the book is closed.
pub async fn run(url: Arc<str>, book: Arc<Book>, client: usize, mut random: Random) {
    let mut teller = Teller {
        url,
        book,
        client,
        open: None,
        batches: Vec::new(),
    };
    let mut rests = false;
    while !teller.book.is_stopped() {
        if let Err(error) = teller.serve(&mut random, &mut rests).await {
            if std::env::var_os("BOREALIS_TEST_VERBOSE").is_some() {
                eprintln!("client {client}: {error:#}");
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }
}

struct Teller {
    url: Arc<str>,
    book: Arc<Book>,
    client: usize,
    /// The transaction whose end has to be looked up.
    open: Option<i64>,
    /// Own batches that are there for sure, and that nothing of unknown outcome deletes.
    batches: Vec<(i64, u32)>,
}

impl Teller {
    fn name(&self) -> String {
        format!("bank client {}", self.client)
    }

    /// On one connection, until it breaks or all is over.
    async fn serve(&mut self, random: &mut Random, rests: &mut bool) -> Result<()> {
        let session = Session::connect(&self.url, &self.name()).await?;
        if let Some(number) = self.open {
            self.look_up(&session, number).await?;
            self.finished(number);
        }
        while !self.book.is_stopped() {
            if self.book.is_held() != *rests {
                *rests = !*rests;
                self.book.rest(*rests);
            }
            if *rests {
                tokio::time::sleep(POLL).await;
                continue;
            }
            let deed = Deed::choose(random, &self.batches);
            let number = self.book.open(self.client, deed.clone());
            self.open = Some(number);
            self.transact(&session, number, &deed).await?;
            self.finished(number);
        }
        Ok(())
    }

    /// The outcome is final.
    fn finished(&mut self, number: i64) {
        self.open = None;
        let entry = self.book.account(self.client).entry(number).clone();
        if entry.outcome.must_be_there() == Some(true) {
            let deleted = entry.deed.deleted.map(|(deleted, _)| deleted);
            self.batches.retain(|(batch, _)| Some(*batch) != deleted);
            self.batches.extend(entry.deed.batch.map(|size| (number, size)));
        }
    }

    fn note(&self, number: i64, outcome: Outcome) {
        self.book.note(self.client, number, outcome);
    }

    async fn transact(&self, session: &Session, number: i64, deed: &Deed) -> Result<()> {
        let statements = deed.statements(self.client, number);
        let mut text = "BEGIN;".to_owned();
        statements.iter().for_each(|(statement, _)| {
            text += statement;
            text.push(';');
        });
        // Until here nothing can have happened for good.
        let said = in_time(session.client.simple_query(&text)).await?;
        let counts = said.iter().filter_map(|message| match message {
            SimpleQueryMessage::CommandComplete(rows) => Some(*rows),
            _ => None,
        });
        // The first is of BEGIN.
        for (count, (statement, expected)) in counts.skip(1).zip(&statements) {
            if count != *expected {
                self.book.violation(format!(
                    "client {} in transaction {number}: {count} rows instead of {expected} by {statement}",
                    self.client
                ));
            }
        }
        let name = prepared_name(self.client, number);
        match deed.ending {
            Ending::Commit => {
                self.note(number, Outcome::Unknown);
                session.run("COMMIT").await?;
                self.note(number, Outcome::Acknowledged);
            }
            Ending::RollBack => {
                session.run("ROLLBACK").await?;
                self.note(number, Outcome::Absent);
            }
            Ending::PrepareAndCommit | Ending::PrepareAndRollBack => {
                self.note(number, Outcome::Preparing);
                session.run(&format!("PREPARE TRANSACTION '{name}'")).await?;
                self.note(number, Outcome::Prepared);
                self.finish_prepared(session, number).await?;
            }
        }
        Ok(())
    }

    /// Ends a transaction that is prepared for sure, as it was meant to end.
    async fn finish_prepared(&self, session: &Session, number: i64) -> Result<()> {
        let (ending, name) = (self.ending(number), prepared_name(self.client, number));
        let (order, outcome) = match ending {
            Ending::PrepareAndRollBack => ("ROLLBACK", Outcome::Absent),
            _ => ("COMMIT", Outcome::Acknowledged),
        };
        self.note(number, Outcome::Unknown);
        session.run(&format!("{order} PREPARED '{name}'")).await?;
        self.note(number, outcome);
        Ok(())
    }

    fn ending(&self, number: i64) -> Ending {
        self.book.account(self.client).entry(number).deed.ending
    }

    /// Finds out what became of a transaction after its connection broke.
    async fn look_up(&self, session: &Session, number: i64) -> Result<()> {
        let before = self.book.outcome(self.client, number);
        if matches!(before, Outcome::Unknown | Outcome::Preparing) {
            self.book.count_unknown();
        }
        let name = self.name();
        let others = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{name}' AND pid <> pg_backend_pid()"
        );
        while session.rows(&others).await?.first().and_then(|row| row.get(0)) != Some("0") {
            if self.book.is_stopped() {
                bail!("stopped before an earlier session had ended");
            }
            tokio::time::sleep(POLL).await;
        }
        let gid = prepared_name(self.client, number);
        let look = format!(
            "SELECT (SELECT count(*) FROM pg_prepared_xacts WHERE gid = '{gid}'),
                    (SELECT count(*) FROM journal WHERE client = {} AND number = {number})",
            self.client
        );
        let rows = session.rows(&look).await?;
        let row = rows.first().context("counts are a row")?;
        let (is_prepared, is_there) = (row.get(0) == Some("1"), row.get(1) == Some("1"));
        let is_known = |what: &str| {
            self.book.violation(format!(
                "client {}, transaction {number} ({before:?}, {:?}): {what}",
                self.client,
                self.ending(number)
            ));
        };
        match (before, is_prepared, is_there) {
            // The database said so, and the connection broke only then.
            (Outcome::Acknowledged | Outcome::Absent | Outcome::Found, ..) => {}
            (_, true, true) => is_known("it is committed, and still prepared"),
            (Outcome::Open, true, _) => is_known("it is prepared, and was never told to be"),
            (Outcome::Open, _, true) => is_known("it is there, and was never told to commit"),
            (Outcome::Open, false, false) => self.note(number, Outcome::Absent),
            (_, true, false) => self.finish_prepared(session, number).await?,
            (Outcome::Prepared, false, _) => is_known("its state was acknowledged as prepared, and is gone"),
            (Outcome::Preparing, false, true) => is_known("it is there, and was only to be prepared"),
            (Outcome::Preparing, false, false) => self.note(number, Outcome::Absent),
            (Outcome::Unknown, false, true) if self.ending(number) == Ending::PrepareAndRollBack => {
                is_known("it is there, and was to be rolled back");
            }
            (Outcome::Unknown, false, true) => self.note(number, Outcome::Found),
            (Outcome::Unknown, false, false) if self.ending(number) == Ending::PrepareAndCommit => {
                is_known("it was prepared, and is neither committed nor prepared any more");
            }
            (Outcome::Unknown, false, false) => self.note(number, Outcome::Absent),
        }
        Ok(())
    }
}

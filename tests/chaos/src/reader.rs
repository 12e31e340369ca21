//! Readers: in the middle of everything, the sum of all money never changes, no client's counter goes back behind what was
//! acknowledged or shown before, and an account's balance is what its entries say.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bank::{ACCOUNT_TABLES, ACCOUNTS_COUNT, OPENING_BALANCE};
use crate::book::Book;
use crate::client::Session;
use crate::random::Random;

/// Looks on one connection.
const LOOKS_PER_SESSION: u64 = 200;
const PAUSE: Duration = Duration::from_millis(20);

/// Runs one reader until the book is closed.
pub async fn run(url: Arc<str>, book: Arc<Book>, mut random: Random) {
    while !book.is_stopped() {
        if let Err(error) = session(&url, &book, &mut random).await
            && std::env::var_os("BOREALIS_TEST_VERBOSE").is_some()
        {
            eprintln!("reader: {error:#}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn session(url: &str, book: &Book, random: &mut Random) -> Result<()> {
    let session = Session::connect(url, "bank reader").await?;
    for _ in 0..random.below(LOOKS_PER_SESSION) + 1 {
        if book.is_stopped() {
            return Ok(());
        }
        match random.below(4) {
            0 => whole(&session, book).await?,
            1 => account(&session, book, random).await?,
            2 => batches(&session, book, random).await?,
            _ => counters(&session, book).await?,
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Total of all accounts.
pub(crate) fn total() -> i64 {
    ACCOUNT_TABLES.len() as i64 * ACCOUNTS_COUNT as i64 * OPENING_BALANCE
}

/// All accounts in one snapshot.
async fn whole(session: &Session, book: &Book) -> Result<()> {
    let sums: Vec<String> = ACCOUNT_TABLES
        .iter()
        .map(|table| format!("(SELECT sum(balance) FROM {table})"))
        .collect();
    let sum = number(session, &format!("SELECT {}", sums.join(" + "))).await?;
    if sum != total() {
        book.violation(format!("all accounts together hold {sum} instead of {}", total()));
    }
    book.count_reading();
    Ok(())
}

/// What was acknowledged, or shown to anybody, before the question was asked has to be in the answer.
async fn counters(session: &Session, book: &Book) -> Result<()> {
    let floors: Vec<i64> = (0..book.clients_count())
        .map(|client| {
            let account = book.account(client);
            account.floor.max(account.shown.last().copied().unwrap_or(0))
        })
        .collect();
    let rows = session
        .rows("SELECT client, value FROM counters ORDER BY client")
        .await?;
    if rows.len() != floors.len() {
        book.violation(format!("{} counters instead of {}", rows.len(), floors.len()));
    }
    for (client, (row, floor)) in rows.iter().zip(floors).enumerate() {
        let value: i64 = row.get(1).context("a counter has a value")?.parse()?;
        if value < floor {
            book.violation(format!(
                "the counter of client {client} shows {value} after {floor} was acknowledged or shown"
            ));
        }
        if 0 < value {
            book.account(client).shown.insert(value);
        }
    }
    book.count_reading();
    Ok(())
}

/// One account against its entries, in one snapshot.
async fn account(session: &Session, book: &Book, random: &mut Random) -> Result<()> {
    let table = random.pick(&ACCOUNT_TABLES).context("there are tables")?;
    let account = random.below(ACCOUNTS_COUNT) + 1;
    let difference = number(
        session,
        &format!(
            "SELECT balance - {OPENING_BALANCE} - coalesce((SELECT sum(delta) FROM entries
                 WHERE bank = '{table}' AND account = {account}), 0)
             FROM {table} WHERE id = {account}"
        ),
    )
    .await?;
    if difference != 0 {
        book.violation(format!(
            "account {account} of {table} holds {difference} more than its entries"
        ));
    }
    book.count_reading();
    Ok(())
}

/// The batches of one client: each whole, or gone.
async fn batches(session: &Session, book: &Book, random: &mut Random) -> Result<()> {
    let client = random.below(book.clients_count() as u64);
    let torn = number(
        session,
        &format!(
            "SELECT count(*) FROM (SELECT 1 FROM tickets WHERE client = {client} GROUP BY number
                 HAVING count(*) <> max(size)) torn"
        ),
    )
    .await?;
    if torn != 0 {
        book.violation(format!("{torn} batches of client {client} are there in part"));
    }
    book.count_reading();
    Ok(())
}

async fn number(session: &Session, query: &str) -> Result<i64> {
    let rows = session.rows(query).await?;
    let value = rows.first().and_then(|row| row.get(0));
    Ok(value.with_context(|| format!("no row from {query}"))?.parse()?)
}

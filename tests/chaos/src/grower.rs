//! What makes the volume grow: one session that adds rows to a table of its own, batch after batch. Every batch that was
//! acknowledged has to be there whole, whenever somebody looks.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::book::Book;
use crate::client::Session;

/// Rows of a batch; of the table about half a megabyte.
const BATCH_ROWS: u64 = 500;
/// The table is emptied beyond this, so that a long run does not fill the disk: what it had room for comes back.
const BATCHES_MAX: u64 = 100;
const PAUSE: Duration = Duration::from_millis(400);

/// Runs until the book is closed.
pub async fn run(url: Arc<str>, book: Arc<Book>) {
    let (mut acknowledged, mut next) = (0, 1);
    while !book.is_stopped() {
        if let Err(error) = session(&url, &book, &mut acknowledged, &mut next).await
            && std::env::var_os("BOREALIS_TEST_VERBOSE").is_some()
        {
            eprintln!("grower: {error:#}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `acknowledged`: the last batch that is there for sure. `next`: no batch had this number yet.
async fn session(url: &str, book: &Book, acknowledged: &mut u64, next: &mut u64) -> Result<()> {
    let session = Session::connect(url, "bank grower").await?;
    session
        .rows(
            "CREATE TABLE IF NOT EXISTS growth (batch bigint NOT NULL, line int NOT NULL, filler text NOT NULL, \
             PRIMARY KEY (batch, line))",
        )
        .await?;
    check_all(&session, book).await?;
    check(&session, book, *acknowledged).await?;
    while !book.is_stopped() {
        // Nothing may be written while the books are compared.
        if book.is_held() {
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let batch = *next;
        *next += 1;
        if batch.is_multiple_of(BATCHES_MAX) {
            *acknowledged = batch;
            session.rows("TRUNCATE growth").await?;
        }
        let filler =
            "(SELECT string_agg(md5((line * 32 + piece)::text || random()), '') FROM generate_series(1, 32) piece)";
        session
            .rows(&format!(
                "INSERT INTO growth SELECT {batch}, line, {filler} FROM generate_series(1, {BATCH_ROWS}) line"
            ))
            .await?;
        *acknowledged = batch;
        check(&session, book, batch).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The last batch that was acknowledged is there, whole. A table that was just emptied may have nothing.
async fn check(session: &Session, book: &Book, acknowledged: u64) -> Result<()> {
    let rows = number(
        session,
        &format!("SELECT count(*) FROM growth WHERE batch = {acknowledged}"),
    )
    .await?;
    if rows != BATCH_ROWS && !acknowledged.is_multiple_of(BATCHES_MAX) {
        book.violation(format!(
            "batch {acknowledged} of growth was acknowledged, and has {rows} rows"
        ));
    }
    Ok(())
}

/// No batch is there in part.
async fn check_all(session: &Session, book: &Book) -> Result<()> {
    let of_batches = format!("SELECT 1 FROM growth GROUP BY batch HAVING count(*) <> {BATCH_ROWS}");
    let torn = number(session, &format!("SELECT count(*) FROM ({of_batches}) torn")).await?;
    if 0 < torn {
        book.violation(format!("{torn} batches of growth are there in part"));
    }
    Ok(())
}

async fn number(session: &Session, query: &str) -> Result<u64> {
    let rows = session.rows(query).await?;
    let value = rows.first().and_then(|row| row.get(0)).context("a number")?;
    Ok(value.parse()?)
}

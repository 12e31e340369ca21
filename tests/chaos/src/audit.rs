//! The audit: everything that the database holds against everything that the ledger says, to the last row.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use tokio_postgres::SimpleQueryRow;

use crate::bank::{ACCOUNT_TABLES, ACCOUNTS_COUNT, Movement, OPENING_BALANCE, document};
use crate::book::{Account, Book, Expected};
use crate::client::Session;

/// Numbers that an error names.
const NAMED_MAX: usize = 5;

/// Compares everything. Nobody may be writing, and nothing may be unknown. How many transactions the database holds.
pub async fn audit(url: &str, book: &Book) -> Result<usize> {
    let session = Session::connect(url, "bank audit").await?;
    let rows = session.rows("SELECT count(*) FROM pg_prepared_xacts").await?;
    ensure!(
        field(&rows[0], 0)? == "0",
        "a transaction is prepared that nobody waits for"
    );
    let mut there: BTreeMap<usize, BTreeSet<i64>> = BTreeMap::new();
    for row in session.rows("SELECT client, number FROM journal").await? {
        there.entry(parsed(&row, 0)?).or_default().insert(parsed(&row, 1)?);
    }
    let mut entries: BTreeMap<usize, BTreeMap<i64, Vec<Movement>>> = BTreeMap::new();
    for row in session
        .rows("SELECT client, number, bank, account, delta FROM entries ORDER BY client, number, place")
        .await?
    {
        let bank = field(&row, 2)?;
        let table = ACCOUNT_TABLES.iter().position(|table| *table == bank);
        let movement = Movement {
            table: table.with_context(|| format!("an entry of a table {bank}"))?,
            account: parsed(&row, 3)?,
            delta: parsed(&row, 4)?,
        };
        let of_client = entries.entry(parsed(&row, 0)?).or_default();
        of_client.entry(parsed(&row, 1)?).or_default().push(movement);
    }
    let mut balances: BTreeMap<(usize, u64), i64> = BTreeMap::new();
    for client in 0..book.clients_count() {
        let account = book.account(client).clone();
        let there = there.remove(&client).unwrap_or_default();
        promises(client, &account, &there)?;
        let expected = Expected::of(&account, &there);
        let found = entries.remove(&client).unwrap_or_default();
        same(&format!("entries of client {client}"), &expected.movements, &found)?;
        for movement in expected.movements.values().flatten() {
            *balances.entry((movement.table, movement.account)).or_default() += movement.delta;
        }
        of_client(&session, client, &there, &expected).await?;
    }
    ensure!(
        there.is_empty() && entries.is_empty(),
        "transactions of clients that do not exist"
    );
    for (index, table) in ACCOUNT_TABLES.iter().enumerate() {
        let rows = session.rows(&format!("SELECT id, balance FROM {table}")).await?;
        ensure!(
            rows.len() as u64 == ACCOUNTS_COUNT,
            "{} accounts in {table}",
            rows.len()
        );
        for row in rows {
            let (id, balance): (u64, i64) = (parsed(&row, 0)?, parsed(&row, 1)?);
            let expected = OPENING_BALANCE + balances.get(&(index, id)).copied().unwrap_or(0);
            ensure!(
                balance == expected,
                "account {id} of {table} holds {balance} instead of {expected}"
            );
        }
    }
    let rows = session.rows("SELECT count(*) FROM journal").await?;
    parsed(&rows[0], 0)
}

/// Nothing acknowledged is missing, nothing shown has vanished, nothing without effect is there.
fn promises(client: usize, account: &Account, there: &BTreeSet<i64>) -> Result<()> {
    let (mut missing, mut unexpected) = (Vec::new(), Vec::new());
    for (index, entry) in account.entries.iter().enumerate() {
        let number = index as i64 + 1;
        match entry.outcome.must_be_there() {
            Some(true) if !there.contains(&number) => missing.push((number, entry.outcome)),
            Some(false) if there.contains(&number) => unexpected.push((number, entry.outcome)),
            _ => {}
        }
    }
    let first =
        |list: &[(i64, crate::book::Outcome)]| format!("{} ({:?}…)", list.len(), &list[..list.len().min(NAMED_MAX)]);
    ensure!(
        missing.is_empty(),
        "of client {client} acknowledged transactions are missing: {}",
        first(&missing)
    );
    ensure!(
        unexpected.is_empty(),
        "of client {client} transactions are there that must not be: {}",
        first(&unexpected)
    );
    let vanished: Vec<&i64> = account.shown.difference(there).take(NAMED_MAX).collect();
    ensure!(
        vanished.is_empty(),
        "of client {client} transactions that a reader was shown have vanished: {vanished:?}"
    );
    let stranger = there.last().filter(|number| account.entries.len() < **number as usize);
    ensure!(
        stranger.is_none(),
        "client {client} never sent transaction {stranger:?}"
    );
    Ok(())
}

/// Counter, batches and documents.
async fn of_client(session: &Session, client: usize, there: &BTreeSet<i64>, expected: &Expected) -> Result<()> {
    let rows = session
        .rows(&format!("SELECT value FROM counters WHERE client = {client}"))
        .await?;
    let value: i64 = parsed(rows.first().context("each client has a counter")?, 0)?;
    let last = there.last().copied().unwrap_or(0);
    ensure!(
        value == last,
        "the counter of client {client} is {value}, its last transaction {last}"
    );
    let mut batches = BTreeMap::new();
    let query = format!(
        "SELECT number, count(*), bool_and(note = md5(format('%s/%s/%s', client, number, line)))
         FROM tickets WHERE client = {client} GROUP BY number"
    );
    for row in session.rows(&query).await? {
        ensure!(
            field(&row, 2)? == "t",
            "client {client}: lines of batch {} are others",
            field(&row, 0)?
        );
        batches.insert(parsed(&row, 0)?, parsed(&row, 1)?);
    }
    same(&format!("batches of client {client}"), &expected.batches, &batches)?;
    let mut documents = BTreeMap::new();
    let body = document("client", "number", "length(body) / 32");
    let query = format!(
        "SELECT slot, number, length(body) / 32, body = {body} FROM documents WHERE client = {client} AND number <> 0"
    );
    for row in session.rows(&query).await? {
        ensure!(
            field(&row, 3)? == "t",
            "document {} of client {client} is another",
            field(&row, 0)?
        );
        documents.insert(parsed(&row, 0)?, (parsed(&row, 1)?, parsed(&row, 2)?));
    }
    same(
        &format!("documents of client {client}"),
        &expected.documents,
        &documents,
    )
}

fn same<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> Result<()> {
    let lacking = expected.iter().find(|(key, value)| found.get(key) != Some(value));
    if let Some((key, value)) = lacking {
        anyhow::bail!("{what}: {key:?} is {:?} instead of {value:?}", found.get(key));
    }
    let surplus = found.keys().find(|key| !expected.contains_key(key));
    ensure!(surplus.is_none(), "{what}: {surplus:?} must not be there");
    Ok(())
}

fn field(row: &SimpleQueryRow, index: usize) -> Result<&str> {
    row.get(index).with_context(|| format!("column {index} is null"))
}

fn parsed<T: std::str::FromStr>(row: &SimpleQueryRow, index: usize) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    Ok(field(row, index)?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::Deed;
    use crate::book::Outcome;
    use crate::random::Random;

    fn ledger(outcomes: &[Outcome]) -> Account {
        let book = Book::new(1);
        for outcome in outcomes {
            let number = book.open(0, Deed::choose(&mut Random::new(0), &[]));
            book.note(0, number, *outcome);
        }
        book.account(0).clone()
    }

    #[test]
    fn what_is_missing_unexpected_or_vanished_is_found() {
        let mut account = ledger(&[Outcome::Acknowledged, Outcome::Found, Outcome::Absent, Outcome::Unknown]);
        assert!(promises(0, &account, &BTreeSet::from([1, 2])).is_ok());
        assert!(promises(0, &account, &BTreeSet::from([1, 2, 4])).is_ok());
        for there in [vec![1], vec![2], vec![1, 2, 3], vec![1, 2, 5]] {
            assert!(
                promises(0, &account, &there.iter().copied().collect()).is_err(),
                "{there:?}"
            );
        }
        account.shown.insert(4);
        assert!(promises(0, &account, &BTreeSet::from([1, 2])).is_err());
    }
}

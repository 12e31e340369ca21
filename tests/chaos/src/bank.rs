//! The bank: its tables, and what one transaction of it says to the database.
//!
//! Money moves between accounts of three tables; every transaction also writes one row of `journal` with its client and number,
//! one of `entries` for each movement, and its number to its client's row of `counters`. So a transaction that is there in part
//! shows, whichever part it is.

use crate::random::Random;

/// Tables of accounts, each with an index of another kind beside its primary key.
pub const ACCOUNT_TABLES: [&str; 3] = ["checking", "savings", "vault"];
/// Accounts of each table.
pub const ACCOUNTS_COUNT: u64 = 400;
/// What each account begins with.
pub const OPENING_BALANCE: i64 = 1000;
/// Documents of each client, changed in place.
const SLOTS_COUNT: u64 = 4;
/// Batches that a client keeps before it deletes old ones.
const BATCHES_MAX: usize = 20;

/// The tables, empty but for the accounts. `clients_count` rows of counters.
pub fn schema(clients_count: usize) -> String {
    let accounts: String = ACCOUNT_TABLES
        .iter()
        .map(|table| {
            format!(
                "CREATE TABLE {table} (id int PRIMARY KEY, balance bigint NOT NULL, tags int[] NOT NULL, filler text NOT NULL)
                     WITH (fillfactor = 70);
                 INSERT INTO {table} SELECT id, {OPENING_BALANCE}, ARRAY[id], repeat('x', 300)
                     FROM generate_series(1, {ACCOUNTS_COUNT}) id;"
            )
        })
        .collect();
    format!(
        "{accounts}
         CREATE INDEX ON checking (balance);
         CREATE INDEX ON savings USING hash (balance);
         CREATE INDEX ON vault USING gin (tags);
         CREATE TABLE journal (client int, number bigint, kind text NOT NULL, PRIMARY KEY (client, number));
         CREATE TABLE entries (client int, number bigint, place int, bank text NOT NULL, account int NOT NULL,
             delta bigint NOT NULL, PRIMARY KEY (client, number, place));
         CREATE INDEX ON entries (bank, account);
         CREATE TABLE counters (client int PRIMARY KEY, value bigint NOT NULL);
         INSERT INTO counters SELECT client, 0 FROM generate_series(0, {clients_count} - 1) client;
         CREATE TABLE tickets (client int, number bigint, line int, size int NOT NULL, note text NOT NULL,
             PRIMARY KEY (client, number, line));
         CREATE INDEX ON tickets (note);
         CREATE TABLE documents (client int, slot int, number bigint NOT NULL, body text NOT NULL, PRIMARY KEY (client, slot));
         ALTER TABLE documents ALTER body SET STORAGE EXTERNAL;
         INSERT INTO documents SELECT client, slot, 0, ''
             FROM generate_series(0, {clients_count} - 1) client, generate_series(0, {SLOTS_COUNT} - 1) slot;"
    )
}

/// Money that comes to an account, or leaves it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Movement {
    /// Index into [`ACCOUNT_TABLES`].
    pub table: usize,
    /// The account.
    pub account: u64,
    /// How much.
    pub delta: i64,
}

/// How a transaction is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// `COMMIT`.
    Commit,
    /// `PREPARE TRANSACTION`, then `COMMIT PREPARED`.
    PrepareAndCommit,
    /// `PREPARE TRANSACTION`, then `ROLLBACK PREPARED`.
    PrepareAndRollBack,
    /// `ROLLBACK`.
    RollBack,
}

/// What one transaction does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deed {
    /// A word for `journal`.
    pub kind: &'static str,
    /// Their sum is zero.
    pub movements: Vec<Movement>,
    /// Something is done and undone on the way.
    pub with_savepoint: bool,
    /// Lines that are inserted.
    pub batch: Option<u32>,
    /// Number of an earlier transaction whose lines are deleted, and how many these are.
    pub deleted: Option<(i64, u32)>,
    /// Which document is written anew, and of how many pieces of 32 bytes.
    pub document: Option<(u64, u64)>,
    /// How it ends.
    pub ending: Ending,
}

/// A statement, and how many rows it has to change.
pub type Statement = (String, u64);

impl Deed {
    /// The next one. `batches` are the client's own that are there for sure: number and lines of each.
    pub fn choose(random: &mut Random, batches: &[(i64, u32)]) -> Deed {
        let choice = random.below(100);
        let (kind, ending) = match choice {
            0..40 => ("transfer", Ending::Commit),
            40..55 => ("savepoint", Ending::Commit),
            55..65 => ("prepared", Ending::PrepareAndCommit),
            65..68 => ("withdrawn", Ending::PrepareAndRollBack),
            68..71 => ("rolled back", Ending::RollBack),
            71..81 => ("batch", Ending::Commit),
            81..90 => ("deletion", Ending::Commit),
            _ => ("document", Ending::Commit),
        };
        let transfers_count = if kind == "savepoint" { 3 } else { 1 };
        let mut movements = Vec::new();
        for _ in 0..transfers_count {
            let amount = random.below(100) as i64 + 1;
            for delta in [amount, -amount] {
                movements.push(Movement {
                    table: random.below(ACCOUNT_TABLES.len() as u64) as usize,
                    account: random.below(ACCOUNTS_COUNT) + 1,
                    delta,
                });
            }
        }
        // Everybody locks rows in one order: no deadlocks.
        movements.sort();
        let deletes = kind == "deletion" || BATCHES_MAX < batches.len();
        Deed {
            kind,
            movements,
            with_savepoint: kind == "savepoint",
            batch: (kind == "batch").then(|| random.below(40) as u32 + 1),
            deleted: if deletes { random.pick(batches).copied() } else { None },
            document: (kind == "document").then(|| (random.below(SLOTS_COUNT), random.below(1200) + 100)),
            ending,
        }
    }

    /// Everything between `BEGIN` and the end.
    pub fn statements(&self, client: usize, number: i64) -> Vec<Statement> {
        let mut statements = vec![(
            format!("UPDATE counters SET value = {number} WHERE client = {client} AND value < {number}"),
            1,
        )];
        let half = self.movements.len() / 2;
        for (place, movement) in self.movements.iter().enumerate() {
            let Movement { table, account, delta } = *movement;
            let table = ACCOUNT_TABLES[table];
            let tags = format!("ARRAY[{client}, {}]", number % 1000);
            if self.with_savepoint && place == half {
                statements.push(("SAVEPOINT undone".to_owned(), 0));
                statements.push((
                    format!("UPDATE {table} SET balance = balance + 1000000 WHERE id = {account}"),
                    1,
                ));
                statements.push((
                    format!("INSERT INTO journal VALUES ({client}, {number}, 'to be undone')"),
                    1,
                ));
                statements.push(("ROLLBACK TO SAVEPOINT undone".to_owned(), 0));
                statements.push(("SAVEPOINT kept".to_owned(), 0));
            }
            statements.push((
                format!("UPDATE {table} SET balance = balance + {delta}, tags = {tags} WHERE id = {account}"),
                1,
            ));
            statements.push((
                format!("INSERT INTO entries VALUES ({client}, {number}, {place}, '{table}', {account}, {delta})"),
                1,
            ));
        }
        if self.with_savepoint {
            statements.push(("RELEASE SAVEPOINT kept".to_owned(), 0));
        }
        if let Some(size) = self.batch {
            statements.push((
                format!(
                    "INSERT INTO tickets SELECT {client}, {number}, line, {size}, md5(format('%s/%s/%s', {client}, {number}, line))
                     FROM generate_series(1, {size}) line"
                ),
                u64::from(size),
            ));
        }
        if let Some((deleted, size)) = self.deleted {
            statements.push((
                format!("DELETE FROM tickets WHERE client = {client} AND number = {deleted}"),
                u64::from(size),
            ));
        }
        if let Some((slot, pieces)) = self.document {
            let body = document(&client.to_string(), &number.to_string(), &pieces.to_string());
            statements.push((
                format!(
                    "UPDATE documents SET number = {number}, body = {body} WHERE client = {client} AND slot = {slot}"
                ),
                1,
            ));
        }
        statements.push((
            format!("INSERT INTO journal VALUES ({client}, {number}, '{}')", self.kind),
            1,
        ));
        statements
    }
}

/// A document's text, as an SQL expression: too long for its row, and another for each transaction.
pub fn document(client: &str, number: &str, pieces: &str) -> String {
    format!(
        "(SELECT coalesce(string_agg(md5(format('%s/%s/%s', {client}, {number}, piece)), ''), '')
          FROM generate_series(1, {pieces}) piece)"
    )
}

/// The name under which a transaction is prepared.
pub fn prepared_name(client: usize, number: i64) -> String {
    format!("bank-{client}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_deed_makes_money_and_all_lock_in_one_order() {
        let mut random = Random::new(1);
        for _ in 0..1000 {
            let deed = Deed::choose(&mut random, &[(3, 7)]);
            assert_eq!(deed.movements.iter().map(|movement| movement.delta).sum::<i64>(), 0);
            assert!(deed.movements.is_sorted(), "{deed:?}");
        }
    }

    #[test]
    fn old_batches_are_deleted_before_they_are_too_many() {
        let batches: Vec<(i64, u32)> = (1..=40).map(|number| (number, 5)).collect();
        let deed = Deed::choose(&mut Random::new(2), &batches);
        assert!(deed.deleted.is_some());
    }
}

//! What is proven of each kind of record, and whether a run bears it out.

use std::collections::BTreeMap;
use std::fmt::Write;

use wal::{Kind, kinds};

use crate::replay::Tally;

/// How the redo of a kind of record is proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Evidence {
    /// Pages made by redo are compared with the after-images in the records.
    AfterImages,
    /// PostgreSQL logs the changed pages themselves, always: they are compared with the files of a clean stop.
    OwnImages,
    /// It has no pages of its own in the log; this is compared with what a clean stop left.
    Files(&'static str),
    /// It changes nothing that a volume keeps, and this is why.
    Nothing(&'static str),
    /// PostgreSQL 15 cannot write it, and this is why.
    Impossible(&'static str),
}

/// How this kind is proven.
pub fn evidence(kind: Kind) -> Evidence {
    use Evidence::{AfterImages, Files, Impossible, Nothing, OwnImages};
    const COUNTERS: Evidence = Files("the counters of the next shutdown checkpoint");
    match (kind.manager, kind.operation) {
        ("XLOG", "CHECKPOINT_SHUTDOWN" | "CHECKPOINT_ONLINE" | "NEXTOID") => COUNTERS,
        ("XLOG", "PARAMETER_CHANGE") => Files("the parameters in the control file"),
        ("XLOG", "FPW_CHANGE") => Nothing("images stand in the records that have them"),
        ("XLOG", "END_OF_RECOVERY") => Files("the timeline in the control file"),
        ("XLOG", "FPI" | "FPI_FOR_HINT") => OwnImages,
        ("XLOG", "NOOP") => Impossible("nothing in PostgreSQL 15 writes it; redo and `pg_waldump` still know it"),
        ("XLOG", "SWITCH") => Nothing("the log goes on in the next file, where the next record is found"),
        ("XLOG", "OVERWRITE_CONTRECORD") => Nothing("the log goes on behind the torn record, and is found there"),
        ("XLOG", "BACKUP_END") => Nothing("it matters to a recovery from a base backup only"),
        ("XLOG", "RESTORE_POINT") => Nothing("a name for a place in the log"),
        ("Transaction", "COMMIT" | "COMMIT_PREPARED") => {
            Files("`pg_xact`, `pg_commit_ts`, origins, `pg_twophase`, and that dropped relations are gone")
        }
        ("Transaction", "ABORT" | "ABORT_PREPARED") => {
            Files("`pg_xact`, `pg_twophase`, and that relations made in vain are gone")
        }
        ("Transaction", "PREPARE") => Files("`pg_twophase`"),
        ("Transaction", "ASSIGNMENT") => Nothing("a hot standby's table of running transactions"),
        ("Transaction", "INVALIDATION") => Nothing("caches of logical decoding"),
        ("Storage", _) => Files("which forks there are and their sizes; maps' pages"),
        ("CLOG", "ZEROPAGE") => Files("`pg_xact`"),
        ("CLOG", "TRUNCATE") => {
            Files("the oldest transaction, which is not ahead of the next shutdown's; `pg_xact` has no page less")
        }
        ("CommitTs", "ZEROPAGE") => Files("`pg_commit_ts`"),
        ("CommitTs", "TRUNCATE") => Files("`pg_commit_ts` needs no page before it"),
        ("MultiXact", "TRUNCATE_ID") => {
            Files("the oldest multixact, which is not ahead of the next shutdown's; `pg_multixact` has no page less")
        }
        ("MultiXact", _) => Files("`pg_multixact/offsets` and `members`; the counters"),
        ("Database", _) => Files("which databases there are, each fork and page of them, their relation maps"),
        ("Tablespace", _) => Files("`pg_tblspc`"),
        ("RelMap", _) => Files("`pg_filenode.map`"),
        ("ReplicationOrigin", _) => Files("`pg_logical/replorigin_checkpoint`"),
        ("Standby", _) => Nothing("a hot standby's locks, running transactions and caches; the next transaction"),
        ("LogicalMessage", _) => Nothing("it is for logical decoding"),
        ("Heap", "TRUNCATE") => Nothing("it is for logical decoding; the new file comes from other records"),
        ("Heap", "HOT_UPDATE+INIT") => {
            Impossible("the page that it would begin from nothing holds the old version of the row")
        }
        ("Heap2", "NEW_CID" | "REWRITE") => Nothing("it is for logical decoding: `pg_logical/mappings`"),
        ("Btree", "REUSE_PAGE") | ("Gist", "PAGE_REUSE") => Nothing("a conflict with queries of a hot standby"),
        ("Gist", "ASSIGN_LSN") => Nothing("it only takes up room, so that a page gets an LSN of its own"),
        ("Gin", "SPLIT" | "VACUUM_PAGE") | ("Hash", "SPLIT_PAGE") => OwnImages,
        _ => AfterImages,
    }
}

/// Where a run does not bear out what [`evidence`] says of a kind.
pub fn contradictions(tallies: &BTreeMap<Kind, Tally>) -> Vec<String> {
    let mut contradictions = Vec::new();
    for kind in kinds() {
        let tally = tallies.get(&kind).copied().unwrap_or_default();
        let found = match evidence(kind) {
            Evidence::Impossible(_) if tally.seen != 0 => "is called impossible, but was seen",
            Evidence::Impossible(_) => continue,
            _ if tally.seen == 0 => "was not seen",
            Evidence::AfterImages if tally.compared == 0 => "was compared with no after-image",
            Evidence::OwnImages if tally.copied == 0 => "had no image of its own",
            _ => continue,
        };
        contradictions.push(format!("{kind} {found}"));
    }
    contradictions
}

/// One line for each kind there is.
pub fn table(tallies: &BTreeMap<Kind, Tally>) -> String {
    let columns = ["seen", "compared", "copied", "different"];
    let mut table = format!("{:32}", "kind");
    columns
        .iter()
        .for_each(|column| table.push_str(&format!(" {column:>9}")));
    for kind in kinds() {
        let Tally {
            seen,
            compared,
            copied,
            different,
            ..
        } = tallies.get(&kind).copied().unwrap_or_default();
        let counts = [seen, compared, copied, different];
        table.push_str(&format!("\n{:32}", kind.to_string()));
        counts.iter().for_each(|count| table.push_str(&format!(" {count:9}")));
    }
    table.push('\n');
    table
}

/// Where the table is committed, seen from this crate's folder.
pub const COMMITTED: &str = "../../docs/redo-coverage.md";

const INTRODUCTION: &str = "\
# What is proven of redo

Made by `make oracle`; a test fails if a run does not bear it out. Every kind of record of PostgreSQL 15 stands here: the
workload in `tests/oracle` reaches it, or it cannot be written at all.

The oracle runs a stock PostgreSQL with `wal_consistency_checking = all` and `full_page_writes = off` and follows its log
with `wal` and `redo` from the checkpoint of `initdb` on. *After-images*: every page that redo made by a change is
compared with the page as PostgreSQL left it, which the same record carries, masked as PostgreSQL's own check masks, or
less. *Own images*: PostgreSQL always logs the page itself; a copy proves nothing, so only the file of a clean stop
counts. For all kinds the end is compared, too: each page of each file, transaction status and multixacts included, and
how long files are. Two things of relations are not compared, because the log does not tell them: the free space map, and
how far a sequence is behind the 32 values that are logged ahead.

A visibility map of a database made with `STRATEGY wal_log` is compared only as to what it must not claim: PostgreSQL
logs the template's map without its bits.

| kind | proven by |
|---|---|
";

/// The text of [`COMMITTED`].
pub fn markdown() -> String {
    let mut text = INTRODUCTION.to_owned();
    for kind in kinds() {
        let how = match evidence(kind) {
            Evidence::AfterImages => "after-images".to_owned(),
            Evidence::OwnImages => "own images".to_owned(),
            Evidence::Files(what) => format!("files: {what}"),
            Evidence::Nothing(what) => format!("seen; changes nothing that is kept: {what}"),
            Evidence::Impossible(why) => format!("**not seen, impossible**: {why}"),
        };
        // Writing to a string does not fail.
        let _ = writeln!(text, "| `{kind}` | {how} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_is_missing_or_was_only_copied_contradicts_the_table() {
        let every = Tally {
            seen: 1,
            applied: 1,
            compared: 1,
            copied: 1,
            different: 0,
        };
        let mut tallies: BTreeMap<Kind, Tally> = kinds().map(|kind| (kind, every)).collect();
        let kind = |name: &str| kinds().find(|kind| kind.to_string() == name).expect("it is a kind");
        tallies.remove(&kind("XLOG/NOOP"));
        tallies.remove(&kind("Heap/HOT_UPDATE+INIT"));
        assert_eq!(contradictions(&tallies), Vec::<String>::new());

        tallies.insert(kind("XLOG/NOOP"), every);
        tallies.insert(kind("Heap/INSERT"), Tally { compared: 0, ..every });
        tallies.insert(kind("Gin/SPLIT"), Tally { copied: 0, ..every });
        tallies.remove(&kind("Transaction/COMMIT"));
        let found = [
            "XLOG/NOOP is called impossible, but was seen",
            "Transaction/COMMIT was not seen",
            "Heap/INSERT was compared with no after-image",
            "Gin/SPLIT had no image of its own",
        ];
        assert_eq!(contradictions(&tallies), found);
    }
}

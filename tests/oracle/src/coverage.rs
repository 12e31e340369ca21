//! The table of record kinds: seen, compared, different.

use std::collections::BTreeMap;
use std::fmt::Write;

use wal::Kind;

use crate::replay::Tally;

/// One line a kind.
pub fn table(tallies: &BTreeMap<Kind, Tally>) -> String {
    let mut table = format!(
        "{:32} {:>9} {:>9} {:>9} {:>9}\n",
        "kind", "seen", "compared", "copied", "different"
    );
    for (kind, tally) in tallies {
        let Tally {
            seen,
            compared,
            copied,
            different,
            ..
        } = tally;
        let kind = kind.to_string();
        // Writing to a string does not fail.
        let _ = writeln!(table, "{kind:32} {seen:9} {compared:9} {copied:9} {different:9}");
    }
    table
}

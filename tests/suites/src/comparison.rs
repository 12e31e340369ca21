//! Which tests end on a cluster as they end on stock PostgreSQL.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::differences;
use crate::server::make_folder;
use crate::suite::Outcome;

/// How a test compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides give answers that the suite expects, or the very same ones that it does not.
    Same,
    /// They differ, and it is written down why.
    Explained(&'static str),
    /// They differ.
    Different,
}

/// The verdicts on all tests of the suites that have run.
#[derive(Default)]
pub struct Comparison {
    suites: Vec<(String, BTreeMap<String, Verdict>)>,
}

type Outcomes = BTreeMap<String, Outcome>;

impl Comparison {
    /// Compares a suite's outcomes, and writes what differs below `work`, one file a test.
    pub fn add(&mut self, suite: &str, stock: &Outcomes, cluster: &Outcomes, work: &Path) -> Result<()> {
        let mut verdicts = BTreeMap::new();
        for test in stock.keys().chain(cluster.keys()) {
            let (one, other) = (stock.get(test), cluster.get(test));
            let verdict = verdict(suite, test, one, other);
            if verdict != Verdict::Same {
                let folder = work.join("differences").join(suite.replace(' ', "-"));
                write_difference(&folder, test, one, other)?;
            }
            verdicts.insert(test.clone(), verdict);
        }
        self.suites.push((suite.to_owned(), verdicts));
        Ok(())
    }

    /// One line a suite, then one a test that differs.
    pub fn print(&self) {
        println!(
            "\n{:<28} {:>6} {:>6} {:>10} {:>10}",
            "suite", "tests", "same", "explained", "different"
        );
        for (suite, verdicts) in &self.suites {
            let count = |wanted: fn(&Verdict) -> bool| verdicts.values().filter(|verdict| wanted(verdict)).count();
            println!(
                "{suite:<28} {:>6} {:>6} {:>10} {:>10}",
                verdicts.len(),
                count(|verdict| *verdict == Verdict::Same),
                count(|verdict| matches!(verdict, Verdict::Explained(_))),
                count(|verdict| *verdict == Verdict::Different)
            );
        }
        for (suite, verdicts) in &self.suites {
            for (test, verdict) in verdicts {
                match verdict {
                    Verdict::Same => {}
                    Verdict::Explained(why) => println!("explained: {suite}, {test}: {why}"),
                    Verdict::Different => println!("different: {suite}, {test}"),
                }
            }
        }
    }

    /// Tests that differ without an explanation.
    pub fn different(&self) -> usize {
        let all = self.suites.iter().flat_map(|(_, verdicts)| verdicts.values());
        all.filter(|verdict| **verdict == Verdict::Different).count()
    }
}

fn verdict(suite: &str, test: &str, stock: Option<&Outcome>, cluster: Option<&Outcome>) -> Verdict {
    let is_same = match (stock, cluster) {
        (Some(stock), Some(cluster)) => (stock.is_expected && cluster.is_expected) || stock.answers == cluster.answers,
        _ => false,
    };
    match differences::explanation(suite, test) {
        _ if is_same => Verdict::Same,
        Some(why) => Verdict::Explained(why),
        None => Verdict::Different,
    }
}

fn write_difference(folder: &Path, test: &str, stock: Option<&Outcome>, cluster: Option<&Outcome>) -> Result<()> {
    let pair = folder.join(test);
    make_folder(&pair)?;
    for (name, outcome) in [("stock", stock), ("borealis", cluster)] {
        let answers = outcome.map_or(&b"(did not run)\n"[..], |outcome| &outcome.answers);
        std::fs::write(pair.join(name), answers)?;
    }
    let output = Command::new("diff")
        .args(["-U4", "stock", "borealis"])
        .current_dir(&pair)
        .output()
        .context("run diff")?;
    std::fs::write(folder.join(format!("{test}.diff")), output.stdout)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(is_expected: bool, answers: &str) -> Outcome {
        Outcome {
            is_expected,
            answers: answers.into(),
        }
    }

    /// Some tests have several expected answers; and those of another minor release fail on both sides.
    #[test]
    fn answers_are_the_same_if_both_are_expected_or_they_are_equal() {
        let (a, b) = (outcome(true, "a"), outcome(true, "b"));
        let (failed, failed_so_too) = (outcome(false, "c"), outcome(false, "c"));
        let compare = |one: Option<&Outcome>, other: Option<&Outcome>| verdict("regress", "copy", one, other);
        assert_eq!(compare(Some(&a), Some(&b)), Verdict::Same);
        assert_eq!(compare(Some(&failed), Some(&failed_so_too)), Verdict::Same);
        assert_eq!(compare(Some(&a), Some(&failed)), Verdict::Different);
        assert_eq!(compare(Some(&a), None), Verdict::Different);
    }

    #[test]
    fn what_is_explained_is_told_apart() {
        let (a, b) = (outcome(true, "a"), outcome(false, "b"));
        let compared = verdict("regress", "subscription", Some(&a), Some(&b));
        assert!(matches!(compared, Verdict::Explained(_)), "{compared:?}");
    }
}

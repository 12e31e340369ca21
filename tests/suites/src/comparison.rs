//! Which tests end on a cluster as they end on stock PostgreSQL.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::server::make_folder;
use crate::suite::Outcome;

/// How a test compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Both sides give answers that the suite expects, or the very same ones that it does not.
    Same,
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
            let verdict = verdict(one, other);
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
        println!("\n{:<28} {:>6} {:>6} {:>10}", "suite", "tests", "same", "different");
        for (suite, verdicts) in &self.suites {
            let count = |wanted: fn(&Verdict) -> bool| verdicts.values().filter(|verdict| wanted(verdict)).count();
            println!(
                "{suite:<28} {:>6} {:>6} {:>10}",
                verdicts.len(),
                count(|verdict| *verdict == Verdict::Same),
                count(|verdict| *verdict == Verdict::Different)
            );
        }
        for (suite, verdicts) in &self.suites {
            for (test, _) in verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Different) {
                println!("different: {suite}, {test}");
            }
        }
    }

    /// How many tests differ.
    pub fn different(&self) -> usize {
        let all = self.suites.iter().flat_map(|(_, verdicts)| verdicts.values());
        all.filter(|verdict| **verdict == Verdict::Different).count()
    }
}

fn verdict(stock: Option<&Outcome>, cluster: Option<&Outcome>) -> Verdict {
    match (stock, cluster) {
        (Some(stock), Some(cluster)) if stock.is_expected && cluster.is_expected => Verdict::Same,
        (Some(stock), Some(cluster)) if stock.answers == cluster.answers => Verdict::Same,
        _ => Verdict::Different,
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
        assert_eq!(verdict(Some(&a), Some(&b)), Verdict::Same);
        assert_eq!(verdict(Some(&failed), Some(&failed_so_too)), Verdict::Same);
        assert_eq!(verdict(Some(&a), Some(&failed)), Verdict::Different);
        assert_eq!(verdict(Some(&a), None), Verdict::Different);
    }
}

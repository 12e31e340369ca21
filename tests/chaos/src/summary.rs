//! What a run amounts to.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::book::{Book, Pause, Totals};
use crate::checks::Memory;
use crate::fault::seconds;
use crate::plan::Plan;
use crate::run::{during, names};
use crate::strike::Strike;

/// What ended so long before a pause may have caused it, for people.
const JUST_BEFORE: Duration = Duration::from_secs(2);

/// A run that found no violation.
pub struct Summary {
    /// Its seed.
    pub seed: u64,
    /// How long faults went on.
    pub length: Duration,
    /// Transactions.
    pub totals: Totals,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, usize>,
    /// Faults that found nothing to strike, or that this machine does not allow.
    pub missed: BTreeMap<&'static str, usize>,
    /// Faults of disks that no write met.
    pub unfelt: usize,
    /// The longest time without an acknowledgement, and the faults that it may come from.
    pub longest_pause: Option<(Pause, String)>,
    memory: String,
    whole_after: Duration,
    down_took: Duration,
}

impl Summary {
    pub(crate) fn new(
        plan: &Plan,
        book: &Book,
        strikes: &[Strike],
        memory: &Memory,
        whole_after: Duration,
        down_took: Duration,
    ) -> Summary {
        let (mut faults, mut missed) = (BTreeMap::new(), BTreeMap::new());
        for strike in strikes {
            let counted = if strike.missed { &mut missed } else { &mut faults };
            *counted.entry(strike.fault.kind()).or_default() += 1;
        }
        let longest = book.pauses().into_iter().max_by_key(|pause| pause.length());
        Summary {
            seed: plan.seed,
            length: plan.rounds.iter().map(|round| round.length).sum(),
            totals: book.totals(),
            faults,
            missed,
            unfelt: strikes.iter().filter(|strike| strike.unfelt).count(),
            longest_pause: longest.map(|pause| (pause, names(&during(pause, strikes, JUST_BEFORE)))),
            memory: memory.summary(),
            whole_after,
            down_took,
        }
    }
}

fn counts(of: &BTreeMap<&'static str, usize>) -> String {
    let words: Vec<String> = of.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    words.join(", ")
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let totals = &self.totals;
        writeln!(
            f,
            "no violation in {:.1} minutes, seed {}",
            self.length.as_secs_f64() / 60.0,
            self.seed
        )?;
        writeln!(
            f,
            "transactions acknowledged: {} ({})",
            totals.acknowledged,
            counts(&totals.kinds)
        )?;
        writeln!(
            f,
            "connection lost in a commit: {}, {} of them there when looked up; rolled back, or lost before: {}",
            totals.unknown, totals.found, totals.absent
        )?;
        writeln!(f, "looks of readers: {}", totals.readings)?;
        writeln!(
            f,
            "faults: {} ({})",
            self.faults.values().sum::<usize>(),
            counts(&self.faults)
        )?;
        if !self.missed.is_empty() {
            writeln!(f, "faults that struck nothing: {}", counts(&self.missed))?;
        }
        if self.unfelt != 0 {
            writeln!(f, "faults of disks that no write met: {}", self.unfelt)?;
        }
        if let Some((pause, during)) = &self.longest_pause {
            writeln!(
                f,
                "longest pause without an acknowledgement: {} at {}, during: {during}",
                seconds(pause.length()),
                seconds(pause.from)
            )?;
        }
        writeln!(
            f,
            "all nodes whole at most {} after clients were at rest",
            seconds(self.whole_after)
        )?;
        writeln!(f, "`down` took {}; memory: {}", seconds(self.down_took), self.memory)
    }
}

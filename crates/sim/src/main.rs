//! `sim`: runs simulated histories of random or given seeds, on every core, and tells what happened in them.

use std::collections::BTreeMap;
use std::panic;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use sim::{Broken, Fault, Tally, shown_count};

const USAGE: &str = "\
usage: sim mistakes [--seconds S] [--renew]
                               finds every rule that is broken on purpose, each within S seconds (60); --renew: writes the seeds down
       sim [OPTION…]           histories of fresh seeds until it is stopped, or has done what the options say
  --seed N [--broken NAME]     only this history; what happened in it, perhaps with a rule broken on purpose
  --seeds COUNT|FROM..TO       so many fresh seeds, or these
  --minutes M | --seconds S    no longer than this
  --threads T                  on so many cores (all)
  --coverage FILE              write the table of which faults hit which states of the protocol there";

/// Where the seeds that find mistakes are written down.
const MISTAKES_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/seeds/mistakes.txt");
/// With this begins what stands below the coverage report.
const BELOW_COVERAGE: &str = "# Which test belongs to which trace";
/// A mistake has to be found within this.
const MISTAKE_LIMIT: Duration = Duration::from_secs(60);
/// Failing seeds that are shown; beyond it something is wrong with everything.
const FAILURES_MAX: usize = 10;
const PROGRESS_PAUSE: Duration = Duration::from_secs(10);
/// Linux counts processor time in these, whatever its clock does.
const TICKS_PER_SECOND: f64 = 100.0;
/// Fresh seeds begin at a number of nanoseconds, cut to so many bits: short enough to read out.
const SEED_BITS: u32 = 40;

#[derive(Default)]
struct Options {
    seed: Option<u64>,
    broken: Option<Broken>,
    from: Option<u64>,
    count: Option<u64>,
    limit: Option<Duration>,
    threads: Option<usize>,
    coverage: Option<String>,
}

fn number<T: FromStr>(word: &str) -> Option<T> {
    word.parse().ok()
}

fn options() -> Option<Options> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        match word.as_str() {
            "--seed" => options.seed = Some(number(&value)?),
            "--broken" => {
                let named = |broken: &&Broken| format!("{broken:?}") == value;
                options.broken = Some(*Broken::ALL.iter().find(named)?);
            }
            "--seeds" => match value.split_once("..") {
                Some((from, to)) => {
                    let (from, to) = (number(from)?, number::<u64>(to)?);
                    (options.from, options.count) = (Some(from), Some(to.checked_sub(from)?));
                }
                None => options.count = Some(number(&value)?),
            },
            "--minutes" => options.limit = Some(Duration::from_secs_f64(60.0 * number::<f64>(&value)?)),
            "--seconds" => options.limit = Some(Duration::from_secs_f64(number(&value)?)),
            "--threads" => options.threads = Some(number(&value)?),
            "--coverage" => options.coverage = Some(value),
            _ => return None,
        }
    }
    Some(options)
}

/// What all histories so far came to.
#[derive(Default)]
struct Total {
    histories: u64,
    events: u64,
    timelines: u64,
    flushes: u64,
    pages: u64,
    outdated_stops: u64,
    layered: u64,
    replaced: u64,
    taken_back: u64,
    rebuilt: u64,
    mended: u64,
    grown: u64,
    tally: Tally,
    failures: BTreeMap<u64, sim::Failure>,
}

impl Total {
    fn add(&mut self, outcome: Result<sim::Report, sim::Failure>) {
        self.histories += 1;
        match outcome {
            Ok(report) => {
                self.events += report.events;
                self.timelines += report.timelines as u64;
                self.flushes += report.flushes as u64;
                self.pages += report.pages as u64;
                self.outdated_stops += report.outdated_stops;
                self.layered += report.layered;
                self.replaced += report.replaced;
                self.taken_back += report.taken_back;
                self.rebuilt += report.rebuilt;
                self.mended += report.mended;
                self.grown += report.grown;
                self.tally.add(&report.tally);
            }
            Err(failure) => {
                if self.failures.len() < FAILURES_MAX {
                    eprintln!("{failure}");
                }
                self.failures.insert(failure.seed, failure);
            }
        }
    }

    fn print(&self, elapsed: Duration) {
        let rate = self.events as f64 * 60.0 / cpu_seconds().unwrap_or(elapsed.as_secs_f64());
        println!(
            "{} histories, {} events ({:.1} million a minute of one core), {} violations, in {:.0} s",
            self.histories,
            shown_count(self.events),
            rate / 1e6,
            self.failures.len(),
            elapsed.as_secs_f64()
        );
    }

    fn summary(&self) {
        println!(
            "{} timelines opened, {} flushes acknowledged, {} pages read, {} openings stopped at an old metadata store, \
             {} times a copy took from the layers of others, {} copies replaced and {} replacements taken back, {} mended \
             in place, {} groups given new copies by an opening, {} groups added under load",
            self.timelines,
            self.flushes,
            self.pages,
            self.outdated_stops,
            self.layered,
            self.replaced,
            self.taken_back,
            self.mended,
            self.rebuilt,
            self.grown
        );
        let faults: Vec<String> = Fault::ALL
            .iter()
            .map(|fault| format!("  {:>9}  {}", shown_count(self.tally.times(*fault)), fault.words()))
            .collect();
        println!("faults:\n{}", faults.join("\n"));
    }
}

/// What this process has taken of all cores so far, as Linux counts it.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks = |at: usize| fields.split_whitespace().nth(at)?.parse::<f64>().ok();
    // The 14th and the 15th field of all; two stand before the bracket.
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn run(options: &Options) -> ExitCode {
    let fresh = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| now.as_nanos() as u64) % (1 << SEED_BITS)
    };
    // A history that panics is reported as a violation; run alone with its seed it also tells where.
    panic::set_hook(Box::new(|_| {}));
    let first = options.from.unwrap_or_else(fresh);
    let cores = || thread::available_parallelism().map_or(1, usize::from);
    let threads = options.threads.unwrap_or_else(cores);
    println!("seeds from {first} on, {threads} at a time");
    let began = Instant::now();
    let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Total::default());
    let ended = |seed: u64| {
        let late = options.limit.is_some_and(|limit| limit <= began.elapsed());
        late || options.count.is_some_and(|count| count <= seed)
    };
    let locked = || total.lock().expect("no thread ends in a panic");
    thread::scope(|scope| {
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if ended(seed) {
                    return;
                }
                let seed = first.wrapping_add(seed);
                let outcome = sim::run(seed, None);
                locked().add(outcome);
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        scope.spawn(|| {
            let mut shown = Instant::now();
            while !over.load(Ordering::Relaxed) {
                thread::park_timeout(Duration::from_millis(100));
                if PROGRESS_PAUSE <= shown.elapsed() {
                    shown = Instant::now();
                    locked().print(began.elapsed());
                }
            }
        });
        for worker in workers {
            worker.join().expect("a history that panics is a violation");
        }
        over.store(true, Ordering::Relaxed);
    });
    let total = locked();
    total.summary();
    total.print(began.elapsed());
    if let Some(file) = &options.coverage
        && let Err(error) = std::fs::write(file, coverage(&total) + &kept_of(file))
    {
        eprintln!("{file}: {error}");
        return ExitCode::FAILURE;
    }
    // Once more: whoever sees only how the run ended learns which seeds to run again.
    for failure in total.failures.values().take(FAILURES_MAX) {
        eprintln!("{failure}");
    }
    if total.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What stands below the report in its file: written by hand.
fn kept_of(file: &str) -> String {
    let before = std::fs::read_to_string(file).unwrap_or_default();
    before
        .find(BELOW_COVERAGE)
        .map_or(String::new(), |at| before[at..].to_owned())
}

/// The coverage report as it is committed.
fn coverage(total: &Total) -> String {
    format!(
        "# Which faults hit which states of the protocol\n\n\
         Made by `make sim SEEDS={} ARGUMENTS=\"--coverage docs/simulation-coverage.md\"`: {} events, {} violations.\n\
         A fault that hits the volume is counted by what its newest writer or opener was doing, one that hits a copy also by\n\
         how that copy stood: *asleep* does not know the last opened timeline yet, *fenced* promised an epoch that is not\n\
         opened, *behind* lacks log that it knows to be durable, *stranded* lacks log that its peers no longer have, *damaged*\n\
         has no vote, *newborn* is not whole yet. A dot is a state that the fault never hit.\n\n{}",
        total.histories,
        shown_count(total.events),
        total.failures.len(),
        total.tally.table()
    )
}

/// Finds every mistake, from the first seed on.
fn mistakes(limit: Duration, renew: bool) -> ExitCode {
    panic::set_hook(Box::new(|_| {}));
    let mut pinned = String::new();
    let mut missed = 0;
    for broken in Broken::ALL {
        let began = Instant::now();
        let seeds = (0..).take_while(|_| began.elapsed() < limit);
        let found = seeds.filter_map(|seed| sim::run(seed, Some(*broken)).err());
        let failure = found
            .into_iter()
            .find(|failure| broken.breaks().contains(&failure.promise));
        match failure {
            Some(failure) => {
                let (seed, promise, after) = (failure.seed, failure.promise, began.elapsed());
                println!(
                    "{broken:?}: found by seed {seed} after {:.2} s: {promise:?}",
                    after.as_secs_f64()
                );
                pinned += &format!("{broken:?} {seed}\n");
            }
            None => {
                missed += 1;
                println!(
                    "{broken:?}: NOT FOUND within {:.0} s: {}",
                    limit.as_secs_f64(),
                    broken.words()
                );
            }
        }
    }
    println!("{} mistakes, {missed} of them not found", Broken::ALL.len());
    if renew && let Err(error) = std::fs::write(MISTAKES_FILE, pinned) {
        eprintln!("{MISTAKES_FILE}: {error}");
        return ExitCode::FAILURE;
    }
    if missed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["mistakes", rest @ ..] = &words[..] {
        let (mut limit, mut renew) = (MISTAKE_LIMIT, false);
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            match *word {
                "--renew" => renew = true,
                "--seconds" => {
                    let seconds = rest.next().and_then(|value| number(value));
                    limit = seconds.map_or(limit, Duration::from_secs_f64);
                }
                _ => {
                    eprintln!("{USAGE}");
                    return ExitCode::from(2);
                }
            }
        }
        return mistakes(limit, renew);
    }
    let Some(options) = options() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let Some(seed) = options.seed else {
        return run(&options);
    };
    match sim::run(seed, options.broken) {
        Ok(report) => {
            println!("seed {seed}: {} events went well", report.events);
            for fault in Fault::ALL.iter().filter(|fault| 0 < report.tally.times(**fault)) {
                println!("  {:>9}  {}", report.tally.times(*fault), fault.words());
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

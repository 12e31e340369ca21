//! One run: a cluster, the bank's clients and readers, the plan's faults, and what has to hold when they are over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use system_tests::Cluster;
use tokio::runtime::Runtime;

use crate::audit::audit;
use crate::bank;
use crate::book::{Book, Pause};
use crate::checks::{Memory, no_panic, wait_until_whole};
use crate::fault::{Fault, Node, seconds};
use crate::machine::Machine;
use crate::plan::{Plan, Round, WRITES_GO_ON_WITHOUT};
use crate::random::Random;
use crate::strike::{Hand, Mended, Strike};
use crate::summary::Summary;
use crate::{client, grower, reader};

/// Clients that move money.
const CLIENTS_COUNT: usize = 6;
/// Sessions that only look.
const READERS_COUNT: usize = 2;
/// Small, so that pages are read from the storage nodes, and room for prepared transactions.
const SETTINGS: [&str; 2] = ["shared_buffers=4MB", "max_prepared_transactions=20"];
/// Small groups, so that the volume grows by some in each minute.
const GROUPS: [&str; 4] = ["--group-size", "16MiB", "--stripe-size", "1MiB"];
/// Without any acknowledgement for so long, whatever the faults: they last seconds.
const SILENCE_MAX: Duration = Duration::from_secs(150);
/// The same while writes have to go on: no more than a zone away, and no fault of the writer, control or proxy just before.
const SILENCE_MAX_IN_PROMISE: Duration = Duration::from_secs(60);
/// A fault may be felt so long after its end, and that is no broken promise.
const AFTERMATH: Duration = Duration::from_secs(10);
/// Acknowledgements that nodes sent just before they were stopped are on their way so long.
const STILL_ON_THEIR_WAY: Duration = Duration::from_secs(2);
/// How long clients may take to come to rest: a look-up waits for an earlier session's end.
const REST_LIMIT: Duration = Duration::from_secs(150);
/// How long `down` may take, by the limits of its parts: the writer 30 s, three kinds of daemons 5 s each, the agent 5 s.
const DOWN_LIMIT: Duration = Duration::from_secs(50);
/// How long the last queries may take to end with their clients.
const RUNTIME_LIMIT: Duration = Duration::from_secs(1);
/// Between two looks at the memory of all daemons.
const MEMORY_PAUSE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);
/// Room on the small disk: the journal's files with the spare ones and the layers of a young volume, and more for each minute.
const SMALL_DISK_BYTES: u64 = 512 << 20;
const SMALL_DISK_BYTES_PER_MINUTE: u64 = 128 << 20;

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Decides the faults, and what each client wants to do.
    pub seed: u64,
    /// How long faults go on.
    pub length: Duration,
    /// Three copies of each group have log only.
    pub tails: bool,
    /// Keeps the cluster's files also if nothing is wrong.
    pub keep: bool,
}

/// Runs it all. An error is a violation, and has been told with the seed and everything that happened.
pub fn run(options: Options) -> Result<Summary> {
    let plan = Plan::new(options.seed, options.length);
    let minutes = options.length.as_secs_f64() / 60.0;
    println!(
        "seed {}, {minutes:.2} minutes; again with: make chaos SEED={} MINUTES={minutes}{}",
        options.seed,
        options.seed,
        if options.tails { " ARGUMENTS=--tails" } else { "" }
    );
    let machine = Machine::look();
    machine.announce();
    println!("the plan:\n{plan}");
    let mut cluster = Cluster::prepare("chaos", &SETTINGS)?;
    let kinds = ["--segments", if options.tails { "full-and-tail" } else { "full" }];
    cluster.start_with(&[&GROUPS[..], &kinds].concat())?;
    let book = Arc::new(Book::new(CLIENTS_COUNT));
    let mut strikes = Vec::new();
    let outcome = course(&mut cluster, &book, &machine, &plan, options.tails, &mut strikes);
    if options.keep {
        cluster.keep();
        println!("kept: {}", cluster.directory().display());
    }
    if let Err(error) = &outcome {
        cluster.keep();
        tell_failure(&cluster, &book, &plan, &strikes, error)?;
    }
    outcome
}

fn tell_failure(cluster: &Cluster, book: &Book, plan: &Plan, strikes: &[Strike], error: &anyhow::Error) -> Result<()> {
    let ledger = cluster.directory().with_file_name("ledger.txt");
    book.write_to(&ledger)?;
    println!("\nFAILED. seed {}\nthe plan was:\n{plan}\nwhat happened:", plan.seed);
    for strike in strikes {
        let ended = strike.ended.map_or("not ended".to_owned(), seconds);
        println!(
            "  {:>3}  {:>9} to {:>9}  {}  {}",
            strike.number,
            seconds(strike.began),
            ended,
            strike.fault,
            strike.how
        );
    }
    println!("first violation: {error:#}");
    println!("kept: {} and {}", cluster.directory().display(), ledger.display());
    Ok(())
}

/// A run under way.
struct Course<'a> {
    cluster: &'a Cluster,
    book: &'a Book,
    hand: Hand<'a>,
    memory: Memory,
    looked: Instant,
    runtime: Runtime,
    whole_after: Duration,
    /// Three copies of each group have log only.
    tails: bool,
    /// Since when too few nodes are up for a write, and how many were acknowledged a moment later.
    lost: Option<(Instant, Option<usize>)>,
}

/// What a course leaves to tell.
struct Traces {
    memory: Memory,
    whole_after: Duration,
    down_took: Duration,
}

/// Everything from the first table to the audit after the last start.
fn course(
    cluster: &mut Cluster,
    book: &Arc<Book>,
    machine: &Machine,
    plan: &Plan,
    tails: bool,
    strikes: &mut Vec<Strike>,
) -> Result<Summary> {
    cluster.sql(&bank::schema(CLIENTS_COUNT))?;
    let traces = Course::run(cluster, book, machine, plan, tails, strikes)?;
    cluster.start()?;
    again(cluster, book)?;
    Ok(Summary::new(
        plan,
        book,
        strikes,
        &traces.memory,
        traces.whole_after,
        traces.down_took,
    ))
}

impl Course<'_> {
    /// Up to `down`.
    fn run(
        cluster: &Cluster,
        book: &Arc<Book>,
        machine: &Machine,
        plan: &Plan,
        tails: bool,
        strikes: &mut Vec<Strike>,
    ) -> Result<Traces> {
        let mut course = Course {
            cluster,
            book,
            hand: Hand::new(cluster, book, machine),
            memory: Memory::default(),
            looked: Instant::now(),
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?,
            whole_after: Duration::ZERO,
            tails,
            lost: None,
        };
        let outcome = course.go(cluster.url().into(), book, plan, machine);
        book.stop();
        *strikes = course.hand.strikes.clone();
        course.runtime.shutdown_timeout(RUNTIME_LIMIT);
        let down = outcome.and_then(|()| end(cluster));
        // A small disk goes with this run, its files stay with the others'.
        let taken = cluster.kill_everything().and_then(|()| course.hand.take_small_disk());
        let traces = Traces {
            memory: course.memory,
            whole_after: course.whole_after,
            down_took: down?,
        };
        taken.map(|()| traces)
    }

    fn go(&mut self, url: Arc<str>, book: &Arc<Book>, plan: &Plan, machine: &Machine) -> Result<()> {
        let faults = plan.rounds.iter().flat_map(|round| &round.faults);
        let full = faults.filter_map(|planned| match planned.fault {
            Fault::DiskFull(node) => Some(node),
            _ => None,
        });
        if let Some(node) = full.take(1).find(|_| machine.mounts.is_ok()) {
            self.small_disk(node, plan)?;
        }
        for client in 0..CLIENTS_COUNT {
            let random = Random::of_part(plan.seed, 1 + client as u64);
            self.runtime
                .spawn(client::run(url.clone(), book.clone(), client, random));
        }
        for index in 0..READERS_COUNT {
            let random = Random::of_part(plan.seed, 1000 + index as u64);
            self.runtime.spawn(reader::run(url.clone(), book.clone(), random));
        }
        self.runtime.spawn(grower::run(url.clone(), book.clone()));
        let groups = groups(self.cluster)?;
        for round in &plan.rounds {
            self.book.release();
            self.round(round)?;
            self.quiet_point(&url)?;
        }
        let grown = self::groups(self.cluster)?;
        println!(
            "{:>8}  the volume has grown from {groups} groups to {grown}",
            seconds(self.book.now())
        );
        self.check_pauses()
    }

    fn small_disk(&mut self, node: Node, plan: &Plan) -> Result<()> {
        let length: Duration = plan.rounds.iter().map(|round| round.length).sum();
        let bytes = SMALL_DISK_BYTES + SMALL_DISK_BYTES_PER_MINUTE * (length.as_secs() / 60);
        println!("{node} gets a disk of {} MiB", bytes >> 20);
        self.hand.give_small_disk(node, bytes)
    }

    /// Faults begin and end as planned, or as soon after as the hand is free.
    fn round(&mut self, round: &Round) -> Result<()> {
        let began = Instant::now();
        let mut steps = Vec::new();
        for planned in &round.faults {
            steps.push((planned.at, planned, true));
            if planned.fault.lasts() {
                steps.push((planned.at + planned.lasts, planned, false));
            }
        }
        steps.sort_by_key(|(at, planned, _)| (*at, planned.number));
        for (at, planned, begins) in steps {
            self.wait_until(began + at)?;
            if begins {
                self.hand.begin(planned)?;
            } else {
                self.hand.end(planned)?;
            }
        }
        self.wait_until(began + round.length)
    }

    /// Keeps an eye on everything until then.
    fn wait_until(&mut self, moment: Instant) -> Result<()> {
        loop {
            self.look()?;
            if moment <= Instant::now() {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }

    fn look(&mut self) -> Result<()> {
        if let Some(violation) = self.book.first_violation() {
            bail!("{violation}");
        }
        if !self.book.is_held() && SILENCE_MAX < self.book.silence() {
            bail!("nothing was acknowledged for {SILENCE_MAX:?}");
        }
        self.look_without_quorum()?;
        if MEMORY_PAUSE < self.looked.elapsed() {
            self.looked = Instant::now();
            self.memory.look(self.cluster)?;
        }
        Ok(())
    }

    /// Whether what is silent now costs group 0 its write quorum: four of six, or the three full ones where the others are tails.
    fn lacks_quorum(&self) -> bool {
        let silent = self.hand.silent();
        let only_tails = self.tails && silent.iter().all(|node| node.begins_with_a_tail());
        WRITES_GO_ON_WITHOUT < silent.len() && !only_tails
    }

    /// Nothing is acknowledged while three nodes are stopped or paused, but what they had synced just before.
    fn look_without_quorum(&mut self) -> Result<()> {
        if !self.lacks_quorum() {
            self.lost = None;
            return Ok(());
        }
        let now = self.book.acknowledged();
        let (since, before) = self.lost.get_or_insert((Instant::now(), None));
        if since.elapsed() < STILL_ON_THEIR_WAY {
            return Ok(());
        }
        let before = *before.get_or_insert(now);
        ensure!(
            now == before,
            "{} transactions were acknowledged without a write quorum",
            now - before
        );
        Ok(())
    }

    /// All faults are over: the clients come to rest, every node becomes whole, and the books are compared. The clients stay at
    /// rest, so that after the last round nobody is cut off in the middle of a transaction.
    fn quiet_point(&mut self, url: &str) -> Result<()> {
        println!("{:>8}  quiet", seconds(self.book.now()));
        self.hand.join_up()?;
        for (node, how, took) in self.hand.mend()? {
            let what = match how {
                Mended::InPlace => "everything is sound again",
                Mended::Anew => "its copies are made anew",
            };
            println!("{:>8}  {node}: {what}, in {}", seconds(self.book.now()), seconds(took));
        }
        self.book.hold();
        let started = Instant::now();
        while !self.book.all_rest() {
            ensure!(
                started.elapsed() < REST_LIMIT,
                "clients have no final answer {REST_LIMIT:?} after the last fault has ended"
            );
            self.look()?;
            std::thread::sleep(POLL);
        }
        let rest_after = started.elapsed();
        let whole_after = wait_until_whole(self.cluster)?;
        self.whole_after = self.whole_after.max(whole_after);
        let transactions = self.runtime.block_on(audit(url, self.book)).context("audit")?;
        no_panic(self.cluster)?;
        self.memory.look(self.cluster)?;
        println!(
            "{:>8}  at rest after {}, whole after {} more; {transactions} transactions, all as the ledger says",
            seconds(self.book.now()),
            seconds(rest_after),
            seconds(whole_after),
        );
        self.look()
    }

    /// Writes go on while no more than a zone is away and nothing happens to the writer.
    fn check_pauses(&self) -> Result<()> {
        for pause in self.book.pauses() {
            let during = during(pause, &self.hand.strikes, AFTERMATH);
            let is_promised = during.iter().all(|strike| {
                let nodes = strike.fault.nodes().len();
                0 < nodes && nodes <= WRITES_GO_ON_WITHOUT
            }) && away_at_most(&during) <= WRITES_GO_ON_WITHOUT;
            ensure!(
                !is_promised || pause.length() < SILENCE_MAX_IN_PROMISE,
                "nothing was acknowledged for {} from {} on, with no more than a zone away: {}",
                seconds(pause.length()),
                seconds(pause.from),
                names(&during)
            );
        }
        Ok(())
    }
}

/// Protection groups that the volume has.
fn groups(cluster: &Cluster) -> Result<u64> {
    cluster.status_with("groups", |status| {
        status["volume"]["groups"].as_u64().filter(|groups| 0 < *groups)
    })
}

/// Indexes are sound, and everything stops in time. How long that took.
fn end(cluster: &Cluster) -> Result<Duration> {
    cluster
        .client(
            "pg_amcheck",
            &["--all", "--install-missing", "--heapallindexed", "--jobs", "2"],
        )
        .context("pg_amcheck")?;
    let started = Instant::now();
    cluster.borealis(&["down"])?;
    let took = started.elapsed();
    ensure!(took < DOWN_LIMIT, "`down` took {took:?}");
    let left = cluster.processes();
    ensure!(left.is_empty(), "`down` left processes behind: {left:?}");
    no_panic(cluster)?;
    Ok(took)
}

/// The next start shows the same.
fn again(cluster: &Cluster, book: &Book) -> Result<()> {
    wait_until_whole(cluster)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime
        .block_on(audit(cluster.url(), book))
        .context("audit after `down` and `up`")?;
    no_panic(cluster)
}

/// The strikes that a pause may come from.
pub(crate) fn during(pause: Pause, strikes: &[Strike], aftermath: Duration) -> Vec<&Strike> {
    let felt = |strike: &&Strike| {
        strike.began <= pause.to && strike.ended.is_none_or(|ended| pause.from <= ended + aftermath) && !strike.missed
    };
    strikes.iter().filter(felt).collect()
}

fn away_at_most(strikes: &[&Strike]) -> usize {
    let nodes: std::collections::BTreeSet<Node> = strikes.iter().flat_map(|strike| strike.fault.nodes()).collect();
    nodes.len()
}

/// Faults, for a sentence.
pub(crate) fn names(strikes: &[&Strike]) -> String {
    let names: Vec<String> = strikes.iter().map(|strike| strike.fault.to_string()).collect();
    if names.is_empty() {
        "no fault".to_owned()
    } else {
        names.join("; ")
    }
}

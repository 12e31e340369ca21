//! Metrics: declared once, statically, and told in Prometheus' text format.
//!
//! A binary declares its metrics in one table, with [`crate::metrics!`]; the operator's page `docs/metrics.md` is made from the
//! same tables. What happens is counted where it happens, by [`Counter`], [`CounterBy`], [`Gauge`] and [`Histogram`]: one
//! relaxed atomic addition, no lock, no allocation. What merely stands somewhere (a queue's length, a copy's lag) is a
//! [`Sampled`] one, and costs nothing until somebody asks.
//!
//! | module | job |
//! |---|---|
//! | `text` | the text format |
//! | `serve` | `GET /metrics` |
//! | `process` | what the kernel knows of the process |
//!
//! Invariant: labels are closed sets, or names of things of which a process has few. None comes from a client.

mod process;
mod serve;
mod text;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub use process::PROCESS;
pub use serve::{AddressError, address, serve};
pub use text::{Scrape, exposition};

/// What a metric's value means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only rises while the process lives.
    Counter,
    /// Rises and falls.
    Gauge,
    /// How many observations were at most so large.
    Histogram,
}

impl Kind {
    /// As the text format calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// What numbers are counts of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Things, bytes: told as they are.
    One,
    /// Nanoseconds, told in seconds.
    Nanoseconds,
}

/// The declaration of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Description {
    /// `component_noun_verb_unit`, in base units.
    pub name: &'static str,
    /// What its value means.
    pub kind: Kind,
    /// Of its numbers.
    pub unit: Unit,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// One sentence for the operator.
    pub help: &'static str,
}

/// A metric that can be declared in a table.
pub trait Metric: Sync {
    /// Its declaration.
    fn description(&self) -> Description;
    /// Writes its samples.
    fn write(&self, scrape: &mut Scrape);
}

/// The metrics of one component, in the order in which they are told.
pub type Table = [&'static dyn Metric];

/// Counts what happens.
#[derive(Debug)]
pub struct Counter {
    description: Description,
    value: AtomicU64,
}

impl Counter {
    /// A counter of things or bytes.
    pub const fn new(name: &'static str, help: &'static str) -> Counter {
        Counter {
            description: describe(name, Kind::Counter, Unit::One, &[], help),
            value: AtomicU64::new(0),
        }
    }

    /// It happened once.
    pub fn increment(&self) {
        self.add(1);
    }

    /// It happened so many times.
    pub fn add(&self, count: u64) {
        self.value.fetch_add(count, Ordering::Relaxed);
    }

    /// How often so far.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Metric for Counter {
    fn description(&self) -> Description {
        self.description
    }

    fn write(&self, scrape: &mut Scrape) {
        scrape.sample(&self.description, &[], self.get());
    }
}

/// Counters that differ in one label, whose values are known beforehand.
#[derive(Debug)]
pub struct CounterBy<const N: usize> {
    description: Description,
    label_values: [&'static str; N],
    values: [AtomicU64; N],
}

impl<const N: usize> CounterBy<N> {
    /// Counters of things or bytes, one for each value of the label.
    pub const fn new(
        name: &'static str,
        label: &'static [&'static str; 1],
        label_values: [&'static str; N],
        help: &'static str,
    ) -> CounterBy<N> {
        CounterBy {
            description: describe(name, Kind::Counter, Unit::One, label, help),
            label_values,
            values: [const { AtomicU64::new(0) }; N],
        }
    }

    /// It happened so many times; `at` is the place of the label's value. Panics if there is none.
    pub fn add(&self, at: usize, count: u64) {
        self.values[at].fetch_add(count, Ordering::Relaxed);
    }

    /// How often so far, with the label's value at this place.
    pub fn get(&self, at: usize) -> u64 {
        self.values[at].load(Ordering::Relaxed)
    }
}

impl<const N: usize> Metric for CounterBy<N> {
    fn description(&self) -> Description {
        self.description
    }

    fn write(&self, scrape: &mut Scrape) {
        for (at, value) in self.label_values.iter().enumerate() {
            scrape.sample(&self.description, &[value], self.get(at));
        }
    }
}

/// How many there are just now.
#[derive(Debug)]
pub struct Gauge {
    description: Description,
    value: AtomicU64,
}

impl Gauge {
    /// A gauge of things or bytes, none so far.
    pub const fn new(name: &'static str, help: &'static str) -> Gauge {
        Gauge {
            description: describe(name, Kind::Gauge, Unit::One, &[], help),
            value: AtomicU64::new(0),
        }
    }

    /// So many from now on.
    pub fn set(&self, value: u64) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// One more, for as long as what is returned lives.
    pub fn hold(&'static self) -> Held {
        self.value.fetch_add(1, Ordering::Relaxed);
        Held(self)
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl Metric for Gauge {
    fn description(&self) -> Description {
        self.description
    }

    fn write(&self, scrape: &mut Scrape) {
        scrape.sample(&self.description, &[], self.get());
    }
}

/// One that a [`Gauge`] counts until this is dropped.
#[derive(Debug)]
pub struct Held(&'static Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.value.fetch_sub(1, Ordering::Relaxed);
    }
}

/// From 50 µs, the sync of a fast disk, to 10 s, in nanoseconds.
pub const SECONDS: [u64; 16] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];
/// From 256 bytes to 16 MiB.
pub const BYTES: [u64; 9] = [
    256,
    1 << 10,
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    4 << 20,
    16 << 20,
];

/// How large observations were: for each bound, how many were at most so large.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    description: Description,
    bounds: &'static [u64; N],
    /// Of each bound: observations that are above the bound before it. Summed up only when they are told.
    counts: [AtomicU64; N],
    /// Observations above the last bound.
    above: AtomicU64,
    sum: AtomicU64,
}

impl Histogram<16> {
    /// Of durations, in seconds.
    pub const fn seconds(name: &'static str, help: &'static str) -> Histogram<16> {
        Histogram::new(name, Unit::Nanoseconds, &SECONDS, help)
    }
}

impl Histogram<9> {
    /// Of sizes, in bytes.
    pub const fn bytes(name: &'static str, help: &'static str) -> Histogram<9> {
        Histogram::new(name, Unit::One, &BYTES, help)
    }
}

impl<const N: usize> Histogram<N> {
    /// A histogram with these bounds, which rise.
    pub const fn new(name: &'static str, unit: Unit, bounds: &'static [u64; N], help: &'static str) -> Histogram<N> {
        Histogram {
            description: describe(name, Kind::Histogram, unit, &[], help),
            bounds,
            counts: [const { AtomicU64::new(0) }; N],
            above: AtomicU64::new(0),
            sum: AtomicU64::new(0),
        }
    }

    /// One was so large.
    pub fn observe(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        let count = self.counts.get(at).unwrap_or(&self.above);
        count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// One took so long.
    pub fn observe_duration(&self, duration: Duration) {
        self.observe(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

impl<const N: usize> Metric for Histogram<N> {
    fn description(&self) -> Description {
        self.description
    }

    fn write(&self, scrape: &mut Scrape) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts: Vec<u64> = self.counts.iter().chain([&self.above]).map(read).collect();
        scrape.histogram(&self.description, self.bounds, &counts, read(&self.sum));
    }
}

/// A metric whose values are looked up when somebody asks: see [`Scrape::set`].
#[derive(Debug)]
pub struct Sampled {
    description: Description,
}

impl Sampled {
    /// Rises and falls.
    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Sampled {
        Sampled {
            description: describe(name, Kind::Gauge, Unit::One, labels, help),
        }
    }

    /// Only rises while the process lives; somebody else counts it.
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Sampled {
        Sampled {
            description: describe(name, Kind::Counter, Unit::One, labels, help),
        }
    }

    /// A duration that rises and falls: set in nanoseconds, told in seconds.
    pub const fn seconds(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Sampled {
        Sampled {
            description: describe(name, Kind::Gauge, Unit::Nanoseconds, labels, help),
        }
    }
}

impl Metric for Sampled {
    fn description(&self) -> Description {
        self.description
    }

    fn write(&self, scrape: &mut Scrape) {
        scrape.sampled(&self.description);
    }
}

const fn describe(
    name: &'static str,
    kind: Kind,
    unit: Unit,
    labels: &'static [&'static str],
    help: &'static str,
) -> Description {
    Description {
        name,
        kind,
        unit,
        labels,
        help,
    }
}

/// Declares the metrics of a component: a static of each, and the table of all. The help of each is its documentation, too.
///
/// ```
/// use telemetry::metrics::{Counter, Histogram, Sampled};
/// telemetry::metrics! {
///     /// What a mill tells.
///     pub MILL;
///     /// Sacks that were ground.
///     SACKS_GROUND: Counter = Counter::new("mill_sacks_ground_total");
///     /// How long one took.
///     SACK_SECONDS: Histogram<16> = Histogram::seconds("mill_sack_grind_seconds");
///     /// Sacks that wait, by grain.
///     SACKS_WAITING: Sampled = Sampled::gauge("mill_sacks_waiting", &["grain"]);
/// }
/// SACKS_GROUND.increment();
/// let text = telemetry::metrics::exposition(&[MILL], |scrape| scrape.set(&SACKS_WAITING, &["rye"], 7));
/// assert!(text.contains("mill_sacks_ground_total 1\n"));
/// assert!(text.contains("mill_sacks_waiting{grain=\"rye\"} 7\n"));
/// ```
#[macro_export]
macro_rules! metrics {
    (
        $(#[doc = $about:literal])+
        $visibility:vis $table:ident;
        $($(#[doc = $help:literal])+ $reach:vis $name:ident: $kind:ty = $type:ident :: $make:ident($($argument:expr),+);)+
    ) => {
        $(
            $(#[doc = $help])+
            $reach static $name: $kind = $type::$make($($argument,)+ concat!($($help),+).trim_ascii());
        )+
        $(#[doc = $about])+
        $visibility static $table: &$crate::metrics::Table = &[$(&$name),+];
    };
}

#[cfg(test)]
mod tests;

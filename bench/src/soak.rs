//! A long load on a real cluster: do memory and disk of the storage nodes stay within their bounds?
//!
//! First `pgbench -i`, in which each node's peak memory (`VmHWM`) must stay below its setting. Then, when the layers have
//! come to rest, updates of one small table, in which journal and layers must not grow without end. The curve goes to a
//! CSV file, the verdict to a page beside it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use system_tests::small_table::{GROWTH_BYTES_MAX, LOG_BYTES_MIN, SmallTableUpdates};
use system_tests::{Cluster, Footprint};

use crate::machine::Machine;

/// Time between two samples.
const SAMPLE: Duration = Duration::from_secs(2);
/// Layers count as at rest when they did not change over this many samples …
const REST_SAMPLES: usize = 4;
/// … and the updates begin after this time even if they did.
const REST_LIMIT: Duration = Duration::from_secs(180);
/// The updates go on beyond their time until enough log went through, but not longer than this many times as long.
const PATIENCE: u32 = 6;
/// What the peak of the updates' last third may lie above that of the third before: two journal files.
const TREND_BYTES_MAX: u64 = 32 << 20;

/// How long and how large.
#[derive(Args)]
pub struct Sizes {
    /// `pgbench` scale of the load.
    #[arg(long, default_value_t = Sizes::WHOLE.scale)]
    scale: u32,
    /// Seconds of updates to a small table.
    #[arg(long, default_value_t = Sizes::WHOLE.seconds)]
    seconds: u32,
}

impl Sizes {
    /// What `make soak` does.
    const WHOLE: Sizes = Sizes {
        scale: 100,
        seconds: 600,
    };

    fn is_whole(&self) -> bool {
        Sizes::WHOLE.scale <= self.scale && Sizes::WHOLE.seconds <= self.seconds
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Load,
    Rest,
    Updates,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Load => "load",
            Phase::Rest => "rest",
            Phase::Updates => "updates",
        }
    }
}

struct Sample {
    phase: Phase,
    seconds: f64,
    footprints: Vec<Footprint>,
}

impl Sample {
    fn of(&self, name: &str) -> Option<&Footprint> {
        self.footprints.iter().find(|footprint| footprint.name == name)
    }
}

/// The curve so far, and what belongs to its reading.
struct Soak {
    cluster: Cluster,
    /// Memory settings of the storage nodes.
    memory_bytes: Vec<(String, u64)>,
    started: Instant,
    samples: Vec<Sample>,
    /// Log through each node during the updates.
    log_bytes: u64,
}

/// Runs both loads, writes curve and verdict; the error names every bound that was broken.
pub fn run(sizes: &Sizes) -> Result<()> {
    let machine = Machine::observe()?;
    let cluster = Cluster::up("soak", &[])?;
    let mut soak = Soak {
        memory_bytes: cluster.storage_memory_bytes()?,
        cluster,
        started: Instant::now(),
        samples: Vec::new(),
        log_bytes: 0,
    };
    soak.load(sizes.scale)?;
    soak.rest()?;
    soak.update(Duration::from_secs(sizes.seconds.into()))?;
    let verdicts = soak.verdicts();
    let page = soak.page(sizes, &machine, &verdicts)?;
    println!("{page}");
    let name = if sizes.is_whole() { "soak" } else { "soak-short" };
    std::fs::create_dir_all("bench/results")?;
    std::fs::write(format!("bench/results/{name}.md"), &page)?;
    std::fs::write(format!("bench/results/{name}.csv"), soak.curve()?)?;
    let broken: Vec<String> = verdicts
        .into_iter()
        .filter(|one| !one.holds)
        .map(|one| one.text)
        .collect();
    ensure!(broken.is_empty(), "bounds broken:\n  {}", broken.join("\n  "));
    Ok(())
}

impl Soak {
    fn sample(&mut self, phase: Phase) -> Result<()> {
        std::thread::sleep(SAMPLE);
        let sample = Sample {
            phase,
            footprints: self.cluster.footprints()?,
            seconds: self.started.elapsed().as_secs_f64(),
        };
        let most = |part: fn(&Footprint) -> Option<u64>| sample.footprints.iter().filter_map(part).max().unwrap_or(0);
        println!(
            "{:>6.0} s {:<8} the most of a node: journal {:>4} MiB, layers {:>5} MiB, memory at its peak {:>4} MiB",
            sample.seconds,
            phase.name(),
            most(|one| one.journal_bytes) >> 20,
            most(|one| one.layer_bytes) >> 20,
            most(|one| one.resident_bytes_max.filter(|_| one.name.starts_with("storage"))) >> 20,
        );
        self.samples.push(sample);
        Ok(())
    }

    fn load(&mut self, scale: u32) -> Result<()> {
        let mut command = self.cluster.client_command("pgbench");
        command
            .args(["-i", "-q", "-s", &scale.to_string()])
            .stderr(Stdio::null());
        let mut pgbench = command.spawn().context("start pgbench")?;
        let status = loop {
            if let Some(status) = pgbench.try_wait()? {
                break status;
            }
            self.sample(Phase::Load)?;
        };
        ensure!(status.success(), "pgbench -i failed ({status})");
        self.sample(Phase::Load)
    }

    /// Waits until what the load left behind is in its layers.
    fn rest(&mut self) -> Result<()> {
        let started = Instant::now();
        let mut unchanged = 0;
        while unchanged < REST_SAMPLES && started.elapsed() < REST_LIMIT {
            self.sample(Phase::Rest)?;
            let layers = |sample: &Sample| -> Vec<Option<u64>> {
                sample
                    .footprints
                    .iter()
                    .map(|footprint| footprint.layer_bytes)
                    .collect()
            };
            let is_same = match self.samples.as_slice() {
                [.., before, last] => layers(before) == layers(last),
                _ => false,
            };
            unchanged = if is_same { unchanged + 1 } else { 0 };
        }
        Ok(())
    }

    fn update(&mut self, time: Duration) -> Result<()> {
        let mut load = SmallTableUpdates::start(&self.cluster, (PATIENCE + 1) * time)?;
        let started = Instant::now();
        while started.elapsed() < time || (self.log_bytes < LOG_BYTES_MIN && started.elapsed() < PATIENCE * time) {
            self.sample(Phase::Updates)?;
            self.log_bytes = load.log_bytes(&self.cluster)?;
            load.check()?;
        }
        Ok(())
    }

    fn in_phase(&self, phase: Phase) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| sample.phase == phase)
    }

    /// What was to be shown, and whether it was.
    fn verdicts(&self) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict {
            holds: LOG_BYTES_MIN <= self.log_bytes,
            text: format!(
                "log through each node during the updates: {} (at least {}, or its size says nothing)",
                mebibytes(self.log_bytes),
                mebibytes(LOG_BYTES_MIN)
            ),
        }];
        for (name, memory_max) in &self.memory_bytes {
            verdicts.push(self.memory_verdict(name, *memory_max));
            verdicts.push(self.growth_verdict(name));
            verdicts.push(self.trend_verdict(name));
        }
        verdicts
    }

    fn memory_verdict(&self, name: &str, memory_max: u64) -> Verdict {
        let peak = |phase| {
            let of_node = self.in_phase(phase).filter_map(|sample| sample.of(name));
            of_node
                .filter_map(|footprint| footprint.resident_bytes_max)
                .max()
                .unwrap_or(0)
        };
        let (load, all) = (peak(Phase::Load), peak(Phase::Updates).max(peak(Phase::Load)));
        Verdict {
            holds: 0 < load && all <= memory_max,
            text: format!(
                "{name}: memory at its peak {} during the load, {} in all (setting {})",
                mebibytes(load),
                mebibytes(all),
                mebibytes(memory_max)
            ),
        }
    }

    /// What the node's files take beyond the layers it had before the updates.
    fn growth_verdict(&self, name: &str) -> Verdict {
        let before = self
            .in_phase(Phase::Rest)
            .filter_map(|sample| sample.of(name)?.layer_bytes)
            .last();
        let peak = self.disk_bytes(name).into_iter().max();
        let growth = before.zip(peak).map(|(before, peak)| peak.saturating_sub(before));
        Verdict {
            holds: growth.is_some_and(|growth| growth <= GROWTH_BYTES_MAX),
            text: format!(
                "{name}: during the updates its files take at most {} beyond the {} of layers before them (at most {})",
                growth.map_or("?".to_owned(), mebibytes),
                before.map_or("?".to_owned(), mebibytes),
                mebibytes(GROWTH_BYTES_MAX)
            ),
        }
    }

    /// Whether the last third of the updates still grows.
    fn trend_verdict(&self, name: &str) -> Verdict {
        let disk = self.disk_bytes(name);
        let third = disk.len().div_ceil(3).max(1);
        let mut peaks = disk.rchunks(third).map(|part| part.iter().copied().max().unwrap_or(0));
        let (last, before) = (peaks.next(), peaks.next());
        let rise = last.zip(before).map(|(last, before)| last.saturating_sub(before));
        Verdict {
            holds: rise.is_some_and(|rise| rise <= TREND_BYTES_MAX),
            text: format!(
                "{name}: the peak of the updates' last third is {} above that of the third before (at most {})",
                rise.map_or("?".to_owned(), mebibytes),
                mebibytes(TREND_BYTES_MAX)
            ),
        }
    }

    /// What a node's files took during the updates, in order.
    fn disk_bytes(&self, name: &str) -> Vec<u64> {
        let samples = self.in_phase(Phase::Updates);
        samples.filter_map(|sample| sample.of(name)?.file_bytes).collect()
    }

    fn curve(&self) -> Result<String> {
        let mut text =
            String::from("seconds,phase,name,journal_bytes,layer_bytes,file_bytes,vm_rss_bytes,vm_hwm_bytes\n");
        let cell = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        for sample in &self.samples {
            for one in &sample.footprints {
                writeln!(
                    text,
                    "{:.1},{},{},{},{},{},{},{}",
                    sample.seconds,
                    sample.phase.name(),
                    one.name,
                    cell(one.journal_bytes),
                    cell(one.layer_bytes),
                    cell(one.file_bytes),
                    one.resident_bytes,
                    cell(one.resident_bytes_max),
                )?;
            }
        }
        Ok(text)
    }

    fn page(&self, sizes: &Sizes, machine: &Machine, verdicts: &[Verdict]) -> Result<String> {
        let mut text = String::new();
        let broken = verdicts.iter().filter(|verdict| !verdict.holds).count();
        let verdict = match broken {
            0 => "every bound holds".to_owned(),
            count => format!("{count} bounds are broken"),
        };
        writeln!(
            text,
            "# Memory and disk under a long load: {verdict}\n\n\
             `cargo xtask soak --scale {} --seconds {}`: {}, commit {}. {}. Load average before the start {}.\n\n\
             A cluster as `borealis up` makes it, all settings at their defaults. First `pgbench -i -s {}`; then, with the \
             layers at rest, four clients that update ten of the hundred rows of 1.9 kB of one table at a time.\n",
            sizes.scale,
            sizes.seconds,
            machine.date,
            machine.commit,
            machine.hardware,
            machine.load_before,
            sizes.scale,
        )?;
        writeln!(text, "| phase | seconds |\n|---|---|")?;
        for phase in [Phase::Load, Phase::Rest, Phase::Updates] {
            let count = u32::try_from(self.in_phase(phase).count())?;
            let (first, last) = (self.in_phase(phase).next(), self.in_phase(phase).last());
            let seconds = first
                .zip(last)
                .map_or(0.0, |(first, last)| last.seconds - first.seconds);
            writeln!(text, "| {} | {seconds:.0} ({count} samples) |", phase.name())?;
        }
        writeln!(text, "\n## Bounds\n")?;
        for verdict in verdicts {
            let word = if verdict.holds { "holds" } else { "**broken**" };
            writeln!(text, "- {word}: {}", verdict.text)?;
        }
        writeln!(
            text,
            "\n## The instance\n\nNo bound is set for it; the most that was seen:\n"
        )?;
        let others = self.samples.iter().flat_map(|sample| &sample.footprints);
        let others = others.filter(|one| !self.memory_bytes.iter().any(|(name, _)| *name == one.name));
        let mut peaks: BTreeMap<&str, u64> = BTreeMap::new();
        for one in others {
            let peak = peaks.entry(&one.name).or_default();
            *peak = one.resident_bytes_max.unwrap_or(one.resident_bytes).max(*peak);
        }
        for (name, peak) in peaks {
            writeln!(text, "- {name}: {}", mebibytes(peak))?;
        }
        writeln!(
            text,
            "\nThe curve is in the CSV file of the same name. `journal_bytes` and `layer_bytes` are what the node says, `file_bytes` is \
             the room that all its files take, spare journal files included. `vm_rss_bytes` of `postgresql` is the sum of its processes' `Pss`, \
             in which shared memory counts once."
        )?;
        Ok(text)
    }
}

struct Verdict {
    holds: bool,
    text: String,
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

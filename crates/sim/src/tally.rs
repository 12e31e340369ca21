//! What went wrong in histories, how often, and in which states of the protocol.

/// Makes an enumeration whose variants are counted: each has a number, and words for the report.
macro_rules! counted {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident => $words:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum $name {
            $($(#[$inner])* #[doc = $words] $variant,)*
        }

        impl $name {
            /// All of them, in the order of the report.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// As the report calls it.
            pub fn words(self) -> &'static str {
                match self {
                    $($name::$variant => $words,)*
                }
            }
        }
    };
}

counted! {
    /// Something that goes wrong.
    Fault {
        MessageLost => "message lost, with its connection",
        MessageTwice => "message delivered twice",
        MessageLate => "message late by up to 400 ms",
        MessageOvertaken => "message overtaken by a later one",
        ConnectionBroken => "connection broken",
        CutBothWays => "partition, both ways",
        CutOneWay => "partition, one way only",
        WriterPaused => "writer paused, wakes as a zombie",
        WriterKilled => "writer killed",
        WriterKilledAtEffect => "writer or opener killed between two effects",
        OpenerKilled => "opener killed soon after its start",
        OpenerDuelled => "rival opener soon after another",
        NodePaused => "node paused while messages queue up",
        NodeKilled => "node's process killed",
        PowerCut => "power cut",
        CrashInAppend => "crash in the middle of a journal write",
        CrashInSync => "crash in the middle of a sync",
        CrashInUpkeep => "crash in the middle of background work",
        CrashInStart => "crash in the middle of a start",
        UnsyncedLost => "unsynced writes lost",
        WriteTorn => "unsynced writes torn: a first part survives",
        SectorsShuffled => "unsynced writes torn: any sectors survive",
        WriteFailed => "journal write fails part-way",
        DiskFull => "disk full for a while",
        DiskSlow => "disk slow for a while",
        SyncFailed => "sync of the journal fails",
        UpkeepSyncFailed => "sync of background work fails",
        BitFlipped => "bit flipped at rest",
        BitFlippedAwake => "bit flipped under a running node",
        WriteMisdirected => "write misdirected",
        DiskWiped => "disk comes back empty",
        ZoneDown => "zone down",
        ZonePlusOneDown => "zone and one more node down",
        AllDown => "all nodes down",
        ClockJumped => "wall clock jumps",
        MetadataLate => "metadata store answers late",
        SwapLost => "compare-and-swap never arrives",
        OutcomeUnknown => "outcome of a compare-and-swap unknown",
        MetadataWentBack => "metadata store goes back in time",
        CopyReplaced => "somebody has a copy replaced",
        NodeDrained => "somebody has a node drained",
        WishCalledOff => "somebody calls that off",
    }
}

counted! {
    /// What whoever writes or opens the volume is doing, and how the copy stands that a fault hits.
    State {
        NoWriter => "nobody",
        Promising => "promising",
        Copying => "copying",
        Recording => "recording",
        Installing => "installing",
        Reigning => "reigning",
        Rescuing => "replacing outright",
        Replacing => "replacing a copy",
        Growing => "growing",
        NodeDown => "down",
        NoSegment => "no segment",
        Damaged => "damaged",
        Newborn => "newborn",
        Asleep => "asleep",
        Fenced => "fenced",
        Stranded => "stranded",
        Behind => "behind",
        Whole => "whole",
    }
}

/// States that are those of the volume, not of a copy.
const VOLUME_STATES: usize = State::NodeDown as usize;

/// How often what went wrong, and in which state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tally {
    times: Vec<u64>,
    hits: Vec<u64>,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            times: vec![0; Fault::ALL.len()],
            hits: vec![0; Fault::ALL.len() * State::ALL.len()],
        }
    }
}

impl Tally {
    /// A fault happened.
    pub(crate) fn count(&mut self, fault: Fault) {
        self.times[fault as usize] += 1;
    }

    /// It happened in this state; one fault may hit several.
    pub(crate) fn hit(&mut self, fault: Fault, state: State) {
        self.hits[fault as usize * State::ALL.len() + state as usize] += 1;
    }

    /// How often a fault happened.
    pub fn times(&self, fault: Fault) -> u64 {
        self.times[fault as usize]
    }

    /// How often a fault happened in a state.
    pub fn hits(&self, fault: Fault, state: State) -> u64 {
        self.hits[fault as usize * State::ALL.len() + state as usize]
    }

    /// Adds what happened in other histories.
    pub fn add(&mut self, other: &Tally) {
        let sums = self.times.iter_mut().zip(&other.times);
        sums.chain(self.hits.iter_mut().zip(&other.hits))
            .for_each(|(sum, more)| *sum += more);
    }

    /// The coverage report: which faults hit which states, as a table in Markdown.
    pub fn table(&self) -> String {
        let (volume, copy) = State::ALL.split_at(VOLUME_STATES);
        let mut table = String::new();
        for (title, states) in [("the volume is", volume), ("the copy that is hit is", copy)] {
            let names: Vec<&str> = states.iter().map(|state| state.words()).collect();
            table += &format!("| fault \\ {title} | times | {} |\n", names.join(" | "));
            table += &format!("|---|---:|{}\n", "---:|".repeat(states.len()));
            for fault in Fault::ALL {
                let hits: Vec<u64> = states.iter().map(|state| self.hits(*fault, *state)).collect();
                if hits.iter().all(|hits| *hits == 0) && states[0] == State::NodeDown {
                    continue;
                }
                let shown: Vec<String> = hits.iter().map(|hits| shown(*hits)).collect();
                let times = shown_count(self.times(*fault));
                table += &format!("| {} | {times} | {} |\n", fault.words(), shown.join(" | "));
            }
            table.push('\n');
        }
        table
    }
}

fn shown(hits: u64) -> String {
    if hits == 0 { "·".to_owned() } else { shown_count(hits) }
}

/// A count in few digits.
pub fn shown_count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{} k", count / 1000),
        _ => format!("{} M", count / 1_000_000),
    }
}

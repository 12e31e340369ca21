//! Rules that are broken on purpose, to show that the simulator finds it.
//!
//! The shipping code has no switch for them: `broken.rs` hands it what it would have seen, or passes on what it would have
//! said, if the rule did not hold.

use crate::Promise;

/// What the histories have in common in which a mistake is looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Focus {
    Anything,
    OneGroup,
    Groups,
    Growth,
    Replacements,
    Rot,
}

macro_rules! mistakes {
    ($($(#[doc = $words:literal])+ $variant:ident: $($promise:ident)|+,)*) => {
        /// A rule that is broken on purpose.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Broken {
            $($(#[doc = $words])+ $variant,)*
        }

        impl Broken {
            /// All of them.
            pub const ALL: &[Broken] = &[$(Broken::$variant,)*];

            /// What the rule is, in words.
            pub fn words(self) -> &'static str {
                match self {
                    $(Broken::$variant => concat!($($words),+).trim_ascii(),)*
                }
            }

            /// In which histories it is looked for: a rule of several groups shows only where there are several, and one that
            /// shows rarely is found sooner where histories are short.
            pub(crate) fn focus(self) -> Focus {
                match self {
                    Broken::OnePromiseFewer
                    | Broken::ShownBeforeDecided
                    | Broken::AsleepButServes
                    | Broken::StaleEpochTaken => Focus::OneGroup,
                    Broken::NewListAlone
                    | Broken::NewListFenced
                    | Broken::NewbornVotes
                    | Broken::ReplacedBeforeCopied
                    | Broken::SettledTooEarly => Focus::Replacements,
                    Broken::StripesBeforeSegments | Broken::StripesBeforeRecord => Focus::Growth,
                    Broken::MendsFromLaggards | Broken::LostLogLeftOut => Focus::Rot,
                    Broken::TruncationForgotten
                    | Broken::OtherGroupNotFenced
                    | Broken::NoListOfParts
                    | Broken::OneCopyTellsTheEnd => Focus::Groups,
                    _ => Focus::Anything,
                }
            }

            /// The promises that fail without the rule. Another one that fails may only show that nothing works any more.
            pub fn breaks(self) -> &'static [Promise] {
                match self {
                    $(Broken::$variant => &[$(Promise::$promise),+],)*
                }
            }
        }
    };
}

mistakes! {
    /// A node answers what a power cut can still take away.
    AnswerBeforeSync: QuorumKeeps | PowerTakesNothing,
    /// A promise is not journaled (hole 4).
    ForgetPromise: AcknowledgedStays | PowerTakesNothing,
    /// A node that lost its files comes back under its old name (hole 5).
    EmptyDiskVouches: QuorumKeeps | AcknowledgedStays,
    /// An opener looks at a segment without fencing it (hole 6).
    LookWithoutFencing: AcknowledgedStays | PowerTakesNothing,
    /// The record's change is not bound to what the opener read (hole 1).
    LooseSwap: RecordLeads | AcknowledgedStays,
    /// An unknown outcome of the record's change is taken for a success (hole 1).
    UnknownSwapBelieved: RecordLeads | AcknowledgedStays,
    /// Batches link by LSN alone instead of (epoch, LSN) (hole 2a).
    LinksByLsn: QuorumKeeps | PowerTakesNothing,
    /// An opener takes flushes of any reign for the end of the log (hole 2b).
    CandidateOfAnyEpoch: FlushesAreWhole | QuorumKeeps,
    /// Single batches are acknowledged, not complete prefixes.
    BatchesCounted: QuorumKeeps | PowerTakesNothing,
    /// Three copies are taken for a write quorum.
    ThreeAcknowledge: QuorumKeeps | AcknowledgedStays,
    /// Two promises are taken for enough.
    OnePromiseFewer: AcknowledgedStays | ShownStays,
    /// A segment takes log of a reign that it promised to refuse.
    StaleEpochTaken: AcknowledgedStays | PowerTakesNothing,
    /// An opener does not copy what it found to a write quorum before it writes (step 4).
    NoCopying: QuorumKeeps,
    /// The new timeline branches one flush too low.
    BranchOffByOne: AcknowledgedStays,
    /// Readers are shown what an opener found before the record is changed (hole 12).
    ShownBeforeDecided: ShownStays,
    /// The durable LSN stands inside a record (hole 26).
    BoundaryIgnored: FlushesAreWhole,
    /// What was sent is announced as durable.
    AnnouncedBeforeDurable: QuorumKeeps | AcknowledgedStays | FlushesAreWhole | PagesAreExact,
    /// A batch that the full disk did not take is acknowledged.
    FullDiskIgnored: QuorumKeeps | PowerTakesNothing,
    /// A sync failed, and the node goes on as if it had not (hole 28).
    FailedSyncTrusted: QuorumKeeps | PowerTakesNothing,
    /// A node that starts answers with what it read back, without syncing it first (hole 28).
    StartsUnsynced: QuorumKeeps | PowerTakesNothing,
    /// A copy that found rot below what it acknowledged votes nevertheless (hole 5).
    RotForgotten: QuorumKeeps | AcknowledgedStays | PagesAreExact,
    /// A copy that lost something takes it from peers that do not have all of it themselves.
    MendsFromLaggards: PagesAreExact | CopiesBecomeEqual,
    /// A file of the journal is written anew without the batches that it lost, although the segment needs them.
    LostLogLeftOut: PowerTakesNothing | QuorumKeeps | CopiesBecomeEqual,
    /// What is not durable is folded into images (hole 22).
    FoldsAboveDurable: PagesAreExact,
    /// A page that was read ahead is believed to be as new as its read point, whatever its copy had to be complete up to.
    AsNewAsItsReadPoint: PagesAreExact,
    /// A segment gives pages without looking at how complete it is (hole 20).
    NeededIgnored: PagesAreExact,
    /// A segment reads up to the read point, over holes in what it has.
    ReadsOverHoles: PagesAreExact,
    /// A segment that does not know the reader's timeline reads along its own (hole 21).
    AsleepButServes: PagesAreExact,
    /// A segment reads along a timeline that was left (hole 21).
    LeftTimelineRead: PagesAreExact,
    /// The floor is raised over readers' read points, and segments read below it (hole 23).
    BelowTheFloor: PagesAreExact,
    /// A copy counts as whole although nothing of what it took from the layers of others was written.
    CopyLeavesOut: PagesAreExact | CopiesBecomeEqual,
    /// The journal recycles batches before a synced state says that the segment is complete without them.
    RecyclesTooEarly: PowerTakesNothing | QuorumKeeps | CopiesBecomeEqual,
    /// Of two lists of copies only the new one is counted (hole 7).
    NewListAlone: QuorumKeeps | AcknowledgedStays,
    /// Of two lists of copies an opener fences only the new one (hole 7).
    NewListFenced: AcknowledgedStays | QuorumKeeps,
    /// A copy that is not whole yet acknowledges and votes (holes 7 and 9).
    NewbornVotes: QuorumKeeps | PowerTakesNothing | AcknowledgedStays,
    /// An opening records new copies in the place of lost ones before they have anything (hole 8).
    ReplacedBeforeCopied: QuorumKeeps | AcknowledgedStays,
    /// The record has the new list alone before the new copy is whole (hole 7).
    SettledTooEarly: QuorumKeeps | AcknowledgedStays,
    /// Stripes are assigned to a group whose segments do not exist.
    StripesBeforeSegments: QuorumKeeps | CopiesBecomeEqual,
    /// Stripes are assigned to a group that the record does not name (hole 7).
    StripesBeforeRecord: RecordLeads,
    /// What is truncated or dropped is not told to the other groups that have some of it (hole 16).
    TruncationForgotten: PagesAreExact,
    /// A group that a flush names is looked at without fencing it (hole 6).
    OtherGroupNotFenced: AcknowledgedStays | PowerTakesNothing | QuorumKeeps,
    /// Flush headers do not say which groups have a part (hole 3).
    NoListOfParts: QuorumKeeps | FlushesAreWhole | CopiesBecomeEqual,
    /// A group that was asleep goes on from what one copy says (hole 3: a late fence hears three).
    OneCopyTellsTheEnd: QuorumKeeps | PowerTakesNothing | PagesAreExact,
}

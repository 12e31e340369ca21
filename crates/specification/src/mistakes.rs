//! Rules of DESIGN §4 that a model breaks on purpose, to show that the properties notice.

use crate::configuration::{Configuration, PLAIN};
use crate::properties::{
    ACKNOWLEDGED_STAYS, EVERY_FENCE_CAN_GIVE, HISTORY_IS_WHOLE, LATE_FENCE_SEES_THE_LAST_BATCH, Property,
};

/// One broken rule. The numbers are those of the holes in the notes on the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// Step 5 changes the record without looking whether it still says what was read (hole 1).
    NoCheckOfRecord,
    /// An opener is content with one promise fewer.
    OnePromiseFewer,
    /// A batch links to the LSN before it, whatever epoch's (hole 2a).
    LinksByLsnAlone,
    /// An opener takes a flush of any epoch for the next one of the chain that it follows (hole 2b).
    CandidateOfAnyEpoch,
    /// An opener starts from the highest durable LSN announced in any epoch (hole 2c).
    DurableLsnOfAnyEpoch,
    /// The flush header does not say which groups have a part (hole 3).
    NoListOfParts,
    /// An opener looks at what a segment holds before the segment promises (hole 6).
    LookBeforeFencing,
    /// Step 4 is skipped.
    SkippedCopying,
    /// A promise is not journaled before it is given (hole 4).
    ForgottenPromise,
    /// A batch is acknowledged before it is synced (hole 28).
    AcknowledgeBeforeSync,
    /// A segment that lost its disk goes on under its old name (hole 5).
    EmptyDiskUnderItsOldName,
    /// While two lists count, promises of either are enough: the Aurora paper's rule for reads (hole 7c).
    OrFence,
    /// The control plane changes the membership, and the writer counts by what it knows (hole 7a).
    ControlDrivenMembership,
    /// A writer's change of the membership is not bound to its epoch: the membership is an entry of its own (hole 7b).
    UnboundMembershipChange,
    /// The new member counts alone before it is complete (hole 7).
    LastStepTooEarly,
    /// A writer that undid a change and begins it again believes what it knew of the new member.
    CompletenessKeptOverUndo,
    /// A group that no recovered flush names is used without being fenced first: nobody knows its last batch (step 6).
    NoLateFence,
    /// A tail lets go what is durable, whoever has it (hole 29).
    LetGoTooEarly,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Mistake; 18] = [
        Mistake::NoCheckOfRecord,
        Mistake::OnePromiseFewer,
        Mistake::LinksByLsnAlone,
        Mistake::CandidateOfAnyEpoch,
        Mistake::DurableLsnOfAnyEpoch,
        Mistake::NoListOfParts,
        Mistake::LookBeforeFencing,
        Mistake::SkippedCopying,
        Mistake::ForgottenPromise,
        Mistake::AcknowledgeBeforeSync,
        Mistake::EmptyDiskUnderItsOldName,
        Mistake::OrFence,
        Mistake::ControlDrivenMembership,
        Mistake::UnboundMembershipChange,
        Mistake::LastStepTooEarly,
        Mistake::CompletenessKeptOverUndo,
        Mistake::NoLateFence,
        Mistake::LetGoTooEarly,
    ];

    /// As it is called on the command line: `NoCheckOfRecord` is `no-check-of-record`.
    pub fn name(self) -> String {
        let mut name = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !name.is_empty() {
                name.push('-');
            }
            name.push(letter.to_ascii_lowercase());
        }
        name
    }

    /// The smallest configuration of the real quorum, or of a smaller one, in which the mistake shows.
    pub fn shows_in(self) -> Configuration {
        let six = Configuration {
            copies: 6,
            write: 4,
            fence: 3,
            ..PLAIN
        };
        match self {
            Mistake::NoCheckOfRecord => Configuration {
                epochs: 3,
                flushes: [0, 1, 0, 0],
                ..PLAIN
            },
            Mistake::LinksByLsnAlone => Configuration {
                flushes: [1, 2, 0, 0],
                epochs: 3,
                ..PLAIN
            },
            Mistake::CandidateOfAnyEpoch => Configuration {
                epochs: 3,
                flushes: [1, 0, 0, 0],
                ..PLAIN
            },
            Mistake::DurableLsnOfAnyEpoch => Configuration {
                epochs: 3,
                flushes: [2, 0, 0, 0],
                announcements: true,
                backtrack: true,
                ..PLAIN
            },
            Mistake::NoListOfParts => Configuration {
                groups: 2,
                flushes: [1, 0, 0, 0],
                ..PLAIN
            },
            Mistake::NoLateFence => Configuration {
                copies: 3,
                write: 2,
                groups: 2,
                announcements: true,
                flushes: [2, 1, 0, 0],
                ..PLAIN
            },
            Mistake::LetGoTooEarly => Configuration {
                tails: 2,
                flushes: [1, 0, 0, 0],
                ..PLAIN
            },
            Mistake::ForgottenPromise | Mistake::AcknowledgeBeforeSync => Configuration {
                restarts: true,
                flushes: [1, 0, 0, 0],
                ..PLAIN
            },
            Mistake::OnePromiseFewer => six,
            Mistake::LookBeforeFencing | Mistake::SkippedCopying | Mistake::EmptyDiskUnderItsOldName => Configuration {
                flushes: [1, 0, 0, 0],
                ..six
            },
            Mistake::OrFence
            | Mistake::ControlDrivenMembership
            | Mistake::UnboundMembershipChange
            | Mistake::LastStepTooEarly
            | Mistake::CompletenessKeptOverUndo => Configuration {
                joint: true,
                flushes: [1, 0, 0, 0],
                ..six
            },
        }
    }

    /// The worst that it does. A forgotten promise goes back, too, but what matters is what is lost by it.
    pub fn violates(self) -> Property {
        match self {
            Mistake::CandidateOfAnyEpoch
            | Mistake::DurableLsnOfAnyEpoch
            | Mistake::NoListOfParts
            | Mistake::SkippedCopying => HISTORY_IS_WHOLE,
            Mistake::NoLateFence => LATE_FENCE_SEES_THE_LAST_BATCH,
            Mistake::LetGoTooEarly => EVERY_FENCE_CAN_GIVE,
            _ => ACKNOWLEDGED_STAYS,
        }
    }
}

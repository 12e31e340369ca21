//! What must be true in every state, in words and as predicates over one state.
//!
//! What was ever acknowledged is what a reader was ever shown and a client ever told: nothing of it may change.

use crate::model::{Model, State};
use crate::names::{Epoch, FlushSet, Lsn};

/// A sentence with its predicate.
#[derive(Clone, Copy)]
pub struct Property {
    /// The sentence.
    pub name: &'static str,
    /// Whether it is true in a state.
    pub holds: fn(&Model, &State) -> bool,
}

/// What epoch p ever acknowledged, also as a zombie, is a prefix of the history of every timeline that is opened later,
/// unless somebody wanted to go back in between.
pub const ACKNOWLEDGED_STAYS: Property = Property {
    name: "what was acknowledged stays",
    holds: acknowledged_stays,
};

/// An opened timeline's history up to its branch was written without a gap, is not torn between the groups, and is complete on
/// a write quorum of each group.
pub const HISTORY_IS_WHOLE: Property = Property {
    name: "an opened history is whole",
    holds: history_is_whole,
};

/// The recovered end of a timeline that was left lies at or above everything that its writer ever acknowledges: who goes back
/// may go forward again.
pub const SEAL_COVERS_ACKNOWLEDGED: Property = Property {
    name: "a seal covers what was acknowledged",
    holds: seal_covers_acknowledged,
};

/// A writer and the one that continues its timeline never both acknowledge the same LSN.
pub const ONE_WRITER_AN_LSN: Property = Property {
    name: "one writer acknowledges an LSN",
    holds: one_writer_an_lsn,
};

/// No segment holds to less than it has ever promised to anybody.
pub const PROMISES_STAY: Property = Property {
    name: "promises never go back",
    holds: promises_stay,
};

/// A group that is fenced at its first use shows the true last batch of its history, to which the next one links.
pub const LATE_FENCE_SEES_THE_LAST_BATCH: Property = Property {
    name: "a late fence sees the last batch",
    holds: late_fence_sees_the_last_batch,
};

/// Whatever set of members may open the volume, what was acknowledged can be had from one of them: not merely known to one
/// that let it go.
pub const EVERY_FENCE_CAN_GIVE: Property = Property {
    name: "whoever opens the volume can have what was acknowledged",
    holds: every_fence_can_give,
};

/// All of them.
pub const PROPERTIES: [Property; 7] = [
    ACKNOWLEDGED_STAYS,
    HISTORY_IS_WHOLE,
    SEAL_COVERS_ACKNOWLEDGED,
    ONE_WRITER_AN_LSN,
    PROMISES_STAY,
    LATE_FENCE_SEES_THE_LAST_BATCH,
    EVERY_FENCE_CAN_GIVE,
];

fn acknowledged_stays(_: &Model, state: &State) -> bool {
    let kept = |earlier: Epoch, later: Epoch| {
        let acknowledged = Lsn::ZERO.up_to(state.writer(earlier).acknowledged);
        let mut flushes = acknowledged.map(|lsn| (state.record.flush_at(earlier, lsn), lsn));
        flushes.all(|(flush, lsn)| state.record.flush_at(later, lsn) == flush)
    };
    let mut later = state.record.opened();
    // Backwards from each timeline, until one that somebody wanted to be shorter.
    later.all(|(later, timeline)| {
        let mut wanted_shorter = timeline.backtracks;
        later.below().rev().all(|earlier| {
            let Some(opened) = state.record.timeline(earlier) else {
                return true;
            };
            let fine = wanted_shorter || kept(earlier, later);
            wanted_shorter |= opened.backtracks;
            fine
        })
    })
}

fn history_is_whole(model: &Model, state: &State) -> bool {
    let configuration = &model.configuration;
    state.record.opened().all(|(epoch, timeline)| {
        let history = state.record.history(epoch, timeline.branch);
        let written = history.iter().all(|flush| flush.lsn <= state.writer(flush.epoch).sent);
        let parts: FlushSet = history.intersection(state.wide);
        let group_0 = state.seats_where(|segment| segment.held.includes(history));
        let group_1 = state.seats_where(|segment| segment.held.includes(parts));
        let members = state.record.membership.current;
        written
            && configuration.is_durable(members, group_0)
            && (configuration.groups == 1 || configuration.write <= configuration.group_1().count_among(group_1))
    })
}

fn seal_covers_acknowledged(_: &Model, state: &State) -> bool {
    let covers = |end: Lsn, epoch: Epoch| state.writer(epoch).acknowledged <= end;
    let mut opened = state.record.opened();
    opened.all(|(epoch, timeline)| timeline.end.is_none_or(|end| covers(end, epoch)))
}

fn one_writer_an_lsn(_: &Model, state: &State) -> bool {
    state.record.opened().all(|(epoch, timeline)| {
        if timeline.parent == Epoch::NONE || timeline.backtracks {
            return true;
        }
        let continued = state.writer(epoch).acknowledged;
        continued == timeline.branch || state.writer(timeline.parent).acknowledged <= timeline.branch
    })
}

fn promises_stay(_: &Model, state: &State) -> bool {
    state
        .segments
        .iter()
        .all(|segment| segment.told_promise <= segment.promise)
}

fn late_fence_sees_the_last_batch(_: &Model, state: &State) -> bool {
    state.record.opened().all(|(epoch, _)| !state.writer(epoch).misled)
}

fn every_fence_can_give(model: &Model, state: &State) -> bool {
    let configuration = &model.configuration;
    let last = state.record.last_opened();
    let acknowledged = state.record.history(last, state.writer(last).acknowledged);
    let everybody = configuration.every_seat();
    acknowledged.iter().all(|flush| {
        let without = everybody.without(state.seats_where(|segment| segment.gives(flush)));
        let opens = |list| configuration.is_fence(list, without, configuration.fence);
        !state.record.membership.each(opens)
    })
}

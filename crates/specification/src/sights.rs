//! What has to be seen on the way: properties hold easily in a model in which nothing happens.

use crate::configuration::Configuration;
use crate::model::{Model, State};
use crate::names::{Epoch, Flush, FlushSet, Lsn};
use crate::opener::Phase;
use crate::record::Membership;

/// Something that happens in some state.
#[derive(Clone, Copy)]
pub struct Sight {
    /// What is to be seen.
    pub name: &'static str,
    /// Whether it can happen in a configuration: then it has to.
    pub expected: fn(&Configuration) -> bool,
    /// Whether a state shows it.
    pub shows: fn(&Model, &State) -> bool,
}

/// All of them.
pub const SIGHTS: [Sight; 12] = [
    Sight {
        name: "a tail lets log go",
        expected: |configuration| 0 < configuration.tails,
        shows: |_, state| state.segments.iter().any(|segment| !segment.gone.is_empty()),
    },
    Sight {
        name: "log that no tail has is acknowledged",
        expected: |configuration| 0 < configuration.tails,
        shows: |model, state| {
            let mut tails = model.configuration.tails().iter();
            let is_acknowledged = Lsn::ZERO < state.writer(Epoch::FIRST).acknowledged;
            is_acknowledged && tails.all(|seat| state.segment(seat).held.is_empty())
        },
    },
    Sight {
        name: "the last epoch acknowledges a flush of its own",
        expected: |_| true,
        shows: |model, state| {
            let last = state.record.taken;
            let opened = state.record.timeline(last);
            let is_last = last.index() + 1 == usize::from(model.configuration.epochs);
            is_last && opened.is_some_and(|timeline| timeline.branch < state.writer(last).acknowledged)
        },
    },
    Sight {
        name: "what was acknowledged is found again",
        expected: |_| true,
        shows: |_, state| {
            let found = |(epoch, end): (Epoch, Lsn)| {
                let acknowledged = state.writer(epoch).acknowledged;
                state.record.branch(epoch) < acknowledged && acknowledged <= end
            };
            sealed(state).any(found)
        },
    },
    Sight {
        name: "what nobody acknowledged is kept",
        expected: |_| true,
        shows: |_, state| sealed(state).any(|(epoch, end)| state.writer(epoch).acknowledged < end),
    },
    Sight {
        name: "what nobody acknowledged is dropped, and its LSN used again",
        expected: |_| true,
        shows: |_, state| {
            let everything = state.segments.iter().map(|segment| segment.held);
            let everything = everything.fold(FlushSet::EMPTY, FlushSet::union);
            let used_before = |flush: Flush| {
                let mut earlier = flush.epoch.below();
                earlier.any(|epoch| everything.contains(Flush { epoch, ..flush }))
            };
            everything.iter().any(used_before)
        },
    },
    Sight {
        name: "an opener is overtaken before its last step",
        expected: |configuration| 2 < configuration.epochs,
        shows: |_, state| {
            let copying = |epoch: Epoch| matches!(state.opener(epoch).phase, Phase::Copying { .. });
            state.record.taken.below().any(copying)
        },
    },
    Sight {
        name: "a later reign fences group 1 at its first use",
        expected: |configuration| configuration.groups == 2,
        shows: |_, state| state.wide.iter().any(|flush| flush.epoch != Epoch::FIRST),
    },
    Sight {
        name: "an opener recovers while two lists count",
        expected: |configuration| configuration.joint,
        shows: |_, state| {
            let recovers = |epoch: Epoch| {
                let opener = state.opener(epoch);
                opener.phase != Phase::Idle && state.opener_membership(epoch).joining.is_some()
            };
            Epoch::up_to(state.record.taken).any(recovers)
        },
    },
    Sight {
        name: "a joint change is finished",
        expected: |configuration| configuration.joint,
        shows: |model, state| {
            let change = model.configuration.change();
            change.is_some_and(|(_, new)| state.record.membership == Membership::settled(new))
        },
    },
    Sight {
        name: "an opener replaces a lost member",
        expected: |configuration| configuration.replacements,
        shows: |model, state| {
            let members = model.configuration.group_0();
            !model.configuration.joint && state.record.membership != Membership::settled(members)
        },
    },
    Sight {
        name: "somebody goes back",
        expected: |configuration| configuration.backtrack,
        shows: |_, state| state.record.opened().any(|(_, timeline)| timeline.backtracks),
    },
];

/// The timelines that were left, with their ends.
fn sealed(state: &State) -> impl Iterator<Item = (Epoch, Lsn)> {
    state
        .record
        .opened()
        .filter_map(|(epoch, timeline)| timeline.end.map(|end| (epoch, end)))
}

//! Which kinds of segments the groups of a volume have: chosen when it is made.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use units::{SegmentKind, Zone};

use crate::record::MemberRecord;

/// The kinds of a group's six segments.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SegmentKinds {
    /// Six full ones: every copy has pages, and commits wait for the fourth fastest.
    #[default]
    Full,
    /// A full one and a tail in each zone: three copies of the pages, six of the log.
    FullAndTail,
}

impl SegmentKinds {
    pub(crate) fn is_full(&self) -> bool {
        *self == SegmentKinds::Full
    }

    /// Gives the segments of a new group their kinds. Where the two of a zone differ, the full one goes to the node that has
    /// fewer of them: `full_copies` tells how many.
    pub(crate) fn assign(self, members: &mut [MemberRecord], full_copies: impl Fn(&str) -> usize) {
        if self.is_full() {
            return;
        }
        let mut of_zone: BTreeMap<Zone, Vec<&mut MemberRecord>> = BTreeMap::new();
        for member in members {
            of_zone.entry(member.zone).or_default().push(member);
        }
        for mut here in of_zone.into_values() {
            here.sort_by_key(|member| full_copies(&member.node));
            for (place, member) in here.into_iter().enumerate() {
                let is_first = place == 0;
                member.kind = if is_first { SegmentKind::Full } else { SegmentKind::Tail };
            }
        }
    }
}

impl fmt::Display for SegmentKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SegmentKinds::Full => "full",
            SegmentKinds::FullAndTail => "full-and-tail",
        })
    }
}

impl FromStr for SegmentKinds {
    type Err = String;

    fn from_str(text: &str) -> Result<SegmentKinds, String> {
        match text {
            "full" => Ok(SegmentKinds::Full),
            "full-and-tail" => Ok(SegmentKinds::FullAndTail),
            other => Err(format!(
                "{other:?} is none of the kinds of segments: full (six of them), full-and-tail (three of each)"
            )),
        }
    }
}

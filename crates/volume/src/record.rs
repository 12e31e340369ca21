//! The volume's record: the one entry it has in the metadata store.
//!
//! Changed only by compare-and-swap on its revision, by the holder of the taken epoch. It is small JSON text, so that a
//! person can read it in an emergency; ids and LSNs are strings as everywhere else.

use quorum::{COPIES_COUNT, FULL_COPIES_MIN, Membership};
use serde::{Deserialize, Serialize};
use timeline::{Branch, InvalidPath, Path};
use units::{Epoch, GroupId, Lsn, Position, SegmentId, SegmentKind, VolumeId, Zone};
use wire_format::Member;

use crate::segment_kinds::SegmentKinds;
use crate::stripes::Geometry;

/// Version of the record.
pub const RECORD_VERSION: u32 = 1;

/// Text that is no volume's record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It cannot be understood.
    #[error("the volume's record cannot be understood: {0}")]
    Malformed(String),
    /// It is of another build.
    #[error("the volume's record has format version {found}, this build reads version {RECORD_VERSION}")]
    Version {
        /// The record's.
        found: u32,
    },
    /// A list of copies makes no quorums.
    #[error(
        "{group} has a list of {full} full copies and {tails} tails: a list has six copies, and all or three of them are full"
    )]
    Copies {
        /// The group.
        group: GroupId,
        /// Copies with pages.
        full: usize,
        /// Copies without.
        tails: usize,
    },
    /// Its timelines contradict each other.
    #[error("the volume's timelines are no tree: {0}")]
    Timelines(#[from] InvalidPath),
}

mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'a, T: FromStr<Err: Display>, D: Deserializer<'a>>(input: D) -> Result<T, D::Error> {
        String::deserialize(input)?.parse().map_err(serde::de::Error::custom)
    }
}

mod number {
    use serde::{Deserialize, Deserializer, Serializer};
    use units::Epoch;

    pub(super) fn serialize<S: Serializer>(value: &Epoch, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.raw())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(input: D) -> Result<Epoch, D::Error> {
        u64::deserialize(input).map(Epoch::from_raw)
    }
}

/// A timeline that was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenedTimeline {
    /// Its reign.
    #[serde(with = "number")]
    pub epoch: Epoch,
    /// The reign it branched from; 0 for the first.
    #[serde(with = "number")]
    pub parent: Epoch,
    /// Where it branched.
    #[serde(with = "text")]
    pub branch: Lsn,
    /// Its recovered end, once a successor was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// The recovered end of a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Seal(#[serde(with = "text")] pub Lsn);

/// A copy, as the record names it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRecord {
    /// Its identity.
    #[serde(with = "text")]
    pub segment: SegmentId,
    /// The node that holds it.
    pub node: String,
    /// Where that node listens.
    pub address: String,
    /// The failure domain it stands in.
    #[serde(with = "text")]
    pub zone: Zone,
    /// What it keeps: log and pages, or log only.
    #[serde(with = "text", default, skip_serializing_if = "is_full")]
    pub kind: SegmentKind,
}

fn is_full(kind: &SegmentKind) -> bool {
    *kind == SegmentKind::Full
}

impl MemberRecord {
    /// As messages name it.
    pub fn member(&self) -> Member {
        Member {
            segment: self.segment,
            node: self.node.clone(),
            address: self.address.clone(),
            zone: self.zone,
            kind: self.kind,
        }
    }
}

/// A protection group and its copies.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRecord {
    /// Its number.
    pub group: u32,
    /// Raised by every change of its members.
    pub membership_version: u64,
    /// The six.
    pub members: Vec<MemberRecord>,
    /// The list that is to follow, while a member is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub joining: Option<Vec<MemberRecord>>,
}

impl GroupRecord {
    /// Which copies count: both lists while a member is replaced.
    pub fn membership(&self) -> Membership {
        let segments = |list: &[MemberRecord]| list.iter().map(|member| member.segment).collect();
        let membership = match &self.joining {
            Some(joining) => Membership::joint(segments(&self.members), segments(joining)),
            None => Membership::new(segments(&self.members)),
        };
        let all = self.members.iter().chain(self.joining.iter().flatten());
        let tails = all.filter(|member| member.kind == SegmentKind::Tail);
        membership.with_tails(tails.map(|member| member.segment))
    }

    /// Whether the sets of copies that count can be made of its lists.
    fn check(&self) -> Result<(), RecordError> {
        let lists = std::iter::once(&self.members).chain(&self.joining);
        for list in lists {
            let tails = list.iter().filter(|member| member.kind == SegmentKind::Tail).count();
            let full = list.len() - tails;
            let is_sound = tails == 0 || (full, tails) == (FULL_COPIES_MIN, COPIES_COUNT - FULL_COPIES_MIN);
            if !is_sound {
                let group = GroupId::from_raw(self.group);
                return Err(RecordError::Copies { group, full, tails });
            }
        }
        Ok(())
    }

    /// Every copy that has a part in it, of either list, each once: those that a writer and an opener connect to.
    pub fn all_members(&self) -> Vec<MemberRecord> {
        let joining = self.joining.iter().flatten();
        let new = joining.filter(|member| self.members.iter().all(|known| known.segment != member.segment));
        self.members.iter().chain(new).cloned().collect()
    }

    /// The next version, in which both lists count: `joining` is to take the place of `leaving`.
    pub fn joint(&self, leaving: SegmentId, joining: MemberRecord) -> GroupRecord {
        let place = |member: &MemberRecord| match member.segment == leaving {
            true => joining.clone(),
            false => member.clone(),
        };
        GroupRecord {
            membership_version: self.membership_version + 1,
            joining: Some(self.members.iter().map(place).collect()),
            ..self.clone()
        }
    }

    /// The next version, in which only `members` count.
    pub fn settled(&self, members: Vec<MemberRecord>) -> GroupRecord {
        GroupRecord {
            group: self.group,
            membership_version: self.membership_version + 1,
            members,
            joining: None,
        }
    }
}

/// Everything that the metadata store knows of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeRecord {
    /// [`RECORD_VERSION`].
    pub format_version: u32,
    /// Its identity.
    #[serde(with = "text")]
    pub volume: VolumeId,
    /// Every timeline that was opened, oldest first.
    pub timelines: Vec<OpenedTimeline>,
    /// Its protection groups, group 0 first.
    pub groups: Vec<GroupRecord>,
    /// A floor that is granted here would bind every later writer (DESIGN §3). None is yet: a new volume has zero, and nobody
    /// changes it. Copies follow the floor that the writer announces.
    #[serde(with = "text")]
    pub floor: Lsn,
    /// The same for records. Not granted yet either.
    #[serde(with = "text")]
    pub log_floor: Lsn,
    /// LSNs that something still needs: snapshots, clones. None yet.
    pub pins: Vec<String>,
    /// For how long old versions of pages, and the log, are kept: see [`crate::retention`].
    #[serde(default)]
    pub retention_seconds: u64,
    /// Pages of one group, about.
    #[serde(default = "group_blocks")]
    pub group_blocks: u64,
    /// Pages of one stripe.
    #[serde(default = "stripe_blocks")]
    pub stripe_blocks: u32,
    /// Which kinds of segments its groups have.
    #[serde(default, skip_serializing_if = "SegmentKinds::is_full")]
    pub segments: SegmentKinds,
}

fn group_blocks() -> u64 {
    Geometry::DEFAULT.group_blocks
}

fn stripe_blocks() -> u32 {
    Geometry::DEFAULT.stripe_blocks
}

impl VolumeRecord {
    /// The record in `text`.
    pub fn parse(text: &str) -> Result<VolumeRecord, RecordError> {
        #[derive(Deserialize)]
        struct Version {
            format_version: u32,
        }
        let malformed = |error: serde_json::Error| RecordError::Malformed(error.to_string());
        let found = serde_json::from_str::<Version>(text).map_err(malformed)?.format_version;
        if found != RECORD_VERSION {
            return Err(RecordError::Version { found });
        }
        let record: VolumeRecord = serde_json::from_str(text).map_err(malformed)?;
        if record.groups.is_empty() {
            return Err(RecordError::Malformed("it names no protection group".to_owned()));
        }
        if record.stripe_blocks == 0 {
            return Err(RecordError::Malformed("its stripes have no pages".to_owned()));
        }
        record.groups.iter().try_for_each(GroupRecord::check)?;
        record.path()?;
        Ok(record)
    }

    /// Its text.
    pub fn to_text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a record has only strings, numbers and lists")
    }

    /// How it is divided into groups and stripes.
    pub fn geometry(&self) -> Geometry {
        Geometry {
            group_blocks: self.group_blocks,
            stripe_blocks: self.stripe_blocks,
        }
    }

    /// The last opened timeline.
    pub fn last(&self) -> Option<&OpenedTimeline> {
        self.timelines.last()
    }

    /// The path from the root to the last opened timeline.
    pub fn path(&self) -> Result<Path, RecordError> {
        let mut branches = Vec::new();
        let mut wanted = self.last().map(|timeline| timeline.epoch);
        for timeline in self.timelines.iter().rev() {
            if Some(timeline.epoch) == wanted {
                branches.push(Branch {
                    epoch: timeline.epoch,
                    parent: Position::new(timeline.parent, timeline.branch),
                });
                wanted = Some(timeline.parent);
            }
        }
        branches.reverse();
        Ok(Path::new(branches)?)
    }

    /// One of its groups.
    pub fn group(&self, group: GroupId) -> Option<&GroupRecord> {
        self.groups.iter().find(|record| record.group == group.raw())
    }

    /// The record with another entry for a group that it has.
    pub fn with_group(&self, group: GroupRecord) -> VolumeRecord {
        let mut next = self.clone();
        for entry in next.groups.iter_mut().filter(|entry| entry.group == group.group) {
            *entry = group.clone();
        }
        next
    }

    /// Group 0's copies, of both lists while one of them is replaced.
    pub fn members(&self) -> Vec<Member> {
        let group = self.group(GroupId::FIRST);
        group.map_or(Vec::new(), |group| {
            group.all_members().iter().map(MemberRecord::member).collect()
        })
    }

    /// The record after `epoch` opened the volume at `branch`: the last timeline is sealed there, and a new one begins.
    pub fn opened_by(&self, epoch: Epoch, branch: Lsn) -> VolumeRecord {
        let mut next = self.clone();
        let mut parent = Epoch::ZERO;
        if let Some(last) = next.timelines.last_mut() {
            last.seal = Some(Seal(branch));
            parent = last.epoch;
        }
        next.timelines.push(OpenedTimeline {
            epoch,
            parent,
            branch,
            seal: None,
        });
        next
    }
}

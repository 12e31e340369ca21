//! What must be so in the end: faults stopped long ago, and nothing new is written.

use std::collections::BTreeSet;

use segment::Segment;
use timeline::Path;
use units::{GroupId, Lsn, Position, SegmentId, SegmentKind};
use volume::VolumeRecord;
use volume::outright::{outright, short_groups};
use volume::placement::{self, Lost};
use volume::record::{GroupRecord, MemberRecord};

use crate::Promise;
use crate::checker::Violation;
use crate::layout::Layout;
use crate::toy::FORK;
use crate::world::{World, node_named};
use crate::writer::Stage;

/// A copy that has to be healthy in the end: its group, its node and its name.
type Sound = (GroupId, usize, SegmentId);

impl World {
    /// Faults stopped long ago: there is one writer, everything it made is durable, and every copy that lost nothing has
    /// all of it.
    pub(crate) fn healed(&self) -> Result<(), Violation> {
        if self.is_stuck() {
            self.nothing_is_lost()?;
            return self.nobody_can_be_helped();
        }
        let Healed { path, end, durable } = self.one_reigns()?;
        if self.weather.spares {
            self.memberships_settled()?;
        }
        self.all_are_mended()?;
        self.all_have_the_log(end)?;
        self.all_show_the_same(&path, durable)
    }

    /// Every copy that the record names and whose disk lost nothing.
    fn sound(&self) -> Vec<Sound> {
        let groups = self.metadata.newest().groups.iter();
        let members = groups.flat_map(|group| group.members.iter().map(|member| (group.group, member)));
        let copies =
            members.map(|(group, member)| (GroupId::from_raw(group), node_named(&member.node), member.segment));
        copies
            .filter(|(_, node, segment)| !self.is_lost(*node, *segment))
            .collect()
    }

    /// No copy is on its way to another node, none that could be replaced is lost, and no node has what belongs to no list.
    fn memberships_settled(&self) -> Result<(), Violation> {
        let record = self.metadata.newest();
        let unsettled = |what: String| Err(Promise::CopiesBecomeEqual.broken(what));
        if let Some(joint) = record.groups.iter().find(|group| group.joining.is_some()) {
            return unsettled(format!("a copy of group {} is still being replaced", joint.group));
        }
        let plan = placement::plan(record, &self.storage_nodes(), &self.lost_in_the_end(record));
        if let Some(replacement) = plan.replacements.first() {
            let (group, leaving) = (replacement.group, replacement.leaving);
            let node = self.homes[&leaving].node + 1;
            return unsettled(format!(
                "a copy of {group} on storage-{node} could be replaced, and is not"
            ));
        }
        let members = record.groups.iter().flat_map(GroupRecord::all_members);
        let listed: BTreeSet<SegmentId> = members.map(|member| member.segment).collect();
        let reign = self.living().map(|at| self.writers[at].epoch).max();
        for node in self.nodes.iter().filter(|node| !node.disk.rots()) {
            // A group that was not made to its end before nothing was written any more waits until there is need of it. One
            // that promised an epoch of a store that had gone back in time listens only to a later one.
            let expected = |id: &SegmentId| listed.contains(id) || self.is_being_made(*id);
            let mut left = node.segments.iter().filter(|(id, _)| !expected(id));
            if let Some((left, _)) = left.find(|(_, segment)| Some(segment.promised()) <= reign) {
                let home = self.homes[left];
                return unsettled(format!(
                    "storage-{} still has a copy of {} that no list names",
                    home.node + 1,
                    home.group
                ));
            }
        }
        Ok(())
    }

    /// There is a writer, and everything that it made is durable.
    fn one_reigns(&self) -> Result<Healed, Violation> {
        let mut writing = self.living().filter_map(|at| match &self.writers[at].stage {
            Stage::Writing(shipper) => Some(shipper),
            _ => None,
        });
        let shipper = writing.by_ref().last().ok_or_else(|| self.stuck())?;
        let (path, durable) = (shipper.path().clone(), shipper.durable());
        // A reign that began when nothing new was written any more goes on from a flush of an earlier one.
        let end = self.checker.flush_at(&path, shipper.sent_end());
        match end.filter(|end| self.checker.boundary(*end) == Some(durable)) {
            Some(end) => Ok(Healed { path, end, durable }),
            None => {
                let what = format!("{} was sent, but only {durable} is durable", shipper.sent_end());
                Err(Promise::CopiesBecomeEqual.broken(what))
            }
        }
    }

    /// No copy still lacks what others could give to it.
    fn all_are_mended(&self) -> Result<(), Violation> {
        if !self.weather.mends {
            return Ok(());
        }
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.up) {
            for id in node.disk.store().damaged() {
                let lacks = node.segments.get(&id).is_some_and(Segment::is_to_be_mended);
                if lacks && node.disk.store().is_mendable(id) {
                    let group = self.homes[&id].group;
                    let what = format!("the copy of {group} on storage-{} could be mended, and is not", at + 1);
                    return Err(Promise::CopiesBecomeEqual.broken(what));
                }
            }
        }
        Ok(())
    }

    fn all_have_the_log(&self, end: Position) -> Result<(), Violation> {
        for (group, node, segment) in self.sound() {
            let mut history = self.checker.history_of(group, end);
            if let Some(missing) = history.find(|at| !self.nodes[node].disk.keeps(segment, *at)) {
                let what = format!("the copy of {group} on storage-{} never got {missing}", node + 1);
                return Err(Promise::CopiesBecomeEqual.broken(what));
            }
        }
        Ok(())
    }
}

/// Where the volume stands in the end.
struct Healed {
    path: Path,
    end: Position,
    durable: Lsn,
}

impl World {
    /// Every page and every catalog entry is the same on every sound copy that has them, byte for byte, and what the history makes of it:
    /// at the end, and at what is left of earlier read points.
    fn all_show_the_same(&self, path: &Path, durable: Lsn) -> Result<(), Violation> {
        for group in &self.metadata.newest().groups {
            let group = GroupId::from_raw(group.group);
            let sound = self.sound().into_iter().filter(|(of, ..)| *of == group);
            let has_pages = |(_, node, segment): &Sound| {
                let segment = self.nodes[*node].segments.get(segment);
                segment.is_some_and(|segment| segment.kind() == SegmentKind::Full)
            };
            let sound: Vec<Sound> = sound.filter(has_pages).collect();
            let floors = sound
                .iter()
                .map(|(_, node, segment)| self.nodes[*node].segments[segment].horizon().floor.lsn);
            let floor = floors.max().unwrap_or(Lsn::ZERO);
            for read_point in [durable, Lsn::from_raw(floor.raw().midpoint(durable.raw())), floor] {
                self.group_shows_the_same(group, &sound, path, read_point)?;
            }
        }
        Ok(())
    }

    fn group_shows_the_same(
        &self,
        group: GroupId,
        sound: &[Sound],
        path: &Path,
        read_point: Lsn,
    ) -> Result<(), Violation> {
        let record = self.metadata.newest();
        let catalog = self.checker.catalog(path, read_point);
        let layout = Layout::read(&catalog, record.geometry(), record.groups.len(), read_point);
        let groups = layout.groups_at(read_point);
        let mut first = None;
        for (_, node, segment) in sound {
            let differs = |what: String| {
                let what = format!("as of {read_point} the copy of {group} on storage-{}: {what}", node + 1);
                Promise::CopiesBecomeEqual.broken(what)
            };
            let store = self.nodes[*node].disk.store();
            let mut pages = Vec::new();
            for (block, _) in (0..).zip(groups).filter(|(_, of)| **of == group) {
                let read = store.read_pages(*segment, path, read_point, FORK.page(block), 1);
                let read = read.map_err(|error| differs(error.to_string()))?;
                self.checker
                    .page_shown(path, block, (read_point, read_point), &read[0])?;
                pages.extend(read);
            }
            let mut entries = Vec::new();
            if group == GroupId::FIRST {
                let read = store.scan_catalog(*segment, path, read_point, None, usize::MAX);
                entries = read.map_err(|error| differs(error.to_string()))?;
                self.checker.catalog_shown(path, read_point, &entries)?;
            }
            let first = first.get_or_insert_with(|| (pages.clone(), entries.clone()));
            if *first != (pages, entries) {
                return Err(differs("other bytes than on another copy".to_owned()));
            }
        }
        Ok(())
    }

    /// More copies are lost than a writer can do without: what was acknowledged still lies on a copy that is not.
    fn nothing_is_lost(&self) -> Result<(), Violation> {
        for at in self.checker.all_acknowledged() {
            for group in &self.checker.flushes[&at].groups {
                let mut copies = self.checker.copies_of(*group);
                let kept = copies
                    .any(|(segment, node)| !self.is_lost(node, segment) && self.nodes[node].disk.keeps(segment, at));
                if !kept {
                    let what = format!("{at} is on no copy of {group} any more");
                    return Err(Promise::AcknowledgedStays.broken(what));
                }
            }
        }
        Ok(())
    }

    /// Copies that their nodes do not have, or do not vouch for, and all of them for long enough.
    fn lost_in_the_end(&self, record: &VolumeRecord) -> Lost {
        let members = record.groups.iter().flat_map(GroupRecord::all_members);
        let lost = members.filter(|member| self.copy(member).is_none_or(|copy| !copy.vouches()));
        let copies: BTreeSet<SegmentId> = lost.map(|member| member.segment).collect();
        let overdue = copies.clone();
        Lost { copies, overdue }
    }

    fn copy(&self, member: &MemberRecord) -> Option<&Segment> {
        self.nodes[node_named(&member.node)].segments.get(&member.segment)
    }

    /// No group has lost its write quorum for good that whoever opens the volume could give another one.
    fn nobody_can_be_helped(&self) -> Result<(), Violation> {
        let record = self.metadata.newest();
        let short = short_groups(record, |member| {
            self.copy(member)
                .is_some_and(|copy| copy.vouches() && !copy.is_copying())
        });
        // What new copies would be called does not matter: nobody makes them.
        let mut names = 0;
        let plan = outright(
            record,
            &self.storage_nodes(),
            &self.lost_in_the_end(record),
            &short,
            || {
                names += 1;
                SegmentId::from_bytes((u128::MAX - names).to_be_bytes())
            },
        );
        // While one of them cannot be helped nobody opens the volume, and nothing that the others get is written down.
        let all_can_be = plan.rebuilt.len() == short.len();
        match plan.rebuilt.first().filter(|_| self.weather.spares && all_can_be) {
            Some(rebuilt) => {
                let what = format!(
                    "{} has lost its write quorum, and is not given another one",
                    rebuilt.group
                );
                Err(Promise::CopiesBecomeEqual.broken(what))
            }
            None => Ok(()),
        }
    }

    fn stuck(&self) -> Violation {
        let openings = self.writers.iter().filter_map(|writer| match &writer.stage {
            Stage::Opening(opening) => Some(format!("{}, without {:?}", opening.activity(), opening.missing())),
            _ => None,
        });
        let openings: Vec<String> = openings.collect();
        let what = format!("nobody could open the volume again: {openings:?}");
        Promise::CopiesBecomeEqual.broken(what)
    }
}

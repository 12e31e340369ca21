//! Connections to the six copies: one for the log, one for reads, so that pages never queue behind log.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use node_link::{LinkEvent, NodeLink};
use tokio::sync::mpsc;
use units::{GroupId, Position, SegmentId, SegmentKind, Zone};
use volume::VolumeRecord;
use volume::record::GroupRecord;
use wire_format::frame::encode_request;
use wire_format::message::Hello;
use wire_format::{Member, Request};

use crate::pages::Copy;

/// Something happened on a log connection.
pub(crate) struct LogEvent {
    pub(crate) segment: SegmentId,
    pub(crate) event: LinkEvent,
}

/// All connections of one reign. Dropping them closes all.
pub(crate) struct Copies {
    hello: Hello,
    log: BTreeMap<SegmentId, NodeLink>,
    pub(crate) reads: Vec<Rc<Copy>>,
    /// How often copies were added.
    pub(crate) additions: u64,
    sender: mpsc::UnboundedSender<LogEvent>,
    pub(crate) events: mpsc::UnboundedReceiver<LogEvent>,
    pub(crate) bytes_sent: Rc<Cell<u64>>,
}

impl Copies {
    /// Starts connecting to group 0's members.
    pub(crate) fn connect(members: &[Member], hello: &Hello, bytes_sent: Rc<Cell<u64>>) -> Copies {
        // Bounded by what the shipper has in flight: every event answers a message, or is one of a connection's two ends.
        let (sender, events) = mpsc::unbounded_channel();
        let mut copies = Copies {
            hello: hello.clone(),
            log: BTreeMap::new(),
            reads: Vec::new(),
            additions: 0,
            sender,
            events,
            bytes_sent,
        };
        copies.add(GroupId::FIRST, members);
        copies
    }

    /// Starts connecting to more members of a group; which of them are connected already.
    pub(crate) fn add(&mut self, group: GroupId, members: &[Member]) -> Vec<SegmentId> {
        let mut connected = Vec::new();
        self.additions += 1;
        for member in ring(members) {
            let segment = member.segment;
            if let Some(link) = self.log.get(&segment) {
                if link.is_connected() {
                    connected.push(segment);
                }
                continue;
            }
            let sender = self.sender.clone();
            let heard = move |event| {
                // Nobody listens any more: the reign is over.
                let _ = sender.send(LogEvent { segment, event });
            };
            let (address, hello) = (&member.address, &self.hello);
            let link = NodeLink::start(address.clone(), hello.clone(), self.bytes_sent.clone(), heard);
            self.log.insert(segment, link);
            let read = NodeLink::start(address.clone(), hello.clone(), Rc::default(), |_| ());
            self.reads.push(Rc::new(Copy {
                group,
                segment,
                kind: member.kind,
                node: member.node.clone(),
                link: read,
                complete: Cell::new(Position::ZERO),
            }));
        }
        connected
    }

    /// The copies of group 0 that have pages.
    pub(crate) fn of_first_group(&self) -> Vec<Rc<Copy>> {
        let reads = self
            .reads
            .iter()
            .filter(|copy| copy.group == GroupId::FIRST && copy.kind == SegmentKind::Full);
        reads.cloned().collect()
    }

    /// Closes the connections to copies that belong to no group any more.
    pub(crate) fn remove(&mut self, gone: &BTreeSet<SegmentId>) {
        self.log.retain(|segment, _| !gone.contains(segment));
        self.reads.retain(|copy| !gone.contains(&copy.segment));
    }

    /// Closes the connections to copies that the record does not name.
    pub(crate) fn keep_members(&mut self, record: &VolumeRecord) {
        let members = record.groups.iter().flat_map(GroupRecord::all_members);
        let members: BTreeSet<SegmentId> = members.map(|member| member.segment).collect();
        self.log.retain(|segment, _| members.contains(segment));
        self.reads.retain(|copy| members.contains(&copy.segment));
    }

    /// Sends without waiting; the answer comes as an event. `false`: not taken.
    pub(crate) fn post(&self, segment: SegmentId, request: &Request) -> bool {
        self.log
            .get(&segment)
            .is_some_and(|link| link.post(encode_request(0, request)))
    }

    /// Copies whose log connection is up.
    pub(crate) fn connected(&self) -> Vec<SegmentId> {
        let up = self.log.iter().filter(|(_, link)| link.is_connected());
        up.map(|(segment, _)| *segment).collect()
    }
}

/// The members in an order in which neighbours stand in different zones: whoever turns from one copy to the next leaves the
/// zone that has failed.
fn ring(members: &[Member]) -> Vec<&Member> {
    let mut counts: BTreeMap<Zone, usize> = BTreeMap::new();
    let mut ring: Vec<(usize, Zone, &Member)> = Vec::new();
    for member in members {
        let count = counts.entry(member.zone).or_default();
        ring.push((*count, member.zone, member));
        *count += 1;
    }
    ring.sort_by_key(|(count, zone, _)| (*count, *zone));
    ring.into_iter().map(|(_, _, member)| member).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_stand_in_different_zones() {
        let member = |(number, zone): (u8, Zone)| Member {
            segment: SegmentId::from_bytes([number; 16]),
            node: format!("storage-{number}"),
            address: String::new(),
            zone,
            kind: units::SegmentKind::Full,
        };
        let zones = [Zone::A, Zone::A, Zone::B, Zone::B, Zone::C, Zone::C];
        let members: Vec<Member> = (1..).zip(zones).map(member).collect();
        let ring = ring(&members);
        let nodes: Vec<&str> = ring.iter().map(|member| member.node.as_str()).collect();
        assert_eq!(
            nodes,
            [
                "storage-1",
                "storage-3",
                "storage-5",
                "storage-2",
                "storage-4",
                "storage-6"
            ]
        );
    }
}

//! The volume's log, read again from the copies of its groups.
//!
//! Group 0 has the flush headers, which tell which other groups have a part in a flush. Of each group one copy is asked that has
//! everything up to its last flush that matters.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use node_link::NodeLink;
use timeline::Path;
use tokio::time::{Instant, timeout_at};
use units::{GroupId, Lsn, Position, SegmentKind};
use volume::VolumeRecord;
use volume::record::MemberRecord;
use wire_format::log::{LogAsked, LogPart, LoggedFlush};
use wire_format::message::{Hello, Standing};
use wire_format::{Item, Member, Refusal, Request, Response};

use crate::pages::Copy;
use crate::state::{StateError, StateReader, said};

/// Bytes asked for at once.
const BYTES_AT_ONCE: u32 = 4 << 20;

/// Why log could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The record does not name the group.
    #[error("the volume has no group {0}")]
    UnknownGroup(GroupId),
    /// No copy gave it.
    #[error("{group}: {error}")]
    Unreachable {
        /// Whose share it is.
        group: GroupId,
        /// Why.
        error: StateError,
    },
    /// It is not kept any more.
    #[error("log below {oldest} is not kept any more")]
    Collected {
        /// What is kept.
        oldest: Lsn,
    },
    /// A copy gave something else than what was asked for.
    #[error("{group} gave pieces of the record at {end} that do not follow each other")]
    Pieces {
        /// Whose share it is.
        group: GroupId,
        /// The record.
        end: Lsn,
    },
}

/// Records by their ends.
pub type Records = BTreeMap<Lsn, Bytes>;

/// Reads the log along one history. Connects to the copies of a group when it is first asked for something of it.
pub struct LogReader {
    hello: Hello,
    path: Path,
    limit: Duration,
    members: BTreeMap<GroupId, Vec<Member>>,
    groups: BTreeMap<GroupId, StateReader>,
}

impl LogReader {
    /// For the history at the end of `path`. `limit`: how long one question may take, with all copies tried.
    pub fn new(record: &VolumeRecord, path: Path, hello: &Hello, limit: Duration) -> LogReader {
        let members = record.groups.iter().map(|group| {
            let members = group.all_members().iter().map(MemberRecord::member).collect();
            (GroupId::from_raw(group.group), members)
        });
        LogReader {
            hello: hello.clone(),
            path,
            limit,
            members: members.collect(),
            groups: BTreeMap::new(),
        }
    }

    /// These copies of a group are connected to already.
    pub(crate) fn know(&mut self, group: GroupId, copies: Vec<Rc<Copy>>) {
        let reader = self.reader(copies);
        self.groups.insert(group, reader);
    }

    fn reader(&self, copies: Vec<Rc<Copy>>) -> StateReader {
        StateReader {
            copies,
            epoch: self.path.epoch(),
            at: Lsn::MAX,
            limit: self.limit,
        }
    }

    pub(crate) fn group(&mut self, group: GroupId) -> Result<&StateReader, LogError> {
        if !self.groups.contains_key(&group) {
            let members = self.members.get(&group).ok_or(LogError::UnknownGroup(group))?;
            // A tail has let go what every full copy has.
            let full = members.iter().filter(|member| member.kind == SegmentKind::Full);
            let copies = full.map(|member| self.copy(group, member)).collect();
            self.know(group, copies);
        }
        self.groups.get(&group).ok_or(LogError::UnknownGroup(group))
    }

    fn copy(&self, group: GroupId, member: &Member) -> Rc<Copy> {
        let link = NodeLink::start(member.address.clone(), self.hello.clone(), Rc::default(), |_| ());
        Rc::new(Copy {
            group,
            segment: member.segment,
            kind: member.kind,
            node: member.node.clone(),
            link,
            complete: Cell::new(Position::ZERO),
        })
    }

    /// How the copies of a group stand, as many as tell within `limit` after the first.
    pub(crate) async fn standings(&mut self, group: GroupId, limit: Duration) -> Result<Vec<Standing>, LogError> {
        let reader = self.group(group)?;
        let request = |copy: &Copy| Request::TellStanding { segment: copy.segment };
        let first = reader.ask("how far the log goes", request, |response| match response {
            Response::Standing(standing) => Ok(standing),
            other => Err(said(other)),
        });
        let first = first.await.map_err(|error| LogError::Unreachable { group, error })?;
        let mut standings = vec![first];
        let deadline = Instant::now() + limit;
        for copy in &reader.copies {
            let told = timeout_at(deadline, copy.link.call(request(copy))).await;
            if let Ok(Ok(Response::Standing(standing))) = told {
                standings.push(standing);
            }
        }
        Ok(standings)
    }

    /// A part of a group's log above `after`, of whose first record `offset` bytes are known, and up to `through`.
    pub async fn part(
        &mut self,
        group: GroupId,
        (after, offset): (Lsn, u32),
        through: Lsn,
        bytes_max: u32,
    ) -> Result<LogPart, LogError> {
        let path = self.path.clone();
        let request = |copy: &Copy| Request::ReadLog {
            segment: copy.segment,
            asked: LogAsked {
                path: path.clone(),
                after,
                offset,
                through,
                bytes_max,
            },
        };
        let answer = self.group(group)?.ask("the log", request, |response| match response {
            Response::Log(part) => Ok(Ok(part)),
            Response::Refused(Refusal::LogCollected { oldest }) => Ok(Err(oldest.lsn)),
            other => Err(said(other)),
        });
        match answer.await {
            Ok(Ok(part)) => Ok(part),
            Ok(Err(oldest)) => Err(LogError::Collected { oldest }),
            Err(error) => Err(LogError::Unreachable { group, error }),
        }
    }

    /// A group's whole records above `after` and up to `through`, the end of a flush that it has a part in; and the flushes, if
    /// it is group 0.
    pub async fn share(
        &mut self,
        group: GroupId,
        after: Lsn,
        through: Lsn,
    ) -> Result<(Records, Vec<LoggedFlush>), LogError> {
        let mut share = Share::new(group, after);
        while share.at < through {
            let part = self.part(group, share.next(), through, BYTES_AT_ONCE).await?;
            share.add(part)?;
        }
        Ok((share.records, share.flushes))
    }
}

/// What was given of a group's log so far.
pub struct Share {
    group: GroupId,
    /// Everything is here up to this position.
    pub at: Lsn,
    /// Whole records.
    pub records: Records,
    /// Flushes, in order.
    pub flushes: Vec<LoggedFlush>,
    /// The beginning of a record of which more is to come.
    begun: BytesMut,
}

impl Share {
    /// Nothing yet.
    pub fn new(group: GroupId, after: Lsn) -> Share {
        Share {
            group,
            at: after,
            records: Records::new(),
            flushes: Vec::new(),
            begun: BytesMut::new(),
        }
    }

    /// What to ask for next: what is above this position, and how much of its first record is known.
    pub fn next(&self) -> (Lsn, u32) {
        (self.at, self.begun.len() as u32)
    }

    /// Takes an answer.
    pub fn add(&mut self, part: LogPart) -> Result<(), LogError> {
        self.at = self.at.max(part.through);
        self.flushes.extend(part.flushes);
        for item in part.items {
            match item {
                Item::Record { end, bytes } => drop(self.records.insert(end, bytes)),
                Item::Fragment {
                    end,
                    record_bytes,
                    offset,
                    bytes,
                } => {
                    if offset as usize != self.begun.len() {
                        let group = self.group;
                        return Err(LogError::Pieces { group, end });
                    }
                    self.begun.extend_from_slice(&bytes);
                    if self.begun.len() == record_bytes as usize {
                        self.records.insert(end, self.begun.split().freeze());
                    }
                }
                Item::Image { .. } => {}
            }
        }
        Ok(())
    }
}

/// The groups beside group 0 that have a part in these flushes, each with the end of the last one.
pub fn parts_of_others(flushes: &[LoggedFlush]) -> BTreeMap<GroupId, Lsn> {
    let mut parts = BTreeMap::new();
    for flush in flushes {
        let others = flush.groups.iter().filter(|group| **group != GroupId::FIRST);
        parts.extend(others.map(|group| (*group, flush.end)));
    }
    parts
}

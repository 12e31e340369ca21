//! The simulated network: messages are late, overtake each other, come twice, or are lost with their connection.
//!
//! As on TCP a message that is lost takes its connection with it, and an answer reaches only the connection that asked.
//! But whatever left on a connection may still arrive after its end, in any order. A partition, of one direction or both,
//! holds messages up until it ends, or breaks their connection.

use std::time::Duration;

use segment::PartId;
use units::SegmentId;
use wire_format::message::{Member, Request, Response, VersionCursor};

use crate::checker::Violation;
use crate::event::Event;
use crate::node::{Arrival, ReplyTo};
use crate::tally::Fault;
use crate::world::World;
use crate::writer::News;

/// What a node asks a peer for.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    /// For batches, or how it stands.
    Log,
    /// For a part of what it takes from layers, from somewhere on.
    Part(PartId, Box<VersionCursor>),
    /// For something that it lost; the number of the question.
    Lost(u64),
}

/// The connection of one writer to one node.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Link {
    number: u64,
    up: bool,
    /// The latest of its messages that has arrived.
    arrived: u64,
}

impl Link {
    pub(crate) fn is_up(self) -> bool {
        self.up
    }
}

/// Who sends and who hears.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum End {
    Node(usize),
    Writer(usize),
    /// Every writer, also those that are still to come.
    AnyWriter,
}

impl End {
    /// Whom a partition may name instead.
    fn or_any(self) -> End {
        match self {
            End::Writer(_) => End::AnyWriter,
            node => node,
        }
    }
}

impl World {
    /// A writer tries to connect; it tries again for as long as it lives.
    pub(crate) fn connect(&mut self, writer: usize, node: usize) -> Result<(), Violation> {
        let up = self.links.get(&(writer, node)).is_some_and(|link| link.up);
        if up || !self.writers[writer].alive() {
            return Ok(());
        }
        let (here, there) = (End::Writer(writer), End::Node(node));
        let cut = self.cut_until(here, there).or_else(|| self.cut_until(there, here));
        if !self.nodes[node].up || cut.is_some() {
            let pause = self.random.millis(10, 60);
            self.schedule(self.now() + pause, Event::Connect { writer, node });
            return Ok(());
        }
        let link = self.links.entry((writer, node)).or_default();
        link.number += 1;
        link.up = true;
        link.arrived = 0;
        let segments = self.on_node[node].clone();
        self.tell(writer, News::Connected { segments })
    }

    /// A connection ends: the writer hears of it a little later and connects again.
    pub(crate) fn break_link(&mut self, writer: usize, node: usize) {
        let link = self.links.entry((writer, node)).or_default();
        if !link.up {
            return;
        }
        link.up = false;
        let news = News::Disconnected { node };
        self.schedule(self.now(), Event::News { writer, news });
        let pause = match self.random.chance(100) {
            true => self.random.millis(80, 600),
            false => self.random.millis(5, 80),
        };
        self.schedule(self.now() + pause, Event::Connect { writer, node });
    }

    pub(crate) fn break_links_of(&mut self, node: usize) {
        for writer in 0..self.writers.len() {
            self.break_link(writer, node);
        }
    }

    pub(crate) fn connected_to(&self, writer: usize) -> Vec<SegmentId> {
        let of_writer = self.links.range((writer, 0)..(writer + 1, 0));
        of_writer
            .filter(|(_, link)| link.up)
            .flat_map(|((_, node), _)| self.on_node[*node].iter().copied())
            .collect()
    }

    /// Which of these copies stand on nodes that a writer is connected to.
    pub(crate) fn connected_of(&self, writer: usize, members: &[Member]) -> Vec<SegmentId> {
        let segments = members.iter().map(|member| member.segment);
        let is_up = |segment: &SegmentId| {
            let link = self.links.get(&(writer, self.node_of(*segment)));
            link.is_some_and(|link| link.up)
        };
        segments.filter(is_up).collect()
    }

    fn node_of(&self, segment: SegmentId) -> usize {
        self.homes[&segment].node
    }

    /// Until when nothing that one sends reaches the other.
    fn cut_until(&self, from: End, to: End) -> Option<Duration> {
        if self.cuts.is_empty() {
            return None;
        }
        let pairs = [(from, to), (from.or_any(), to.or_any())];
        let until = pairs.iter().filter_map(|pair| self.cuts.get(pair)).max().copied();
        until.filter(|until| self.now() < *until)
    }

    fn lost(&mut self, node: usize) -> bool {
        let lost = self.strikes(Fault::MessageLost, 3);
        if lost {
            self.note(Fault::MessageLost, Some(node));
        }
        lost
    }

    /// How long a message travels to a node or from it: mostly a moment, sometimes so long that everything overtakes it.
    fn travel(&mut self, node: usize) -> Duration {
        if self.strikes(Fault::MessageLate, 20) {
            self.note(Fault::MessageLate, Some(node));
            self.random.millis(1, 400)
        } else {
            self.random.micros(50, 1500)
        }
    }

    /// When a message between a writer and a node arrives. `None`: never, and its connection breaks.
    fn arrival(&mut self, from: End, to: End, node: usize) -> Option<Duration> {
        let Some(until) = self.cut_until(from, to) else {
            return (!self.lost(node)).then(|| self.now() + self.travel(node));
        };
        // Sent again and again until the partition ends, unless somebody gives up before.
        self.random.chance(600).then(|| until + self.travel(node))
    }

    /// A writer sends a request.
    pub(crate) fn send(&mut self, writer: usize, segment: SegmentId, request: Request) {
        let node = self.node_of(segment);
        let Some(link) = self.links.get(&(writer, node)).copied().filter(|link| link.up) else {
            return;
        };
        let twice = self.strikes(Fault::MessageTwice, 10);
        let (here, there) = (End::Writer(writer), End::Node(node));
        let Some(at) = self.arrival(here, there, node) else {
            self.break_link(writer, node);
            return;
        };
        let from = ReplyTo::Writer {
            writer,
            connection: link.number,
            segment,
        };
        let sent = self.next_number();
        if twice {
            self.note(Fault::MessageTwice, Some(node));
            let at = at + self.travel(node);
            let arrival = Arrival::Request {
                from: from.clone(),
                request: request.clone(),
                sent,
            };
            self.schedule(at, Event::Arrive { node, arrival });
        }
        let arrival = Arrival::Request { from, request, sent };
        self.schedule(at, Event::Arrive { node, arrival });
    }

    /// Notes if a request that arrives was overtaken by a later one of its connection.
    pub(crate) fn note_order(&mut self, node: usize, from: &ReplyTo, sent: u64) {
        let ReplyTo::Writer { writer, connection, .. } = *from else {
            return;
        };
        let Some(link) = self
            .links
            .get_mut(&(writer, node))
            .filter(|link| link.number == connection)
        else {
            return;
        };
        if sent < link.arrived {
            self.note(Fault::MessageOvertaken, Some(node));
        } else {
            link.arrived = sent;
        }
    }

    /// A reader asks a copy, on a connection of its own.
    pub(crate) fn send_question(&mut self, writer: usize, segment: SegmentId, question: u64, request: Request) {
        let node = self.node_of(segment);
        let Some(at) = self.arrival(End::Writer(writer), End::Node(node), node) else {
            return;
        };
        let from = ReplyTo::Reader { writer, question };
        let sent = self.next_number();
        let arrival = Arrival::Request { from, request, sent };
        self.schedule(at, Event::Arrive { node, arrival });
    }

    /// A writer has something made or removed: on a connection of its own to the process that runs now.
    pub(crate) fn call(&mut self, writer: usize, segment: SegmentId, request: Request) {
        let node = self.node_of(segment);
        if !self.nodes[node].up {
            return;
        }
        let Some(at) = self.arrival(End::Writer(writer), End::Node(node), node) else {
            return;
        };
        let from = ReplyTo::Caller { writer, segment };
        let sent = self.next_number();
        let arrival = Arrival::Request { from, request, sent };
        let boot = self.nodes[node].boot;
        self.schedule(at, Event::ArriveAtBoot { node, boot, arrival });
    }

    /// A segment asks another. What a node that is down or cut off answers is nothing, after a while.
    pub(crate) fn ask_peer(&mut self, from: ReplyTo, peer: &Member, request: Request) {
        let ReplyTo::Peer {
            node: asker,
            boot,
            segment,
            asked,
        } = from.clone()
        else {
            return;
        };
        let node = self.node_of(peer.segment);
        let arrives = match self.nodes[node].up {
            true => self.arrival(End::Node(asker), End::Node(node), node),
            false => None,
        };
        if let Some(at) = arrives {
            let sent = self.next_number();
            let arrival = Arrival::Request { from, request, sent };
            self.schedule(at, Event::Arrive { node, arrival });
        } else {
            let pause = self.random.millis(20, 100);
            let arrival = answered(segment, asked, None);
            self.schedule(
                self.now() + pause,
                Event::ArriveAtBoot {
                    node: asker,
                    boot,
                    arrival,
                },
            );
        }
    }

    /// A node answers.
    pub(crate) fn answer(&mut self, at: usize, to: ReplyTo, response: Response) {
        let hearer = match to {
            ReplyTo::Peer { node, .. } => End::Node(node),
            ReplyTo::Reader { writer, .. } | ReplyTo::Writer { writer, .. } | ReplyTo::Caller { writer, .. } => {
                End::Writer(writer)
            }
        };
        let arrives = self.arrival(End::Node(at), hearer, at);
        match (to, arrives) {
            (
                ReplyTo::Peer {
                    node,
                    boot,
                    segment,
                    asked,
                },
                arrives,
            ) => {
                let pause = self.random.millis(20, 100);
                let when = arrives.unwrap_or(self.now() + pause);
                let arrival = answered(segment, asked, arrives.map(|_| response));
                self.schedule(when, Event::ArriveAtBoot { node, boot, arrival });
            }
            (ReplyTo::Reader { writer, question }, Some(when)) => {
                let response = Box::new(response);
                let news = News::PageRead { question, response };
                self.schedule(when, Event::News { writer, news });
            }
            (ReplyTo::Caller { writer, segment }, Some(when)) if response == Response::SegmentCreated => {
                let news = News::Created { segment };
                self.schedule(when, Event::News { writer, news });
            }
            (ReplyTo::Reader { .. } | ReplyTo::Caller { .. }, _) => {}
            (
                ReplyTo::Writer {
                    writer,
                    connection,
                    segment,
                },
                Some(when),
            ) => {
                let event = Event::Response {
                    writer,
                    node: at,
                    connection,
                    segment,
                    response: Box::new(response),
                };
                self.schedule(when, event);
            }
            (ReplyTo::Writer { writer, .. }, None) => self.break_link(writer, at),
        }
    }

    /// An answer arrives, if its connection still stands.
    pub(crate) fn deliver(
        &mut self,
        writer: usize,
        node: usize,
        connection: u64,
        segment: SegmentId,
        response: Box<Response>,
    ) -> Result<(), Violation> {
        let link = self.links.get(&(writer, node)).copied().unwrap_or_default();
        if !link.up || link.number != connection {
            return Ok(());
        }
        self.tell(writer, News::Response { segment, response })
    }
}

/// What reaches a segment that asked a peer.
fn answered(segment: SegmentId, asked: Asked, response: Option<Response>) -> Arrival {
    match asked {
        Asked::Log => Arrival::Fetched { segment, response },
        Asked::Part(part, from) => Arrival::Versions {
            segment,
            part,
            from,
            response,
        },
        Asked::Lost(question) => Arrival::Given { question, response },
    }
}

//! The simulated network: messages are late, overtake each other, come twice, or are lost with their connection.
//!
//! As on TCP a message that is lost takes its connection with it, and an answer reaches only the connection that asked.
//! But whatever left on a connection may still arrive after its end, in any order.

use units::SegmentId;
use wire_format::message::{Member, Request, Response};

use crate::checker::Violation;
use crate::node::{Arrival, ReplyTo};
use crate::world::{Event, World, segment_id};
use crate::writer::News;

/// The connection of one writer to one node.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Link {
    number: u64,
    up: bool,
}

impl World {
    /// A writer tries to connect; it tries again for as long as it lives.
    pub(crate) fn connect(&mut self, writer: usize, node: usize) -> Result<(), Violation> {
        let link = self.links.entry((writer, node)).or_default();
        if link.up || !self.writers[writer].alive() {
            return Ok(());
        }
        if !self.nodes[node].up {
            let pause = self.random.millis(10, 60);
            self.schedule(self.now() + pause, Event::Connect { writer, node });
            return Ok(());
        }
        link.number += 1;
        link.up = true;
        let segment = segment_id(node);
        self.tell(writer, News::Connected { segment })
    }

    /// A connection ends: the writer hears of it a little later and connects again.
    pub(crate) fn break_link(&mut self, writer: usize, node: usize) {
        let link = self.links.entry((writer, node)).or_default();
        if !link.up {
            return;
        }
        link.up = false;
        let segment = segment_id(node);
        let news = News::Disconnected { segment };
        self.schedule(self.now(), Event::News { writer, news });
        let pause = self.random.millis(5, 80);
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
            .map(|((_, node), _)| segment_id(*node))
            .collect()
    }

    fn lost(&mut self) -> bool {
        self.faulty() && self.random.chance(3)
    }

    /// How long a message travels: mostly a moment, sometimes so long that everything overtakes it.
    fn travel(&mut self) -> std::time::Duration {
        if self.faulty() && self.random.chance(20) {
            self.random.millis(1, 400)
        } else {
            self.random.micros(50, 1500)
        }
    }

    /// A writer sends a request.
    pub(crate) fn send(&mut self, writer: usize, segment: SegmentId, request: Request) {
        let node = node_of(segment);
        let Some(link) = self.links.get(&(writer, node)).copied().filter(|link| link.up) else {
            return;
        };
        if self.lost() {
            self.break_link(writer, node);
            return;
        }
        let from = ReplyTo::Writer {
            writer,
            connection: link.number,
        };
        let times = if self.faulty() && self.random.chance(10) { 2 } else { 1 };
        for _ in 0..times {
            let arrival = Arrival::Request {
                from: from.clone(),
                request: request.clone(),
            };
            let pause = self.travel();
            self.schedule(self.now() + pause, Event::Arrive { node, arrival });
        }
    }

    /// A reader asks a copy, on a connection of its own.
    pub(crate) fn send_question(&mut self, writer: usize, node: usize, question: u64, request: Request) {
        if self.lost() {
            return;
        }
        let from = ReplyTo::Reader { writer, question };
        let arrival = Arrival::Request { from, request };
        let pause = self.travel();
        self.schedule(self.now() + pause, Event::Arrive { node, arrival });
    }

    /// A segment asks another. What a node that is down answers is nothing, after a while.
    pub(crate) fn ask_peer(&mut self, from: ReplyTo, peer: &Member, request: Request) {
        let node = node_of(peer.segment);
        if self.nodes[node].up && !self.lost() {
            let arrival = Arrival::Request { from, request };
            let pause = self.travel();
            self.schedule(self.now() + pause, Event::Arrive { node, arrival });
        } else if let ReplyTo::Peer { node, boot } = from {
            let pause = self.random.millis(20, 100);
            let arrival = Arrival::Fetched(None);
            self.schedule(self.now() + pause, Event::ArriveAtBoot { node, boot, arrival });
        }
    }

    /// A node answers.
    pub(crate) fn answer(&mut self, node: usize, to: ReplyTo, response: Response) {
        let pause = self.travel();
        match to {
            ReplyTo::Peer { node, boot } => {
                let arrival = Arrival::Fetched(Some(response));
                self.schedule(self.now() + pause, Event::ArriveAtBoot { node, boot, arrival });
            }
            ReplyTo::Reader { writer, question } => {
                if !self.lost() {
                    let response = Box::new(response);
                    let news = News::PageRead { question, response };
                    self.schedule(self.now() + pause, Event::News { writer, news });
                }
            }
            ReplyTo::Writer { writer, connection } => {
                if self.lost() {
                    self.break_link(writer, node);
                    return;
                }
                let response = Box::new(response);
                let event = Event::Response {
                    writer,
                    node,
                    connection,
                    response,
                };
                self.schedule(self.now() + pause, event);
            }
        }
    }

    /// An answer arrives, if its connection still stands.
    pub(crate) fn deliver(
        &mut self,
        writer: usize,
        node: usize,
        connection: u64,
        response: Box<Response>,
    ) -> Result<(), Violation> {
        let link = self.links.get(&(writer, node)).copied().unwrap_or_default();
        if !link.up || link.number != connection {
            return Ok(());
        }
        let segment = segment_id(node);
        self.tell(writer, News::Response { segment, response })
    }
}

fn node_of(segment: SegmentId) -> usize {
    usize::from(segment.bytes()[0]) - 1
}

//! What the holder of the epoch announces: what is durable, and the floors. Peers pass it on.

use units::{Epoch, Position};
use wire_format::message::{Refusal, Response};

use crate::{Effect, Segment};

impl Segment {
    pub(crate) fn announce(
        &mut self,
        epoch: Epoch,
        durable: Position,
        [floor, all_complete, on_every_full]: [Position; 3],
        effects: &mut Vec<Effect>,
    ) -> Result<Response, Refusal> {
        self.require_reign(epoch)?;
        self.gossip.heard = true;
        self.hear_durable(durable);
        self.hear_floors(floor, all_complete, on_every_full);
        self.become_whole(effects);
        Ok(Response::Announced {
            segment: self.state.segment,
            complete: self.acknowledged(),
            vouches: self.counts(),
        })
    }

    pub(crate) fn hear_floors(&mut self, floor: Position, all_complete: Position, on_every_full: Position) {
        let path = &self.state.path;
        for (known, heard) in [
            (&mut self.state.floor, floor),
            (&mut self.state.all_complete, all_complete),
            (&mut self.state.on_every_full, on_every_full),
        ] {
            if path.sees(heard) && path.reach(*known).lsn < heard.lsn {
                *known = heard;
            }
        }
    }

    pub(crate) fn hear_durable(&mut self, durable: Position) {
        if self.state.path.sees(durable) && self.durable_here().lsn < durable.lsn {
            self.state.durable = durable;
        }
    }

    /// The durable position as far as it lies on the installed path.
    pub(crate) fn durable_here(&self) -> Position {
        if self.state.path.sees(self.state.durable) || self.state.durable == Position::ZERO {
            self.state.durable
        } else {
            self.state.path.start()
        }
    }
}

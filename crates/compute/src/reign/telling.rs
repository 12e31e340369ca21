//! What a reign says of itself.

use super::Reign;

impl Reign<'_> {
    /// Tells in the status where everything stands.
    pub(super) fn tell(&mut self) {
        let mut status = self.status.borrow_mut();
        let shipper = &self.shipping.shipper;
        status.durable_lsn = Some(shipper.durable().to_string());
        status.in_flight_bytes = self.flushes.end().raw().saturating_sub(shipper.durable().raw());
        {
            let catalog = self.catalog.borrow();
            status.size_bytes = catalog.size_bytes();
            status.groups = catalog.stripes.groups_count() as u64;
            status.free_bytes = catalog.stripes.free_blocks() * units::PAGE_BYTES as u64;
        }
        status.retention_seconds = self.floor.window_seconds();
        status.floor = shipper.floor();
        status.floor_lsn = Some(shipper.floor().to_string());
        status.log_bytes_shipped = self.shipping.copies.bytes_sent.get();
        status.log_bytes_received = self.bytes_received;
        status.pages_read = self.source.pages_read.get();
        status.pages_read_ahead = self.broker.pages_read_ahead.get();
        let standing = shipper.standing();
        let silent = standing.iter().filter(|copy| !copy.live);
        status.durable = shipper.durable();
        status.quorum.missing = silent.map(|copy| copy.member.node.clone()).collect();
        let word = |holds: bool| if holds { "ok" } else { "lost" }.to_owned();
        status.quorum.write = word(shipper.writable());
        status.changes = self.memberships.status();
        status.without_spare = self.memberships.without_spare();
        status.quorum.read = word(shipper.readable());
        status.copies = standing;
    }
}

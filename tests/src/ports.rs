//! Ports of a cluster that no other cluster of any test program takes.

use std::net::TcpListener;

use crate::random;

/// None of these is given to an outgoing connection by itself (Linux's `ip_local_port_range`), for the same reason as in the
/// product: while a test has stopped who listens, nobody else takes the port.
const FIRST: u16 = 15_000;
/// Blocks of this many: a long run of failures makes one instance after the other, and each takes two.
const BLOCK_PORTS: u16 = 128;
/// As many as fit below 32768.
const BLOCKS: u16 = 138;

/// A block of ports, as long as this is there.
///
/// Each cluster alone could choose among all ports what is free just then; but a port that its daemon is not listening on yet,
/// or not any more, seems free to another cluster as well.
pub struct Ports {
    first: u16,
    /// Who listens on the first port of a block has all of it.
    _owner: TcpListener,
}

impl Ports {
    /// One of the blocks that nobody has.
    pub fn take() -> Ports {
        let start = random() % u64::from(BLOCKS);
        let blocks = (0..BLOCKS).map(|step| (start as u16 + step) % BLOCKS);
        let mut free = blocks.filter_map(|block| {
            let first = FIRST + block * BLOCK_PORTS;
            let owner = TcpListener::bind(("127.0.0.1", first)).ok()?;
            Some(Ports { first, _owner: owner })
        });
        free.next()
            .expect("loopback has ports for more clusters than a machine can run")
    }

    /// Port of the cluster's endpoint.
    pub fn endpoint(&self) -> u16 {
        self.first + 1
    }

    /// Another one, for who starts its own processes.
    pub fn further(&self, number: usize) -> u16 {
        let number = u16::try_from(number).expect("a block has few ports");
        assert!(number + 2 < BLOCK_PORTS, "a block has {BLOCK_PORTS} ports");
        self.first + 2 + number
    }

    /// What `borealis up --ports` takes.
    pub fn of_daemons(&self) -> String {
        format!("{}-{}", self.first + 2, self.first + BLOCK_PORTS - 1)
    }
}

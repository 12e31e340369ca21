//! PostgreSQL's physical replication protocol, both sides, without I/O.

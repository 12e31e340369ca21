//! The instance process: one PostgreSQL, its log shipper and its page broker.

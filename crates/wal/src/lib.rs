//! PostgreSQL write-ahead log bytes to records and back.

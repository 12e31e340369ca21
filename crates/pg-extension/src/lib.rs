//! The thin library inside PostgreSQL.

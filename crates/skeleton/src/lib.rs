//! The bytes of a PostgreSQL data directory: control file, log page, two-phase files, status pages.

//! Whole-system tests: real processes, real PostgreSQL, real kill -9.

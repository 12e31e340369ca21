//! The bytes of a PostgreSQL data directory: how one is made from the volume, and how the first volume is made from one.
//!
//! A writer never recovers. It starts on a *skeleton*: a data directory in the state "shut down", made as of the volume's
//! recovered end, with a true shutdown-checkpoint record as its last log (DESIGN §5.3). [`build`] makes it, [`import`]
//! takes an `initdb` directory apart, [`control_file`] is `pg_control`, [`blob`] names what the volume's catalog keeps.
//!
//! Pure: bytes in, bytes out. Reading the volume and writing the files is the instance process's job.

pub mod blob;
pub mod build;
pub mod control_file;
pub mod import;
mod origins;
pub mod status_files;
pub mod tablespaces;

pub use build::{CheckpointRecord, Skeleton, SkeletonInputs, WalPiece, wal_file};
pub use control_file::{ControlFile, ControlFileError};

//! The metadata store, the volume's record, and who is the writer.

//! One of the six copies of one protection group, as a state machine.

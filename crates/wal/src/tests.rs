//! Tests over whole records.

use crate::*;

#[test]
fn a_shutdown_checkpoint_reads_back() {
    let checkpoint = Checkpoint {
        redo: "0/1000028".parse().unwrap(),
        timeline: 1,
        previous_timeline: 1,
        full_page_writes: true,
        next_transaction: 1 << 32 | 700,
        time: 1_700_000_000,
        ..Checkpoint::default()
    };
    let record = checkpoint.shutdown_record("0/1000000".parse().unwrap());
    assert_eq!(record.len(), 114, "pg_control and StartupXLOG expect this length");
    let decoded = DecodedRecord::decode(&record).unwrap();
    let mut changes = Vec::new();
    state_changes(&decoded, &mut changes).unwrap();
    let seen = StateChange::Checkpoint {
        checkpoint,
        is_shutdown: true,
    };
    assert_eq!(changes, [seen]);
}

//! Gathers records with their pages out of log that was recorded, into `fuzz/samples/redo.seeds`:
//! `cargo run --release -p fuzz-targets --bin gather-seeds -- START FILE …`, where each log begins and what has it, as
//! `cargo run --release -p recorded-wal --bin record -- indexes` leaves them in the target folder.

use units::Lsn;

/// Of the recorded servers.
const WAL_FILE_BYTES: u64 = 16 << 20;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let log = |pair: &[String]| -> (Lsn, Vec<u8>) {
        let [start, file] = pair else {
            panic!("gather-seeds START FILE …");
        };
        (start.parse().expect("an LSN"), std::fs::read(file).expect("the log"))
    };
    let logs: Vec<_> = arguments.chunks(2).map(log).collect();
    let seeds = fuzz_targets::gather(&logs, WAL_FILE_BYTES);
    println!("{} bytes", seeds.len());
    std::fs::write("fuzz/samples/redo.seeds", seeds).expect("run from the top of the checkout");
}

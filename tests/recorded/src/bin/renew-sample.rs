//! Records `tests/recorded/samples` anew: `cargo run --release -p recorded-wal --bin renew-sample`.

fn main() {
    recorded_wal::Recording::renew_sample();
}

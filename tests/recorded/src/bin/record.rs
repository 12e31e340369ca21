//! Records a load into the target folder, unless it is there: `cargo run --release -p recorded-wal --bin record -- NAME`.

use recorded_wal::{Load, Recording};

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let loads = [Load::PGBENCH, Load::INDEX_BUILD, Load::GIN, Load::INDEXES];
    let load = loads.iter().find(|load| load.name == name);
    let load = load.unwrap_or_else(|| panic!("there is no load {name:?}"));
    let recording = Recording::of(load);
    println!(
        "{} bytes of log from {}",
        recording.measured.len(),
        recording.measured_from()
    );
}

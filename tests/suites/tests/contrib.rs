//! Extensions of PostgreSQL's own contrib, and every kind of index, on a cluster. `make extensions` tries more of them.

use anyhow::Result;
use suites::extension::{ALL, Extension};
use suites::trial;
use system_tests::Cluster;

/// They come in packages of their own.
const ELSEWHERE: [&str; 3] = ["rum", "postgis", "pg_partman"];

#[test]
fn extensions_of_contrib_answer_the_same_by_index_and_by_scan_before_and_after_restarts() -> Result<()> {
    let settings = [
        "shared_buffers=1MB",
        "borealis.overlay_size=2MB",
        "shared_preload_libraries=pg_stat_statements",
    ];
    let cluster = Cluster::up("contrib", &settings)?;
    let of_contrib = |extension: &&Extension| !ELSEWHERE.contains(&extension.name());
    let extensions: Vec<&Extension> = ALL.iter().filter(of_contrib).collect();
    trial::run(&cluster, &extensions)
}

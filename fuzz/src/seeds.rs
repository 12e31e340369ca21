//! What mutations begin with: sound input for every target, made here from real values and from PostgreSQL's real log.

mod journal;
mod log;
mod messages;
mod pages;
mod values;

use wal::resource_manager;

use crate::store;

pub(crate) use log::WORKLOAD_START;
pub use pages::gather;

/// Sound input for the target of this name.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
    match target {
        "wal-stream" => vec![[&[0, 0, 200], &log::WORKLOAD[..20_000]].concat()],
        "wal-layout" => log::layouts(),
        "wal-record" => log::records_of_each_kind()
            .into_iter()
            .map(|record| record.bytes.to_vec())
            .collect(),
        "wal-marks" => vec![log::marks()],
        "redo-apply" => pages::of_each_kind(),
        "redo-heap" => pages::of_manager(resource_manager::HEAP),
        "redo-heap2" => pages::of_manager(resource_manager::HEAP2),
        "redo-btree" => pages::of_manager(resource_manager::BTREE),
        "redo-hash" => pages::of_manager(resource_manager::HASH),
        "redo-gin" => pages::of_manager(resource_manager::GIN),
        "redo-gist" => pages::of_manager(resource_manager::GIST),
        "redo-spgist" => pages::of_manager(resource_manager::SPGIST),
        "redo-brin" => pages::of_manager(resource_manager::BRIN),
        "redo-image" => pages::images(),
        "control-file" => vec![include_bytes!("control_file.bin").to_vec()],
        "wire-frames" => messages::all_frames(),
        "wire-messages" => messages::all_messages(),
        "wire-batch" => vec![unsealed(values::batch().bytes())],
        "wire-broker" => messages::broker(),
        "segment-state" => vec![values::segment_state()],
        "volume-record" => vec![values::volume_record()],
        "store-journal" => vec![journal::journal()],
        "store-layer" => vec![store::layer_with_image(), store::layer_with_index()],
        "store-manifest" => store::manifest_seeds(),
        "replication" => vec![messages::walsender()],
        other => unreachable!("there is no target {other}"),
    }
}

fn part(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_le_bytes(), bytes].concat()
}

/// Without its checksum, which the targets put there.
fn unsealed(bytes: &[u8]) -> Vec<u8> {
    bytes[..bytes.len() - 4].to_vec()
}

#[cfg(test)]
mod tests {
    use super::seeds;
    use crate::store;

    /// The store's files are written by the targets themselves: if they did not fit the format, nothing would be fuzzed.
    #[test]
    fn the_seeds_of_the_store_are_read() {
        let batches = store::journal_opens(&seeds("store-journal")[0]);
        assert!(batches.is_some_and(|count| 1 < count), "{batches:?}");
        assert!(store::layer_gives_page(&seeds("store-layer")[0]));
        assert!(store::layer_gives_page(&seeds("store-layer")[1]));
    }
}

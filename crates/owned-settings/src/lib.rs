//! PostgreSQL's settings that Borealis owns, each with its reason.
//!
//! One list for every place where somebody might set one: the environment of `borealis up`, settings files, and SQL.
//!
//! Invariant: what the instance process gives PostgreSQL on its command line is in this list, but for
//! `shared_preload_libraries`, where what users name follows our library.

/// A setting that users cannot change, and why.
pub struct OwnedSetting {
    /// Its name.
    pub name: &'static str,
    /// Why Borealis owns it, as the end of the sentence "… is set by Borealis: …".
    pub reason: &'static str,
}

const fn owned(name: &'static str, reason: &'static str) -> OwnedSetting {
    OwnedSetting { name, reason }
}

/// Every setting that Borealis owns.
pub const OWNED: &[OwnedSetting] = &[
    owned(
        "fsync",
        "durability comes from the storage volume; local files are disposable",
    ),
    owned(
        "full_page_writes",
        "the storage has no torn pages, and page images would only lengthen the log",
    ),
    owned(
        "wal_log_hints",
        "hint bits need no log: the storage makes pages from records",
    ),
    owned("wal_level", "readers and the storage need at least `replica`"),
    owned(
        "restart_after_crash",
        "after a crash the volume is opened anew instead of running recovery on local files",
    ),
    owned(
        "synchronous_standby_names",
        "the storage quorum is the one synchronous standby",
    ),
    owned(
        "max_slot_wal_keep_size",
        "the log shipper must never lose the log it has not shipped",
    ),
    owned("max_wal_senders", "the log shipper needs a place"),
    owned("max_replication_slots", "the log shipper needs a slot"),
    owned(
        "wal_sender_timeout",
        "the log shipper may wait for a lost quorum as long as it takes",
    ),
    owned("archive_mode", "backups are made by the storage"),
    owned("archive_command", "backups are made by the storage"),
    owned("archive_library", "backups are made by the storage"),
    owned(
        "dynamic_shared_memory_type",
        "what a killed server leaves must go with its data directory",
    ),
    owned("data_directory", "the data directory is made anew at every start"),
    owned("hba_file", "it lives in the cluster's directory"),
    owned("ident_file", "it lives in the cluster's directory"),
    owned("config_file", "it lives in the cluster's directory"),
    owned("listen_addresses", "clients connect to the cluster endpoint"),
    owned("port", "clients connect to the cluster endpoint"),
    owned("unix_socket_directories", "clients connect to the cluster endpoint"),
    owned(
        "dynamic_library_path",
        "the Borealis library is loaded from the cluster's directory",
    ),
    owned("logging_collector", "the instance process collects PostgreSQL's log"),
    owned("log_destination", "the instance process collects PostgreSQL's log"),
    owned("recovery_target_timeline", "restores are made by the storage"),
    owned("primary_conninfo", "readers are fed by the storage"),
    owned("hot_standby", "readers are fed by the storage"),
    owned(
        "unix_socket_permissions",
        "only the instance process connects over the unix socket",
    ),
    owned(
        "wal_init_zero",
        "files of the log are disposable, and need no preparation",
    ),
    owned("wal_recycle", "files of the log are disposable, and used again"),
    owned("checkpoint_timeout", "checkpoints are cheap here and must be frequent"),
];

/// Why a user cannot set `name`, if so.
pub fn refusal(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    if let Some(library) = name.strip_prefix("borealis.") {
        let reason =
            "the library's own settings are set by the instance process, except the documented BOREALIS_PG_BOREALIS_*";
        return (!LIBRARY_SETTINGS.contains(&library)).then_some(reason);
    }
    OWNED
        .iter()
        .find(|setting| setting.name == name)
        .map(|setting| setting.reason)
}

/// Settings of the library that users may change like any other: `borealis.overlay_size` as `BOREALIS_PG_BOREALIS_OVERLAY_SIZE`.
pub const LIBRARY_SETTINGS: &[&str] = &[
    "overlay_size",
    "spill_size_max",
    "relation_sizes",
    "compare",
    "readahead_blocks",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_settings_are_refused_with_their_reason() {
        assert!(refusal("fsync").is_some_and(|reason| reason.contains("volume")));
        assert!(refusal("FSYNC").is_some());
        assert!(refusal("borealis.start_lsn").is_some());
        assert!(refusal("borealis.overlay_size").is_none(), "users may set it");
        assert!(refusal("shared_buffers").is_none());
    }

    #[test]
    fn every_setting_stands_in_the_list_once() {
        let mut names: Vec<&str> = OWNED.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.iter().all(|name| *name == name.to_ascii_lowercase()));
    }
}

//! PostgreSQL's settings: which are Borealis's own, and the command line PostgreSQL is started with.
//!
//! What Borealis owns stands on the command line, which wins over `postgresql.conf` and `ALTER SYSTEM`.

use std::process::Command;

use units::Lsn;

use crate::InstanceConfig;

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
    owned("checkpoint_timeout", "checkpoints are cheap here and must be frequent"),
];

/// Why a user cannot set `name`, if so.
pub fn refusal(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    if name.starts_with("borealis.") {
        return Some(
            "the library's own settings are set by the instance process, except the documented BOREALIS_PG_BOREALIS_*",
        );
    }
    OWNED
        .iter()
        .find(|setting| setting.name == name)
        .map(|setting| setting.reason)
}

/// Library settings that users may change like any other: `borealis.overlay_size` as `BOREALIS_PG_BOREALIS_OVERLAY_SIZE`.
pub const LIBRARY_SETTINGS: &[&str] = &[
    "overlay_size",
    "spill_size_max",
    "relation_sizes",
    "compare",
    "readahead_blocks",
];

/// What only this start knows.
pub struct StartFacts<'a> {
    /// Where the log of this reign begins: the end of the shutdown checkpoint's predecessor.
    pub start: Lsn,
    /// Name of the one synchronous standby, made at each start.
    pub synchronous_name: &'a str,
    /// Libraries users preload beside ours.
    pub user_preload_libraries: &'a str,
}

/// The command that starts PostgreSQL. Must be spawned from the main thread: the parent-death signal follows it.
pub fn command(config: &InstanceConfig, facts: &StartFacts<'_>) -> Command {
    let mut command = Command::new(config.postgresql_bin.join("postgres"));
    command.arg("-D").arg(config.data_directory());
    // Otherwise the library's errors would show their stack to clients.
    command.env_remove("RUST_BACKTRACE");
    let directory = config.directory.display();
    let preload = match facts.user_preload_libraries.trim() {
        "" => "borealis".to_owned(),
        others => format!("borealis,{others}"),
    };
    let spill = config.instance_directory().join("overlay.spill");
    let settings: Vec<(&str, String)> = vec![
        ("listen_addresses", config.listen_address.clone()),
        ("port", config.port.to_string()),
        (
            "unix_socket_directories",
            config.socket_directory().display().to_string(),
        ),
        ("unix_socket_permissions", "0700".into()),
        ("hba_file", format!("{directory}/pg_hba.conf")),
        ("ident_file", format!("{directory}/pg_ident.conf")),
        ("dynamic_library_path", format!("{directory}/lib:$libdir")),
        ("shared_preload_libraries", preload),
        ("fsync", "off".into()),
        ("full_page_writes", "off".into()),
        ("wal_log_hints", "off".into()),
        ("wal_level", "replica".into()),
        ("wal_init_zero", "off".into()),
        ("wal_recycle", "on".into()),
        ("restart_after_crash", "off".into()),
        ("max_wal_senders", "10".into()),
        ("max_replication_slots", "10".into()),
        ("max_slot_wal_keep_size", "-1".into()),
        ("wal_sender_timeout", "0".into()),
        (
            "synchronous_standby_names",
            format!("FIRST 1 ({})", facts.synchronous_name),
        ),
        ("archive_mode", "off".into()),
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
        ("hot_standby", "on".into()),
        ("checkpoint_timeout", "60s".into()),
        ("borealis.broker_socket", config.broker_socket().display().to_string()),
        ("borealis.spill_file", spill.display().to_string()),
        ("borealis.start_lsn", facts.start.to_string()),
        ("borealis.synchronous_name", facts.synchronous_name.to_owned()),
        ("borealis.instance_pid", std::process::id().to_string()),
    ];
    for (name, value) in settings {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owned_settings_are_refused_with_their_reason() {
        assert!(refusal("fsync").is_some_and(|reason| reason.contains("volume")));
        assert!(refusal("FSYNC").is_some());
        assert!(refusal("borealis.start_lsn").is_some());
        assert!(refusal("shared_buffers").is_none());
    }
}

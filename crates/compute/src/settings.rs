//! PostgreSQL's settings: which are Borealis's own, and the command line PostgreSQL is started with.
//!
//! What Borealis owns stands on the command line, which wins over `postgresql.conf` and `ALTER SYSTEM`.

use std::process::Command;

pub use owned_settings::{LIBRARY_SETTINGS, OWNED, OwnedSetting, refusal};
use units::Lsn;

use crate::InstanceConfig;

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

    /// What stands on the command line cannot be changed by anything a user does, so whoever tries is told.
    #[test]
    fn everything_on_the_command_line_is_refused_to_users() {
        let config = serde_json::from_value(serde_json::json!({
            "name": "instance-1",
            "directory": "/cluster",
            "listen_address": "127.0.0.1",
            "port": 5433,
            "cluster": "00",
            "cluster_secret_file": "/cluster/secrets/cluster",
            "password_file": "/cluster/secrets/password",
            "control_socket": "/cluster/run/control",
            "postgresql_bin": "/bin",
            "storage": [],
        }));
        let config: InstanceConfig = config.expect("every field without a default is there");
        let facts = StartFacts {
            start: Lsn::ZERO,
            synchronous_name: "quorum",
            user_preload_libraries: "",
        };
        let command = command(&config, &facts);
        let arguments: Vec<&str> = command.get_args().filter_map(|argument| argument.to_str()).collect();
        let settings: Vec<&str> = arguments
            .windows(2)
            .filter(|pair| pair[0] == "-c")
            .filter_map(|pair| pair[1].split_once('=').map(|(name, _)| name))
            .collect();
        assert!(20 < settings.len(), "{arguments:?}");
        for setting in settings {
            assert!(refusal(setting).is_some(), "{setting} is set, but nobody is told");
        }
    }
}

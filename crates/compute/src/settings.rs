//! PostgreSQL's settings: which are Borealis's own, and the command line PostgreSQL is started with.
//!
//! What Borealis owns stands on the command line, which wins over `postgresql.conf` and `ALTER SYSTEM`. Libraries to preload are
//! both's: ours goes first, those that users name in either follow.

use std::io;
use std::process::{Command, Stdio};

pub use owned_settings::{LIBRARY_SETTINGS, OWNED, OwnedSetting, refusal};
use units::Lsn;

use crate::InstanceConfig;
use crate::data_directory::DirectoryError;
use crate::user_settings::UserSettings;

/// What only this start knows.
pub struct StartFacts<'a> {
    /// Where PostgreSQL's log of this reign begins: the end of the shutdown checkpoint that it starts from.
    pub start: Lsn,
    /// Name of the one synchronous standby, made at each start.
    pub synchronous_name: &'a str,
    /// Libraries that users preload beside ours, as PostgreSQL names them.
    pub user_preload_libraries: &'a str,
}

/// The list of libraries to load into every process.
const PRELOAD: &str = "shared_preload_libraries";
/// Our library's name.
const LIBRARY: &str = "borealis";

/// Why it is not known which libraries users preload.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PreloadError {
    /// PostgreSQL could not be asked.
    #[error("which libraries to preload: {0}")]
    Io(#[from] io::Error),
    /// The settings could not be written down for it.
    #[error("which libraries to preload: {0}")]
    Directory(#[from] DirectoryError),
    /// PostgreSQL does not understand its settings.
    #[error(
        "PostgreSQL does not understand its settings; correct DIR/postgresql.conf or DIR/postgresql.auto.conf:\n{0}"
    )]
    Settings(String),
}

/// The libraries that users name, as PostgreSQL itself reads the settings: it is asked with a folder that holds nothing else,
/// so whether it understands them is known before a reign begins. It is not asked if nothing is set.
pub(crate) fn user_preload_libraries(config: &InstanceConfig, settings: &UserSettings) -> Result<String, PreloadError> {
    if settings.is_empty() {
        return Ok(String::new());
    }
    let folder = config.instance_directory().join("settings");
    std::fs::create_dir_all(&folder)?;
    settings.write(&folder)?;
    let output = Command::new(config.postgresql_bin.join("postgres"))
        .args(["-C", PRELOAD, "-D"])
        .arg(&folder)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(PreloadError::Settings(said));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Ours first, then what users name, once each. Names are separated by commas and may be quoted (`SplitDirectoriesString`).
fn preloaded(users: &str) -> String {
    let mut names = vec![LIBRARY.to_owned()];
    let mut is_quoted = false;
    let separates = |letter: char| {
        is_quoted ^= letter == '"';
        letter == ',' && !is_quoted
    };
    for name in users.split(separates) {
        let name = name.trim();
        if !name.is_empty() && !names.iter().any(|known| known == name.trim_matches('"')) {
            names.push(name.to_owned());
        }
    }
    names.join(",")
}

/// The command that starts PostgreSQL. Must be spawned from the main thread: the parent-death signal follows it.
pub fn command(config: &InstanceConfig, facts: &StartFacts<'_>) -> Command {
    let mut command = Command::new(config.postgresql_bin.join("postgres"));
    command.arg("-D").arg(config.data_directory());
    // Otherwise the library's errors would show their stack to clients.
    command.env_remove("RUST_BACKTRACE");
    let directory = config.directory.display();
    let spill = config.spill_file();
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
        (PRELOAD, preloaded(facts.user_preload_libraries)),
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
        ("dynamic_shared_memory_type", "mmap".into()),
        ("checkpoint_timeout", "60s".into()),
        ("borealis.broker_socket", config.broker_socket().display().to_string()),
        (
            "borealis.endpoint_socket",
            config.endpoint_socket().display().to_string(),
        ),
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
        // Ours is merged with those that users name.
        for setting in settings.into_iter().filter(|setting| *setting != PRELOAD) {
            assert!(refusal(setting).is_some(), "{setting} is set, but nobody is told");
        }
    }

    #[test]
    fn our_library_comes_first_and_once() {
        for (users, all) in [
            ("", "borealis"),
            ("pg_stat_statements", "borealis,pg_stat_statements"),
            (
                " auto_explain , pg_stat_statements,",
                "borealis,auto_explain,pg_stat_statements",
            ),
            ("borealis,pg_stat_statements", "borealis,pg_stat_statements"),
            ("pg_stat_statements, \"borealis\"", "borealis,pg_stat_statements"),
            ("\"/a,b/c\",d,d", "borealis,\"/a,b/c\",d"),
        ] {
            assert_eq!(preloaded(users), all, "{users}");
        }
    }
}

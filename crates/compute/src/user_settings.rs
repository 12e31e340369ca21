//! PostgreSQL's settings as users made them: in `DIR/postgresql.conf`, in the environment of `borealis up`, with `ALTER SYSTEM`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::SystemTime;

use crate::InstanceConfig;
use crate::data_directory::{DirectoryError, at};

/// The file of a person's settings.
const SETTINGS: &str = "postgresql.conf";
/// What `ALTER SYSTEM` writes: the only file of a data directory that outlives it.
const AUTO_SETTINGS: &str = "postgresql.auto.conf";
/// What the environment of `borealis up` asked for; it wins over the user's file.
const ENVIRONMENT_SETTINGS: &str = "config/postgresql-environment.conf";

/// The settings, as they are written into a data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UserSettings {
    /// The person's file, then what the environment asked for: the last word counts.
    text: Vec<u8>,
    /// What `ALTER SYSTEM` wrote, and when.
    auto_text: Vec<u8>,
    auto_changed: Option<SystemTime>,
}

impl UserSettings {
    /// Reads them, with what `ALTER SYSTEM` wrote last in any data directory.
    pub(crate) fn read(config: &InstanceConfig) -> Result<UserSettings, DirectoryError> {
        keep_settings(config)?;
        let mut text = read_if_there(&config.directory.join(SETTINGS))?;
        text.extend(read_if_there(&config.directory.join(ENVIRONMENT_SETTINGS))?);
        let kept = config.directory.join(AUTO_SETTINGS);
        Ok(UserSettings {
            text,
            auto_changed: changed(&kept)?,
            auto_text: read_if_there(&kept)?,
        })
    }

    /// Whether they say nothing: blank lines and comments only.
    pub(crate) fn is_empty(&self) -> bool {
        let mut lines = [&self.text, &self.auto_text]
            .into_iter()
            .flat_map(|text| text.split(|byte| *byte == b'\n'));
        lines.all(|line| matches!(line.trim_ascii().first(), None | Some(b'#')))
    }

    /// Writes them into the folder where PostgreSQL reads them.
    pub(crate) fn write(&self, folder: &Path) -> Result<(), DirectoryError> {
        let path = folder.join(SETTINGS);
        fs::write(&path, &self.text).map_err(at(&path))?;
        let path = folder.join(AUTO_SETTINGS);
        let mut file = File::create(&path).map_err(at(&path))?;
        file.write_all(&self.auto_text).map_err(at(&path))?;
        // As old as what it is a copy of: only what `ALTER SYSTEM` writes from now on is newer than a person's last change.
        file.set_modified(self.auto_changed.unwrap_or(SystemTime::UNIX_EPOCH))
            .map_err(at(&path))
    }
}

fn read_if_there(path: &Path) -> Result<Vec<u8>, DirectoryError> {
    match fs::read(path) {
        Ok(mut text) => {
            if !text.is_empty() && !text.ends_with(b"\n") {
                text.push(b'\n');
            }
            Ok(text)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(path)(error)),
    }
}

/// Copies what `ALTER SYSTEM` wrote last out of the data directories, which may go at any time, into the cluster's directory.
/// All instances are looked at: the one before may have been killed. What a person changed there later stays.
pub(crate) fn keep_settings(config: &InstanceConfig) -> Result<(), DirectoryError> {
    let kept = config.directory.join(AUTO_SETTINGS);
    let mut newest = changed(&kept)?;
    let mut written = None;
    let instances = config.directory.join("instances");
    for instance in fs::read_dir(&instances).map_err(at(&instances))? {
        let path = instance
            .map_err(at(&instances))?
            .path()
            .join("data")
            .join(AUTO_SETTINGS);
        let time = changed(&path)?;
        if newest < time {
            (newest, written) = (time, Some(path));
        }
    }
    let Some(written) = written else {
        return Ok(());
    };
    let text = fs::read(&written).map_err(at(&written))?;
    // Under another name first: a kill in the middle leaves the old settings or the new ones.
    let next = kept.with_extension("conf.next");
    let mut file = File::create(&next).map_err(at(&next))?;
    file.write_all(&text)
        .and_then(|()| file.sync_all())
        .map_err(at(&next))?;
    fs::rename(&next, &kept).map_err(at(&kept))
}

/// When a file was changed last; `None`, which is before any time, if there is none.
fn changed(path: &Path) -> Result<Option<SystemTime>, DirectoryError> {
    match fs::metadata(path).and_then(|file| file.modified()) {
        Ok(time) => Ok(Some(time)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_word_counts_whoever_said_it() {
        let directory = std::env::temp_dir().join(format!("borealis-settings-{}", std::process::id()));
        let config: InstanceConfig = serde_json::from_value(serde_json::json!({
            "name": "instance-2", "directory": directory, "listen_address": "127.0.0.1", "port": 1, "cluster": "",
            "cluster_secret_file": "", "password_file": "", "control_socket": "", "postgresql_bin": "", "storage": [],
        }))
        .expect("a configuration");
        let kept = directory.join(AUTO_SETTINGS);
        let of = |instance: &str| {
            directory
                .join("instances")
                .join(instance)
                .join("data")
                .join(AUTO_SETTINGS)
        };
        let write = |path: &Path, text: &str, second: u64| {
            fs::create_dir_all(path.parent().expect("a folder")).expect("a temporary folder");
            fs::write(path, text).expect("a file");
            let file = File::options().write(true).open(path).expect("the file");
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
                .expect("its time");
        };
        fs::create_dir_all(directory.join("instances/instance-2")).expect("a temporary folder");
        keep_settings(&config).expect("nobody said anything");
        assert!(!kept.exists());
        write(&of("instance-1"), "a = 1", 10);
        keep_settings(&config).expect("kept");
        assert_eq!(fs::read(&kept).expect("settings"), b"a = 1");
        write(&of("instance-2"), "a = 2", 11);
        write(&kept, "a = 3", 12);
        keep_settings(&config).expect("kept");
        assert_eq!(fs::read(&kept).expect("settings"), b"a = 3", "a person was here last");
        write(&of("instance-1"), "a = 4", 13);
        write(&of("instance-2"), "a = 5", 14);
        keep_settings(&config).expect("kept");
        assert_eq!(fs::read(&kept).expect("settings"), b"a = 5");
        fs::remove_dir_all(&directory).expect("it is ours");
    }
}

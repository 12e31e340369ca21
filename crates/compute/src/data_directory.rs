//! The skeleton on disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use skeleton::Skeleton;

use crate::InstanceConfig;

/// What `ALTER SYSTEM` writes: the only file of a data directory that outlives it.
const AUTO_SETTINGS: &str = "postgresql.auto.conf";
/// What the environment of `borealis up` asked for; it wins over the user's file.
const ENVIRONMENT_SETTINGS: &str = "config/postgresql-environment.conf";

/// A failed step, with what it was about.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub(crate) struct DirectoryError {
    path: PathBuf,
    error: io::Error,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError + '_ {
    move |error| DirectoryError {
        path: path.to_owned(),
        error,
    }
}

/// Writes the skeleton in place of whatever data directory was there. Settings that users made stay.
pub(crate) fn write(config: &InstanceConfig, skeleton: &Skeleton) -> Result<(), DirectoryError> {
    let data = config.data_directory();
    keep_settings(config)?;
    match fs::remove_dir_all(&data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&data)(error)),
        _ => {}
    }
    let make = |folder: &Path| {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(folder).map_err(at(folder))
    };
    make(&data)?;
    for folder in &skeleton.directories {
        make(&data.join(folder))?;
    }
    for (name, bytes) in &skeleton.files {
        let path = data.join(name);
        fs::write(&path, bytes).map_err(at(&path))?;
    }
    for piece in &skeleton.wal {
        let path = data.join(&piece.path);
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(at(&path))?;
        file.set_len(piece.file_bytes).map_err(at(&path))?;
        file.write_all_at(&piece.bytes, piece.offset).map_err(at(&path))?;
    }
    let mut settings = read_if_there(&config.directory.join("postgresql.conf"))?;
    settings.extend(read_if_there(&config.directory.join(ENVIRONMENT_SETTINGS))?);
    for (name, text) in [
        ("postgresql.conf", settings),
        (AUTO_SETTINGS, read_if_there(&config.directory.join(AUTO_SETTINGS))?),
    ] {
        let path = data.join(name);
        fs::write(&path, text).map_err(at(&path))?;
    }
    Ok(())
}

fn read_if_there(path: &Path) -> Result<Vec<u8>, DirectoryError> {
    match fs::read(path) {
        Ok(mut text) => {
            text.push(b'\n');
            Ok(text)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(path)(error)),
    }
}

/// Copies what `ALTER SYSTEM` wrote out of a data directory that is about to go.
pub(crate) fn keep_settings(config: &InstanceConfig) -> Result<(), DirectoryError> {
    let written = config.data_directory().join(AUTO_SETTINGS);
    match fs::copy(&written, config.directory.join(AUTO_SETTINGS)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&written)(error)),
        _ => Ok(()),
    }
}

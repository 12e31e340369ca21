//! The skeleton on disk.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use skeleton::Skeleton;
use wire_format::broker::TABLESPACE_LOCATIONS;

use crate::InstanceConfig;
use crate::user_settings::UserSettings;

/// A failed step, with what it was about.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}")]
pub(crate) struct DirectoryError {
    path: PathBuf,
    error: io::Error,
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError + '_ {
    move |error| DirectoryError {
        path: path.to_owned(),
        error,
    }
}

/// Writes the skeleton in place of whatever data directory was there, with the settings that users made and notes of the
/// locations that they named for tablespaces.
pub(crate) fn write<'a>(
    config: &InstanceConfig,
    skeleton: &Skeleton,
    settings: &UserSettings,
    locations: impl Iterator<Item = (u32, &'a Bytes)>,
) -> Result<(), DirectoryError> {
    let data = config.data_directory();
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
    let notes = data.join(TABLESPACE_LOCATIONS);
    make(&notes)?;
    for (tablespace, location) in locations {
        let path = notes.join(tablespace.to_string());
        fs::write(&path, location).map_err(at(&path))?;
    }
    for piece in &skeleton.wal {
        let path = data.join(&piece.path);
        let open = File::options().create(true).truncate(false).write(true).open(&path);
        let file = open.map_err(at(&path))?;
        file.set_len(piece.file_bytes).map_err(at(&path))?;
        file.write_all_at(&piece.bytes, piece.offset).map_err(at(&path))?;
    }
    settings.write(&data)
}

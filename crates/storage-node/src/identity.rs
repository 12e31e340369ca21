//! Whose files these are: a directory belongs to one node of one cluster, and to one process at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::StorageConfig;

/// Version of everything in the directory. Until 0.1 another version is refused.
pub const FORMAT_VERSION: u32 = 1;
const FILE: &str = "node.json";

/// Why a directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read or written.
    #[error("{file}: {error}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system says.
        error: std::io::Error,
    },
    /// Another process works in it.
    #[error("another process is using {0}")]
    InUse(PathBuf),
    /// It is somebody else's.
    #[error("{file} says that this directory belongs to {found}, not to {expected}")]
    Foreign {
        /// The file.
        file: PathBuf,
        /// Node and cluster it belongs to.
        found: String,
        /// Node and cluster that was started.
        expected: String,
    },
    /// It was written by another build.
    #[error(
        "{file}: format version {found}, this build reads version {FORMAT_VERSION}; pg_dump with the other build moves the data"
    )]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It is not what this program writes.
    #[error("{file} cannot be understood: {what}")]
    Malformed {
        /// The file.
        file: PathBuf,
        /// Why.
        what: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Identity {
    format_version: u32,
    cluster: String,
    node: String,
}

/// Checks that the directory is this node's, marks it if it is empty, and keeps other processes out for as long as the
/// answer lives.
pub(crate) fn take(directory: &Path, config: &StorageConfig) -> Result<File, IdentityError> {
    let path = directory.join(FILE);
    let io = |error: std::io::Error| IdentityError::Io {
        file: path.clone(),
        error,
    };
    std::fs::create_dir_all(directory).map_err(io)?;
    let mut options = OpenOptions::new();
    let mut file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(IdentityError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(io)?;
    if text.is_empty() {
        let identity = Identity {
            format_version: FORMAT_VERSION,
            cluster: config.cluster.clone(),
            node: config.name.clone(),
        };
        let text = serde_json::to_string_pretty(&identity).map_err(|error| io(error.into()))?;
        file.write_all(text.as_bytes()).map_err(io)?;
        file.sync_all().map_err(io)?;
        // Its name, and the directory's own: both may have been made just now.
        let directory = directory.canonicalize().map_err(io)?;
        for named in [Some(directory.as_path()), directory.parent()].into_iter().flatten() {
            File::open(named).and_then(|folder| folder.sync_all()).map_err(io)?;
        }
        return Ok(file);
    }
    let identity: Identity = serde_json::from_str(&text).map_err(|error| IdentityError::Malformed {
        file: path.clone(),
        what: error.to_string(),
    })?;
    if identity.format_version != FORMAT_VERSION {
        return Err(IdentityError::Version {
            file: path,
            found: identity.format_version,
        });
    }
    if (&identity.cluster, &identity.node) != (&config.cluster, &config.name) {
        return Err(IdentityError::Foreign {
            file: path,
            found: format!("{} of cluster {}", identity.node, identity.cluster),
            expected: format!("{} of cluster {}", config.name, config.cluster),
        });
    }
    Ok(file)
}

//! A temporary folder.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A folder for one test's servers, which `postgres` may write to as well. Removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new folder; `name` tells tests of one process apart.
    pub fn new(name: &str) -> Scratch {
        let folder = std::env::temp_dir().join(format!("borealis-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary folder can be written");
        std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o777)).expect("the folder is ours");
        Scratch(folder)
    }

    /// The folder itself.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A leftover folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! What a cluster consists of: pages, sizes, and what lies beside them. Read from a data directory, or made from the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use skeleton::ControlFile;
use skeleton::import::{DEFAULT_TABLESPACE, GLOBAL_TABLESPACE, ImportedFile, classify};
use skeleton::tablespaces::VERSION_DIRECTORY;
use units::{ForkKey, Lsn, PAGE_BYTES, Page, PageKey, fork};

/// See the module.
#[derive(Default)]
pub struct ClusterState {
    /// All pages that were ever written to; the others of a fork are zeros.
    pub pages: BTreeMap<PageKey, Page>,
    /// All forks, and how many blocks each has.
    pub forks: BTreeMap<ForkKey, u32>,
    /// Relation maps, by tablespace and database.
    pub relation_maps: BTreeMap<(u32, u32), Vec<u8>>,
    /// Databases, each with its tablespace first.
    pub databases: BTreeSet<(u32, u32)>,
    /// Tablespaces, less the two that every cluster has, and where they are.
    pub tablespaces: BTreeMap<u32, Vec<u8>>,
    /// Prepared transactions, each with its file less the checksum.
    pub prepared: BTreeMap<u32, Vec<u8>>,
    /// How far each replication origin was replayed; one that was never is not among them.
    pub origins: BTreeMap<u16, Lsn>,
}

impl ClusterState {
    /// What lies in the data directory of a server that does not run.
    pub fn read(data: &Path) -> Result<ClusterState> {
        let mut state = ClusterState::default();
        for folder in [
            "global",
            "pg_xact",
            "pg_multixact/offsets",
            "pg_multixact/members",
            "pg_commit_ts",
        ] {
            state.read_folder(data, folder, None)?;
        }
        state.read_databases(data, "base", None)?;
        for (tablespace, link) in numbered(&data.join("pg_tblspc"))? {
            let path = std::fs::read_link(&link).map(|path| path.into_os_string().into_encoded_bytes());
            // One in place is no link.
            state.tablespaces.insert(tablespace, path.unwrap_or_default());
            state.read_databases(
                data,
                &format!("pg_tblspc/{tablespace}/{VERSION_DIRECTORY}"),
                Some(tablespace),
            )?;
        }
        for entry in data.join("pg_twophase").read_dir()? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let transaction = u32::from_str_radix(&name, 16).context("a prepared transaction's number")?;
            let mut bytes = std::fs::read(&path)?;
            bytes.truncate(bytes.len().saturating_sub(4));
            state.prepared.insert(transaction, bytes);
        }
        state.read_origins(&data.join("pg_logical/replorigin_checkpoint"))?;
        Ok(state)
    }

    /// `CheckPointReplicationOrigin`: a magic number, entries of a number and a position, a checksum.
    fn read_origins(&mut self, path: &Path) -> Result<()> {
        const MAGIC: [u8; 4] = 0x1257_DADE_u32.to_le_bytes();
        // A cluster without origins has no such file, unless it had some before.
        let Ok(bytes) = std::fs::read(path) else {
            return Ok(());
        };
        let entries = bytes
            .strip_prefix(&MAGIC)
            .and_then(|bytes| bytes.get(..bytes.len().checked_sub(4)?));
        for entry in entries.context("a file of origins")?.chunks_exact(16) {
            let origin = u16::from_le_bytes([entry[0], entry[1]]);
            let position = entry[8..].try_into().map(u64::from_le_bytes)?;
            self.origins.insert(origin, Lsn::from_raw(position));
        }
        Ok(())
    }

    fn read_databases(&mut self, data: &Path, folder: &str, tablespace: Option<u32>) -> Result<()> {
        for (database, path) in numbered(&data.join(folder))? {
            if path.join("PG_VERSION").exists() {
                self.databases
                    .insert((tablespace.unwrap_or(DEFAULT_TABLESPACE), database));
            }
            self.read_folder(data, &format!("{folder}/{database}"), tablespace)?;
        }
        Ok(())
    }

    /// Files of one folder, which may be a database's in a tablespace.
    fn read_folder(&mut self, data: &Path, folder: &str, tablespace: Option<u32>) -> Result<()> {
        for entry in data.join(folder).read_dir().with_context(|| format!("list {folder}"))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            // Temporary relations, and maps about to be renamed, are no part of a cluster at rest.
            if path.is_dir() || name.starts_with('t') {
                continue;
            }
            let within = match folder.rsplit_once('/') {
                Some((_, database)) if tablespace.is_some() => format!("base/{database}/{name}"),
                _ => format!("{folder}/{name}"),
            };
            match classify(&within)? {
                ImportedFile::Fork { mut fork, first_block } => {
                    fork.relation.tablespace = tablespace.unwrap_or(fork.relation.tablespace);
                    self.read_pages(&path, fork, first_block)?;
                }
                ImportedFile::Status { array, first_page } => {
                    self.read_pages(&path, array.fork(fork::MAIN), first_page)?;
                }
                ImportedFile::Blob(_) if name == "pg_filenode.map" => {
                    let database = folder.rsplit_once('/').and_then(|(_, name)| name.parse().ok());
                    let default = if database.is_some() {
                        DEFAULT_TABLESPACE
                    } else {
                        GLOBAL_TABLESPACE
                    };
                    let key = (tablespace.unwrap_or(default), database.unwrap_or(0));
                    self.relation_maps.insert(key, std::fs::read(&path)?);
                }
                ImportedFile::Blob(_) | ImportedFile::Ignored => {}
            }
        }
        Ok(())
    }

    fn read_pages(&mut self, path: &Path, fork: ForkKey, first_block: u32) -> Result<()> {
        let bytes = std::fs::read(path)?;
        if !bytes.len().is_multiple_of(PAGE_BYTES) {
            bail!("{} is cut inside a page", path.display());
        }
        for (block, bytes) in (first_block..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            let page = Page::from_bytes(bytes).context("a chunk is as long as a page")?;
            if !page.is_zeroed() || fork.relation.is_status_array() {
                self.pages.insert(fork.page(block), page);
            }
        }
        let blocks = first_block + u32::try_from(bytes.len() / PAGE_BYTES)?;
        let known = self.forks.entry(fork).or_default();
        *known = blocks.max(*known);
        Ok(())
    }
}

/// Entries of a folder whose names are numbers.
fn numbered(folder: &Path) -> Result<Vec<(u32, PathBuf)>> {
    let mut found = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("list {}", folder.display()))?
    {
        let path = entry?.path();
        let number = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok());
        found.extend(number.map(|number| (number, path)));
    }
    found.sort();
    Ok(found)
}

/// The control file of a data directory.
pub fn control_file(data: &Path) -> Result<ControlFile> {
    let bytes = std::fs::read(data.join("global/pg_control")).context("read the control file")?;
    Ok(ControlFile::parse(&bytes)?)
}

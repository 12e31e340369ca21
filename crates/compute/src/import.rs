//! A new volume: `initdb` in a scratch directory, and its files as the volume's first pages.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use units::{Page, PageKey};

use crate::InstanceConfig;
use crate::postgresql::{kill_until_gone, working_for};

/// SQL functions of the library, made in every database of a new cluster.
const LIBRARY_FUNCTIONS: &str = include_str!("../../pg-extension/src/functions.sql");

/// The databases that `initdb` makes.
const FIRST_DATABASES: [&str; 3] = ["template1", "template0", "postgres"];

/// Why the first files of a cluster could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A program could not be started, or a file not be read.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed ({status}):\n{output}")]
    Program {
        /// Which.
        program: &'static str,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it said.
        output: String,
    },
    /// A file that is not as `initdb` leaves it.
    #[error("{path} of the new cluster cannot be imported: {what}")]
    File {
        /// The file, relative to the data directory.
        path: String,
        /// What is wrong with it.
        what: String,
    },
}

fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ImportError {
    let what = what.into();
    move |source| ImportError::Io { what, source }
}

/// Scratch directories are named so, and end with something random: what is left of an earlier attempt never meets ours.
const SCRATCH: &str = "initdb-";
/// How long the programs of an attempt that broke off may take to be gone once they are killed.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Ends what earlier attempts of this instance left running, and removes their scratch directories.
pub fn clear_scratch(config: &InstanceConfig) -> Result<(), ImportError> {
    let folder = config.instance_directory();
    let list = || io_error(format!("list {}", folder.display()));
    for entry in std::fs::read_dir(&folder).map_err(list())? {
        let entry = entry.map_err(list())?;
        if !entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            continue;
        }
        let scratch = entry.path();
        kill_until_gone("an initdb that was left alone", KILL_LIMIT, || working_for(&scratch))
            .map_err(io_error("end an earlier initdb"))?;
        match std::fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error(format!("remove {}", scratch.display()))(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Runs `initdb` in a scratch directory and adds the library's functions. Returns the data directory, which
/// [`clear_scratch`] removes.
pub fn make_cluster(config: &InstanceConfig) -> Result<PathBuf, ImportError> {
    clear_scratch(config)?;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| io_error("random bytes")(std::io::Error::other(error)))?;
    let name = format!("{SCRATCH}{:016x}", u64::from_le_bytes(random));
    let scratch = config.instance_directory().join(name);
    let output = Command::new(config.postgresql_bin.join("initdb"))
        .args([
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--auth=scram-sha-256",
        ])
        .arg(format!("--pwfile={}", config.password_file.display()))
        .args(&config.initdb_arguments)
        .arg("-D")
        .arg(&scratch)
        .stdin(Stdio::null())
        .output()
        .map_err(io_error("start initdb"))?;
    succeeded("initdb", &output)?;
    for database in FIRST_DATABASES {
        add_functions(config, &scratch, database)?;
    }
    Ok(scratch)
}

fn add_functions(config: &InstanceConfig, data: &Path, database: &str) -> Result<(), ImportError> {
    let mut child = Command::new(config.postgresql_bin.join("postgres"))
        .args([
            "--single",
            "-F",
            "-O",
            "-j",
            "-c",
            "exit_on_error=true",
            "-c",
            "allow_system_table_mods=on",
            "-c",
        ])
        .arg(format!(
            "dynamic_library_path={}/lib:$libdir",
            config.directory.display()
        ))
        .arg("-D")
        .arg(data)
        .arg(database)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io_error("start postgres --single"))?;
    let mut stdin = child.stdin.take().expect("standard input was asked for as a pipe");
    // With -j a statement ends at a semicolon followed by an empty line.
    let statements = format!("SET search_path = pg_catalog;\n{LIBRARY_FUNCTIONS}").replace(";\n", ";\n\n");
    let written = stdin.write_all(statements.as_bytes());
    drop(stdin);
    let output = child
        .wait_with_output()
        .map_err(io_error("wait for postgres --single"))?;
    succeeded("postgres --single", &output)?;
    written.map_err(io_error("write to postgres --single"))
}

fn succeeded(program: &'static str, output: &std::process::Output) -> Result<(), ImportError> {
    if output.status.success() {
        return Ok(());
    }
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    Err(ImportError::Program {
        program,
        status: output.status,
        output: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// Every file below `data`, as a path relative to it, in name order, so that an import is repeatable.
pub fn files(data: &Path) -> Result<Vec<String>, ImportError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let absolute = data.join(&folder);
        let list = || io_error(format!("list {}", absolute.display()));
        for entry in std::fs::read_dir(&absolute).map_err(list())? {
            let entry = entry.map_err(list())?;
            let relative = folder.join(entry.file_name());
            if entry.file_type().map_err(list())?.is_dir() {
                folders.push(relative);
            } else {
                let name = relative.to_str().ok_or_else(|| ImportError::File {
                    path: relative.display().to_string(),
                    what: "its name is not plain text".into(),
                })?;
                found.push(name.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Cuts a file into pages; all-zero pages are left out, because pages begin as zeros.
pub fn pages(first: PageKey, path: &str, bytes: &[u8]) -> Result<Vec<(PageKey, Page)>, ImportError> {
    if !bytes.len().is_multiple_of(units::PAGE_BYTES) {
        let what = format!("its {} bytes are not whole pages", bytes.len());
        return Err(ImportError::File {
            path: path.to_owned(),
            what,
        });
    }
    let pages = bytes
        .chunks_exact(units::PAGE_BYTES)
        .zip(first.block..)
        .filter_map(|(bytes, block)| {
            let page = Page::from_bytes(bytes).filter(|page| !page.is_zeroed())?;
            Some((first.fork.page(block), page))
        });
    Ok(pages.collect())
}

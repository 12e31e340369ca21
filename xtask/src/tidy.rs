//! The laws of the layout: which crate may depend on which, and where `unsafe` may stand.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Every crate with the crates of the workspace it may depend on. An arrow that is not here is an architectural
/// decision: add it in a commit of its own, with its reason.
const ARROWS: &[(&str, &[&str])] = &[
    ("units", &[]),
    ("engine", &["units"]),
    ("timeline", &["units"]),
    ("wal", &["units", "engine"]),
    ("redo", &["units", "engine", "wal"]),
    ("skeleton", &["units", "wal"]),
    ("quorum", &["units", "timeline"]),
    ("wire-format", &["units", "timeline"]),
    ("replication-protocol", &["units"]),
    ("segment", &["units", "timeline", "wire-format"]),
    ("volume", &["units", "timeline", "quorum", "wire-format"]),
    ("io", &["units"]),
    ("page-store", &["units", "engine", "timeline", "wire-format", "io"]),
    (
        "sim",
        &[
            "units",
            "engine",
            "timeline",
            "quorum",
            "segment",
            "volume",
            "wire-format",
            "page-store",
            "io",
        ],
    ),
    // Nothing: a specification that shares code with what it specifies shares its errors.
    ("specification", &[]),
    ("node-link", &["wire-format"]),
    ("supervision", &[]),
    ("telemetry", &[]),
    (
        "storage-node",
        &[
            "units",
            "engine",
            "timeline",
            "wal",
            "redo",
            "segment",
            "page-store",
            "wire-format",
            "io",
            "node-link",
            "telemetry",
        ],
    ),
    ("control-plane", &["units", "telemetry"]),
    ("owned-settings", &[]),
    (
        "compute",
        &[
            "units",
            "engine",
            "timeline",
            "quorum",
            "wal",
            "redo",
            "skeleton",
            "volume",
            "wire-format",
            "replication-protocol",
            "node-link",
            "supervision",
            "telemetry",
            "control-plane",
            "owned-settings",
        ],
    ),
    ("proxy", &["control-plane", "wire-format", "telemetry"]),
    ("pg-extension", &["units", "wire-format", "owned-settings"]),
    (
        "borealis",
        &[
            "units",
            "redo",
            "quorum",
            "volume",
            "wire-format",
            "node-link",
            "storage-node",
            "compute",
            "control-plane",
            "proxy",
            "supervision",
            "telemetry",
        ],
    ),
];

/// The only crate that may hold `unsafe`.
const UNSAFE_CRATE: &str = "pg-extension";
/// Lines beyond which a source file needs a second noun.
const FILE_LINES_MAX: usize = 800;

/// Fails with every law that is broken.
pub fn check() -> Result<()> {
    println!("==> arrows and layout");
    let allowed: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut broken = Vec::new();
    for entry in fs::read_dir("crates").context("list crates/ (run from the top of the checkout)")? {
        let folder = entry?.path();
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .context("crate folder name")?
            .to_owned();
        check_arrows(&folder, &name, &allowed, &mut broken)?;
        check_sources(&folder, &name, &mut broken)?;
    }
    if !broken.is_empty() {
        bail!("broken laws:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

fn check_arrows(folder: &Path, name: &str, allowed: &BTreeMap<&str, &[&str]>, broken: &mut Vec<String>) -> Result<()> {
    let Some(may) = allowed.get(name) else {
        broken.push(format!("crate {name} is not on the map in xtask/src/tidy.rs"));
        return Ok(());
    };
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).with_context(|| format!("manifest of {name}"))?;
    let mut in_dependencies = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line == "[dependencies]";
        }
        let dependency = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if in_dependencies && allowed.contains_key(dependency) && !may.contains(&dependency) {
            broken.push(format!(
                "{name} depends on {dependency}, an arrow that is not on the map"
            ));
        }
    }
    let forbids = manifest.contains("[lints]\nworkspace = true");
    if !forbids && name != UNSAFE_CRATE {
        broken.push(format!(
            "{name} does not take the workspace's lints, which forbid unsafe code"
        ));
    }
    Ok(())
}

fn check_sources(folder: &Path, name: &str, broken: &mut Vec<String>) -> Result<()> {
    for file in rust_files(&folder.join("src"))? {
        let text = fs::read_to_string(&file)?;
        let is_tests = file.file_name().is_some_and(|file| file == "tests.rs");
        let lines = text.lines().count();
        if lines > FILE_LINES_MAX && !is_tests {
            broken.push(format!(
                "{} has {lines} lines (at most {FILE_LINES_MAX})",
                file.display()
            ));
        }
        if !text.starts_with("//!") && !is_tests {
            broken.push(format!("{} does not say what it is (`//!`)", file.display()));
        }
    }
    if !folder.join("src/lib.rs").exists() && !folder.join("src/main.rs").exists() {
        broken.push(format!("crate {name} has neither lib.rs nor main.rs"));
    }
    Ok(())
}

fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(rust_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}

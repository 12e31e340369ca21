//! Where the suites come from: a source tree of PostgreSQL 15, and the one library that is compiled from it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::server::{as_postgres, make_folder};

const SERVER_HEADERS: &str = "/usr/include/postgresql/15/server";
/// Libraries of contrib that the regression suite loads beside its own.
const TRIGGER_LIBRARIES: [&str; 2] = ["autoinc.so", "refint.so"];
const HOW_TO_GET_THEM: &str = "give a source tree of PostgreSQL 15: make regression ARGUMENTS='--source DIR'
(unpacked from https://ftp.postgresql.org/pub/source/, any 15.x; or let apt find it with a deb-src line in its sources)";

/// A source tree, copied to where the servers' user can read it.
pub struct Sources {
    folder: PathBuf,
}

impl Sources {
    /// Copies what the suites need out of `given`, or else out of Debian's source package, into `work`.
    pub fn obtain(given: Option<&Path>, work: &Path) -> Result<Sources> {
        let tree = match given {
            Some(tree) => tree.to_owned(),
            None => from_debian(&work.join("source-package"))?,
        };
        ensure!(
            tree.join("src/test/regress/parallel_schedule").exists(),
            "{} holds no sources of PostgreSQL 15; {HOW_TO_GET_THEM}",
            tree.display()
        );
        let sources = Sources {
            folder: work.join("sources"),
        };
        make_folder(&sources.folder)?;
        for (from, to) in [
            ("src/test/regress", "regress"),
            ("src/test/isolation", "isolation"),
            ("contrib", "contrib"),
        ] {
            run(Command::new("cp")
                .arg("-rT")
                .arg(tree.join(from))
                .arg(sources.folder.join(to)))?;
        }
        sources.compile()?;
        run(Command::new("chmod").args(["-R", "a+rX"]).arg(&sources.folder))?;
        Ok(sources)
    }

    /// The regression suite's own library, and those it borrows from contrib, in one folder.
    fn compile(&self) -> Result<()> {
        let libraries = self.libraries();
        std::fs::create_dir_all(&libraries).with_context(|| format!("make {}", libraries.display()))?;
        run(Command::new("cc")
            .args(["-O1", "-fPIC", "-shared", "-I", SERVER_HEADERS, "-o"])
            .arg(libraries.join("regress.so"))
            .arg(self.regress().join("regress.c")))?;
        for library in TRIGGER_LIBRARIES {
            let installed = Path::new("/usr/lib/postgresql/15/lib").join(library);
            std::fs::copy(&installed, libraries.join(library))
                .with_context(|| format!("copy {}", installed.display()))?;
        }
        Ok(())
    }

    /// The regression suite.
    pub fn regress(&self) -> PathBuf {
        self.folder.join("regress")
    }

    /// The isolation suite.
    pub fn isolation(&self) -> PathBuf {
        self.folder.join("isolation")
    }

    /// Compiled libraries.
    pub fn libraries(&self) -> PathBuf {
        self.folder.join("libraries")
    }

    /// Every module of contrib, by name.
    pub fn contrib(&self) -> Result<Vec<PathBuf>> {
        let mut modules = Vec::new();
        for entry in std::fs::read_dir(self.folder.join("contrib"))? {
            let folder = entry?.path();
            if folder.join("Makefile").exists() {
                modules.push(folder);
            }
        }
        modules.sort();
        Ok(modules)
    }
}

/// Debian's source package, as upstream released it: Debian's patches change no suite.
fn from_debian(folder: &Path) -> Result<PathBuf> {
    make_folder(folder)?;
    let status = Command::new("apt-get")
        .args(["source", "--download-only", "-qq", "postgresql-15"])
        .current_dir(folder)
        .status();
    if !status.is_ok_and(|status| status.success()) {
        bail!("apt-get source postgresql-15 does not work here; {HOW_TO_GET_THEM}");
    }
    let mut archive = None;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.to_string_lossy().contains(".orig.tar.") {
            archive = Some(path);
        }
    }
    let archive = archive.with_context(|| format!("no .orig.tar among the source package; {HOW_TO_GET_THEM}"))?;
    let tree = folder.join("tree");
    make_folder(&tree)?;
    run(Command::new("tar")
        .args(["--strip-components=1", "-xf"])
        .arg(&archive)
        .arg("-C")
        .arg(&tree))?;
    Ok(tree)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// `pg_regress`, as Debian ships it with the server's headers.
pub(crate) fn regress_program() -> Command {
    as_postgres("/usr/lib/postgresql/15/lib/pgxs/src/test/regress/pg_regress")
}

/// `pg_isolation_regress`, beside the `isolationtester` that it starts.
pub(crate) fn isolation_program() -> Command {
    as_postgres("/usr/lib/postgresql/15/lib/pgxs/src/test/isolation/pg_isolation_regress")
}

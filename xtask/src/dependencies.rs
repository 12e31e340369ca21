//! What a fresh Debian 12 needs besides Rust: PostgreSQL 15, its server headers, libclang to read them, strace for a
//! test, and valgrind to count instructions.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

struct Need {
    what: &'static str,
    /// Present if any of these exists.
    files: &'static [&'static str],
    package: &'static str,
}

const NEEDS: &[Need] = &[
    Need {
        what: "PostgreSQL 15 server",
        files: &["/usr/lib/postgresql/15/bin/postgres"],
        package: "postgresql-15",
    },
    Need {
        what: "psql and pgbench",
        files: &["/usr/lib/postgresql/15/bin/psql"],
        package: "postgresql-client-15",
    },
    Need {
        what: "PostgreSQL 15 server headers",
        files: &["/usr/include/postgresql/15/server/postgres.h"],
        package: "postgresql-server-dev-15",
    },
    Need {
        what: "libclang, which reads the headers",
        files: &["/usr/lib/llvm-14/lib/libclang.so", "/usr/lib/llvm-14/lib/libclang.so.1"],
        package: "libclang-14-dev",
    },
    Need {
        what: "a C compiler and linker",
        files: &["/usr/bin/cc"],
        package: "gcc",
    },
    Need {
        what: "a C++ compiler, for libFuzzer",
        files: &["/usr/bin/c++"],
        package: "g++",
    },
    Need {
        what: "the C library's headers",
        files: &["/usr/include/stdlib.h"],
        package: "libc6-dev",
    },
    Need {
        what: "strace, with which a test sees that syncs come before acknowledgements",
        files: &["/usr/bin/strace"],
        package: "strace",
    },
    Need {
        what: "valgrind, with which instructions are counted",
        files: &["/usr/bin/valgrind"],
        package: "valgrind",
    },
];

/// What `extensions` needs beside: extensions that are packages of their own.
const EXTENSIONS: &[Need] = &[
    Need {
        what: "PostGIS",
        files: &["/usr/share/postgresql/15/extension/postgis.control"],
        package: "postgresql-15-postgis-3",
    },
    Need {
        what: "RUM",
        files: &["/usr/share/postgresql/15/extension/rum.control"],
        package: "postgresql-15-rum",
    },
    Need {
        what: "pg_partman",
        files: &["/usr/share/postgresql/15/extension/pg_partman.control"],
        package: "postgresql-15-partman",
    },
    Need {
        what: "pg_cron",
        files: &["/usr/share/postgresql/15/extension/pg_cron.control"],
        package: "postgresql-15-cron",
    },
];

fn missing(needs: &'static [Need]) -> Vec<&'static Need> {
    needs
        .iter()
        .filter(|need| !need.files.iter().any(|file| Path::new(file).exists()))
        .collect()
}

/// What the build and the tests need.
pub fn install() -> Result<()> {
    install_all(NEEDS)
}

/// The extensions that `extensions` tries.
pub fn install_extensions() -> Result<()> {
    install_all(EXTENSIONS)
}

/// Installs what is missing when run by root; otherwise says which command installs it.
fn install_all(all: &'static [Need]) -> Result<()> {
    let needs = missing(all);
    if needs.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = needs.iter().map(|need| need.package).collect();
    for need in &needs {
        println!("missing: {} (package {})", need.what, need.package);
    }
    let by_hand = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !is_root()? {
        bail!("run as root: {by_hand}");
    }
    println!("installing with: {by_hand}");
    apt(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&packages);
    apt(&arguments)?;
    if let Some(need) = missing(all).first() {
        bail!(
            "{} is still missing after the installation of {}",
            need.what,
            need.package
        );
    }
    Ok(())
}

fn apt(arguments: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(arguments)
        .status()
        .context("run apt-get")?;
    if !status.success() {
        bail!("apt-get {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self").context("read /proc/self")?.uid() == 0)
}

//! PostgreSQL as `up` finds it: its version, the account that it runs as, and where our library is put for it.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::layout::Layout;
use crate::setup;

/// The versions of PostgreSQL whose records and pages Borealis knows.
const POSTGRESQL_MAJOR: u32 = 15;
const POSTGRESQL_MINOR_MIN: u32 = 16;
/// Whom PostgreSQL runs as when root starts it.
const USER: &str = "postgres";

/// Refuses to begin without the programs of a PostgreSQL that Borealis knows.
pub(super) fn check(folder: &Path) -> Result<()> {
    let way_out = "apt-get install --no-install-recommends postgresql-15, or name its programs' folder in BOREALIS_POSTGRESQL_BIN";
    for program in ["postgres", "initdb", "psql"] {
        if !folder.join(program).exists() {
            bail!(
                "PostgreSQL 15 is not in {} ({program} is missing)\nhint:  {way_out}",
                folder.display()
            );
        }
    }
    let output = Command::new(folder.join("postgres")).arg("--version").output();
    let output = output.with_context(|| format!("run {}", folder.join("postgres").display()))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    match version(&said) {
        Some((POSTGRESQL_MAJOR, minor)) if POSTGRESQL_MINOR_MIN <= minor => Ok(()),
        _ => bail!(
            "{} is {}, and Borealis works with PostgreSQL {POSTGRESQL_MAJOR}.{POSTGRESQL_MINOR_MIN} or a later \
             {POSTGRESQL_MAJOR}\nhint:  {way_out}",
            folder.join("postgres").display(),
            if said.trim().is_empty() {
                "no PostgreSQL"
            } else {
                said.trim()
            }
        ),
    }
}

/// Major and minor version in the answer to `postgres --version`: `postgres (PostgreSQL) 15.20 (Debian …)`.
fn version(said: &str) -> Option<(u32, u32)> {
    let (major, minor) = said
        .strip_prefix("postgres (PostgreSQL) ")?
        .split_whitespace()
        .next()?
        .split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Root only prepares: the directory and the programs belong to `postgres`, who does the rest.
pub(super) fn as_postgres(layout: &Layout) -> Result<ExitCode> {
    let (user, group) = account(USER)?;
    let directory = layout.directory();
    let own = |path: &Path| {
        std::os::unix::fs::chown(path, Some(user), Some(group)).with_context(|| format!("chown {}", path.display()))
    };
    let existed = directory.exists();
    if existed && !layout.cluster_file().exists() {
        setup::refuse_others(directory)?;
    }
    std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    if existed && std::fs::metadata(directory)?.uid() != user && std::fs::read_dir(directory)?.next().is_some() {
        bail!(
            "{} belongs to somebody else and is not empty\nhint:  name an empty directory with --dir",
            directory.display()
        );
    }
    own(directory)?;
    let program = std::env::current_exe().context("the program's own path")?;
    let library = program.with_file_name("libborealis_postgresql.so");
    let installed = directory.join("bin/borealis");
    if program != installed {
        install_as(user, group, &program, &installed)?;
    }
    if library.exists() {
        install_as(user, group, &library, &layout.library())?;
    }
    // In its place, not below it: signals reach it, also where this is the first process of a container. Supplementary
    // groups are left, too.
    let failed = Command::new(&installed)
        .args(arguments_without_directory())
        .arg("--dir")
        .arg(directory)
        .current_dir("/")
        .env("HOME", directory)
        .uid(user)
        .gid(group)
        .exec();
    bail!(
        "{} cannot be run as the user {USER}: {failed}\nhint:  every folder above it must let {USER} pass",
        installed.display()
    )
}

/// This command's arguments, but for the directory, which is named in its absolute form.
fn arguments_without_directory() -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = std::env::args_os().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--dir" {
            arguments.next();
        } else if !argument.as_encoded_bytes().starts_with(b"--dir=") {
            kept.push(argument);
        }
    }
    kept
}

/// Copies a file into the cluster's directory with the rights of the account that owns it: root opens the source and
/// nothing else, so that no link planted in that directory leads root anywhere.
fn install_as(user: u32, group: u32, from: &Path, to: &Path) -> Result<()> {
    const SCRIPT: &str = r#"mkdir -p "${1%/*}" && cat >"$1.next" && chmod 755 "$1.next" && mv -f "$1.next" "$1""#;
    let source = std::fs::File::open(from).with_context(|| format!("open {}", from.display()))?;
    let status = Command::new("/bin/sh")
        .args(["-c", SCRIPT, "install"])
        .arg(to)
        .current_dir("/")
        .stdin(source)
        .uid(user)
        .gid(group)
        .status()
        .context("start /bin/sh")?;
    if !status.success() {
        bail!(
            "{} cannot be copied to {} as the user {USER} ({status})",
            from.display(),
            to.display()
        );
    }
    Ok(())
}

/// User and group of an account.
fn account(name: &str) -> Result<(u32, u32)> {
    let text = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let line = text
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields[0] == name);
    let fields = line.with_context(|| format!("there is no user {name}; PostgreSQL's package makes it"))?;
    let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
    number(2)
        .zip(number(3))
        .with_context(|| format!("/etc/passwd says nothing useful of {name}"))
}

fn replace_file(from: &Path, to: &Path) -> Result<()> {
    let next = to.with_extension("next");
    std::fs::copy(from, &next).with_context(|| format!("copy {} to {}", from.display(), next.display()))?;
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(&next, to).with_context(|| format!("rename {}", next.display()))
}

pub(super) fn install_library(layout: &Layout) -> Result<()> {
    let program = std::env::current_exe().context("the program's own path")?;
    let built = program.with_file_name("libborealis_postgresql.so");
    if built.exists() {
        return replace_file(&built, &layout.library());
    }
    if !layout.library().exists() {
        bail!(
            "the PostgreSQL library is not beside {} (libborealis_postgresql.so)\nhint:  make build",
            program.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn postgresql_says_its_version_with_or_without_a_packager() {
        assert_eq!(
            version("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"),
            Some((15, 20))
        );
        assert_eq!(version("postgres (PostgreSQL) 16.4\n"), Some((16, 4)));
        assert_eq!(version("postgres (PostgreSQL) 18beta1\n"), None);
        assert_eq!(version("some other program 15.20"), None);
        assert_eq!(version(""), None);
    }
}

//! Stock PostgreSQL servers for tests: on data directories of their own, without TCP, their socket in the data directory.
//!
//! Everything here panics on failure, as tests do, and says what PostgreSQL said. A server that is dropped is stopped at
//! once; a [`Scratch`] that is dropped is removed with all that is in it.

mod scratch;
mod server;

use std::process::{Command, Output, Stdio};

pub use scratch::Scratch;
pub use server::Server;

/// Where Debian keeps PostgreSQL's programs.
pub const BIN: &str = "/usr/lib/postgresql/15/bin";

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// One of PostgreSQL's programs. It runs as `postgres` if we are root, whom PostgreSQL refuses.
pub fn command(program: &str) -> Command {
    let path = format!("{BIN}/{program}");
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", &path]);
    command
}

/// What a program printed, errors last.
pub fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Runs a program that must succeed. Its standard output, trimmed.
pub fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout)
        .expect("it prints text")
        .trim()
        .to_owned()
}

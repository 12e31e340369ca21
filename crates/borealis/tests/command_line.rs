//! What the command line says when something is not as it should be. No PostgreSQL is started.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Somebody who is not root: root's `up` goes on as another user.
const NOBODY: u32 = 65_534;

/// A folder with the program, PostgreSQL's programs as far as they are looked for, and room for a cluster.
struct Sandbox {
    folder: PathBuf,
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // A leftover in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Sandbox {
    fn new(name: &str) -> Sandbox {
        let folder = std::env::temp_dir().join(format!("borealis-command-line-{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("postgresql")).expect("a temporary folder");
        // Loosely readable: the other user has to get here.
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("it is ours");
        std::fs::copy(env!("CARGO_BIN_EXE_borealis"), folder.join("borealis")).expect("a copy of the program");
        std::fs::write(folder.join("postgresql/postgres"), "").expect("it is only looked for");
        Sandbox { folder }
    }

    fn cluster(&self) -> PathBuf {
        self.folder.join("cluster")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.folder.join("borealis"));
        command
            .args(arguments)
            .arg("--dir")
            .arg(self.cluster())
            .env("BOREALIS_POSTGRESQL_BIN", self.folder.join("postgresql"))
            .current_dir("/");
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program runs")
    }
}

/// It failed, and said all of this as errors are said.
fn check_failed(output: &Output, said: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text.starts_with("error: "), "{text}");
    assert!(text.contains("\nhint:  "), "{text}");
    for part in said {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn commands_without_a_cluster_say_how_to_make_one() {
    let sandbox = Sandbox::new("missing");
    for arguments in [
        &["status"][..],
        &["down"],
        &["kill", "writer"],
        &["psql"],
        &["logs", "proxy"],
    ] {
        check_failed(&sandbox.run(arguments), &["there is no cluster in", "borealis up"]);
    }
}

#[test]
fn misuse_is_told_from_failure() {
    let sandbox = Sandbox::new("misuse");
    for arguments in [
        &["az", "fail", "d"][..],
        &["kill"],
        &["fly"],
        &["up", "--port", "70000"],
    ] {
        assert_eq!(sandbox.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!(sandbox.run(&["version"]).status.code(), Some(0));
}

#[test]
fn a_port_in_use_is_named_before_anything_is_made() {
    let sandbox = Sandbox::new("port");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it listens").port().to_string();
    let refused = sandbox.run(&["up", "--port", &port]);
    check_failed(&refused, &[&format!("port {port} is in use"), "--port"]);
    assert!(!sandbox.cluster().exists());
}

#[test]
fn a_directory_of_somebody_else_is_left_alone() {
    let sandbox = Sandbox::new("directory");
    std::fs::create_dir(sandbox.cluster()).expect("a folder");
    std::fs::set_permissions(sandbox.cluster(), std::fs::Permissions::from_mode(0o777)).expect("it is ours");
    std::fs::write(sandbox.cluster().join("thesis.txt"), "precious").expect("a file");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("it listens").port().to_string();
    drop(listener);
    let refused = sandbox.run(&["up", "--port", &port]);
    check_failed(&refused, &["is not empty", "thesis.txt", "--dir"]);
    let entries = std::fs::read_dir(sandbox.cluster()).expect("it is there").count();
    assert_eq!(entries, 1, "nothing was added");
}

#[test]
fn a_missing_postgresql_names_the_package() {
    let sandbox = Sandbox::new("postgresql");
    std::fs::remove_file(sandbox.folder.join("postgresql/postgres")).expect("it is ours");
    check_failed(&sandbox.run(&["up"]), &["PostgreSQL 15 is not in", "postgresql-15"]);
}

#[test]
fn a_setting_that_borealis_owns_is_refused_with_the_reason() {
    let sandbox = Sandbox::new("setting");
    let mut up = sandbox.command(&["up"]);
    let refused = up.env("BOREALIS_PG_FSYNC", "off").output().expect("the program runs");
    check_failed(&refused, &["fsync is set by Borealis", "durability"]);
    assert!(!sandbox.cluster().exists());
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let sandbox = Sandbox::new("format");
    std::fs::create_dir(sandbox.cluster()).expect("a folder");
    std::fs::write(sandbox.cluster().join("cluster.json"), r#"{"format_version": 9}"#).expect("a file");
    for arguments in [&["status"][..], &["up"], &["down"]] {
        check_failed(
            &sandbox.run(arguments),
            &["format version 9", "reads version 1", "pg_dump"],
        );
    }
}

#[test]
fn a_second_up_on_a_running_directory_is_refused() {
    let sandbox = Sandbox::new("second");
    std::fs::create_dir_all(sandbox.cluster().join("run")).expect("a folder");
    let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
    let (_, fields) = stat.rsplit_once(')').expect("a command's name");
    let start_time = fields.split_whitespace().nth(19).expect("field 22");
    let pid_file = sandbox.cluster().join("run/agent.pid");
    std::fs::write(&pid_file, format!("{} {start_time}\n", std::process::id())).expect("a file");
    check_failed(&sandbox.run(&["up"]), &["is running already", "borealis down"]);
}

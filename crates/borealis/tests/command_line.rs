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
        // Written by a process that is gone by then: had this one written it, another test's child, born at that moment, could
        // hold it open for writing, and nobody can run such a file.
        let mut copy = Command::new("cp");
        let copied = copy
            .arg(env!("CARGO_BIN_EXE_borealis"))
            .arg(folder.join("borealis"))
            .status();
        assert!(copied.expect("cp runs").success(), "a copy of the program");
        let sandbox = Sandbox { folder };
        for program in ["postgres", "initdb", "psql"] {
            sandbox.program(program, "15.20 (Debian 15.20-0+deb12u1)");
        }
        sandbox
    }

    /// A program that does nothing but tell its version.
    fn program(&self, name: &str, version: &str) {
        let path = self.folder.join("postgresql").join(name);
        let mut write = Command::new("sh");
        let write = write.args(["-c", r#"echo "$1" > "$0" && chmod 755 "$0""#]).arg(&path);
        let written = write
            .arg(format!("#!/bin/sh\necho '{name} (PostgreSQL) {version}'"))
            .status();
        assert!(written.expect("sh runs").success(), "a script");
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
    sandbox.program("postgres", "15.20");
    std::fs::remove_file(sandbox.folder.join("postgresql/initdb")).expect("it is ours");
    check_failed(&sandbox.run(&["up"]), &["initdb is missing", "BOREALIS_POSTGRESQL_BIN"]);
}

#[test]
fn another_postgresql_is_refused_by_its_version() {
    let sandbox = Sandbox::new("version");
    for version in ["16.4 (Debian 16.4-1)", "15.15", "14.22", "15devel"] {
        sandbox.program("postgres", version);
        check_failed(
            &sandbox.run(&["up"]),
            &[
                &format!("(PostgreSQL) {version}"),
                "15.16 or a later 15",
                "postgresql-15",
            ],
        );
    }
    assert!(!sandbox.cluster().exists());
}

#[test]
fn a_directory_that_is_too_long_for_sockets_is_refused_before_anything_is_made() {
    let sandbox = Sandbox::new("long");
    let long = sandbox.folder.join("x".repeat(100));
    let mut up = sandbox.command(&["up"]);
    let refused = up.arg("--dir").arg(&long).output().expect("the program runs");
    assert_eq!(refused.status.code(), Some(2), "--dir twice is misuse");
    let mut up = Command::new(sandbox.folder.join("borealis"));
    up.args(["up", "--dir"]).arg(&long).current_dir("/");
    up.env("BOREALIS_POSTGRESQL_BIN", sandbox.folder.join("postgresql"));
    check_failed(
        &up.output().expect("the program runs"),
        &["too long", "shorter directory with --dir"],
    );
    assert!(!long.exists());
}

#[test]
fn without_a_home_the_directory_must_be_named() {
    let sandbox = Sandbox::new("homeless");
    let mut status = Command::new(sandbox.folder.join("borealis"));
    status.arg("status").env_clear().current_dir("/");
    if rustix::process::geteuid().is_root() {
        status.uid(NOBODY).gid(NOBODY);
    }
    check_failed(
        &status.output().expect("the program runs"),
        &["HOME is not set", "--dir"],
    );
}

/// Root may read everything, so only root can make what another user may not read.
#[test]
fn a_cluster_of_another_user_is_told_from_none() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let sandbox = Sandbox::new("others");
    std::fs::create_dir(sandbox.cluster()).expect("a folder");
    std::fs::write(sandbox.cluster().join("cluster.json"), "{}").expect("a file");
    std::fs::set_permissions(sandbox.cluster(), std::fs::Permissions::from_mode(0o700)).expect("it is ours");
    for arguments in [
        &["up"][..],
        &["status"],
        &["down"],
        &["kill", "writer"],
        &["logs", "writer"],
    ] {
        check_failed(&sandbox.run(arguments), &["belongs to another user", "--dir"]);
    }
}

/// What is added is shown, also what came to the old file before the next one, and a next one that is longer at once.
#[test]
fn a_followed_log_is_followed_into_the_next_file() {
    use std::io::{BufRead, Write};
    let sandbox = Sandbox::new("follow");
    let log = sandbox.cluster().join("log");
    std::fs::create_dir_all(&log).expect("a folder");
    let cluster = r#"{"format_version": 2, "cluster": "", "port": 1, "storage": [], "instances": [], "stopped": []}"#;
    std::fs::write(sandbox.cluster().join("cluster.json"), cluster).expect("a file");
    let path = log.join("proxy.log");
    std::fs::write(&path, "one\n").expect("a file");
    check_failed(
        &sandbox.run(&["logs", "storage-9"]),
        &["storage-9 has no log", "there are logs of proxy"],
    );
    let mut follow = sandbox.command(&["logs", "--follow", "proxy"]);
    let mut follow = follow
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the program runs");
    let mut lines = std::io::BufReader::new(follow.stdout.take().expect("it is piped")).lines();
    let mut next = || lines.next().expect("a line").expect("readable");
    assert_eq!(next(), "one");
    let mut old = std::fs::File::options().append(true).open(&path).expect("the file");
    writeln!(old, "two").expect("room");
    assert_eq!(next(), "two");
    writeln!(old, "three").expect("room");
    std::fs::rename(&path, log.join("proxy.log.1")).expect("it is put aside");
    std::fs::write(&path, "four, and longer than all before\n").expect("a file");
    assert_eq!(next(), "three");
    assert_eq!(next(), "four, and longer than all before");
    follow.kill().expect("it is ours");
    follow.wait().expect("it is our child");
}

#[test]
fn help_teaches() {
    let sandbox = Sandbox::new("help");
    let commands = [
        "up",
        "down",
        "status",
        "kill",
        "stop",
        "start",
        "pause",
        "az",
        "failover",
        "psql",
        "logs",
        "version",
        "retention",
        "log export",
        "storage list",
        "storage add",
        "storage replace",
        "storage drain",
        "storage keep",
        "storage scrub",
        "storage remove",
    ];
    for command in commands {
        let mut help = Command::new(sandbox.folder.join("borealis"));
        let output = help
            .args(command.split(' '))
            .arg("--help")
            .output()
            .expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{command}");
        let (_, taught) = text.split_once("--help").expect("the options end with --help");
        assert!(100 < taught.len(), "{command} --help teaches nothing: {text}");
        let too_long = text.lines().find(|line| 130 < line.chars().count());
        assert_eq!(too_long, None, "{command} --help");
    }
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
            &["format version 9", "reads version 2", "pg_dump"],
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

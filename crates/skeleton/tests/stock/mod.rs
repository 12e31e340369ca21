//! Stock PostgreSQL servers on data directories of their own: no TCP, socket in the data directory, killed when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use units::Lsn;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const EXIT_MAX: Duration = Duration::from_secs(30);

/// Nothing that writes WAL by itself: the tests put its end where they want it.
pub const SETTINGS: &str = "listen_addresses = ''
unix_socket_directories = '.'
autovacuum = off
checkpoint_timeout = 1h
bgwriter_delay = 10s
max_wal_size = 1GB
max_prepared_transactions = 10
fsync = off
";
const TRUST: &str = "local all all trust\n";

/// A folder for one test's servers, removed with it.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let folder = std::env::temp_dir().join(format!("borealis-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("its mode");
        Scratch(folder)
    }

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

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// PostgreSQL refuses to run as root.
fn command(program: &str) -> Command {
    let path = format!("{BIN}/{program}");
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--", &path]);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

fn run(command: &mut Command) -> String {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("PostgreSQL 15 is installed");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

pub struct Server {
    pub data: PathBuf,
}

impl Server {
    /// A fresh cluster.
    pub fn initdb(data: PathBuf, wal_file_megabytes: u64, settings: &str) -> Server {
        run(command("initdb")
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ])
            .arg(format!("--wal-segsize={wal_file_megabytes}"))
            .arg("-D")
            .arg(&data));
        std::fs::write(data.join("postgresql.conf"), format!("{SETTINGS}{settings}")).expect("its settings");
        Server { data }
    }

    /// A data directory that was made by hand.
    pub fn on(data: PathBuf, settings: &str) -> Server {
        std::fs::write(data.join("postgresql.conf"), format!("{SETTINGS}{settings}")).expect("its settings");
        std::fs::write(data.join("pg_hba.conf"), TRUST).expect("its access rules");
        std::fs::write(data.join("pg_ident.conf"), "").expect("its user names");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&data, mode).expect("its mode");
        let server = Server { data };
        server.own_files();
        server
    }

    /// Files that the test wrote become the server's.
    pub fn own_files(&self) {
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres:"]).arg(&self.data));
        }
    }

    /// A copy of a server that does not run.
    pub fn copy(&self, data: PathBuf) -> Server {
        run(Command::new("cp").arg("-a").arg(&self.data).arg(&data));
        Server { data }
    }

    fn log_file(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// Starts it; its log since then.
    pub fn start(&self) -> String {
        let _ = std::fs::remove_file(self.log_file());
        let mut start = command("pg_ctl");
        start
            .args(["-w", "-t", "60", "-l"])
            .arg(self.log_file())
            .arg("-D")
            .arg(&self.data);
        // pg_ctl's child keeps the pipes open: no output is captured.
        let null = Stdio::null;
        let status = start.arg("start").stdin(null()).stdout(null()).stderr(null()).status();
        let log = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        assert!(
            status.is_ok_and(|status| status.success()),
            "PostgreSQL does not start: {log}"
        );
        log
    }

    fn client(&self, program: &str) -> Command {
        let mut command = command(program);
        command.arg("-h").arg(&self.data).args(["-U", "postgres"]);
        command
    }

    /// What the statement answers.
    pub fn query(&self, sql: &str) -> String {
        let options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, "postgres"];
        run(self.client("psql").args(options))
    }

    /// The statements, all in one session.
    pub fn script(&self, file: &Path) {
        run(self
            .client("psql")
            .args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(file)
            .arg("postgres"));
    }

    /// A session that stays in its transaction; returns once that has a number.
    pub fn leave_open(&self, sql: &str) -> Child {
        let sql = format!("BEGIN; {sql}; SELECT pg_sleep(600)");
        let mut psql = self.client("psql");
        let null = Stdio::null;
        let child = psql
            .args(["-X", "-q", "-c", &sql, "postgres"])
            .stdin(null())
            .stdout(null())
            .stderr(null())
            .spawn();
        let deadline = Instant::now() + EXIT_MAX;
        while self
            .query("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_xid IS NOT NULL")
            == "0"
        {
            assert!(Instant::now() < deadline, "the session does not come to its sleep");
        }
        child.expect("psql")
    }

    pub fn program(&self, program: &str, arguments: &[&str]) -> String {
        run(self.client(program).args(arguments))
    }

    /// A tool that needs no server.
    pub fn tool(&self, program: &str, arguments: &[&str]) -> String {
        run(command(program).args(arguments))
    }

    pub fn flushed(&self) -> Lsn {
        let text = self.query("SELECT pg_current_wal_flush_lsn() - '0/0'");
        Lsn::from_raw(text.parse().expect("a number"))
    }

    /// A clean stop.
    pub fn stop(&self) {
        run(command("pg_ctl")
            .args(["-w", "-m", "fast", "-D"])
            .arg(&self.data)
            .arg("stop"));
    }

    /// `kill -9` for all of it; returns once nothing of it is left. `false`: it did not run.
    pub fn kill(&self) -> bool {
        let file = std::fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let Some(postmaster) = file.lines().next().map(str::to_owned) else {
            return false;
        };
        let children = Command::new("ps")
            .args(["-o", "pid=", "--ppid", &postmaster])
            .output()
            .expect("ps");
        let mut pids = vec![postmaster];
        pids.extend(text(&children).split_whitespace().map(str::to_owned));
        // Some may have ended by themselves.
        let _ = Command::new("kill")
            .arg("-9")
            .args(&pids)
            .stderr(Stdio::null())
            .status();
        let lives = |pid: &String| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        let deadline = Instant::now() + EXIT_MAX;
        while pids.iter().any(lives) {
            assert!(Instant::now() < deadline, "PostgreSQL does not die");
            std::thread::sleep(Duration::from_millis(1));
        }
        // What a killed server leaves behind names it; a copy of the directory must not.
        for file in ["postmaster.pid", ".s.PGSQL.5432", ".s.PGSQL.5432.lock"] {
            std::fs::remove_file(self.data.join(file)).expect("its pid file and socket");
        }
        true
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

//! One server.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{command, is_root, run, text};

/// How long a server may take to start, to stop or to die, a session to come to where it waits.
const PATIENCE: Duration = Duration::from_secs(180);
/// What every server gets. Its dynamic shared memory lies in the data directory, so that a killed one leaves none behind.
const SETTINGS: &str = "listen_addresses = ''
unix_socket_directories = '.'
dynamic_shared_memory_type = mmap
fsync = off
";
const TRUST: &str = "local all all trust\n";

/// A server, running or not, on its data directory.
pub struct Server {
    data: PathBuf,
}

impl Server {
    /// Makes a fresh cluster with `initdb ARGUMENTS`. `settings` are lines of `postgresql.conf`; the last of two counts.
    pub fn initdb(data: PathBuf, arguments: &[&str], settings: &str) -> Server {
        run(command("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"])
            .arg("--no-sync")
            .args(arguments)
            .arg("-D")
            .arg(&data));
        let server = Server { data };
        server.configure(settings);
        server
    }

    /// A data directory that was made by hand.
    pub fn on(data: PathBuf, settings: &str) -> Server {
        let server = Server { data };
        server.configure(settings);
        std::fs::write(server.data.join("pg_hba.conf"), TRUST).expect("its access rules");
        std::fs::write(server.data.join("pg_ident.conf"), "").expect("its user names");
        std::fs::set_permissions(&server.data, PermissionsExt::from_mode(0o700)).expect("its mode");
        server.own_files();
        server
    }

    fn configure(&self, settings: &str) {
        let file = self.data.join("postgresql.conf");
        std::fs::write(file, format!("{SETTINGS}{settings}\n")).expect("its settings");
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

    /// Its data directory, in which its socket is, too.
    pub fn data(&self) -> &Path {
        &self.data
    }

    fn log_file(&self) -> PathBuf {
        self.data.with_extension("log")
    }

    /// What it has logged since it was last started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Starts it; what it logged until it was ready.
    pub fn start(&self) -> String {
        let _ = std::fs::remove_file(self.log_file());
        let mut start = command("pg_ctl");
        start
            .args(["-w", "-t", &PATIENCE.as_secs().to_string(), "-l"])
            .arg(self.log_file());
        start.arg("-D").arg(&self.data).arg("start");
        // pg_ctl's child keeps the pipes open: no output is captured.
        let null = Stdio::null;
        let status = start.stdin(null()).stdout(null()).stderr(null()).status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "PostgreSQL does not start: {}",
            self.log()
        );
        self.log()
    }

    /// A program that connects to this server, by default to the database `postgres`.
    pub fn client(&self, program: &str) -> Command {
        let mut client = command(program);
        client.env("PGDATABASE", "postgres").arg("-h").arg(&self.data);
        client.args(["-U", "postgres"]);
        client
    }

    fn psql(&self) -> Command {
        let mut psql = self.client("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        psql
    }

    /// What the statements answer, without decoration.
    pub fn query(&self, sql: &str) -> String {
        run(self.psql().args(["-c", sql]))
    }

    /// The statements of a file, all in one session.
    pub fn script(&self, file: &Path) -> String {
        run(self.psql().arg("-f").arg(file))
    }

    /// A client program that must succeed. Its standard output.
    pub fn program(&self, program: &str, arguments: &[&str]) -> String {
        run(self.client(program).args(arguments))
    }

    /// A session that may have to wait.
    pub fn begin(&self, sql: &str) -> Child {
        let mut psql = self.psql();
        let null = Stdio::null;
        psql.args(["-c", sql]).stdin(null()).stdout(null()).stderr(null());
        psql.spawn().expect("psql is installed")
    }

    /// A session that stays in its transaction; returns once that has a number.
    pub fn leave_open(&self, sql: &str) -> Child {
        let child = self.begin(&format!("BEGIN; {sql}; SELECT pg_sleep(600)"));
        let deadline = Instant::now() + PATIENCE;
        while self
            .query("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND backend_xid IS NOT NULL")
            == "0"
        {
            assert!(Instant::now() < deadline, "the session does not come to its sleep");
        }
        child
    }

    /// A clean stop.
    pub fn stop(&self) {
        run(&mut self.pg_ctl_stop("fast"));
    }

    fn pg_ctl_stop(&self, mode: &str) -> Command {
        let mut stop = command("pg_ctl");
        stop.args(["-w", "-t", &PATIENCE.as_secs().to_string(), "-m", mode, "-D"])
            .arg(&self.data)
            .arg("stop");
        stop
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
            .expect("ps is installed");
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
        let deadline = Instant::now() + PATIENCE;
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
        // It may be stopped already.
        let _ = self.pg_ctl_stop("immediate").output();
    }
}

//! A stock PostgreSQL of its own: a temporary directory, no TCP, stopped when dropped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const BIN: &str = "/usr/lib/postgresql/15/bin";

pub struct Stock {
    folder: PathBuf,
}

/// PostgreSQL refuses to run as root.
fn command(program: &str) -> Command {
    let path = format!("{BIN}/{program}");
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    if is_root {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", &path]);
        command
    } else {
        Command::new(path)
    }
}

fn run(mut command: Command) -> Output {
    let output = command
        .stdin(Stdio::null())
        .output()
        .expect("PostgreSQL 15 is installed");
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

impl Stock {
    /// Makes a cluster and starts it with these settings.
    pub fn start(name: &str, settings: &str) -> Stock {
        let folder = std::env::temp_dir().join(format!("borealis-{name}-{}", std::process::id()));
        let stock = Stock { folder };
        std::fs::create_dir_all(&stock.folder).expect("a temporary folder");
        std::fs::set_permissions(&stock.folder, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("its mode");
        let mut initdb = command("initdb");
        initdb.args(["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
        run({
            initdb.arg(stock.data());
            initdb
        });
        let configuration = stock.data().join("postgresql.conf");
        let own = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\n{settings}\n",
            stock.folder.display()
        );
        let before = std::fs::read_to_string(&configuration).expect("initdb's configuration");
        std::fs::write(&configuration, before + &own).expect("the configuration");
        let mut start = command("pg_ctl");
        start
            .args(["-w", "-l"])
            .arg(stock.folder.join("log"))
            .arg("-D")
            .arg(stock.data())
            .arg("start");
        // pg_ctl's child keeps the pipes open: no output is captured.
        let status = start
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let log = || std::fs::read_to_string(stock.folder.join("log")).unwrap_or_default();
        assert!(
            status.is_ok_and(|status| status.success()),
            "PostgreSQL does not start: {}",
            log()
        );
        stock
    }

    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn client(&self, program: &str) -> Command {
        let mut command = command(program);
        command.arg("-h").arg(&self.folder).args(["-U", "postgres"]);
        command
    }

    /// One value.
    pub fn query(&self, sql: &str) -> String {
        let mut psql = self.client("psql");
        psql.args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql, "postgres"]);
        String::from_utf8(run(psql).stdout).expect("text").trim().to_owned()
    }

    pub fn file(&self, script: &Path) {
        let mut psql = self.client("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(script)
            .arg("postgres");
        run(psql);
    }

    pub fn pgbench(&self, arguments: &[&str]) {
        let mut pgbench = self.client("pgbench");
        pgbench.args(arguments).arg("postgres");
        run(pgbench);
    }

    /// Where the record of the last checkpoint begins.
    pub fn checkpoint(&self) -> units::Lsn {
        let mut control = command("pg_controldata");
        control.arg("-D").arg(self.data());
        let text = String::from_utf8(run(control).stdout).expect("text");
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix("Latest checkpoint location:"));
        value.expect("a checkpoint").trim().parse().expect("its place")
    }

    /// A clean stop.
    pub fn stop(&self) {
        let mut stop = command("pg_ctl");
        stop.args(["-w", "-m", "fast", "-D"]).arg(self.data()).arg("stop");
        run(stop);
    }
}

impl Drop for Stock {
    fn drop(&mut self) {
        let mut stop = command("pg_ctl");
        stop.args(["-w", "-m", "immediate", "-D"]).arg(self.data()).arg("stop");
        // It may be stopped already; and a leftover folder harms nobody.
        let _ = stop
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

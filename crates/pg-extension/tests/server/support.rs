//! A stock server with the library, on a directory of its own, and a broker that answers from the server's own files.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use stock_postgresql::{command, run, text};
use units::{ForkKey, PAGE_BYTES, RelationKey, fork};
use wire_format::broker::{
    AnswerHeader, BROKER_VERSION, BrokerQuestion, BrokerRequest, FORK_SIZE_BYTES, FORKS_LISTED_MAX, ForkSize,
    REQUEST_BYTES, Status,
};

/// A setting that means: make everything ready, but let the test start the server.
pub const NOT_STARTED: &str = "cluster_name=not_started";

/// A server; stopped and removed when dropped.
pub struct Cluster {
    pub dir: PathBuf,
    port: u16,
    stopping: Arc<AtomicBool>,
}

/// The library, freshly built: a test does not depend on a `cdylib`, so cargo would leave an old one in place.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let test = std::env::current_exe().expect("we run");
        let target = test.ancestors().nth(3).expect("target/release/deps/test");
        let mut build = Command::new(env!("CARGO"));
        build
            .args([
                "build",
                "--release",
                "--locked",
                "--quiet",
                "--package",
                "pg-extension",
                "--target-dir",
            ])
            .arg(target);
        run(build.current_dir(env!("CARGO_MANIFEST_DIR")));
        target.join("release/libborealis_postgresql.so")
    })
}

impl Cluster {
    /// A new cluster whose server has the library, with a broker if `settings` name its socket as `{dir}/broker`.
    pub fn start(name: &str, port: u16, settings: &[&str]) -> Cluster {
        let dir = PathBuf::from(format!("/tmp/ext-{name}-{}", std::process::id()));
        fs::create_dir_all(dir.join("lib")).expect("/tmp is writable");
        run(Command::new("chown").arg("-R").arg("postgres").arg(&dir));
        fs::copy(library(), dir.join("lib/borealis.so")).expect("the library was built");
        run(command("initdb")
            .arg("-D")
            .arg(dir.join("data"))
            .args(["-A", "trust", "-U", "postgres", "-N"]));
        let cluster = Cluster {
            dir,
            port,
            stopping: Arc::default(),
        };
        cluster.serve();
        let mut options = vec![
            format!("port={port}"),
            format!("unix_socket_directories={}", cluster.dir.display()),
            "listen_addresses=".to_owned(),
            "shared_preload_libraries=borealis".to_owned(),
            format!("dynamic_library_path='{}:$libdir'", cluster.dir.join("lib").display()),
            "fsync=off".to_owned(),
            "full_page_writes=off".to_owned(),
            "restart_after_crash=off".to_owned(),
        ];
        options.extend(
            settings
                .iter()
                .map(|setting| setting.replace("{dir}", &cluster.dir.display().to_string())),
        );
        let conf = fs::read_to_string(cluster.dir.join("data/postgresql.conf")).expect("initdb wrote it");
        let options: String = options
            .iter()
            .map(|option| {
                let (name, value) = option.split_once('=').expect("name=value");
                format!("{name} = '{}'\n", value.trim_matches('\''))
            })
            .collect();
        fs::write(cluster.dir.join("data/postgresql.conf"), conf + &options).expect("writable");
        if settings.contains(&NOT_STARTED) {
            return cluster;
        }
        let output = command("pg_ctl")
            .arg("-D")
            .arg(cluster.dir.join("data"))
            .arg("-l")
            .arg(cluster.dir.join("log"))
            .args(["-w", "start"])
            .output()
            .expect("pg_ctl exists");
        assert!(output.status.success(), "{}\n{}", text(&output), cluster.log());
        cluster
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// A program of PostgreSQL's that connects to this server.
    pub fn client(&self, program: &str) -> Command {
        let mut command = command(program);
        command.env("PGUSER", "postgres").env("PGDATABASE", "postgres");
        command.arg("-h").arg(&self.dir).args(["-p", &self.port.to_string()]);
        command
    }

    /// Runs statements in one session; its output, without decoration.
    pub fn sql(&self, statements: &str) -> String {
        self.sql_in("postgres", statements)
    }

    pub fn sql_in(&self, database: &str, statements: &str) -> String {
        let output = self.psql(database, statements);
        assert!(
            output.status.success(),
            "{statements}\n{}\nlog:\n{}",
            text(&output),
            self.log()
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// The error that statements end in.
    pub fn sql_error(&self, statements: &str) -> String {
        let output = self.psql("postgres", statements);
        assert!(!output.status.success(), "succeeded: {statements}");
        text(&output)
    }

    fn psql(&self, database: &str, statements: &str) -> Output {
        use std::process::Stdio;
        let mut child = self
            .client("psql")
            .args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql exists");
        child
            .stdin
            .take()
            .expect("piped")
            .write_all(statements.as_bytes())
            .expect("psql reads");
        child.wait_with_output().expect("psql ends")
    }

    pub fn pgbench(&self, arguments: &[&str]) -> String {
        let output = self
            .client("pgbench")
            .args(arguments)
            .arg("postgres")
            .output()
            .expect("pgbench exists");
        assert!(output.status.success(), "{}\nlog:\n{}", text(&output), self.log());
        text(&output)
    }

    /// Ends the server as an operator would, which writes out every page.
    pub fn stop(&self) {
        let output = command("pg_ctl")
            .arg("-D")
            .arg(self.dir.join("data"))
            .args(["-w", "-m", "fast", "stop"])
            .output()
            .expect("pg_ctl exists");
        assert!(output.status.success(), "{}\n{}", text(&output), self.log());
    }

    fn serve(&self) {
        let socket = self.dir.join("broker");
        let listener = UnixListener::bind(&socket).expect("the directory is new");
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).expect("our own file");
        let (data, stopping) = (self.dir.join("data"), self.stopping.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopping.load(Ordering::Relaxed) {
                    break;
                }
                let (stream, data) = (stream.expect("accepts"), data.clone());
                std::thread::spawn(move || answer_all(stream, &data));
            }
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        let _ = command("pg_ctl")
            .arg("-D")
            .arg(self.dir.join("data"))
            .args(["-w", "-m", "immediate", "stop"])
            .output();
        let _ = UnixStream::connect(self.dir.join("broker"));
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn answer_all(mut stream: UnixStream, data: &Path) {
    let mut greeting = [0; 8];
    if stream.read_exact(&mut greeting).is_err() {
        return;
    }
    greeting[..4].copy_from_slice(&BROKER_VERSION.to_le_bytes());
    greeting[4..].copy_from_slice(&std::process::id().to_le_bytes());
    stream.write_all(&greeting).expect("the server reads");
    let mut request = [0; REQUEST_BYTES];
    while stream.read_exact(&mut request).is_ok() {
        let request = BrokerRequest::decode(&request).expect("the library sends requests");
        while data.join("../stuck").exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let (status, value, payload) = answer(&request.question, data);
        wait_if_late(&request.question, data);
        let header = AnswerHeader {
            number: request.number,
            status,
            value,
            payload_bytes: payload.len() as u32,
        };
        if stream
            .write_all(&header.encode())
            .and_then(|()| stream.write_all(&payload))
            .is_err()
        {
            return;
        }
    }
}

/// Holds the first answer about the size of the relation whose number stands in the file `late` until `late.held` is gone.
fn wait_if_late(question: &BrokerQuestion, data: &Path) {
    let (late, held) = (data.join("../late"), data.join("../late.held"));
    let BrokerQuestion::ForkBlocks { fork, .. } = question else {
        return;
    };
    let wanted = fs::read_to_string(&late).is_ok_and(|number| number == fork.relation.relation.to_string());
    if wanted && fork.fork == fork::MAIN && fs::rename(&late, &held).is_ok() {
        while held.exists() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn answer(question: &BrokerQuestion, data: &Path) -> (Status, u32, Vec<u8>) {
    match question {
        BrokerQuestion::ForkBlocks { .. } if data.join("../refusing").exists() => {
            (Status::ReadFailed, 0, b"refused by the test".to_vec())
        }
        BrokerQuestion::ListForks {
            tablespace,
            database,
            after,
        } => {
            let wanted = |fork: &ForkKey| {
                *after < *fork
                    && tablespace.is_none_or(|tablespace| fork.relation.tablespace == tablespace)
                    && database.is_none_or(|database| fork.relation.database == database)
            };
            let sizes = forks(data).into_iter().filter(|(fork, _)| wanted(fork));
            let payload: Vec<u8> = sizes
                .take(FORKS_LISTED_MAX)
                .flat_map(|(fork, blocks)| ForkSize { fork, blocks }.encode())
                .collect();
            (Status::Ok, (payload.len() / FORK_SIZE_BYTES) as u32, payload)
        }
        BrokerQuestion::ForkBlocks { fork, .. } => {
            let payload = vec![u8::from(file(fork.relation.fork(fork::INIT), data).exists())];
            match fs::metadata(file(*fork, data)) {
                Ok(found) => (Status::Ok, (found.len() / PAGE_BYTES as u64) as u32, payload),
                Err(_) => (Status::Absent, 0, payload),
            }
        }
        BrokerQuestion::ReadPage { key, .. } => {
            let mut page = vec![0; PAGE_BYTES];
            let opened = fs::File::open(file(key.fork, data));
            match opened.and_then(|file| file.read_exact_at(&mut page, u64::from(key.block) * PAGE_BYTES as u64)) {
                Ok(()) => (Status::Ok, 0, as_redo_leaves_it(page, key.fork.fork)),
                Err(error) => (Status::ReadFailed, 0, format!("{key}: {error}").into_bytes()),
            }
        }
    }
}

/// Every fork that has a file.
fn forks(data: &Path) -> BTreeMap<ForkKey, u32> {
    let number = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let databases = entries(&data.join("base")).filter_map(|entry| Some((1663, number(&entry.path())?, entry.path())));
    let mut forks = BTreeMap::new();
    for (tablespace, database, folder) in databases.chain([(1664, 0, data.join("global"))]) {
        for entry in entries(&folder) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let (relation, suffix) = name.split_once('_').unwrap_or((&name, "main"));
            let fork = ["main", "fsm", "vm", "init"].iter().position(|known| *known == suffix);
            if let (Ok(relation), Some(fork), Ok(file)) = (relation.parse(), fork, entry.metadata()) {
                let relation = RelationKey {
                    tablespace,
                    database,
                    relation,
                };
                forks.insert(relation.fork(fork as u8), (file.len() / PAGE_BYTES as u64) as u32);
            }
        }
    }
    forks
}

/// Takes away what is in no log: command ids, and the cycle ids of btrees. A library that forgets such pages too early
/// gives wrong answers with this broker, as it would with the real one.
fn as_redo_leaves_it(mut page: Vec<u8>, fork: u8) -> Vec<u8> {
    let u16_at = |page: &[u8], at: usize| usize::from(u16::from_le_bytes([page[at], page[at + 1]]));
    let special_bytes = PAGE_BYTES - u16_at(&page, 16);
    if fork == fork::MAIN && special_bytes == 0 {
        for pointer in (24..u16_at(&page, 12)).step_by(4) {
            let pointer = u32::from_le_bytes([page[pointer], page[pointer + 1], page[pointer + 2], page[pointer + 3]]);
            let tuple = (pointer & 0x7FFF) as usize;
            if pointer >> 15 & 3 == 1 {
                page[tuple + 8..tuple + 12].fill(0);
                page[tuple + 20] &= !0x20;
            }
        }
    }
    if fork == fork::MAIN && special_bytes == 16 && u16_at(&page, PAGE_BYTES - 2) <= 0xFF7F {
        page[PAGE_BYTES - 2..].fill(0);
    }
    page
}

fn file(fork: ForkKey, data: &Path) -> PathBuf {
    let relation = fork.relation;
    let suffix = ["", "_fsm", "_vm", "_init"][usize::from(fork.fork)];
    match relation.tablespace {
        1664 => data.join(format!("global/{}{suffix}", relation.relation)),
        _ => data.join(format!("base/{}/{}{suffix}", relation.database, relation.relation)),
    }
}

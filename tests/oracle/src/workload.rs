//! The workload: a folder of SQL files that runs through any connection of a superuser.
//!
//! `NAME.sql` is one scenario and has a database of its own, called `NAME`. After it come its sessions
//! `NAME.session-1.sql`, `NAME.session-2.sql`, … all at once, and then `NAME.end.sql`, each if it is there. Before any of
//! them `prelude.sql` gives the database what scenarios need to wait for each other.
//!
//! A scenario that begins with lines `-- setting: NAME = VALUE` needs a server that runs so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use stock_postgresql::Server;

/// How long one statement may take.
const STATEMENT_TIMEOUT: &str = "-c statement_timeout=300s";
const SETTING: &str = "-- setting: ";

/// Where a workload runs.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Host name or folder of the socket.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// A superuser.
    pub user: String,
    /// Its password, if the server asks for one.
    pub password: Option<String>,
}

impl Connection {
    /// The way to a stock server.
    pub fn to(server: &Server) -> Connection {
        Connection {
            host: server.data().display().to_string(),
            port: 5432,
            user: "postgres".to_owned(),
            password: None,
        }
    }

    /// A client program that connects to a database.
    fn client(&self, program: &str, database: &str) -> Command {
        let mut client = stock_postgresql::command(program);
        client
            .env("PGHOST", &self.host)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", &self.user)
            .env("PGDATABASE", database)
            .env("PGOPTIONS", STATEMENT_TIMEOUT)
            .env("PGCONNECT_TIMEOUT", "30");
        if let Some(password) = &self.password {
            client.env("PGPASSWORD", password);
        }
        client
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        client
    }

    fn psql(&self, database: &str) -> Command {
        let mut psql = self.client("psql", database);
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]);
        psql
    }

    /// What statements of one session answer.
    pub fn query(&self, database: &str, sql: &str) -> Result<String> {
        let child = self.psql(database).args(["-c", sql]).spawn();
        answer(child.context("start psql")?, sql)
    }

    /// What the statements of a file answer.
    pub fn file(&self, database: &str, file: &Path) -> Result<String> {
        answer(self.begin(database, file)?, &file.display().to_string())
    }

    fn begin(&self, database: &str, file: &Path) -> Result<Child> {
        let child = self.psql(database).arg("-f").arg(file).spawn();
        child.context("start psql")
    }

    /// Runs a client program that must succeed.
    pub fn program(&self, program: &str, database: &str, arguments: &[&str]) -> Result<String> {
        let child = self.client(program, database).args(arguments).spawn();
        answer(child.with_context(|| format!("start {program}"))?, program)
    }
}

fn answer(child: Child, what: &str) -> Result<String> {
    let output = child.wait_with_output().context("wait for psql")?;
    if !output.status.success() {
        bail!("{what}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// One scenario.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// Its name, which is its database's, too.
    pub name: String,
    /// Settings of the server that it needs.
    pub settings: BTreeMap<String, String>,
    folder: PathBuf,
    sessions: Vec<PathBuf>,
    end: Option<PathBuf>,
}

impl Scenario {
    /// The scenario of this name, with its sessions and its end.
    pub fn in_folder(folder: &Path, name: &str) -> Result<Scenario> {
        let names = names(folder)?;
        let file = |name: &str| folder.join(format!("{name}.sql"));
        let session = format!("{name}.session-");
        let end = format!("{name}.end");
        let sessions = names.iter().filter(|name| name.starts_with(&session));
        Ok(Scenario {
            name: name.to_owned(),
            settings: settings(&file(name))?,
            folder: folder.to_owned(),
            sessions: sessions.map(|name| file(name)).collect(),
            end: names.contains(&end).then(|| file(&end)),
        })
    }

    /// Runs it. What its sessions answer, in the order of their files.
    pub fn run(&self, connection: &Connection) -> Result<Vec<String>> {
        let name = &self.name;
        connection.query("postgres", &format!("CREATE DATABASE \"{name}\""))?;
        let prelude = Path::new(env!("CARGO_MANIFEST_DIR")).join("prelude.sql");
        connection.file(name, &prelude)?;
        let mut answers = vec![connection.file(name, &self.folder.join(format!("{name}.sql")))?];
        let started: Result<Vec<Child>> = self.sessions.iter().map(|file| connection.begin(name, file)).collect();
        // All of them are waited for, also after one has failed: none is left running.
        let ended: Vec<Result<String>> = started?
            .into_iter()
            .zip(&self.sessions)
            .map(|(child, file)| answer(child, &file.display().to_string()))
            .collect();
        for answer in ended {
            answers.push(answer?);
        }
        if let Some(end) = &self.end {
            answers.push(connection.file(name, end)?);
        }
        Ok(answers)
    }
}

/// All scenarios, by name.
pub fn scenarios() -> Result<Vec<Scenario>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workload");
    let names = names(&folder)?;
    let scenarios = names.iter().filter(|name| !name.contains('.'));
    scenarios.map(|name| Scenario::in_folder(&folder, name)).collect()
}

/// Names of the SQL files in a folder, in order.
fn names(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("list {}", folder.display()))?
    {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(".sql").map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// The settings that a file asks for in its first lines.
fn settings(file: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let lines = text.lines().map_while(|line| line.strip_prefix(SETTING));
    let pairs = lines.map(|line| {
        let (name, value) = line.split_once(" = ").with_context(|| format!("{line}: no setting"))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_has_its_sessions_its_end_and_its_settings() {
        let scenarios = scenarios().expect("the workload");
        let named = |name: &str| {
            scenarios
                .iter()
                .find(|scenario| scenario.name == name)
                .expect("it is there")
        };
        assert_eq!(named("locks").sessions.len(), 3);
        assert!(named("locks").end.is_some());
        assert_eq!(named("core").sessions.len(), 0);
        assert_eq!(
            named("minimal").settings.get("wal_level").map(String::as_str),
            Some("minimal")
        );
    }

    #[test]
    fn every_file_belongs_to_a_scenario() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workload");
        let scenarios = scenarios().expect("the workload");
        let files: usize = scenarios
            .iter()
            .map(|scenario| 1 + scenario.sessions.len() + scenario.end.iter().len())
            .sum();
        assert_eq!(files, names(&folder).expect("its names").len());
    }
}

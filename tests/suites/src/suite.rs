//! What one call of `pg_regress` runs, and what became of each of its tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use system_tests::end_of;

use crate::server::{Server, make_folder};
use crate::sources::{Sources, isolation_program, regress_program};

/// Connections that one suite may have open at once: the parallel groups are larger than a busy machine can serve.
const CONNECTIONS_MAX: &str = "10";
/// How long one suite may take before something is taken to hang.
const LIMIT: Duration = Duration::from_secs(3600);
/// Modules of contrib whose suites say nothing here.
const LEFT_OUT: &[&str] = &[
    // They connect to the server they run in, by its unix socket and without a password.
    "dblink",
    "postgres_fdw",
    // They need logical decoding from slots that the test makes, settings of their own, or software that is not there.
    "test_decoding",
    "basebackup_to_shell",
    "basic_archive",
    "sepgsql",
    "sslinfo",
    "bool_plperl",
    "hstore_plperl",
    "hstore_plpython",
    "jsonb_plperl",
    "jsonb_plpython",
    "ltree_plpython",
];

/// A call of `pg_regress` or `pg_isolation_regress`.
pub struct Suite {
    name: String,
    /// Where its `sql` or `specs` and `expected` are; also the working directory, for tests that read files.
    input: PathBuf,
    libraries: Option<PathBuf>,
    is_isolation: bool,
    database: &'static str,
    schedule: Option<PathBuf>,
    tests: Vec<String>,
}

/// What became of one test on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its answers are among those that the suite expects.
    pub is_expected: bool,
    /// Its answers, if it came to give any.
    pub answers: Vec<u8>,
}

impl Suite {
    /// Every suite there is, in the order in which they run.
    pub fn all(sources: &Sources) -> Result<Vec<Suite>> {
        let scheduled = |name: &str, input: PathBuf, database, schedule: &str| Suite {
            name: name.to_owned(),
            libraries: Some(sources.libraries()),
            is_isolation: name == "isolation",
            database,
            schedule: Some(input.join(schedule)),
            tests: Vec::new(),
            input,
        };
        let mut suites = vec![
            scheduled("regress", sources.regress(), "regression", "parallel_schedule"),
            scheduled(
                "isolation",
                sources.isolation(),
                "isolation_regression",
                "isolation_schedule",
            ),
        ];
        for module in sources.contrib()? {
            suites.extend(Suite::of_module(&module)?);
        }
        Ok(suites)
    }

    /// The suites of a module of contrib.
    fn of_module(folder: &Path) -> Result<Vec<Suite>> {
        let name = folder
            .file_name()
            .and_then(|name| name.to_str())
            .context("a module's name")?;
        if LEFT_OUT.contains(&name) {
            return Ok(Vec::new());
        }
        let makefile = std::fs::read_to_string(folder.join("Makefile"))?;
        let suite = |name: String, is_isolation, tests: Vec<String>| Suite {
            name,
            input: folder.to_owned(),
            libraries: None,
            is_isolation,
            database: "contrib_regression",
            schedule: None,
            tests,
        };
        let suites = [
            suite(name.to_owned(), false, listed(&makefile, "REGRESS")),
            suite(format!("{name} (isolation)"), true, listed(&makefile, "ISOLATION")),
        ];
        Ok(suites.into_iter().filter(|suite| !suite.tests.is_empty()).collect())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs it against a server; what it writes goes below `work`. What became of each test, in order of their names.
    pub fn run(&self, server: &Server, work: &Path) -> Result<BTreeMap<String, Outcome>> {
        let output = work.join(server.name()).join(self.name.replace(' ', "-"));
        make_folder(&output)?;
        let mut command = match self.is_isolation {
            true => isolation_program(),
            false => regress_program(),
        };
        command
            .arg("--inputdir")
            .arg(&self.input)
            .arg("--outputdir")
            .arg(&output);
        command.args(["--bindir", stock_postgresql::BIN, "--dbname", self.database]);
        command.args(["--max-connections", CONNECTIONS_MAX]);
        if let Some(libraries) = &self.libraries {
            command.arg("--dlpath").arg(libraries);
        }
        if let Some(schedule) = &self.schedule {
            command.arg("--schedule").arg(schedule);
        }
        server.connect(&mut command)?;
        command.args(&self.tests);
        let log = output.join("log");
        self.wait_for(&mut command, &log)?;
        server.check()?;
        let said = std::fs::read_to_string(&log)?;
        let mut outcomes = BTreeMap::new();
        for (test, is_expected) in said.lines().filter_map(result) {
            let answers = std::fs::read(output.join("results").join(format!("{test}.out"))).unwrap_or_default();
            outcomes.insert(test.to_owned(), Outcome { is_expected, answers });
        }
        if outcomes.is_empty() {
            bail!("{}: no test ran; see {}", self.name, log.display());
        }
        Ok(outcomes)
    }

    /// It fails if any of its tests does, which says nothing yet.
    fn wait_for(&self, command: &mut Command, log: &Path) -> Result<()> {
        let started = Instant::now();
        let file = std::fs::File::create(log)?;
        let mut child = command
            .current_dir(&self.input)
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        end_of(&mut child, &self.name, LIMIT)?;
        println!("  {:<28} {:>4.0} s", self.name, started.elapsed().as_secs_f64());
        Ok(())
    }
}

/// Values of a variable that a Makefile sets or adds to.
fn listed(makefile: &str, variable: &str) -> Vec<String> {
    let whole = makefile.replace("\\\n", " ");
    let values = whole.lines().filter_map(|line| {
        let rest = line.strip_prefix(variable)?.trim_start();
        let rest = rest.strip_prefix('+').unwrap_or(rest);
        rest.strip_prefix('=')
    });
    values.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

/// The test's name in a line such as `test boolean ... ok  31 ms`, and whether its answers are among the expected ones.
fn result(line: &str) -> Option<(&str, bool)> {
    let (test, rest) = line.split_once(" ... ")?;
    let test = test.trim().strip_prefix("test ").unwrap_or(test).trim();
    let is_name = !test.is_empty() && !test.contains(' ');
    is_name.then(|| (test, rest.trim_start().starts_with("ok")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_makefile_lists_its_tests_over_several_lines() {
        let makefile =
            "REGRESS = init not_equal \\\n\tint4 \\\n\tint8\nREGRESS += last\nREGRESS_OPTS = --temp-config x\n";
        assert_eq!(
            listed(makefile, "REGRESS"),
            ["init", "not_equal", "int4", "int8", "last"]
        );
        assert_eq!(listed(makefile, "ISOLATION"), Vec::<String>::new());
    }

    #[test]
    fn lines_of_results_are_told_from_others() {
        assert_eq!(
            result("test boolean                      ... ok           31 ms"),
            Some(("boolean", true))
        );
        assert_eq!(
            result("     copy                         ... FAILED      173 ms"),
            Some(("copy", false))
        );
        assert_eq!(
            result("     uuid  ... failed (ignored)       71 ms"),
            Some(("uuid", false))
        );
        assert_eq!(result("parallel group (2 tests):  oidjoins event_trigger"), None);
    }
}

//! An extension that users bring: what is made with it, and queries that must answer the same by index and by scan.

use anyhow::{Context, Result, ensure};
use system_tests::Cluster;

/// What every extension's database begins with.
const COMMON: &str = include_str!("../extensions/common.sql");
/// What divides a script into what is done at first and what is done after a restart.
const LATER: &str = "-- later\n";
/// Reads a table larger than all buffers, block by block through its index.
const EVICT: &str =
    "SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT sum(length(pad)) FROM filler WHERE 0 < id";
/// For each query: its name, whether it was answered by index and then by scan, whether the answers are the same, and them.
const ANSWERS: &str = "
SELECT checks.name, one.plan ~* 'index', other.plan !~* 'index', one.answers = other.answers AND one.sum = other.sum,
       one.answers, one.sum, translate(one.plan, '|', '/')
FROM checks, answer(query, true) AS one, answer(query, false) AS other
ORDER BY checks.name COLLATE \"C\"";

/// An extension, in a database of its own that is named after it.
pub struct Extension {
    name: &'static str,
    script: &'static str,
}

/// The answers to an extension's queries, as text that can be compared.
pub type Answers = Vec<String>;

macro_rules! extensions {
    ($($name:literal),*) => {
        &[$(Extension { name: $name, script: include_str!(concat!("../extensions/", $name, ".sql")) }),*]
    };
}

/// Every extension that is tried, and first what PostgreSQL has by itself.
pub const ALL: &[Extension] = extensions!(
    "builtin",
    "pg_trgm",
    "btree_gin",
    "btree_gist",
    "hstore",
    "intarray",
    "citext",
    "ltree",
    "bloom",
    "rum",
    "postgis",
    "pg_partman",
    "pg_stat_statements"
);

impl Extension {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Makes its database, the extension and its tables and indexes.
    pub fn create(&self, cluster: &Cluster) -> Result<Answers> {
        cluster.sql(&format!("CREATE DATABASE {}", self.name))?;
        let (first, _) = self.parts()?;
        self.run(cluster, &format!("{COMMON}\n{first}"))?;
        let answers = self.answers(cluster)?;
        self.evict(cluster)?;
        let again = self.answers(cluster)?;
        ensure!(again == answers, "after eviction {again:?}, before {answers:?}");
        Ok(answers)
    }

    /// Changes what was made.
    pub fn change(&self, cluster: &Cluster) -> Result<Answers> {
        let (_, later) = self.parts()?;
        self.run(cluster, later)?;
        self.evict(cluster)?;
        self.answers(cluster)
    }

    fn parts(&self) -> Result<(&'static str, &'static str)> {
        self.script.split_once(LATER).context("a script has a second part")
    }

    /// Each statement in a transaction of its own.
    fn run(&self, cluster: &Cluster, script: &str) -> Result<String> {
        cluster.script(&format!("\\connect {}\n{script}", self.name))
    }

    fn evict(&self, cluster: &Cluster) -> Result<()> {
        self.run(cluster, EVICT)?;
        Ok(())
    }

    /// Asks every query both ways.
    pub fn answers(&self, cluster: &Cluster) -> Result<Answers> {
        let text = self.run(cluster, ANSWERS)?;
        let mut answers = Vec::new();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('|').collect();
            let &[name, by_index, by_scan, same, count, sum, plan] = &fields[..] else {
                anyhow::bail!("an answer that cannot be read: {line}");
            };
            ensure!(
                same == "t",
                "{name}: index and scan answer differently ({count} rows by index: {plan})"
            );
            ensure!(
                by_index == "t" && by_scan == "t",
                "{name}: the index was not used, or used for both: {plan}"
            );
            answers.push(format!("{name}: {count} rows, {sum}"));
        }
        ensure!(!answers.is_empty(), "no query was asked");
        Ok(answers)
    }
}

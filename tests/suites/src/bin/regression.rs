//! `make regression`: PostgreSQL's suites on stock PostgreSQL, then on a cluster, and a table of what is the same.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Parser;
use suites::{Comparison, Server, Sources, Suite};

/// PostgreSQL's own regression, isolation and contrib suites, on stock PostgreSQL and on a cluster.
#[derive(Parser)]
struct Arguments {
    /// A source tree of PostgreSQL 15; without it, Debian's source package is asked of apt.
    #[arg(long)]
    source: Option<PathBuf>,
    /// Where everything is kept that the suites write, the differences among it.
    #[arg(long, default_value = "/tmp/borealis-regression")]
    work: PathBuf,
    /// The cluster compares every page it reads with what stock PostgreSQL would have in its file, and panics if they differ.
    #[arg(long)]
    compare: bool,
    /// Only the suites of these names: `regress`, `isolation`, or a module of contrib.
    suites: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let work = &arguments.work;
    let sources = Sources::obtain(arguments.source.as_deref(), work)?;
    let mut suites = Suite::all(&sources)?;
    let is_wanted = |suite: &Suite| {
        arguments
            .suites
            .iter()
            .any(|name| suite.name().split(' ').next() == Some(name))
    };
    if !arguments.suites.is_empty() {
        suites.retain(is_wanted);
        ensure!(
            !suites.is_empty(),
            "no suite is called {}",
            arguments.suites.join(" or ")
        );
    }
    println!("on stock PostgreSQL:");
    let stock = run_all(&suites, &Server::stock(), work)?;
    println!("on a cluster:");
    let server = Server::cluster(arguments.compare)?;
    let cluster = run_all(&suites, &server, work)?;
    let survival = server.survives();
    let mut comparison = Comparison::default();
    for ((suite, stock), cluster) in suites.iter().zip(&stock).zip(&cluster) {
        comparison.add(suite.name(), stock, cluster, work)?;
    }
    comparison.print();
    survival?;
    println!("after the death of the writer every database is the same, and amcheck finds no fault");
    ensure!(
        comparison.different() == 0,
        "{} tests differ; see {}",
        comparison.different(),
        work.join("differences").display()
    );
    Ok(())
}

type Outcomes = std::collections::BTreeMap<String, suites::Outcome>;

fn run_all(suites: &[Suite], server: &Server, work: &std::path::Path) -> Result<Vec<Outcomes>> {
    suites.iter().map(|suite| suite.run(server, work)).collect()
}

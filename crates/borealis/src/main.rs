//! The one binary: roles of the daemons and commands of a person.
//!
//! | module | job |
//! |---|---|
//! | `layout` | what a cluster's directory looks like |
//! | `setup` | making one |
//! | `role` | the daemons |
//! | `agent` | the daemon that keeps the others running |
//! | `command` | what a person asks for |

mod agent;
mod command;
mod layout;
mod role;
mod setup;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use layout::Layout;

const AFTER_HELP: &str = "\
Begin with `borealis up`: it makes a cluster in one directory, starts six storage nodes in three zones and a PostgreSQL
writer, and prints the URL to connect to. `borealis status` shows how everything is, `borealis down` stops it all and keeps
the data.

Names: storage-1 to storage-6, instance-1 and so on, control, proxy; `writer` is the instance in that role.
PostgreSQL's settings: DIR/postgresql.conf, or BOREALIS_PG_<SETTING> in the environment of `up`, such as
BOREALIS_PG_SHARED_BUFFERS=1GB.";

/// PostgreSQL on a six-way replicated, log-structured storage volume.
#[derive(Parser)]
#[command(version, after_help = AFTER_HELP)]
struct Arguments {
    /// The cluster's directory [default: /var/lib/borealis as root, otherwise ~/.local/share/borealis].
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the cluster if it is not there, start everything, and print where to connect.
    Up(command::up::UpArguments),
    /// Stop everything, within a minute even without a quorum, and keep the data.
    Down,
    /// Show how everything is.
    Status {
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Kill a process with SIGKILL; it is started again. `kill writer` hits the postmaster, `kill instance-1` its
    /// instance process.
    Kill {
        /// Which.
        name: String,
    },
    /// Stop a process; it stays down until `start`.
    Stop {
        /// Which.
        name: String,
    },
    /// Start a process that was stopped, or wake one that was paused.
    Start {
        /// Which.
        name: String,
    },
    /// Freeze every process of NAME with SIGSTOP, until `start`.
    Pause {
        /// Which.
        name: String,
    },
    /// Take a whole zone of storage nodes away, or bring it back.
    Az {
        #[command(subcommand)]
        what: ZoneCommand,
    },
    /// Fence the writer and start a new one.
    Failover {
        /// The reader that is to be the writer. There are no readers yet: leave it away.
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
    /// Run psql on the cluster endpoint.
    Psql {
        /// Arguments for psql.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Show the log of a process.
    Logs {
        /// Go on showing what is added.
        #[arg(short)]
        follow: bool,
        /// Which.
        name: String,
    },
    /// Show the versions of this build and of the formats that it reads.
    Version,
    /// Keep everything of a cluster running. Started by `up`.
    #[command(hide = true)]
    Agent,
    /// One of the daemons. Started by the agent.
    #[command(hide = true)]
    Role {
        /// storage, control, instance or proxy.
        kind: String,
        /// Its name.
        name: String,
    },
}

#[derive(Subcommand)]
enum ZoneCommand {
    /// Kill the storage nodes of a zone and keep them down.
    Fail {
        /// Which.
        #[arg(value_parser = ["a", "b", "c"])]
        zone: String,
    },
    /// Start them again.
    Restore {
        /// Which.
        #[arg(value_parser = ["a", "b", "c"])]
        zone: String,
    },
}

fn default_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/borealis");
    }
    let data = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".local/share");
    data.unwrap_or_else(home).join("borealis")
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let directory = arguments.dir.unwrap_or_else(default_directory);
    let directory = std::path::absolute(&directory).unwrap_or(directory);
    let layout = Layout::new(directory);
    let done = match arguments.command {
        Command::Up(up) => command::up::run(&layout, up),
        Command::Down => command::down::run(&layout),
        Command::Status { json } => command::status::run(&layout, json),
        Command::Kill { name } => command::order(&layout, "kill", &name),
        Command::Stop { name } => command::order(&layout, "stop", &name),
        Command::Start { name } => command::order(&layout, "start", &name),
        Command::Pause { name } => command::order(&layout, "pause", &name),
        Command::Az { what } => match what {
            ZoneCommand::Fail { zone } => command::order(&layout, "az-fail", &zone),
            ZoneCommand::Restore { zone } => command::order(&layout, "az-restore", &zone),
        },
        Command::Failover { to } => command::failover(&layout, to.as_deref()),
        Command::Psql { arguments } => command::psql(&layout, &arguments),
        Command::Logs { follow, name } => command::logs(&layout, &name, follow),
        Command::Version => command::version(),
        Command::Agent => agent::run(&layout),
        Command::Role { kind, name } => return role::run(&layout, &kind, &name),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

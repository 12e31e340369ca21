//! The one binary: roles of the daemons and commands of a person.
//!
//! | module | job |
//! |---|---|
//! | `layout` | what a cluster's directory looks like |
//! | `setup` | making one |
//! | `role` | the daemons |
//! | `agent` | the daemon that keeps the others running |
//! | `command` | what a person asks for |
//! | `help` | what `--help` teaches beside the names of things |

mod agent;
mod command;
mod heartbeat;
mod help;
mod layout;
#[cfg(test)]
mod metrics_page;
mod role;
mod setup;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use layout::Layout;

/// PostgreSQL on a six-way replicated, log-structured storage volume.
#[derive(Parser)]
#[command(version, after_help = help::ALL)]
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
    #[command(after_help = help::DOWN)]
    Down,
    /// Show how everything is.
    #[command(after_help = help::STATUS)]
    Status {
        /// As JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Kill a process with SIGKILL; it is started again. `kill writer` hits the postmaster, `kill instance-1` its
    /// instance process.
    #[command(after_help = help::KILL)]
    Kill {
        /// storage-1 and so on, instance-1 and so on, writer, control or proxy.
        name: String,
    },
    /// Stop a process; it stays down until `start`.
    #[command(after_help = help::STOP)]
    Stop {
        /// storage-1 and so on, instance-1 and so on, writer, control or proxy.
        name: String,
    },
    /// Start a process that was stopped, or wake one that was paused.
    #[command(after_help = help::START)]
    Start {
        /// storage-1 and so on, instance-1 and so on, writer, control or proxy.
        name: String,
    },
    /// Freeze every process of NAME with SIGSTOP, until `start`.
    #[command(after_help = help::PAUSE)]
    Pause {
        /// storage-1 and so on, instance-1 and so on, writer, control or proxy.
        name: String,
    },
    /// Take a whole zone of storage nodes away, or bring it back.
    #[command(after_help = help::ZONE)]
    Az {
        #[command(subcommand)]
        what: ZoneCommand,
    },
    /// Show, add, replace, drain or remove storage nodes.
    #[command(after_help = help::STORAGE)]
    Storage {
        #[command(subcommand)]
        what: command::storage::StorageCommand,
    },
    /// Make the log that PostgreSQL wrote again from the storage nodes.
    Log {
        #[command(subcommand)]
        what: command::log::LogCommand,
    },
    /// Show for how long old versions of pages, and the log, are kept, or keep them for another time.
    #[command(after_help = help::RETENTION)]
    Retention {
        /// 0, or a time such as 90s, 10m or 72h.
        #[arg(value_name = "TIME", value_parser = command::values::retention)]
        time: Option<u64>,
    },
    /// Fence the writer and start a new one.
    #[command(after_help = help::FAILOVER)]
    Failover {
        /// The reader that is to be the writer. There are no readers yet: leave it away.
        #[arg(long, value_name = "NAME")]
        to: Option<String>,
    },
    /// Run psql on the cluster endpoint.
    #[command(after_help = help::PSQL)]
    Psql {
        /// Arguments for psql, behind `--`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Show the log of a process.
    #[command(after_help = help::LOGS)]
    Logs {
        /// Go on showing what is added, until Ctrl-C.
        #[arg(short, long)]
        follow: bool,
        /// storage-1 and so on, instance-1 and so on, writer, control, proxy or agent.
        name: String,
    },
    /// Show the versions of this build and of the formats that it reads.
    #[command(after_help = help::VERSION)]
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

fn default_directory() -> Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/borealis"));
    }
    let named = |variable| {
        std::env::var_os(variable)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let data = named("XDG_DATA_HOME").or_else(|| Some(named("HOME")?.join(".local/share")));
    let data =
        data.context("there is no home directory (HOME is not set)\nhint:  name the cluster's directory with --dir")?;
    Ok(data.join("borealis"))
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode> {
    let directory = arguments.dir.map_or_else(default_directory, Ok)?;
    let layout = Layout::new(std::path::absolute(&directory).unwrap_or(directory));
    match arguments.command {
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
        Command::Storage { what } => command::storage::run(&layout, what),
        Command::Log { what } => command::log::run(&layout, what),
        Command::Retention { time } => command::retention::run(&layout, time),
        Command::Failover { to } => command::failover(&layout, to.as_deref()),
        Command::Psql { arguments } => command::psql(&layout, &arguments),
        Command::Logs { follow, name } => command::logs(&layout, &name, follow),
        Command::Version => command::version(),
        Command::Agent => agent::run(&layout),
        Command::Role { kind, name } => Ok(role::run(&layout, &kind, &name)),
    }
}

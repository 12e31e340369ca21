//! `borealis log`: the volume's log.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Subcommand;
use compute::log::LogError;
use compute::log_export::{ExportError, Exported, export};
use control_plane::Client;
use node_link::read_secret;
use tokio::task::LocalSet;
use units::Lsn;
use wire_format::frame::PROTOCOL_VERSION;
use wire_format::message::Hello;

use crate::layout::{Cluster, Layout};

/// How often it is told how far the export is.
const TELLING_PAUSE: Duration = Duration::from_secs(1);

/// What may be done with the log.
#[derive(Subcommand)]
pub enum LogCommand {
    /// Make PostgreSQL's WAL files again from the storage nodes.
    #[command(after_help = crate::help::LOG_EXPORT)]
    Export {
        /// The first LSN [default: where the log that is kept begins]
        #[arg(long, value_name = "LSN")]
        from: Option<Lsn>,
        /// The last LSN [default: where the durable log ends]
        #[arg(long, value_name = "LSN")]
        to: Option<Lsn>,
        /// An empty directory, or one to be made
        #[arg(long, value_name = "DIR")]
        into: PathBuf,
    },
}

/// Does it.
pub fn run(layout: &Layout, what: LogCommand) -> Result<ExitCode> {
    let LogCommand::Export { from, to, into } = what;
    let cluster = Cluster::load(layout)?;
    let hello = Hello {
        version: PROTOCOL_VERSION,
        cluster: cluster.cluster.parse().map_err(|error| anyhow!("{error}"))?,
        secret: read_secret(&layout.secret_file("cluster")).map_err(anyhow::Error::msg)?,
        name: "log export".to_owned(),
    };
    let control = Client::new(&layout.control_socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exported = LocalSet::new().block_on(&runtime, async {
        let record = super::storage::record(&control).await?;
        let record = record.context("there is no volume yet")?;
        let mut told = Instant::now();
        let mut tell = |from: Lsn, at: Lsn, to: Lsn| {
            if TELLING_PAUSE <= told.elapsed() {
                told = Instant::now();
                let mebibytes = |end: Lsn| end.raw().saturating_sub(from.raw()) >> 20;
                eprintln!("log up to {at}: {} of {} MiB", mebibytes(at), mebibytes(to));
            }
        };
        export(&record, &hello, (from, to), &into, &mut tell)
            .await
            .map_err(explain)
    })?;
    let Exported {
        from,
        to,
        records,
        files,
    } = exported;
    println!(
        "log from {from} to {to}: {records} records in {files} WAL files in {}",
        into.display()
    );
    Ok(ExitCode::SUCCESS)
}

/// The error, and what to do about it.
fn explain(error: ExportError) -> anyhow::Error {
    let hint = match &error {
        ExportError::BelowFloor { .. } => {
            "`borealis retention` says for how long log is kept, and keeps it longer from now on"
        }
        ExportError::Log(LogError::Collected { .. }) => {
            "the floor rose meanwhile: name a later --from, or keep log for longer with `borealis retention`"
        }
        ExportError::BeyondEnd { .. } => "leave --to away to have everything that is durable",
        ExportError::Empty { .. } => "--from and --to are LSNs such as 0/1A2B3C8; records end in between",
        ExportError::AnotherHistory => "try again in a moment",
        ExportError::Files(_) => "name an empty directory, on a disk with room, with --into",
        ExportError::Log(_) | ExportError::State(_) => "`borealis status` shows which storage nodes answer",
        _ => return anyhow!(error),
    };
    anyhow!("{error}\nhint:  {hint}")
}

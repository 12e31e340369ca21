//! What a person asks for.

pub mod down;
pub mod environment;
pub mod log;
pub mod retention;
pub mod scrub;
pub mod status;
pub mod storage;
pub mod up;
pub mod values;

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::agent::{Answer, Order};
use crate::layout::{Cluster, FORMAT_VERSION, Layout};

/// How long the agent may take for an order: stopping everything without a quorum takes longest.
const ANSWER_LIMIT: Duration = Duration::from_secs(90);

/// Gives the agent an order.
pub fn ask_agent(layout: &Layout, order: &str, name: &str) -> Result<Answer> {
    let socket = layout.agent_socket();
    let mut stream = match UnixStream::connect(&socket) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => bail!(
            "the cluster in {} is not running\nhint:  `borealis up` starts it",
            layout.directory().display()
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => bail!(layout.of_somebody_else()),
        Err(error) => return Err(error).with_context(|| format!("ask the agent on {}", socket.display())),
    };
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    let order = Order {
        order: order.to_owned(),
        name: name.to_owned(),
    };
    let mut line = serde_json::to_vec(&order)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .context("the agent does not answer\nhint:  `borealis logs agent` shows what it does")?;
    serde_json::from_str(&answer).context("the agent's answer cannot be understood")
}

/// An order that is answered with a sentence.
pub fn order(layout: &Layout, order: &str, name: &str) -> Result<ExitCode> {
    Cluster::load(layout)?;
    match ask_agent(layout, order, name)? {
        Answer::Done(text) => {
            println!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Answer::Failed(what) => bail!("{what}"),
        Answer::List(_) => bail!("an answer to another order"),
    }
}

/// Fences the writer and starts a new one.
pub fn failover(layout: &Layout, to: Option<&str>) -> Result<ExitCode> {
    if let Some(name) = to {
        let cluster = Cluster::load(layout)?;
        let writer = cluster.writer().map_or("none", |writer| &writer.name);
        bail!(
            "{name} is no reader: the cluster has none, its writer is {writer}\nhint:  leave --to away, and a new writer is started"
        );
    }
    order(layout, "failover", "")
}

/// Versions of this build and of what it reads.
pub fn version() -> Result<ExitCode> {
    println!("borealis {}", env!("CARGO_PKG_VERSION"));
    println!("directory format {FORMAT_VERSION}");
    println!("metadata store format {}", control_plane::FORMAT_VERSION);
    println!("storage protocol {}", wire_format::frame::PROTOCOL_VERSION);
    Ok(ExitCode::SUCCESS)
}

/// psql on the cluster endpoint.
pub fn psql(layout: &Layout, arguments: &[String]) -> Result<ExitCode> {
    let cluster = Cluster::load(layout)?;
    Err(layout.psql(cluster.port)?.args(arguments).exec()).context("start psql")
}

/// A daemon's log.
pub fn logs(layout: &Layout, name: &str, follow: bool) -> Result<ExitCode> {
    const POLL: Duration = Duration::from_millis(200);
    let cluster = Cluster::load(layout)?;
    let name = match name {
        "writer" => cluster.writer().context("no instance is the writer")?.name.clone(),
        name => name.to_owned(),
    };
    let path = layout.log_file(&name);
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let known = names_of_logs(layout).unwrap_or_default().join(", ");
            bail!(
                "{name} has no log ({})\nhint:  there are logs of {known}",
                path.display()
            );
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let mut out = std::io::stdout();
    loop {
        // Before it is read to its end: what was written to the old file before the next one came is not left out.
        let next = File::open(&path).ok();
        if copy(&mut file, &mut out)? == Reader::Gone || !follow {
            return Ok(ExitCode::SUCCESS);
        }
        match next {
            // Put aside, and another one has its name.
            Some(next) if next.metadata()?.ino() != file.metadata()?.ino() => file = next,
            _ => std::thread::sleep(POLL),
        }
    }
}

/// Whether anybody still reads what is shown.
#[derive(PartialEq, Eq)]
enum Reader {
    There,
    Gone,
}

/// Shows the rest of a file, a piece at a time.
fn copy(file: &mut File, out: &mut impl Write) -> Result<Reader> {
    let mut piece = vec![0; 64 << 10];
    loop {
        let bytes = file.read(&mut piece)?;
        // A pager that was left, most likely.
        if out.write_all(&piece[..bytes]).and_then(|()| out.flush()).is_err() {
            return Ok(Reader::Gone);
        }
        if bytes == 0 {
            return Ok(Reader::There);
        }
    }
}

fn names_of_logs(layout: &Layout) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(layout.directory().join("log"))? {
        let name = entry?.file_name();
        names.extend(
            name.to_str()
                .and_then(|name| name.strip_suffix(".log"))
                .map(str::to_owned),
        );
    }
    names.sort();
    Ok(names)
}

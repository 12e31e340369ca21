//! What a person asks for.

pub mod down;
pub mod environment;
pub mod status;
pub mod up;

use std::io::{BufRead, BufReader, ErrorKind, Read, Seek, Write};
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
        .context("the agent does not answer")?;
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
    let open = || std::fs::File::open(&path).with_context(|| format!("{name} has no log ({})", path.display()));
    let mut file = open()?;
    let mut out = std::io::stdout();
    loop {
        let mut part = Vec::new();
        file.read_to_end(&mut part)?;
        if out.write_all(&part).and_then(|()| out.flush()).is_err() || !follow {
            return Ok(ExitCode::SUCCESS);
        }
        std::thread::sleep(POLL);
        // A shorter file under the same name is the next one.
        if let Ok(next) = open()
            && next.metadata()?.len() < file.stream_position()?
        {
            file = next;
        }
    }
}

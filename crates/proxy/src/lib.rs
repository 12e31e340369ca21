//! The cluster endpoint: a stable address in front of whoever is the writer.
//!
//! A client that connects while there is no writer, or while the writer starts or does not answer, is held until there is
//! one. Connections of a writer that was replaced or that ended are cut. What passes is not looked at beyond the first
//! message, and a client that is authenticated is handed to its backend: from then on the endpoint costs nothing. Without
//! the control process the last known writer stands, also across a restart of the proxy.

mod handover;
pub mod metrics;
mod passage;
mod startup;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use control_plane::Client;
use control_plane::message::Writer;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use handover::{Handovers, Wanted};
use metrics::{
    ACCEPTED, CUT, HANDED_OVER, HELD, HOLD_SECONDS, OPEN, PROXY, Reason, WRITER_CHANGES, WRITER_UNKNOWN, refused,
};
use passage::OneWay;
use startup::{First, Server, Startup, StartupError};

/// How often the control process is asked who the writer is.
const WRITER_PAUSE: Duration = Duration::from_millis(50);
/// The first pause before a held client's connection is tried again; doubles up to [`RETRY_PAUSE_MAX`].
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(10);
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(100);
/// How long a client may take for its first message, as PostgreSQL's `authentication_timeout`.
const STARTUP_LIMIT: Duration = Duration::from_secs(60);
/// How long what a backend has sent may take to reach a client before its handover is given up.
const SETTLE_LIMIT: Duration = Duration::from_secs(1);
/// Connections beyond `connections_max` that wait to be told so; any more are closed without a word.
const REFUSALS_MAX: usize = 100;

/// Settings of the proxy, read from `DIR/config/proxy.json`. Unknown keys are refused.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyConfig {
    /// Where clients connect.
    pub listen: String,
    /// Socket of the control process.
    pub control_socket: PathBuf,
    /// Connections at once.
    #[serde(default = "default_connections")]
    pub connections_max: usize,
    /// How long a client is held while there is no writer, in milliseconds.
    #[serde(default = "default_hold")]
    pub hold_ms_max: u64,
    /// Where the proxy writes down who the writer is, for a start without the control process.
    #[serde(default)]
    pub writer_file: Option<PathBuf>,
    /// Where the writer's backends ask for their clients' sockets; without it everything passes through the proxy.
    #[serde(default)]
    pub handover_socket: Option<PathBuf>,
}

fn default_connections() -> usize {
    1000
}

fn default_hold() -> u64 {
    30_000
}

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}: {error}")]
pub struct ListenError {
    address: String,
    error: std::io::Error,
}

/// Serves, and its metrics on their address, until `stop` says so.
pub async fn run(
    config: ProxyConfig,
    metrics: Option<SocketAddr>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ListenError> {
    let listener = TcpListener::bind(&config.listen).await.map_err(|error| ListenError {
        address: config.listen.clone(),
        error,
    })?;
    tracing::info!(address = %config.listen, "proxy.start");
    let (told, writer) = watch::channel(config.writer_file.as_deref().and_then(remembered));
    let control = Client::new(&config.control_socket);
    let asking = tokio::spawn(follow_writer(control, told, config.writer_file));
    let places = Arc::new(Semaphore::new(config.connections_max));
    let refusals = Arc::new(Semaphore::new(REFUSALS_MAX));
    let hold = Duration::from_millis(config.hold_ms_max);
    let handovers = Arc::new(Handovers::default());
    let handing = tokio::spawn(hand_over(handovers.clone(), config.handover_socket));
    let serving = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "proxy.accept");
                    tokio::time::sleep(RETRY_PAUSE_MAX).await;
                    continue;
                }
            };
            ACCEPTED.increment();
            let (writer, place) = (writer.clone(), places.clone().try_acquire_owned().ok());
            let (refusal, handovers) = (refusals.clone(), handovers.clone());
            tokio::spawn(async move {
                let has_place = place.is_some();
                let Some(place) = place.or_else(|| refusal.try_acquire_owned().ok()) else {
                    return refused(Reason::Overrun);
                };
                let _counted = OPEN.hold();
                if let Err(error) = serve(stream, writer, handovers, has_place, hold).await {
                    tracing::debug!(%error, "proxy.disconnect");
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = serving => {}
        never = telemetry::metrics::serve(metrics, PROXY, |_| ()) => match never {},
        _ = stop.wait_for(|stop| *stop) => {}
    }
    asking.abort();
    handing.abort();
    Ok(())
}

async fn hand_over(handovers: Arc<Handovers>, socket: Option<PathBuf>) {
    let Some(socket) = socket else { return };
    if let Err(error) = handovers.serve(&socket).await {
        tracing::warn!(%error, socket = %socket.display(), "proxy.handover: everything passes through the proxy");
    }
}

/// The writer that an earlier proxy wrote down.
fn remembered(file: &Path) -> Option<Writer> {
    let text = std::fs::read_to_string(file).ok()?;
    let (name, address) = text.trim().split_once(' ')?;
    Some(Writer {
        name: name.to_owned(),
        address: address.to_owned(),
    })
}

/// Writes the writer down for a proxy that starts without the control process.
fn remember(file: &Path, writer: &Writer) -> std::io::Result<()> {
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{} {}\n", writer.name, writer.address))?;
    std::fs::rename(&next, file)
}

/// Keeps asking who the writer is. While the control process is away, the last answer stands.
async fn follow_writer(control: Client, told: watch::Sender<Option<Writer>>, file: Option<PathBuf>) {
    loop {
        match control.writer().await {
            Ok(writer) if *told.borrow() != writer => {
                tracing::info!(writer = ?writer.as_ref().map(|writer| &writer.name), "proxy.route");
                if let Some((file, writer)) = file.as_deref().zip(writer.as_ref())
                    && let Err(error) = remember(file, writer)
                {
                    tracing::warn!(%error, file = %file.display(), "proxy.remember");
                }
                WRITER_CHANGES.increment();
                told.send_replace(writer);
            }
            Ok(_) => {}
            Err(error) => {
                WRITER_UNKNOWN.increment();
                tracing::debug!(%error, "proxy.route");
            }
        }
        tokio::time::sleep(WRITER_PAUSE).await;
    }
}

async fn serve(
    mut client: TcpStream,
    mut writer: watch::Receiver<Option<Writer>>,
    handovers: Arc<Handovers>,
    has_place: bool,
    hold: Duration,
) -> Result<(), StartupError> {
    client.set_nodelay(true)?;
    // As PostgreSQL does, who may get this very socket.
    rustix::net::sockopt::set_socket_keepalive(&client, true).map_err(std::io::Error::from)?;
    let startup = tokio::time::timeout(STARTUP_LIMIT, Startup::read(&mut client)).await;
    let startup = startup.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
    // A query can be cancelled also when every place is taken.
    if !has_place && !startup.is_cancel() {
        refused(Reason::NoPlace);
        return startup::refuse(
            &mut client,
            "53300",
            "the cluster endpoint has no place for another connection",
        )
        .await;
    }
    let (began, held) = (Instant::now(), HELD.hold());
    let routed = tokio::select! {
        routed = tokio::time::timeout(hold, route(&startup, &mut writer, &handovers)) => routed,
        // Nobody is left to be connected: a client says nothing before its first message is answered. Who cancels a query may
        // well leave at once.
        () = gone(&client), if !startup.is_cancel() => return Ok(()),
    };
    drop(held);
    let Ok((writer_then, server)) = routed else {
        refused(Reason::NoWriter);
        let text = "there is no writer: a failover takes longer than the endpoint holds connections";
        return startup::refuse(&mut client, "57P03", text).await;
    };
    HOLD_SECONDS.observe_duration(began.elapsed());
    let is_replaced = writer.wait_for(|now| *now != writer_then);
    tokio::pin!(is_replaced);
    let (client, wanted) = tokio::select! {
        passed = pass(client, server, &startup) => match passed? {
            Some(handed) => handed,
            None => return Ok(()),
        },
        _ = &mut is_replaced => {
            CUT.increment();
            tracing::info!("proxy.cut: the writer was replaced");
            return Ok(());
        }
    };
    // No longer watched for what the client says: that is the backend's now.
    let client = client.into_std()?;
    let given = wanted.give(&client).await?;
    HANDED_OVER.increment();
    tokio::select! {
        () = given.ended() => {}
        _ = is_replaced => {
            CUT.increment();
            tracing::info!("proxy.cut: the writer was replaced");
            // The backend has it, too: closing our end would cut nothing.
            client.shutdown(std::net::Shutdown::Both)?;
        }
    }
    Ok(())
}

/// Hands the client's first message to whoever is the writer, as often as it takes. A writer that accepts but does not
/// answer is left as soon as another one is named.
async fn route(
    startup: &Startup,
    writer: &mut watch::Receiver<Option<Writer>>,
    handovers: &Arc<Handovers>,
) -> (Option<Writer>, Server) {
    let mut pause = RETRY_PAUSE_MIN;
    loop {
        let known = writer.borrow_and_update().clone();
        if let Some(known) = &known {
            tokio::select! {
                forwarded = startup.forward(&known.address, handovers) => match forwarded {
                    Ok(server) => return (Some(known.clone()), server),
                    Err(error) => tracing::debug!(%error, writer = %known.name, "proxy.hold"),
                },
                Ok(()) = writer.changed() => continue,
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (2 * pause).min(RETRY_PAUSE_MAX),
            Ok(()) = writer.changed() => pause = RETRY_PAUSE_MIN,
        }
    }
}

/// Returns when the client has closed its connection; never if it says something instead.
async fn gone(client: &TcpStream) {
    let mut first = [0];
    if let Ok(1) = client.peek(&mut first).await {
        std::future::pending::<()>().await;
    }
}

/// Passes bytes both ways until the server ends, or wants the client for itself. A client that only ended its own side still
/// gets the answers.
async fn pass(
    mut client: TcpStream,
    mut server: Server,
    startup: &Startup,
) -> std::io::Result<Option<(TcpStream, Wanted)>> {
    let mut requests = OneWay::new(startup.bytes(), &[]);
    let (mut answers, mut first) = match server.first {
        First::Answered(answered) => (OneWay::new(0, &answered), None),
        First::Wanted(wanted) => (OneWay::new(0, &[]), Some(wanted)),
    };
    loop {
        let wanted = match first.take() {
            Some(wanted) => wanted,
            None => {
                let (mut from_client, mut to_client) = client.split();
                let (mut from_server, mut to_server) = server.stream.split();
                let requests = async {
                    requests.run(&mut from_client, &mut to_server).await?;
                    std::future::pending::<std::io::Result<()>>().await
                };
                tokio::select! {
                    failed = requests => return failed.map(|()| None),
                    ended = answers.run(&mut from_server, &mut to_client) => return ended.map(|()| None),
                    wanted = server.session.wanted() => wanted,
                }
            }
        };
        // Nothing is lost by what was just dropped: see `OneWay`.
        let (sent, received) = (wanted.handover.sent, wanted.handover.received);
        let settled = async {
            while answers.passed() < sent && answers.step(&mut server.stream, &mut client).await? {}
            Ok::<_, std::io::Error>(answers.passed() == sent)
        };
        let settled = tokio::time::timeout(SETTLE_LIMIT, settled).await.unwrap_or(Ok(false))?;
        if settled && requests.read() == received {
            return Ok(Some((client, wanted)));
        }
        wanted.refuse().await;
    }
}

#[cfg(test)]
mod tests;

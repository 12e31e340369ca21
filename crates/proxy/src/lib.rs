//! The cluster endpoint: a stable address in front of whoever is the writer.
//!
//! A client that connects while there is no writer, or while the writer starts, is held until there is one. Connections of
//! a writer that was replaced are cut. What passes is not looked at beyond the first message.

mod startup;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use control_plane::Client;
use control_plane::message::Writer;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use startup::{Startup, StartupError};

/// How often the control process is asked who the writer is.
const WRITER_PAUSE: Duration = Duration::from_millis(50);
/// The pause before a held client's connection is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

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

/// Serves until `stop` says so.
pub async fn run(config: ProxyConfig, mut stop: watch::Receiver<bool>) -> Result<(), ListenError> {
    let listener = TcpListener::bind(&config.listen).await.map_err(|error| ListenError {
        address: config.listen.clone(),
        error,
    })?;
    tracing::info!(address = %config.listen, "proxy.start");
    let (told, writer) = watch::channel(None);
    let asking = tokio::spawn(follow_writer(Client::new(&config.control_socket), told));
    let places = Arc::new(Semaphore::new(config.connections_max));
    let hold = Duration::from_millis(config.hold_ms_max);
    let serving = async {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "proxy.accept");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
            };
            let (writer, place) = (writer.clone(), places.clone().try_acquire_owned());
            tokio::spawn(async move {
                if let Err(error) = serve(stream, writer, place.is_ok(), hold).await {
                    tracing::debug!(%error, "proxy.disconnect");
                }
                drop(place);
            });
        }
    };
    tokio::select! {
        () = serving => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    asking.abort();
    Ok(())
}

/// Keeps asking who the writer is. While the control process is away, the last answer stands.
async fn follow_writer(control: Client, told: watch::Sender<Option<Writer>>) {
    loop {
        match control.writer().await {
            Ok(writer) => {
                told.send_if_modified(|known| {
                    let changed = *known != writer;
                    if changed {
                        tracing::info!(writer = ?writer.as_ref().map(|writer| &writer.name), "proxy.route");
                        *known = writer;
                    }
                    changed
                });
            }
            Err(error) => tracing::debug!(%error, "proxy.route"),
        }
        tokio::time::sleep(WRITER_PAUSE).await;
    }
}

async fn serve(
    mut client: TcpStream,
    mut writer: watch::Receiver<Option<Writer>>,
    has_place: bool,
    hold: Duration,
) -> Result<(), StartupError> {
    client.set_nodelay(true)?;
    let startup = Startup::read(&mut client).await?;
    if !has_place {
        return startup::refuse(
            &mut client,
            "53300",
            "the cluster endpoint has no place for another connection",
        )
        .await;
    }
    let deadline = Instant::now() + hold;
    let mut server = loop {
        let known = writer.borrow_and_update().clone();
        if let Some(known) = known {
            match startup.forward(&known.address).await {
                Ok(Some(server)) => break server,
                // It is a cancel request: there is no answer to wait for.
                Ok(None) => return Ok(()),
                Err(error) => tracing::debug!(%error, writer = %known.name, "proxy.hold"),
            }
        }
        if deadline < Instant::now() {
            let text = "there is no writer: a failover takes longer than the endpoint holds connections";
            return startup::refuse(&mut client, "57P03", text).await;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    };
    client.write_all(&server.answered).await?;
    let routed = writer.borrow_and_update().clone();
    tokio::select! {
        copied = tokio::io::copy_bidirectional(&mut client, &mut server.stream) => { copied?; }
        _ = writer.wait_for(|now| *now != routed) => {
            tracing::info!("proxy.cut: the writer was replaced");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

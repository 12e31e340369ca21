//! The control process: the store behind a unix socket.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::config::ControlConfig;
use crate::message::{ControlAnswer, ControlRequest};
use crate::metrics::{self, CONFLICTS, CONNECTIONS, CONTROL, FAILURES};
use crate::registry::{PASSED_MAX, Registry};
use crate::store::{Store, StoreError};

/// The longest line that is read: a record of some thousand groups.
const LINE_BYTES_MAX: u64 = 16 << 20;

/// What bounds the connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Served at once. Beyond it the next ones wait in the socket's backlog until one ends.
    pub(crate) connections_max: usize,
    /// How long one may take to ask something, or to take its answer, before it is closed: nobody holds a place for nothing.
    pub(crate) silence_max: Duration,
}

const LIMITS: Limits = Limits {
    connections_max: 32,
    silence_max: Duration::from_secs(10),
};

/// Why the control process could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Its store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its socket cannot be made.
    #[error("{socket}: {error}")]
    Socket {
        /// The socket.
        socket: String,
        /// What the operating system says.
        error: std::io::Error,
    },
}

/// The store, and the storage nodes that it knows.
struct State {
    store: Store,
    registry: RefCell<Registry>,
}

/// Serves the store in `file` on `socket`, and its metrics on their address, until `stop` says so.
pub async fn run(
    file: &Path,
    socket: &Path,
    config: ControlConfig,
    metrics: Option<SocketAddr>,
    stop: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    serve(file, socket, config, metrics, stop, LIMITS).await
}

pub(crate) async fn serve(
    file: &Path,
    socket: &Path,
    config: ControlConfig,
    metrics_address: Option<SocketAddr>,
    mut stop: watch::Receiver<bool>,
    limits: Limits,
) -> Result<(), ServeError> {
    let store = Store::open(file)?;
    let registry = RefCell::new(Registry::load(&store, config)?);
    let state = Rc::new(State { store, registry });
    let failed = |error| ServeError::Socket {
        socket: socket.display().to_string(),
        error,
    };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    tracing::info!(socket = %socket.display(), "control.start");
    let local = tokio::task::LocalSet::new();
    let serving = local.run_until(async {
        let places = Arc::new(Semaphore::new(limits.connections_max));
        loop {
            let place = places.clone().acquire_owned().await.expect("it is never closed");
            match listener.accept().await {
                Ok((stream, _)) => {
                    let state = state.clone();
                    tokio::task::spawn_local(async move {
                        let _counted = CONNECTIONS.hold();
                        if let Err(error) = converse(stream, &state, limits.silence_max).await {
                            tracing::debug!(%error, "control.disconnect");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control.accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    });
    let measured = telemetry::metrics::serve(metrics_address, CONTROL, |scrape| {
        metrics::look_up(&state.store, &state.registry.borrow(), scrape)
    });
    tokio::select! {
        () = serving => Ok(()),
        () = pass(&state) => Ok(()),
        never = measured => match never {},
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    }
}

/// Tells the registry that time passes.
async fn pass(state: &State) {
    let mut before = Instant::now();
    loop {
        tokio::time::sleep(PASSED_MAX / 2).await;
        state.registry.borrow_mut().pass(before.elapsed());
        before = Instant::now();
    }
}

async fn converse(stream: UnixStream, state: &State, silence_max: Duration) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(tokio::io::AsyncReadExt::take(reader, LINE_BYTES_MAX));
    let mut line = String::new();
    loop {
        line.clear();
        reader.get_mut().set_limit(LINE_BYTES_MAX);
        if timeout(silence_max, reader.read_line(&mut line)).await?? == 0 {
            return Ok(());
        }
        let answer = match serde_json::from_str::<ControlRequest>(&line) {
            Ok(request) => answer(state, request).unwrap_or_else(|error| {
                FAILURES.increment();
                tracing::error!(%error, "control.store");
                ControlAnswer::Failed(error.to_string())
            }),
            Err(error) => {
                FAILURES.increment();
                ControlAnswer::Failed(format!("the request cannot be understood: {error}"))
            }
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        timeout(silence_max, writer.write_all(&text)).await??;
    }
}

fn answer(state: &State, request: ControlRequest) -> Result<ControlAnswer, StoreError> {
    let store = &state.store;
    let outcome = |done: bool| -> Result<ControlAnswer, StoreError> {
        let volume = store.read()?;
        Ok(if done {
            ControlAnswer::Volume(volume)
        } else {
            CONFLICTS.increment();
            ControlAnswer::Refused(volume)
        })
    };
    metrics::count(&request);
    match request {
        ControlRequest::Read => outcome(true),
        ControlRequest::Plan { plan } => outcome(store.plan(&plan)?),
        ControlRequest::Create { epoch, record } => outcome(store.create(epoch, &record)?),
        ControlRequest::TakeEpoch => {
            store.take_epoch()?;
            let answer = outcome(true)?;
            if let ControlAnswer::Volume(volume) = &answer {
                tracing::info!(epoch = volume.epoch, "epoch.take");
            }
            Ok(answer)
        }
        ControlRequest::CompareAndSwap {
            epoch,
            revision,
            record,
        } => outcome(store.compare_and_swap(epoch, revision, &record)?),
        ControlRequest::SetWriter { name, address } => {
            store.set_writer(&name, &address)?;
            tracing::info!(%name, %address, "writer.set");
            Ok(ControlAnswer::Done)
        }
        ControlRequest::Writer => Ok(ControlAnswer::Writer(store.writer()?)),
        ControlRequest::Heartbeat(heartbeat) => {
            let is_taken = state.registry.borrow_mut().heard(store, heartbeat)?;
            Ok(done_or(is_taken, || "there are too many storage nodes".to_owned()))
        }
        ControlRequest::Storage => Ok(ControlAnswer::Storage(state.registry.borrow().fleet())),
        ControlRequest::SetRetention { seconds } => {
            state.registry.borrow_mut().set_retention(store, seconds)?;
            tracing::info!(seconds, "retention.set");
            Ok(ControlAnswer::Done)
        }
        ControlRequest::Wish { name, wish } => {
            tracing::info!(%name, ?wish, "storage.wish");
            let is_known = state.registry.borrow_mut().wish(store, &name, wish)?;
            Ok(done_or(is_known, || format!("there is no storage node {name}")))
        }
        ControlRequest::ForgetStorage { name } => {
            state.registry.borrow_mut().forget(store, &name)?;
            tracing::info!(%name, "storage.forget");
            Ok(ControlAnswer::Done)
        }
    }
}

fn done_or(is_done: bool, why: impl FnOnce() -> String) -> ControlAnswer {
    if is_done {
        ControlAnswer::Done
    } else {
        ControlAnswer::Failed(why())
    }
}

//! The control process: the store behind a unix socket.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use units::Lsn;

use crate::message::{ControlAnswer, ControlRequest};
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

struct Control {
    store: Store,
    reported_durable: RefCell<Option<(u64, Lsn)>>,
}

/// Serves the store in `file` on `socket` until `stop` says so.
pub async fn run(file: &Path, socket: &Path, stop: watch::Receiver<bool>) -> Result<(), ServeError> {
    serve(file, socket, stop, LIMITS).await
}

pub(crate) async fn serve(
    file: &Path,
    socket: &Path,
    mut stop: watch::Receiver<bool>,
    limits: Limits,
) -> Result<(), ServeError> {
    let control = Rc::new(Control {
        store: Store::open(file)?,
        reported_durable: RefCell::default(),
    });
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
                    let control = control.clone();
                    tokio::task::spawn_local(async move {
                        if let Err(error) = converse(stream, &control, limits.silence_max).await {
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
    tokio::select! {
        () = serving => Ok(()),
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    }
}

async fn converse(stream: UnixStream, control: &Control, silence_max: Duration) -> std::io::Result<()> {
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
            Ok(request) => control.answer(request).unwrap_or_else(|error| {
                tracing::error!(%error, "control.store");
                ControlAnswer::Failed(error.to_string())
            }),
            Err(error) => ControlAnswer::Failed(format!("the request cannot be understood: {error}")),
        };
        let mut text = serde_json::to_vec(&answer)?;
        text.push(b'\n');
        timeout(silence_max, writer.write_all(&text)).await??;
    }
}

impl Control {
    fn answer(&self, request: ControlRequest) -> Result<ControlAnswer, StoreError> {
        let outcome = |done: bool| -> Result<ControlAnswer, StoreError> {
            let mut volume = self.store.read()?;
            volume.reported_durable = self
                .reported_durable
                .borrow()
                .map(|(epoch, lsn)| (epoch, lsn.to_string()));
            Ok(if done {
                ControlAnswer::Volume(volume)
            } else {
                ControlAnswer::Refused(volume)
            })
        };
        match request {
            ControlRequest::Read => outcome(true),
            ControlRequest::Plan { plan } => outcome(self.store.plan(&plan)?),
            ControlRequest::Create { epoch, record } => outcome(self.store.create(epoch, &record)?),
            ControlRequest::TakeEpoch => {
                self.store.take_epoch()?;
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
            } => outcome(self.store.compare_and_swap(epoch, revision, &record)?),
            ControlRequest::SetWriter { name, address } => {
                self.store.set_writer(&name, &address)?;
                tracing::info!(%name, %address, "writer.set");
                Ok(ControlAnswer::Done)
            }
            ControlRequest::Writer => Ok(ControlAnswer::Writer(self.store.writer()?)),
            ControlRequest::ReportDurable { epoch, lsn } => {
                let Ok(durable) = lsn.parse::<Lsn>() else {
                    return Ok(ControlAnswer::Failed(format!("{lsn} is no LSN")));
                };
                if self.store.read()?.epoch != epoch {
                    return outcome(false);
                }
                // Reports have a connection each, so one may overtake another.
                let mut reported = self.reported_durable.borrow_mut();
                if reported.is_none_or(|known| known <= (epoch, durable)) {
                    *reported = Some((epoch, durable));
                }
                Ok(ControlAnswer::Done)
            }
            ControlRequest::Forget => {
                *self.reported_durable.borrow_mut() = None;
                Ok(ControlAnswer::Done)
            }
        }
    }
}

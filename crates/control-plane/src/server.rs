//! The control process: the store behind a unix socket.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use crate::message::{ControlAnswer, ControlRequest};
use crate::store::{Store, StoreError};

/// The longest line that is read: a record of some thousand groups.
const LINE_BYTES_MAX: u64 = 16 << 20;

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
    reported_durable: RefCell<Option<(u64, String)>>,
}

/// Serves the store in `file` on `socket` until `stop` says so.
pub async fn run(file: &Path, socket: &Path, mut stop: watch::Receiver<bool>) -> Result<(), ServeError> {
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
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let control = control.clone();
                    tokio::task::spawn_local(async move {
                        if let Err(error) = converse(stream, &control).await {
                            tracing::debug!(%error, "control.disconnect");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "control.accept");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    });
    tokio::select! {
        () = serving => Ok(()),
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    }
}

async fn converse(stream: UnixStream, control: &Control) -> std::io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(tokio::io::AsyncReadExt::take(reader, LINE_BYTES_MAX));
    let mut line = String::new();
    loop {
        line.clear();
        reader.get_mut().set_limit(LINE_BYTES_MAX);
        if reader.read_line(&mut line).await? == 0 {
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
        writer.write_all(&text).await?;
    }
}

impl Control {
    fn answer(&self, request: ControlRequest) -> Result<ControlAnswer, StoreError> {
        let outcome = |done: bool| -> Result<ControlAnswer, StoreError> {
            let mut volume = self.store.read()?;
            volume.reported_durable = self.reported_durable.borrow().clone();
            Ok(if done {
                ControlAnswer::Volume(volume)
            } else {
                ControlAnswer::Refused(volume)
            })
        };
        match request {
            ControlRequest::Read => outcome(true),
            ControlRequest::Create { record } => outcome(self.store.create(&record)?),
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
                *self.reported_durable.borrow_mut() = Some((epoch, lsn));
                Ok(ControlAnswer::Done)
            }
            ControlRequest::Forget => {
                *self.reported_durable.borrow_mut() = None;
                Ok(ControlAnswer::Done)
            }
        }
    }
}

//! The first message of a client, which is kept until a writer takes it.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::handover::{Handovers, Session, Wanted};

/// `MAX_STARTUP_PACKET_LENGTH`.
const STARTUP_BYTES_MAX: usize = 10_000;
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// SQLSTATE of a server that is starting up.
const STARTING: &[u8] = b"C57P03\0";
/// The longest first answer that is looked at.
const ANSWER_BYTES_MAX: usize = 4096;

/// Why a connection came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartupError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("the first message has {0} bytes")]
    Length(u32),
    #[error("the writer is starting")]
    Starting,
}

/// A client's first message, whole.
pub(crate) struct Startup {
    message: Vec<u8>,
    is_cancel: bool,
}

/// A writer that took a client's first message.
pub(crate) struct Server {
    pub(crate) stream: TcpStream,
    pub(crate) session: Session,
    pub(crate) first: First,
}

/// What it did first.
pub(crate) enum First {
    /// It answered this.
    Answered(Vec<u8>),
    /// It let the client in without a word, and wants its socket.
    Wanted(Wanted),
}

impl Startup {
    /// Whether it asks to cancel another connection's query. PostgreSQL answers by closing the connection.
    pub(crate) fn is_cancel(&self) -> bool {
        self.is_cancel
    }

    /// Its length.
    pub(crate) fn bytes(&self) -> usize {
        self.message.len()
    }

    /// Reads it. Encryption is declined: the endpoint is a loopback address.
    pub(crate) async fn read(client: &mut TcpStream) -> Result<Startup, StartupError> {
        loop {
            let length = client.read_u32().await?;
            if !(8..=STARTUP_BYTES_MAX as u32).contains(&length) {
                return Err(StartupError::Length(length));
            }
            let mut message = length.to_be_bytes().to_vec();
            message.resize(length as usize, 0);
            client.read_exact(&mut message[4..]).await?;
            match u32::from_be_bytes([message[4], message[5], message[6], message[7]]) {
                SSL_REQUEST | GSS_REQUEST => client.write_all(b"N").await?,
                code => {
                    return Ok(Startup {
                        message,
                        is_cancel: code == CANCEL_REQUEST,
                    });
                }
            }
        }
    }

    /// Hands it to the server at `address`. An error if that is not there or still starting. A cancel request is answered
    /// with nothing but the end of the connection, which tells the client that it was taken note of.
    pub(crate) async fn forward(&self, address: &str, handovers: &Arc<Handovers>) -> Result<Server, StartupError> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut session = handovers.register(stream.local_addr()?);
        stream.write_all(&self.message).await?;
        let mut answered = vec![0; ANSWER_BYTES_MAX];
        let count = tokio::select! {
            count = stream.read(&mut answered) => count?,
            wanted = session.wanted() => {
                let first = First::Wanted(wanted);
                return Ok(Server { stream, session, first });
            }
        };
        answered.truncate(count);
        let starting = answered.first() == Some(&b'E') && answered.windows(STARTING.len()).any(|part| part == STARTING);
        if starting || (answered.is_empty() && !self.is_cancel) {
            return Err(StartupError::Starting);
        }
        let first = First::Answered(answered);
        Ok(Server { stream, session, first })
    }
}

/// Ends a connection with an error that PostgreSQL's clients understand.
pub(crate) async fn refuse(client: &mut TcpStream, code: &str, message: &str) -> Result<(), StartupError> {
    let mut body = Vec::new();
    for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', code), (b'M', message)] {
        body.push(field);
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut error = vec![b'E'];
    error.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    error.extend_from_slice(&body);
    client.write_all(&error).await?;
    Ok(client.shutdown().await?)
}

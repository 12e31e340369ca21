//! This process's connection to the instance process, which reads pages from the volume.
//!
//! Made when first needed. A connection whose answer was not read to the end is closed and never used again, so an answer
//! always belongs to the question before it.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use pgrx::{PgSqlErrorCode, pg_sys};
use units::{ForkKey, Lsn, PAGE_BYTES, PageKey, RelationKey, fork};
use wire_format::broker::{
    ANSWER_HEADER_BYTES, ANSWER_PAYLOAD_BYTES_MAX, AnswerHeader, BROKER_VERSION, BrokerQuestion, BrokerRequest,
    FORK_SIZE_BYTES, FORKS_LISTED_MAX, ForkSize, Status,
};

use crate::counters::count;
use crate::page::PageBytes;
use crate::sizes::SizeEntry;
use crate::{errors, settings, shared_memory};

/// A question is asked this often before its failure is reported.
const ATTEMPTS_MAX: u32 = 3;
/// How long a signal that arrives just before a wait may go unnoticed.
const SIGNAL_CHECK_MS: i32 = 100;

thread_local! {
    static CONNECTION: RefCell<Option<Connection>> = const { RefCell::new(None) };
}

struct Connection {
    stream: UnixStream,
    last_number: u32,
}

struct Answer {
    header: AnswerHeader,
    payload: Vec<u8>,
}

enum AskError {
    /// PostgreSQL wants this process's attention.
    Interrupted,
    Io(io::Error),
}

impl From<io::Error> for AskError {
    fn from(error: io::Error) -> AskError {
        AskError::Io(error)
    }
}

impl Connection {
    fn open() -> Result<Connection, AskError> {
        let mut stream = UnixStream::connect(settings::broker_socket())?;
        stream.set_nonblocking(true)?;
        let mut greeting = [0; 8];
        greeting[..4].copy_from_slice(&BROKER_VERSION.to_le_bytes());
        greeting[4..].copy_from_slice(&std::process::id().to_le_bytes());
        write_all(&mut stream, &greeting)?;
        let mut answer = [0; 8];
        read_exact(&mut stream, &mut answer)?;
        if answer[..4] != greeting[..4] {
            let text = "the instance process speaks another version of the broker protocol";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text).into());
        }
        count(&shared_memory::counters().broker_connections);
        Ok(Connection { stream, last_number: 0 })
    }

    fn ask(&mut self, question: BrokerQuestion) -> Result<Answer, AskError> {
        self.last_number = self.last_number.wrapping_add(1);
        let request = BrokerRequest {
            number: self.last_number,
            question,
        };
        write_all(&mut self.stream, &request.encode())?;
        let mut header = [0; ANSWER_HEADER_BYTES];
        read_exact(&mut self.stream, &mut header)?;
        let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let header = AnswerHeader::decode(&header).map_err(|error| invalid(error.to_string()))?;
        if header.number != request.number {
            return Err(invalid("the answer is to another question".to_owned()).into());
        }
        // `decode` accepts no more than this.
        let mut payload = vec![0; (header.payload_bytes as usize).min(ANSWER_PAYLOAD_BYTES_MAX)];
        read_exact(&mut self.stream, &mut payload)?;
        Ok(Answer { header, payload })
    }
}

fn write_all(stream: &mut UnixStream, mut bytes: &[u8]) -> Result<(), AskError> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) => wait_after(stream, error, libc::POLLOUT)?,
        }
    }
    Ok(())
}

fn read_exact(stream: &mut UnixStream, mut bytes: &mut [u8]) -> Result<(), AskError> {
    while !bytes.is_empty() {
        match stream.read(bytes) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(read) => bytes = &mut bytes[read..],
            Err(error) => wait_after(stream, error, libc::POLLIN)?,
        }
    }
    Ok(())
}

/// Waits until the stream may go on, if that is what `error` says. A signal ends the wait of `poll`, so a cancel is seen.
fn wait_after(stream: &UnixStream, error: io::Error, events: i16) -> Result<(), AskError> {
    match error.kind() {
        io::ErrorKind::Interrupted => return Ok(()),
        io::ErrorKind::WouldBlock => {}
        _ => return Err(error.into()),
    }
    if is_interrupted() {
        return Err(AskError::Interrupted);
    }
    let mut poll = libc::pollfd {
        fd: stream.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one descriptor, which the borrowed stream keeps open.
    unsafe { libc::poll(&raw mut poll, 1, SIGNAL_CHECK_MS) };
    Ok(())
}

/// Whether PostgreSQL wants attention and this is a place to give it (`INTERRUPTS_CAN_BE_PROCESSED`).
fn is_interrupted() -> bool {
    // SAFETY: plain variables of this process; the first is set by signal handlers, hence volatile.
    unsafe {
        (&raw const pg_sys::InterruptPending).read_volatile() != 0
            && pg_sys::InterruptHoldoffCount == 0
            && pg_sys::CritSectionCount == 0
            && pg_sys::QueryCancelHoldoffCount == 0
    }
}

fn ask_once(question: BrokerQuestion) -> Result<Answer, AskError> {
    CONNECTION.with_borrow_mut(|connection| {
        // Put back only after a whole answer: whatever goes wrong before closes it.
        let mut open = connection.take().map_or_else(Connection::open, Ok)?;
        let answer = open.ask(question)?;
        *connection = Some(open);
        Ok(answer)
    })
}

fn ask(question: BrokerQuestion) -> Answer {
    let mut attempts = 0;
    loop {
        match ask_once(question) {
            Ok(answer) => return answer,
            Err(AskError::Interrupted) => {
                // SAFETY: `is_interrupted` said that this is a place for it. It raises an error, or returns and we ask again.
                unsafe { pg_sys::ProcessInterrupts() };
            }
            Err(AskError::Io(error)) => {
                attempts += 1;
                if attempts == ATTEMPTS_MAX {
                    errors::raise(
                        PgSqlErrorCode::ERRCODE_IO_ERROR,
                        format!(
                            "the instance process does not answer at {}: {error}",
                            settings::broker_socket()
                        ),
                        "The instance ends or restarts; try again when it is back.",
                    );
                }
            }
        }
    }
}

fn refuse(answer: &Answer, what: String) -> ! {
    let code = match answer.header.status {
        Status::Corrupt => PgSqlErrorCode::ERRCODE_DATA_CORRUPTED,
        Status::Fenced => PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN,
        Status::Ok | Status::Absent | Status::ReadFailed => PgSqlErrorCode::ERRCODE_IO_ERROR,
    };
    errors::raise(
        code,
        format!("cannot read {what}: {}", String::from_utf8_lossy(&answer.payload)),
        "",
    );
}

/// Reads a page from the volume that is at least as new as `needed`. One that no record ever touched consists of zeros.
pub fn read_page(key: PageKey, needed: Lsn, wanted_soon: u16, page: &mut PageBytes) {
    let answer = ask(BrokerQuestion::ReadPage {
        key,
        needed,
        count: wanted_soon,
    });
    match answer.header.status {
        Status::Ok if answer.payload.len() == PAGE_BYTES => page.copy_from_slice(&answer.payload),
        _ => refuse(&answer, key.to_string()),
    }
}

/// What the volume knows about a fork, once it knows of the log up to `needed`.
pub fn fork_blocks(fork: ForkKey, needed: Lsn) -> SizeEntry {
    count(&shared_memory::counters().size_questions);
    let answer = ask(BrokerQuestion::ForkBlocks { fork, needed });
    // The INIT fork itself is logged: it is what an unlogged relation begins with.
    let unlogged = fork.fork != fork::INIT && answer.payload.first() == Some(&1);
    match answer.header.status {
        Status::Ok => SizeEntry::from_volume(Some(answer.header.value), unlogged),
        Status::Absent => SizeEntry::from_volume(None, unlogged),
        _ => refuse(&answer, format!("the size of {fork}")),
    }
}

/// The forks that the volume knows of a tablespace and of a database, if one is given. Notices interrupts.
pub fn for_each_fork(tablespace: Option<u32>, database: Option<u32>, mut body: impl FnMut(ForkSize)) {
    let mut after = RelationKey {
        tablespace: 0,
        database: 0,
        relation: 0,
    }
    .fork(0);
    loop {
        let answer = ask(BrokerQuestion::ListForks {
            tablespace,
            database,
            after,
        });
        if answer.header.status != Status::Ok {
            refuse(&answer, "the list of forks".to_owned());
        }
        let (sizes, _) = answer.payload.as_chunks::<FORK_SIZE_BYTES>();
        for size in sizes.iter().filter_map(ForkSize::decode) {
            after = size.fork;
            body(size);
        }
        if sizes.len() < FORKS_LISTED_MAX {
            return;
        }
    }
}

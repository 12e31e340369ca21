//! A stock PostgreSQL streams to the client, and a commit waits until the client has reported it durable.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use replication_protocol::{Client, Event, ProtocolError, request};
use stock_postgresql::{Scratch, Server};
use units::Lsn;

const NAME: &str = "borealis_test";
/// No walsender is silent for longer: they send a keepalive every half `wal_sender_timeout`.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const WAL_PAGE_MAGIC: [u8; 2] = 0xD110u16.to_le_bytes();

/// A server whose commits wait for a standby called [`NAME`].
fn start(scratch: &Scratch) -> Server {
    let settings = format!("autovacuum = off\nsynchronous_standby_names = '{NAME}'\n");
    let server = Server::initdb(scratch.path("data"), &[], &settings);
    server.start();
    server
}

/// The shell around the client: a blocking socket.
struct Connection {
    stream: UnixStream,
    client: Client,
}

impl Connection {
    fn open(data: &Path) -> Connection {
        let stream = UnixStream::connect(data.join(".s.PGSQL.5432")).expect("the server listens");
        stream.set_read_timeout(Some(SILENCE_MAX)).expect("a socket option");
        let client = Client::new();
        let mut connection = Connection { stream, client };
        connection.send(&request::startup("postgres", NAME));
        connection
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    fn next(&mut self) -> Result<Event, ProtocolError> {
        loop {
            if let Some(event) = self.client.next_event()? {
                return Ok(event);
            }
            let mut received = [0; 8192];
            let count = self.stream.read(&mut received).expect("the server answers in time");
            assert!(0 < count, "the server hung up");
            self.client.buffer().extend_from_slice(&received[..count]);
        }
    }

    /// Everything before `Ready`.
    fn answer(&mut self) -> Vec<Event> {
        let next = std::iter::from_fn(|| Some(self.next().expect("no error")));
        next.take_while(|event| *event != Event::Ready).collect()
    }

    fn report(&mut self, durable: Lsn) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
        self.send(&request::status_update(durable, since.as_micros() as i64));
    }

    /// Streams until the log reaches `end`. The WAL must be contiguous from `at` on.
    fn stream_to(&mut self, at: &mut Lsn, end: Lsn, log: &mut Vec<u8>) {
        while *at < end {
            match self.next().expect("no error") {
                Event::Wal { start, bytes } => {
                    assert_eq!(start, *at, "no gap");
                    *at = at.advanced_by(bytes.len() as u64);
                    log.extend_from_slice(&bytes);
                }
                Event::Keepalive { .. } => {}
                other => panic!("{other:?} in a stream"),
            }
        }
    }
}

fn flushed(server: &Server) -> Lsn {
    Lsn::from_raw(
        server
            .query("SELECT pg_current_wal_flush_lsn() - '0/0'")
            .parse()
            .expect("a number"),
    )
}

#[test]
fn a_commit_waits_until_it_is_reported_durable() {
    let scratch = Scratch::new("replication");
    let server = start(&scratch);
    server.query("SET synchronous_commit = local; CREATE TABLE rows (number int)");
    let mut connection = Connection::open(server.data());
    assert_eq!(connection.answer(), []);

    connection.send(&request::query("IDENTIFY_SYSTEM"));
    let answer = connection.answer();
    let [Event::Row(columns)] = &answer[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(columns[1], Some(Bytes::from_static(b"1")), "the timeline");
    assert_eq!(columns[3], None, "no database");
    let system = server.query("SELECT system_identifier FROM pg_control_system()");
    assert_eq!(columns[0].as_deref(), Some(system.as_bytes()));

    connection.send(&request::create_temporary_slot(NAME));
    let answer = connection.answer();
    assert!(
        matches!(&answer[..], [Event::Row(columns)] if columns.len() == 4),
        "{answer:?}"
    );

    let start = Lsn::from_raw(flushed(&server).raw() / 8192 * 8192);
    connection.send(&request::start_replication(NAME, start, 1));
    assert_eq!(connection.next(), Ok(Event::StreamStarted));
    let (mut at, mut log) = (start, Vec::new());

    for round in 1..=5 {
        let before = flushed(&server);
        connection.report(before);
        let mut commit = server.begin(&format!(
            "INSERT INTO rows SELECT {round} FROM generate_series(1, 2000)"
        ));
        let deadline = Instant::now() + SILENCE_MAX;
        while server.query("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == "0" {
            assert!(Instant::now() < deadline, "the commit does not wait");
        }
        let end = flushed(&server);
        assert!(before < end);
        connection.stream_to(&mut at, end, &mut log);
        // Received is not durable: the commit goes on waiting, and nobody sees its rows.
        connection.report(before);
        assert!(commit.try_wait().expect("our child").is_none());
        let visible = server.query("SELECT count(DISTINCT number) FROM rows");
        assert_eq!(visible, (round - 1).to_string());
        connection.report(at);
        assert!(commit.wait().expect("our child").success());
        assert_eq!(
            server.query("SELECT count(DISTINCT number) FROM rows"),
            round.to_string()
        );
    }
    for (page, bytes) in log.chunks(8192).enumerate() {
        assert_eq!(bytes[..2], WAL_PAGE_MAGIC, "page {page}");
        let address = start.advanced_by(page as u64 * 8192).raw().to_le_bytes();
        assert_eq!(bytes[8..16], address, "page {page}");
    }
    let written = std::fs::read(server.data().join("pg_wal/000000010000000000000001")).expect("the WAL file");
    let from = (start.raw() % (16 << 20)) as usize;
    assert_eq!(log, written[from..from + log.len()], "the stream is the file");

    // CopyDone: the walsender answers with its own end, and takes commands again.
    connection.send(&[b'c', 0, 0, 0, 4]);
    let deadline = Instant::now() + SILENCE_MAX;
    while connection.next().expect("no error") != Event::StreamEnded {
        assert!(Instant::now() < deadline, "the stream does not end");
    }
    assert_eq!(connection.answer(), []);
}

#[test]
fn a_refused_command_is_an_error_with_its_code() {
    let scratch = Scratch::new("replication-refused");
    let server = start(&scratch);
    let mut connection = Connection::open(server.data());
    connection.answer();
    connection.send(&request::start_replication(
        "there_is_none",
        Lsn::from_raw(0x100_0000),
        1,
    ));
    let error = connection.next().expect_err("there is no such slot");
    let ProtocolError::Server { severity, code, .. } = error else {
        panic!("{error}")
    };
    assert_eq!((&severity[..], &code[..]), ("ERROR", "42704"));
    // The connection is as good as before.
    connection.answer();
    connection.send(&request::create_temporary_slot(NAME));
    assert_eq!(connection.answer().len(), 1);
}

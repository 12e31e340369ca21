use bytes::Bytes;
use proptest::prelude::*;
use units::Lsn;

use crate::{Client, Event, ProtocolError, request};

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    message
}

fn wal(start: u64, bytes: &[u8]) -> Vec<u8> {
    let mut body = vec![b'w'];
    body.extend_from_slice(&start.to_be_bytes());
    body.extend_from_slice(&[0; 16]);
    body.extend_from_slice(bytes);
    message(b'd', &body)
}

#[test]
fn a_stream_is_understood_however_its_bytes_arrive() {
    let mut stream = message(b'R', &[0, 0, 0, 0]);
    stream.extend(message(b'S', b"server_version\x0015.20\0"));
    stream.extend(message(b'Z', b"I"));
    stream.extend(message(b'D', &[0, 2, 0, 0, 0, 1, b'x', 0xFF, 0xFF, 0xFF, 0xFF]));
    stream.extend(message(b'W', &[0, 0, 0]));
    stream.extend(wal(0x1_0000_0028, b"log"));
    let mut keepalive = vec![b'k'];
    keepalive.extend_from_slice(&9u64.to_be_bytes());
    keepalive.extend_from_slice(&[0; 8]);
    keepalive.push(1);
    stream.extend(message(b'd', &keepalive));
    let expected = [
        Event::Ready,
        Event::Row(vec![Some(Bytes::from_static(b"x")), None]),
        Event::StreamStarted,
        Event::Wal {
            start: Lsn::from_raw(0x1_0000_0028),
            bytes: Bytes::from_static(b"log"),
        },
        Event::Keepalive {
            end: Lsn::from_raw(9),
            reply_requested: true,
        },
    ];
    for chunk in [1, 3, 7, stream.len()] {
        let mut client = Client::new();
        let mut events = Vec::new();
        for part in stream.chunks(chunk) {
            client.buffer().extend_from_slice(part);
            while let Some(event) = client.next_event().unwrap() {
                events.push(event);
            }
        }
        assert_eq!(events, expected, "in chunks of {chunk}");
    }
}

#[test]
fn a_servers_error_is_told_with_its_code() {
    let mut client = Client::new();
    let error = message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0");
    client.buffer().extend_from_slice(&error);
    let error = client.next_event().unwrap_err();
    assert_eq!(
        error.to_string(),
        "FATAL: the database system is starting up (SQLSTATE 57P03)"
    );
    client.buffer().extend_from_slice(&message(b'R', &[0, 0, 0, 10]));
    assert_eq!(client.next_event(), Err(ProtocolError::Authentication(10)));
}

#[test]
fn requests_are_what_the_manual_says() {
    assert_eq!(request::query("X"), b"Q\0\0\0\x06X\0");
    let update = request::status_update(Lsn::from_raw(0x0102), 946_684_800_000_007);
    assert_eq!(update[..6], *b"d\0\0\0\x26r");
    assert_eq!(update[6..14], [0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(update[30..], [0, 0, 0, 0, 0, 0, 0, 7, 0]);
}

proptest! {
    #[test]
    fn arbitrary_bytes_give_events_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..400), kind in prop::sample::select(b"RZDWdENSKTCAc".to_vec())) {
        let mut client = Client::new();
        client.buffer().extend_from_slice(&message(kind, &bytes));
        client.buffer().extend_from_slice(&bytes);
        while let Ok(Some(_)) = client.next_event() {}
    }
}

//! What the client sends.

use units::Lsn;

/// Microseconds from 1970 to 2000, where PostgreSQL's clock begins.
const EPOCH_DIFFERENCE_US: i64 = 946_684_800_000_000;
const PROTOCOL_VERSION: u32 = 3 << 16;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![kind];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    message
}

/// The first message: a physical replication connection of `user` that calls itself `application_name`.
pub fn startup(user: &str, application_name: &str) -> Vec<u8> {
    let mut body = PROTOCOL_VERSION.to_be_bytes().to_vec();
    for (name, value) in [
        ("user", user),
        ("replication", "true"),
        ("application_name", application_name),
    ] {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    let mut message = (body.len() as u32 + 4).to_be_bytes().to_vec();
    message.extend_from_slice(&body);
    message
}

/// A command, such as `IDENTIFY_SYSTEM`.
pub fn query(text: &str) -> Vec<u8> {
    let mut body = text.as_bytes().to_vec();
    body.push(0);
    message(b'Q', &body)
}

/// Makes a slot that keeps WAL for this connection, and lives as long as it.
pub fn create_temporary_slot(slot: &str) -> Vec<u8> {
    query(&format!(
        "CREATE_REPLICATION_SLOT \"{slot}\" TEMPORARY PHYSICAL RESERVE_WAL"
    ))
}

/// Asks for the WAL from `start` on.
pub fn start_replication(slot: &str, start: Lsn, timeline: u32) -> Vec<u8> {
    query(&format!(
        "START_REPLICATION SLOT \"{slot}\" PHYSICAL {start} TIMELINE {timeline}"
    ))
}

/// Reports that everything up to `durable` is. `now_us`: microseconds since 1970.
pub fn status_update(durable: Lsn, now_us: i64) -> Vec<u8> {
    let mut body = vec![b'r'];
    for lsn in [durable; 3] {
        body.extend_from_slice(&lsn.raw().to_be_bytes());
    }
    body.extend_from_slice(&(now_us - EPOCH_DIFFERENCE_US).to_be_bytes());
    body.push(0);
    message(b'd', &body)
}

//! What a walsender says.

use replication_protocol::Client;

use crate::input::Input;

/// A connection that carries any bytes, in pieces.
pub(crate) fn replication(data: &[u8]) {
    let mut input = Input::new(data);
    let piece = usize::from(input.u8()) + 1;
    let mut client = Client::new();
    for bytes in input.rest().chunks(piece) {
        client.buffer().extend_from_slice(bytes);
        loop {
            match client.next_event() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

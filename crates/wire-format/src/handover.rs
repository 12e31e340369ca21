//! How a PostgreSQL backend takes its client over from the cluster endpoint.
//!
//! The endpoint reads a client's first messages and hands them on. Once the client is authenticated, the backend asks for its
//! socket, and from then on they talk without anybody between them. Over the endpoint's unix socket goes one line of text, as
//! [`Handover`] writes it; the answer is one byte: [`TAKEN`], with the socket attached (`SCM_RIGHTS`), or [`REFUSED`], and
//! everything stays as it is. After [`TAKEN`] the connection says nothing more; that it is open says that the backend lives.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// The longest line.
pub const LINE_BYTES_MAX: usize = 160;
/// The client's socket comes with this.
pub const TAKEN: u8 = b'y';
/// There is no such connection, or bytes are on their way in it.
pub const REFUSED: u8 = b'n';

const GREETING: &str = "borealis-handover-1";

/// What a backend asks. The two counts tell the endpoint whether anything is still on its way: then the client stays where it
/// is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Handover {
    /// The endpoint's own end of its connection to the backend.
    pub endpoint: SocketAddr,
    /// Bytes that the backend has sent on it.
    pub sent: u64,
    /// Bytes that the backend has received on it, and read.
    pub received: u64,
}

/// A line that is not a [`Handover`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a request for a client's socket")]
pub struct NotAHandover;

impl fmt::Display for Handover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Handover {
            endpoint,
            sent,
            received,
        } = self;
        writeln!(out, "{GREETING} {endpoint} {sent} {received}")
    }
}

impl FromStr for Handover {
    type Err = NotAHandover;

    fn from_str(line: &str) -> Result<Handover, NotAHandover> {
        let mut words = line.strip_suffix('\n').ok_or(NotAHandover)?.split(' ');
        if words.next() != Some(GREETING) {
            return Err(NotAHandover);
        }
        let mut word = || words.next().ok_or(NotAHandover);
        let handover = Handover {
            endpoint: word()?.parse().map_err(|_| NotAHandover)?,
            sent: word()?.parse().map_err(|_| NotAHandover)?,
            received: word()?.parse().map_err(|_| NotAHandover)?,
        };
        words.next().is_none().then_some(handover).ok_or(NotAHandover)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_is_read_as_it_was_written() {
        for endpoint in [
            "127.0.0.1:5433",
            "[::1]:1",
            "[2001:db8:85a3:8d3:1319:8a2e:370:7348]:65535",
        ] {
            let handover = Handover {
                endpoint: endpoint.parse().expect("an address"),
                sent: u64::MAX,
                received: u64::MAX,
            };
            let line = handover.to_string();
            assert!(line.len() <= LINE_BYTES_MAX, "{line}");
            assert_eq!(line.parse(), Ok(handover));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            if let Ok(handover) = text.parse::<Handover>() {
                prop_assert!(handover.to_string().parse() == Ok(handover));
            }
        }
    }
}

//! PostgreSQL's log goes where this process's log goes.
//!
//! Invariant: whatever PostgreSQL writes, the thread that reads it goes on until PostgreSQL is gone: a server whose standard
//! error nobody reads stands still, and one whose standard error is closed tells nobody why it died.

use std::io::{self, BufRead, BufReader, Read};

/// The longest line in our log; what is longer is broken into several. Clients decide how long a statement is.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// Forwards the log until its end, in a thread of its own.
pub(crate) fn forward(log: impl Read + Send + 'static) {
    std::thread::spawn(move || {
        let forwarded = forward_lines(
            BufReader::new(log),
            |line| tracing::info!(target: "postgresql", "{line}"),
        );
        if let Err(error) = forwarded {
            tracing::error!(%error, "postgresql.log: what PostgreSQL writes from now on is lost");
        }
    });
}

/// Takes the log apart: lines of a bounded length. Clients write into it, and not all of them write UTF-8.
fn forward_lines(mut log: impl BufRead, mut line: impl FnMut(&str)) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if log.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        line(&String::from_utf8_lossy(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        forward_lines(log, |line| lines.push(line.to_owned())).expect("memory can be read");
        lines
    }

    #[test]
    fn a_line_that_is_not_utf8_does_not_end_the_log() {
        let log = b"LOG:  one\nFATAL:  role \"\xff\" does not exist\n\nPANIC:  last words";
        assert_eq!(
            lines(log),
            [
                "LOG:  one",
                "FATAL:  role \"\u{fffd}\" does not exist",
                "",
                "PANIC:  last words"
            ]
        );
    }

    #[test]
    fn a_long_line_comes_in_pieces() {
        let mut log = vec![b'a'; LINE_BYTES_MAX as usize + 10];
        log.extend(b"\nnext\n");
        let lengths: Vec<usize> = lines(&log).iter().map(String::len).collect();
        assert_eq!(lengths, [LINE_BYTES_MAX as usize, 10, 4]);
    }
}

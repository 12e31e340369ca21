//! Bytes on their way through, both ways, counted.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes read at once.
const BUFFER_BYTES: usize = 16 << 10;

/// One way of a connection. Nothing is lost when a future of it is dropped: what was read is kept here until it is written.
pub(crate) struct OneWay {
    buffer: Vec<u8>,
    /// What of the buffer is still to be written.
    start: usize,
    end: usize,
    /// Bytes read so far.
    read: u64,
}

impl OneWay {
    /// Bytes that were read before are `passed` on already, and `held` still to be.
    pub(crate) fn new(passed: usize, held: &[u8]) -> OneWay {
        let mut buffer = held.to_vec();
        buffer.resize(BUFFER_BYTES.max(held.len()), 0);
        OneWay {
            buffer,
            start: 0,
            end: held.len(),
            read: (passed + held.len()) as u64,
        }
    }

    /// Bytes read so far.
    pub(crate) fn read(&self) -> u64 {
        self.read
    }

    /// Bytes read and passed on so far.
    pub(crate) fn passed(&self) -> u64 {
        self.read - (self.end - self.start) as u64
    }

    async fn write_held(&mut self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while self.start < self.end {
            let written = to.write(&self.buffer[self.start..self.end]).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.start += written;
        }
        Ok(())
    }

    /// Reads once and passes it on; `false`: there is nothing more.
    pub(crate) async fn step(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<bool> {
        self.write_held(to).await?;
        let count = from.read(&mut self.buffer).await?;
        (self.start, self.end) = (0, count);
        self.read += count as u64;
        self.write_held(to).await?;
        Ok(count != 0)
    }

    /// Passes everything on, and the end after it.
    pub(crate) async fn run(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        while self.step(from, to).await? {}
        to.shutdown().await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn what_was_read_is_not_lost_when_a_step_is_given_up() {
        // Room for four bytes: the rest waits here.
        let (mut near, mut far) = tokio::io::duplex(4);
        let mut way = OneWay::new(10, b"ab");
        let mut from: &[u8] = b"cdefgh";
        while let Ok(stepped) = tokio::time::timeout(Duration::from_millis(20), way.step(&mut from, &mut near)).await {
            assert!(stepped.expect("no error"));
        }
        assert_eq!((way.read(), way.passed()), (18, 14));
        let mut got = [0; 8];
        let (rest, read) = tokio::join!(way.run(&mut from, &mut near), far.read_exact(&mut got));
        rest.expect("an end");
        assert_eq!(read.expect("everything"), 8);
        assert_eq!(&got, b"abcdefgh");
        assert_eq!((way.read(), way.passed()), (18, 18));
    }
}

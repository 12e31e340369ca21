//! Programs that a test has started: their output and their end, waited for within a limit.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::PAUSE;

/// The lines of a program's output. A thread reads them to the end, wanted or not: the program never waits for its reader.
pub struct Lines {
    received: Receiver<String>,
}

impl Lines {
    /// Begins to read.
    pub fn of(output: impl Read + Send + 'static) -> Lines {
        let (sent, received) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Whoever has seen enough listens no more.
                let _ = sent.send(line);
            }
        });
        Lines { received }
    }

    /// The next line that is `wanted`; the error says what was seen instead.
    pub fn wait_for(&self, what: &str, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut last = None;
        loop {
            match self
                .received
                .recv_timeout(deadline.saturating_duration_since(Instant::now()))
            {
                Ok(line) if wanted(&line) => return Ok(line),
                Ok(line) => last = Some(line),
                Err(error) => bail!("no line shows {what} ({error}); the last one was {last:?}"),
            }
        }
    }
}

/// How a program ends by itself; one that does not within `limit` is killed, and that is an error.
pub fn end_of(child: &mut Child, what: &str, limit: Duration) -> Result<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if limit < started.elapsed() {
            child.kill()?;
            child.wait()?;
            bail!("{what} did not end within {limit:?}");
        }
        std::thread::sleep(PAUSE);
    }
}

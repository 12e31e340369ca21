//! What daemons tell their operators: logs, one line an event, rotated by size; and [`mod@metrics`].
//!
//! `BOREALIS_LOG` sets what is logged, as `info` (the default) or `debug,page_store=warn`.

pub mod metrics;

use std::cell::Cell;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;

/// Bytes after which a log file is put aside.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Log files kept besides the current one: `NAME.log.1` is the newest of them.
const FILES_KEPT: u32 = 4;

struct Rotated {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Rotated {
    fn open(path: &Path) -> io::Result<Rotated> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        Ok(Rotated {
            path: path.to_owned(),
            file,
            bytes,
        })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |number: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{number}"));
            PathBuf::from(name)
        };
        for number in (1..FILES_KEPT).rev() {
            // A gap in the numbers is no error.
            let _ = std::fs::rename(numbered(number), numbered(number + 1));
        }
        std::fs::rename(&self.path, numbered(1))?;
        *self = Rotated::open(&self.path)?;
        Ok(())
    }
}

/// A log file shared by all threads.
#[derive(Clone)]
struct LogFile(Arc<Mutex<Rotated>>);

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if FILE_BYTES_MAX < log.bytes {
            log.rotate()?;
        }
        log.file.write_all(line)?;
        log.bytes += line.len() as u64;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs to a file from now on, panics included. Call once, at the start of a daemon.
pub fn log_to(path: &Path) -> io::Result<()> {
    let log = LogFile(Arc::new(Mutex::new(Rotated::open(path)?)));
    let filter = EnvFilter::try_from_env("BOREALIS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(move || log.clone())
        .init();
    let to_standard_error = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(%panic, "process.panic");
        to_standard_error(panic);
    }));
    Ok(())
}

thread_local! {
    /// Whether a panic of this thread is caught by [`contain`].
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// From now on a panic in any thread ends the whole process, after it was reported. For daemons whose threads share what
/// they keep: one that goes on behind a panic may have lost something halfway, and answers as if it had not. Only what
/// [`contain`] runs may panic.
pub fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        if !IS_CONTAINED.get() {
            std::process::abort();
        }
    }));
}

/// Runs something that may panic; the error is what it said. What it was changing then is undefined, so `body` must change
/// nothing that anybody looks at after an error.
pub fn contain<R>(body: impl FnOnce() -> R) -> Result<R, String> {
    let was_contained = IS_CONTAINED.replace(true);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(body));
    IS_CONTAINED.set(was_contained);
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        text.unwrap_or_else(|| "it did not say why".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set in the process that shall end.
    const PANICKING: &str = "BOREALIS_TELEMETRY_TEST_PANICS";

    #[test]
    fn a_panic_in_any_thread_ends_the_process_and_is_in_the_log() {
        use std::os::unix::process::ExitStatusExt;
        use std::process::{Command, Stdio};

        if let Some(path) = std::env::var_os(PANICKING) {
            log_to(Path::new(&path)).expect("a log file");
            end_on_panic();
            assert_eq!(contain(|| 5), Ok(5));
            let contained: Result<(), String> = contain(|| panic!("not {}", "so bad"));
            assert_eq!(contained, Err("not so bad".to_owned()));
            let thread = std::thread::spawn(|| panic!("something is wrong"));
            assert!(thread.join().is_err());
            return;
        }
        let path = std::env::temp_dir().join(format!("borealis-telemetry-panic-{}.log", std::process::id()));
        let test = "tests::a_panic_in_any_thread_ends_the_process_and_is_in_the_log";
        let ended = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", test])
            .env(PANICKING, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .expect("it can be started");
        assert_eq!(ended.signal(), Some(6), "SIGABRT");
        let log = std::fs::read_to_string(&path).expect("its log");
        assert!(
            log.contains("something is wrong") && log.contains("not so bad"),
            "{log}"
        );
        std::fs::remove_file(&path).expect("the file is ours");
    }

    #[test]
    fn a_full_log_file_is_put_aside() {
        let folder = std::env::temp_dir().join(format!("borealis-telemetry-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let path = folder.join("storage-1.log");
        let mut log = LogFile(Arc::new(Mutex::new(Rotated::open(&path).expect("a log file"))));
        log.0.lock().expect("nobody panicked").bytes = FILE_BYTES_MAX + 1;
        log.write_all(b"new\n").expect("room");
        assert_eq!(std::fs::read(&path).expect("the new file"), b"new\n");
        assert!(folder.join("storage-1.log.1").exists());
        std::fs::remove_dir_all(&folder).expect("the folder is ours");
    }
}

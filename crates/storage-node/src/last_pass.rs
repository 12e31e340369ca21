//! When the last pass over everything at rest came to its end, over restarts: a node that is started anew every hour is read again
//! once a day, too.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970, in digits. Nothing depends on it but when the next pass begins: what cannot be read counts as nothing.
const FILE: &str = "last-scrub";
/// Of the time between two passes so much is left alone after a start: a node that comes back has other things to catch up with.
const SHARE_OF_A_START: u32 = 48;

/// Its file.
pub(crate) struct LastPass(PathBuf);

impl LastPass {
    pub(crate) fn of(directory: &Path) -> LastPass {
        LastPass(directory.join(FILE))
    }

    /// What was written down, in seconds since 1970.
    pub(crate) fn read(&self) -> Option<u64> {
        let read = std::fs::read_to_string(&self.0);
        let read = read.and_then(|text| text.trim().parse().map_err(std::io::Error::other));
        match read {
            Ok(seconds) => Some(seconds),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(file = %self.0.display(), %error, "store.scrub: nobody knows when the last pass was");
                None
            }
        }
    }

    /// Writes it down. Not synced: if it is lost, the next pass begins earlier or later.
    pub(crate) fn write(&self, seconds: u64) {
        let next = self.0.with_extension("next");
        let written = std::fs::write(&next, format!("{seconds}\n")).and_then(|()| std::fs::rename(&next, &self.0));
        if let Err(error) = written {
            tracing::warn!(file = %self.0.display(), %error, "store.scrub: a restart will not know of this pass");
        }
    }
}

pub(crate) fn seconds_since_1970() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs())
}

/// How long a node that starts `now` waits before its first pass. One that never ended any waits for half of the interval.
pub(crate) fn first_rest(last: Option<u64>, now: u64, interval: Duration) -> Duration {
    let Some(last) = last else {
        return interval / 2;
    };
    let passed = Duration::from_secs(now.saturating_sub(last));
    interval.saturating_sub(passed).max(interval / SHARE_OF_A_START)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn a_start_changes_little_at_when_the_next_pass_begins() {
        let now = 1_700_000_000;
        let rest = |hours_ago: u64| first_rest(Some(now - hours_ago * 3600), now, DAY).as_secs() / 60;
        assert_eq!((rest(1), rest(20)), (23 * 60, 4 * 60));
        assert_eq!(
            (rest(24), rest(1000)),
            (30, 30),
            "it is due, but not before the node has come to itself"
        );
        assert_eq!(first_rest(None, now, DAY), DAY / 2);
        assert_eq!(first_rest(Some(now + 500), now, DAY), DAY, "the clock went back");
    }

    #[test]
    fn what_was_written_down_is_read_and_anything_else_is_nothing() {
        let folder = std::env::temp_dir().join(format!("borealis-last-pass-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        let last = LastPass::of(&folder);
        assert_eq!(last.read(), None);
        last.write(1_700_000_000);
        assert_eq!(LastPass::of(&folder).read(), Some(1_700_000_000));
        for garbage in ["", "yesterday", "-5", "99999999999999999999999"] {
            std::fs::write(folder.join(FILE), garbage).expect("a file");
            assert_eq!(last.read(), None, "{garbage:?}");
        }
        std::fs::remove_dir_all(folder).expect("it is ours");
    }
}

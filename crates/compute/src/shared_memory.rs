//! What a killed PostgreSQL leaves in the operating system, outside of its data directory.
//!
//! A postmaster guards its data directory with one small System V segment. The next postmaster of that directory would remove
//! it, but ours always begins in a new directory, and the system has room for 4096 segments. (Its dynamic shared memory lies
//! in files of the data directory, see `settings`.)

use std::io;
use std::path::Path;
use std::process::Command;

/// Who made it, and by what name, as the data directory says (miscinit.c, `LOCK_FILE_LINE_SHMEM_KEY`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Guard {
    postmaster: u32,
    key: u32,
    id: u32,
}

impl Guard {
    /// Reads `postmaster.pid`; `None`: it names no segment.
    fn named_by(lock_file: &str) -> Option<Guard> {
        let mut lines = lock_file.lines();
        let postmaster = lines.next()?.trim().parse().ok()?;
        let mut names = lines.nth(5)?.split_whitespace().map(str::parse);
        Some(Guard {
            postmaster,
            key: names.next()?.ok()?,
            id: names.next()?.ok()?,
        })
    }

    /// Whether `segments`, the text of `/proc/sysvipc/shm`, has it still, and nobody uses it. Names are given out again, after
    /// a restart of the machine all of them: it is the one only if key, id and maker agree.
    fn is_left_in(&self, segments: &str) -> bool {
        segments.lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let field = |at: usize| fields.get(at).and_then(|field| field.parse::<i64>().ok());
            // key shmid perms size cpid lpid nattch …; a key is printed as a signed number.
            field(0).is_some_and(|key| key as u32 == self.key)
                && field(1) == Some(i64::from(self.id))
                && field(4) == Some(i64::from(self.postmaster))
                && field(6) == Some(0)
        })
    }
}

/// Removes the segment of the dead postmaster that last ran in `data`, if it is still there.
pub(crate) fn remove_leftover(data: &Path) -> io::Result<()> {
    let lock_file = match std::fs::read_to_string(data.join("postmaster.pid")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let Some(guard) = Guard::named_by(&lock_file) else {
        return Ok(());
    };
    if !guard.is_left_in(&std::fs::read_to_string("/proc/sysvipc/shm")?) {
        return Ok(());
    }
    let output = Command::new("ipcrm").args(["shm", &guard.id.to_string()]).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK_FILE: &str =
        "8111\n/var/lib/x/data\n1795247065\n5433\n/tmp\n127.0.0.1\n  10018850   1245186\nready   \n";
    const HEADING: &str = "       key      shmid perms                  size  cpid  lpid nattch   uid\n";

    fn segment(key: i64, id: u32, maker: u32, attached: u32) -> String {
        format!("{HEADING}{key:10} {id:10}   600                    56 {maker:5}  8127 {attached:6}   101\n")
    }

    #[test]
    fn a_segment_is_ours_only_if_key_and_id_and_maker_agree_and_nobody_uses_it() {
        let guard = Guard::named_by(LOCK_FILE).expect("a whole file");
        assert!(guard.is_left_in(&segment(10_018_850, 1_245_186, 8111, 0)));
        for other in [
            segment(10_018_851, 1_245_186, 8111, 0),
            segment(10_018_850, 1_245_187, 8111, 0),
            segment(10_018_850, 1_245_186, 8112, 0),
            segment(10_018_850, 1_245_186, 8111, 1),
            HEADING.to_owned(),
            "not\na table".to_owned(),
        ] {
            assert!(!guard.is_left_in(&other), "{other}");
        }
        let high = Guard {
            key: u32::MAX - 1,
            ..guard
        };
        assert!(high.is_left_in(&segment(-2, 1_245_186, 8111, 0)));
    }

    #[test]
    fn a_lock_file_that_was_not_finished_names_no_segment() {
        for end in 0..LOCK_FILE.len() - "1245186\nready   \n".len() {
            assert_eq!(Guard::named_by(&LOCK_FILE[..end]), None, "{end}");
        }
    }
}

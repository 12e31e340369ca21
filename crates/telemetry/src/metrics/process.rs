//! What the kernel knows of the process, under the names that Prometheus' own libraries give it.

use std::fs;

use super::{Sampled, Scrape};

crate::metrics! {
    /// What every daemon tells.
    pub PROCESS;
    /// Memory that the process has just now.
    RESIDENT_BYTES: Sampled = Sampled::gauge("process_resident_memory_bytes", &[]);
    /// The most memory that the process ever had.
    RESIDENT_BYTES_MAX: Sampled = Sampled::gauge("process_resident_memory_max_bytes", &[]);
    /// Files, sockets and pipes that the process has open.
    OPEN_FILES: Sampled = Sampled::gauge("process_open_fds", &[]);
    /// Files, sockets and pipes that the process may have open.
    OPEN_FILES_MAX: Sampled = Sampled::gauge("process_max_fds", &[]);
    /// Threads of the process.
    THREADS: Sampled = Sampled::gauge("process_threads", &[]);
}

/// Looks everything up; what the kernel does not tell stays away.
pub fn look_up(scrape: &mut Scrape) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    scrape.set_known(&RESIDENT_BYTES, &[], kilobytes(&status, "VmRSS"));
    scrape.set_known(&RESIDENT_BYTES_MAX, &[], kilobytes(&status, "VmHWM"));
    scrape.set_known(&THREADS, &[], first_number(&status, "Threads:"));
    let files = fs::read_dir("/proc/self/fd").map(|files| files.count());
    scrape.set_known(&OPEN_FILES, &[], files.ok().and_then(|files| u64::try_from(files).ok()));
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    scrape.set_known(&OPEN_FILES_MAX, &[], first_number(&limits, "Max open files"));
}

/// The first number of the line that begins like this.
fn first_number(text: &str, beginning: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(beginning))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A line such as `VmRSS:     1234 kB`, in bytes.
fn kilobytes(status: &str, name: &str) -> Option<u64> {
    first_number(status, &format!("{name}:"))?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read_and_others_passed_over() {
        let status = "Name:\tborealis\nVmHWM:\t   20480 kB\nVmRSS:\t   10240 kB\nThreads:\t7\n";
        assert_eq!(kilobytes(status, "VmRSS"), Some(10 << 20));
        assert_eq!(kilobytes(status, "VmHWM"), Some(20 << 20));
        assert_eq!(kilobytes(status, "VmSwap"), None);
        assert_eq!(kilobytes("VmRSS: 99999999999999999999 kB", "VmRSS"), None);
        assert_eq!(kilobytes("VmRSS:", "VmRSS"), None);
        assert_eq!(first_number(status, "Threads:"), Some(7));
        let limits = "Max open files            1024                 524288               files     \n";
        assert_eq!(first_number(limits, "Max open files"), Some(1024));
        assert_eq!(first_number("Max open files unlimited", "Max open files"), None);
    }
}

//! The processor time, the memory and the open files of this process, as Linux reports them.

// Not sysinfo or procfs: three small files of /proc are all that is needed.

use std::fs;

/// What the process uses.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// In seconds.
    pub(crate) user_time: f64,
    /// In seconds.
    pub(crate) system_time: f64,
    /// In bytes.
    pub(crate) memory: u64,
    pub(crate) threads: u64,
}

/// The kernel counts in these parts of a second on every platform that Linux runs on.
const TICKS: f64 = 100.0;

/// Returns what the process uses. Returns `None` on other systems than Linux.
pub(crate) fn usage() -> Option<Usage> {
    let page = rustix::param::page_size() as u64;
    let mut usage = parse(&fs::read_to_string("/proc/self/stat").ok()?)?;
    usage.memory *= page;
    Some(usage)
}

/// Returns the number of open file descriptors. Returns `None` on other systems than Linux.
pub(crate) fn file_descriptors() -> Option<usize> {
    // One of them reads the folder.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))
}

/// Returns the usage of a line of `/proc/self/stat`, with the memory in pages.
fn parse(stat: &str) -> Option<Usage> {
    // The name of the program is in parentheses, and can contain blanks.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields = Vec::from_iter(fields.split(' '));
    // proc(5) counts from 1, and the state, which is the first one here, is number 3.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(Usage {
        user_time: field(14)? as f64 / TICKS,
        system_time: field(15)? as f64 / TICKS,
        threads: field(20)?,
        memory: field(24)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_program_name_are_skipped() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 9 0 100 4096 321 1";
        let expected = Usage { user_time: 2.5, system_time: 1.5, threads: 9, memory: 321 };
        assert_eq!(parse(stat), Some(expected));
        assert_eq!(parse("7 (a"), None);
    }
}

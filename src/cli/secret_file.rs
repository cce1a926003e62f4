//! Files with secrets, which only their owner can read.

use std::{fs::OpenOptions, io, io::Write, path::Path};

/// Writes a new file that only this user can read (mode 0600). Returns an error if the file exists.
pub(super) fn write(path: &Path, content: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

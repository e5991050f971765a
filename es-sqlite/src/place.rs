//! The file that was opened, and whether it is still the one of that name.
//!
//! A file that is replaced while it is open goes on under its old connections, without a name, and new ones find the other
//! file: what one writes, the other one never sees. So whoever reads or writes looks first.

use std::io;
use std::path::{Path, PathBuf};

use es_core::store::StoreError;

/// The file, as it was when it was opened.
#[derive(Debug)]
pub(crate) struct Place {
    file: PathBuf,
    /// Its device and number; nothing where files have none, and an open one cannot be replaced.
    is: Option<(u64, u64)>,
}

impl Place {
    /// The file that has just been opened.
    pub(crate) fn new(file: &Path) -> Self {
        // The program may go to another folder.
        let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        Self { is: number(&file).ok().flatten(), file }
    }

    /// # Errors
    ///
    /// [`StoreError::Misuse`]: it was moved, removed or replaced.
    pub(crate) fn still_there(&self) -> Result<(), StoreError> {
        let Some(is) = self.is else { return Ok(()) };
        let became = match number(&self.file) {
            Ok(now) if now == Some(is) => return Ok(()),
            Ok(_) => "was replaced by another file",
            Err(e) if e.kind() == io::ErrorKind::NotFound => "was moved or removed",
            // Nobody lets it look: that says nothing about the file.
            Err(_) => return Ok(()),
        };
        Err(StoreError::misuse(format!(
            "{} {became} while this program had it open, and nothing that it writes would be found there: start the program \
             again, and stop all programs before you replace a file",
            self.file.display()
        )))
    }
}

#[cfg(unix)]
fn number(file: &Path) -> io::Result<Option<(u64, u64)>> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::metadata(file)?;
    Ok(Some((found.dev(), found.ino())))
}

#[cfg(not(unix))]
fn number(_: &Path) -> io::Result<Option<(u64, u64)>> {
    Ok(None)
}

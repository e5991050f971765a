//! The side effect of the reactors: a line in a file that all processes share.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use es_core::prelude::*;

/// Where the reactors write down which events they have seen.
#[derive(Debug)]
pub struct Effects(File);

impl Effects {
    /// Adds to this file, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// As the file system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(path).map(Self)
    }

    /// Writes down that an event was seen.
    ///
    /// # Errors
    ///
    /// As the file system says.
    pub fn note<P: Payload>(&self, event: &Recorded<'_, P>) -> io::Result<()> {
        // One write: a process that is killed leaves no half of a line.
        (&self.0).write_all(format!("{}\n", event.id()).as_bytes())
    }
}

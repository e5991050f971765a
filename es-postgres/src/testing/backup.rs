//! A copy of a server's data, from which a server is made later.

use std::path::{Path, PathBuf};

use super::server::log;
use super::supervisor::Supervisor;
use super::{Server, ServerError, ServerOptions};

/// The data of a [`Server`] as they were, to be recovered to a later point of its log: see [`Server::backup`].
#[derive(Debug)]
pub struct Backup {
    bin: PathBuf,
    supervisor: Supervisor,
    options: ServerOptions,
}

impl Backup {
    pub(super) const fn new(bin: PathBuf, supervisor: Supervisor, options: ServerOptions) -> Self {
        Self { bin, supervisor, options }
    }

    /// Where the socket of the recovered server will be.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.supervisor.folder()
    }

    /// A server of its own with what the log of the other one has up to a point that was given this name there
    /// (`pg_create_restore_point`). The other one has been stopped by [`Shutdown::Fast`](super::Shutdown::Fast), so that all
    /// of its log is archived, and is not dropped.
    ///
    /// # Errors
    ///
    /// If the log has no such point.
    pub fn recover(mut self, upto: &str) -> Result<Server, ServerError> {
        if self.supervisor.ask(&format!("upto {upto}"))? != "0" {
            return Err(ServerError::Copy { log: log(self.supervisor.folder()) });
        }
        Server::run(self.bin, self.supervisor, self.options)
    }
}

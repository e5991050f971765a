//! How a server is started.

use std::path::PathBuf;

use super::{Server, ServerError};

/// How a [`Server`] is started.
///
/// ```no_run
/// use es_postgres::testing::ServerOptions;
///
/// let server = ServerOptions::new()
///     .setting("shared_preload_libraries", "pg_stat_statements")
///     .start()?;
/// # Ok::<(), es_postgres::testing::ServerError>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    bin: Option<PathBuf>,
    durable: bool,
    archives: bool,
    settings: Vec<(String, String)>,
}

impl ServerOptions {
    /// A quick server for tests: it does not survive a loss of power.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether acknowledged commits survive a loss of power, as with the server's own defaults.
    ///
    /// Without it, the server never waits for the disk (`fsync=off`, `full_page_writes=off`), or does not use it.
    /// Commits still survive [`Shutdown::Immediate`](super::Shutdown::Immediate), which loses no page of the system.
    #[must_use]
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// A setting of the server, as in `postgresql.conf`; the last one of a name counts.
    ///
    /// `max_connections` is 300 and `max_prepared_transactions` is 100, unless they are set here.
    /// Where the server listens, and where its data is, cannot be set.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Whether it archives its log, so that a [`Backup`](super::Backup) of it can be recovered to a point.
    #[must_use]
    pub const fn archives(mut self, archives: bool) -> Self {
        self.archives = archives;
        self
    }

    /// The folder of `initdb` and `postgres`; else they are looked for, as [`Server`] says.
    #[must_use]
    pub fn bin(mut self, bin: impl Into<PathBuf>) -> Self {
        self.bin = Some(bin.into());
        self
    }

    /// Makes a new, empty server and starts it. Blocks until it accepts connections.
    ///
    /// # Errors
    ///
    /// If PostgreSQL is missing, or does not start with these settings.
    pub fn start(&self) -> Result<Server, ServerError> {
        Server::start_with(self)
    }

    pub(super) fn named_bin(&self) -> Option<&PathBuf> {
        self.bin.as_ref()
    }

    pub(super) fn is_durable(&self) -> bool {
        self.durable
    }

    /// `name=value`, in the order in which the server reads them.
    pub(super) fn arguments(&self) -> Vec<String> {
        let quick = ["fsync=off", "full_page_writes=off", "synchronous_commit=on"];
        let preset = ["max_connections=300", "max_prepared_transactions=100"];
        let preset = preset.into_iter().chain(quick.into_iter().filter(|_| !self.durable));
        let archive = ["archive_mode=on", "archive_command=mkdir -p ../archive && cp %p ../archive/%f"];
        let preset = preset.chain(archive.into_iter().filter(|_| self.archives));
        let own = self.settings.iter().map(|(name, value)| format!("{name}={value}"));
        preset.map(str::to_owned).chain(own).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_settings_come_last() {
        let options = ServerOptions::new().durable(true).setting("max_connections", "20");
        let expected = ["max_connections=300", "max_prepared_transactions=100", "max_connections=20"];
        assert_eq!(options.arguments(), expected);
    }

    #[test]
    fn a_server_for_tests_does_not_wait_for_the_disk() {
        assert!(ServerOptions::new().arguments().contains(&"fsync=off".to_owned()));
        assert!(!ServerOptions::new().durable(true).arguments().contains(&"fsync=off".to_owned()));
    }
}

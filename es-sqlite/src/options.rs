//! How a database is opened.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use es_core::clock::{Clock, SystemClock};
use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

/// Where the database is and how careful it is.
#[derive(Clone)]
pub struct SqliteOptions {
    pub(crate) path: PathBuf,
    pub(crate) synchronous: Synchronous,
    pub(crate) readers: u32,
    pub(crate) lock_timeout: Duration,
    pub(crate) create: bool,
    pub(crate) wal_limit: u64,
    /// Requests and bytes.
    pub(crate) queue: (usize, usize),
    pub(crate) clock: Arc<dyn Clock>,
}

/// Without an address that was meant for a server: it may have a password.
impl fmt::Debug for SqliteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, synchronous, readers, lock_timeout, create, wal_limit, queue, clock: _ } = self;
        let path = if is_address(path) { Path::new("(the address of a server)") } else { path };
        f.debug_struct("SqliteOptions")
            .field("path", &path)
            .field("synchronous", synchronous)
            .field("readers", readers)
            .field("lock_timeout", lock_timeout)
            .field("create", create)
            .field("wal_limit", wal_limit)
            .field("queue", queue)
            .finish_non_exhaustive()
    }
}

/// Whether this is no path, but the address of a server.
pub(crate) fn is_address(path: &Path) -> bool {
    path.to_string_lossy().contains("://")
}

/// When a commit counts as durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// After it reached the disk: what was acknowledged survives a power cut.
    Full,
    /// After it reached the operating system: survives a crash of the program; a power cut can take the
    /// last acknowledged commits, whole and from the end, and never damages what is left.
    Normal,
}

impl SqliteOptions {
    /// A file, made if it is not there; or `:memory:` for a private database that is gone with its last
    /// handle (it is kept in the temporary folder, and never synced).
    #[must_use]
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self {
            path: path.as_ref().to_owned(),
            synchronous: Synchronous::Full,
            readers: 4,
            lock_timeout: Duration::from_secs(5),
            create: true,
            wal_limit: 64 << 20,
            queue: (16_384, 256 << 20),
            clock: Arc::new(SystemClock),
        }
    }

    /// When a commit counts as durable; [`Synchronous::Full`] by default.
    #[must_use]
    pub const fn with_synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// How many connections read beside the one that writes; 4 by default, at least 1.
    #[must_use]
    pub fn with_readers(mut self, readers: u32) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// How long to wait for another process that writes; 5 seconds by default.
    #[must_use]
    pub const fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// How many bytes the write-ahead log (the file that ends in `-wal`) may have; 64 MiB by default.
    ///
    /// When a commit leaves more in it, it is emptied: writes wait, and so do reads of this process that have not begun,
    /// until those that have begun end, for a tenth of a second at most. A read that is open for longer cannot be helped:
    /// the log grows, and a warning says how far.
    #[must_use]
    pub const fn with_wal_limit(mut self, bytes: u64) -> Self {
        self.wal_limit = bytes;
        self
    }

    /// How many commits, and about how many bytes of them, may wait at a time; 16,384 and 256 MiB by default. Those that find
    /// no room are refused at once, with [`Busy`](es_core::store::Busy). One that is larger has the room alone.
    #[must_use]
    pub const fn with_queue(mut self, commits: usize, bytes: usize) -> Self {
        self.queue = (commits, bytes);
        self
    }

    /// Whether a missing file is made; yes by default.
    #[must_use]
    pub const fn with_create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Another clock than the machine's, for `recorded_at`.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    pub(crate) fn is_memory(&self) -> bool {
        self.path == Path::new(":memory:")
    }

    /// How many pages the log has before it is copied into the file, in place of 1,000: of rows that are far apart each copy
    /// writes many pages for little. The limit of the log is at least twice that.
    fn pages_before_copied(&self) -> u64 {
        (self.wal_limit / 2 / 4_096).clamp(1, 4_000)
    }

    pub(crate) fn connect(&self, file: &Path) -> SqliteConnectOptions {
        let synchronous = match self.synchronous {
            _ if self.is_memory() => SqliteSynchronous::Off,
            Synchronous::Full => SqliteSynchronous::Full,
            Synchronous::Normal => SqliteSynchronous::Normal,
        };
        SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(self.create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .busy_timeout(self.lock_timeout)
            .pragma("wal_autocheckpoint", self.pages_before_copied().to_string())
            .pragma("cache_size", "-8192") // KiB; 2 MiB, the default, makes a writer read its own pages
            .foreign_keys(false) // the user's own tables may want them: a pragma of their own
            .statement_cache_capacity(256)
            .row_buffer_size(1_024)
            .thread_name(|n| format!("es-sqlite-{n}"))
            .disable_statement_logging()
    }
}

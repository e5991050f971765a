//! A PostgreSQL server that belongs to this process.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::supervisor::Supervisor;
use super::{Backup, Database, ServerError, ServerOptions, binaries, url};

/// How long a server may take to accept connections.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How much of the log stands in an error.
const LOG_IN_ERRORS: u64 = 4096;

/// A private PostgreSQL server: its own folder, a socket in it, no port.
///
/// It stops when it is dropped, and also when the process ends in any way, so it may stand in a `static`.
/// Then its folder is gone too.
///
/// Unless it is durable, its folder is in memory where that is roomy (`/dev/shm`) and `TMPDIR` is not set:
/// there, what else uses the disk does not slow it down.
///
/// Its methods block the thread; call them before the runtime starts, or through `spawn_blocking`.
///
/// The programs are looked for in this order:
/// [`ServerOptions::bin`], the folder that `ES_POSTGRES_BIN` names, `PATH`, `/usr/lib/postgresql/*/bin`,
/// `/usr/local/pgsql/bin`, Homebrew's folders, `pg_config --bindir`,
/// and `target/postgresql/*/bin` here or in a folder above.
///
/// As root it runs as the user `postgres`, or else `nobody`, since PostgreSQL refuses to run as root.
#[derive(Debug)]
pub struct Server {
    running: Mutex<Running>,
    socket_dir: PathBuf,
    bin: PathBuf,
    version: u32,
    options: ServerOptions,
}

#[derive(Debug)]
struct Running {
    supervisor: Supervisor,
    /// The process of the server; none while it is stopped.
    pid: Option<u32>,
}

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the server has a third way, but that waits for its clients")]
pub enum Shutdown {
    /// Ends all connections and closes the files in order.
    Fast,
    /// Stops at once, like a crash of the server: the next start recovers.
    Immediate,
}

impl Server {
    /// A new, empty server with the default options. Blocks until it accepts connections, about a second.
    ///
    /// # Errors
    ///
    /// If PostgreSQL is missing or does not start; the error says what to do.
    pub fn start() -> Result<Self, ServerError> {
        ServerOptions::new().start()
    }

    pub(super) fn start_with(options: &ServerOptions) -> Result<Self, ServerError> {
        let bin = binaries::find(options.named_bin())?;
        let mut supervisor = Supervisor::spawn(&bin, options)?;
        if supervisor.ask("init")? != "0" {
            return Err(ServerError::Initdb { log: log(supervisor.folder()) });
        }
        Self::run(bin, supervisor, options.clone())
    }

    /// Starts what the folder has.
    pub(super) fn run(
        bin: PathBuf,
        supervisor: Supervisor,
        options: ServerOptions,
    ) -> Result<Self, ServerError> {
        let socket_dir = supervisor.folder().to_owned();
        let version = fs::read_to_string(socket_dir.join("data/PG_VERSION")).unwrap_or_default();
        let version = version.trim_end().split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
        let mut running = Running { supervisor, pid: None };
        running.start()?;
        Ok(Self { running: Mutex::new(running), socket_dir, bin, version, options })
    }

    /// A standby of this server, which follows it from now on and waits for nothing: what it has not received is lost if it is
    /// [promoted](Self::promote). Blocks until it answers, read-only.
    ///
    /// # Errors
    ///
    /// If this server is stopped, or the standby does not start.
    pub fn standby(&self) -> Result<Self, ServerError> {
        let mut supervisor = self.copy()?;
        if supervisor.ask(&format!("follow {}", self.socket_dir.display()))? != "0" {
            return Err(ServerError::Copy { log: log(supervisor.folder()) });
        }
        Self::run(self.bin.clone(), supervisor, self.options.clone())
    }

    /// Makes a standby a server that writes, without the one that it has followed. Blocks until it does.
    ///
    /// # Errors
    ///
    /// If it is none, or is stopped.
    pub fn promote(&self) -> Result<(), ServerError> {
        let mut running = self.running();
        if running.supervisor.ask("promote")? != "0" {
            return Err(ServerError::Promote { log: log(&self.socket_dir) });
        }
        Ok(())
    }

    /// A backup of this server as it is now, if it [archives](ServerOptions::archives) its log: to be recovered to a point
    /// of that.
    ///
    /// # Errors
    ///
    /// If this server is stopped.
    pub fn backup(&self) -> Result<Backup, ServerError> {
        let mut supervisor = self.copy()?;
        if supervisor.ask(&format!("from {}/archive", self.socket_dir.display()))? != "0" {
            return Err(ServerError::Copy { log: log(supervisor.folder()) });
        }
        Ok(Backup::new(self.bin.clone(), supervisor, self.options.clone()))
    }

    /// A folder of its own, with a copy of the data.
    fn copy(&self) -> Result<Supervisor, ServerError> {
        let mut supervisor = Supervisor::spawn(&self.bin, &self.options)?;
        if supervisor.ask(&format!("copy {}", self.socket_dir.display()))? != "0" {
            return Err(ServerError::Copy { log: log(supervisor.folder()) });
        }
        Ok(supervisor)
    }

    /// The URL of a database on this server; `postgres` is always there.
    ///
    /// It stays the same over [`restart`](Self::restart). SQLx reads it, and so does `libpq`.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let (user, port) = (self.user(), self.port());
        let (database, host) = (url::encode(database), url::encode(&self.socket_dir.to_string_lossy()));
        format!("postgres://{user}@localhost:{port}/{database}?host={host}&sslmode=disable")
    }

    /// The folder of its socket.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// The number in the name of its socket; it listens on no port.
    #[must_use]
    #[expect(clippy::unused_self, reason = "the caller need not know that it is always the same")]
    pub fn port(&self) -> u16 {
        5432
    }

    /// The user who may do everything, without a password.
    #[must_use]
    #[expect(clippy::unused_self, reason = "the caller need not know that it is always the same")]
    pub fn user(&self) -> &str {
        "postgres"
    }

    /// Its major version, as in 18.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The folder of its programs, for `pg_dump` and others.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The process of the server; none while it is stopped.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running().pid
    }

    /// The end of its log, some kilobytes.
    #[must_use]
    pub fn log(&self) -> String {
        log(&self.socket_dir)
    }

    /// Stops the server and starts it again, with the same data at the same address.
    ///
    /// # Errors
    ///
    /// If it does not start again.
    pub fn restart(&self, how: Shutdown) -> Result<(), ServerError> {
        let mut running = self.running();
        running.stop(how)?;
        running.start()
    }

    /// Stops the server; its data stays for [`start_again`](Self::start_again).
    ///
    /// # Errors
    ///
    /// If the shell that keeps the server is gone.
    pub fn stop(&self, how: Shutdown) -> Result<(), ServerError> {
        self.running().stop(how)
    }

    /// Starts the server that was stopped; one that runs goes on.
    ///
    /// # Errors
    ///
    /// If it does not start.
    pub fn start_again(&self) -> Result<(), ServerError> {
        let mut running = self.running();
        if running.pid.is_some() { Ok(()) } else { running.start() }
    }

    /// A new, empty database on this server.
    ///
    /// # Errors
    ///
    /// If the server is stopped, or refuses.
    pub async fn database(&self) -> Result<Database, ServerError> {
        Database::create_on(self.url("postgres"), !self.options.is_durable() && self.version >= 15).await
    }

    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn start(&mut self) -> Result<(), ServerError> {
        let pid = self.supervisor.ask("start")?;
        self.pid = pid.parse().ok();
        let began = Instant::now();
        loop {
            if is_ready(self.supervisor.folder(), &pid) {
                return Ok(());
            }
            // The shell takes a moment for this answer, so that this loop does not run hot.
            if self.supervisor.ask("alive")? == "no" {
                self.pid = None;
                return Err(ServerError::Exited { log: log(self.supervisor.folder()) });
            }
            if began.elapsed() > READY_WITHIN {
                let log = log(self.supervisor.folder());
                self.stop(Shutdown::Immediate)?;
                return Err(ServerError::NotReady { log });
            }
        }
    }

    fn stop(&mut self, how: Shutdown) -> Result<(), ServerError> {
        self.supervisor.ask(match how {
            Shutdown::Fast => "fast",
            Shutdown::Immediate => "immediate",
        })?;
        self.pid = None;
        Ok(())
    }
}

/// Whether the server of this process says in its own file that it accepts connections.
///
/// Its first line is the process, so the file of a server before it is not believed.
fn is_ready(folder: &Path, pid: &str) -> bool {
    let file = fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
    let mut lines = file.lines();
    lines.next() == Some(pid) && lines.nth(6).is_some_and(|status| status.trim_end() == "ready")
}

/// The end of the log.
pub(super) fn log(folder: &Path) -> String {
    let read = || {
        let mut file = fs::File::open(folder.join("log"))?;
        let from = file.metadata()?.len().saturating_sub(LOG_IN_ERRORS);
        file.seek(SeekFrom::Start(from))?;
        let mut end = Vec::new();
        file.read_to_end(&mut end)?;
        Ok::<_, std::io::Error>(end)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

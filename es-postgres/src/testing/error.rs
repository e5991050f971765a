//! What can go wrong, and what to do then.

use std::io;
use std::path::PathBuf;

/// Why there is no server, or no database on it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// PostgreSQL is not on this machine, or not where it is looked for.
    #[error(
        "PostgreSQL was not found in {looked}: run `cargo xtask test`, which provides it, \
         or install it (`apt-get install postgresql`, `brew install postgresql`), \
         or name the folder of `initdb` and `postgres` in ES_POSTGRES_BIN, \
         or set DATABASE_URL to a server where databases may be created"
    )]
    #[non_exhaustive]
    NotFound {
        /// Where it was looked for.
        looked: String,
    },
    /// The folder that was named does not hold the programs.
    #[error("{} holds no `initdb` and `postgres`: {origin} must name the folder that holds both", bin.display())]
    #[non_exhaustive]
    NotThere {
        /// The folder.
        bin: PathBuf,
        /// Who named it.
        origin: &'static str,
    },
    /// The user that the server must run as cannot run the programs.
    #[error(
        "the user {user} cannot run the programs in {}: PostgreSQL refuses to run as root, \
         so allow others to enter each folder on that path, or install PostgreSQL elsewhere \
         (`apt-get install postgresql`), or run the tests as another user",
        bin.display()
    )]
    #[non_exhaustive]
    Unreachable {
        /// The folder of the programs.
        bin: PathBuf,
        /// The user.
        user: String,
    },
    /// There is nobody to run the server as.
    #[error(
        "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody in /etc/passwd: \
         add one (`useradd --system postgres`), or run the tests as another user"
    )]
    NoUser,
    /// `initdb` failed.
    #[error("`initdb` failed; it said:\n{log}")]
    #[non_exhaustive]
    Initdb {
        /// What it said.
        log: String,
    },
    /// No copy of a server could be made.
    #[error("no copy of the server could be made; it said:\n{log}")]
    #[non_exhaustive]
    Copy {
        /// The end of the log of what was to have it.
        log: String,
    },
    /// A standby did not take over.
    #[error("the standby did not take over; it said:\n{log}")]
    #[non_exhaustive]
    Promote {
        /// The end of its log.
        log: String,
    },
    /// The server ended while it was starting.
    #[error("the server ended while it was starting; look at the settings, it said:\n{log}")]
    #[non_exhaustive]
    Exited {
        /// The end of its log.
        log: String,
    },
    /// The server did not accept connections in time.
    #[error("the server was not ready within a minute; it said:\n{log}")]
    #[non_exhaustive]
    NotReady {
        /// The end of its log.
        log: String,
    },
    /// The shell that keeps the server did not do what it must.
    #[error("the shell that keeps the server did not {what}")]
    #[non_exhaustive]
    Supervisor {
        /// What it did not do.
        what: String,
        /// Why, where that is known.
        source: Option<io::Error>,
    },
    /// A database could not be made on a server that runs.
    #[error(
        "no database could be created on the server; is the URL right, and may its user create databases?"
    )]
    Create(#[source] sqlx::Error),
    /// `DATABASE_URL` is no URL of PostgreSQL.
    #[error("DATABASE_URL must look like postgres://user:password@host:5432/database")]
    Url,
    /// A database could not be made because the shared server of this process did not start.
    #[error("no server for this process: {0}")]
    Shared(String),
}

//! A private PostgreSQL server for tests, and a fresh database for each test.
//!
//! ```no_run
//! # async fn example() {
//! let database = es_postgres::testing::database().await;
//! println!("{}", database.url());
//! # }
//! ```
//!
//! [`database`] uses the server of `DATABASE_URL` if that is set.
//! Else it starts a server of its own, once in a process: [`Server`] says how.
//! Nothing is left when the process has ended, however it ended.
//!
//! It needs the programs of PostgreSQL 15 or newer on this machine, but no running server and no rights.
//! It runs on Linux and macOS, also as root.

#![cfg(unix)]

mod backup;
mod binaries;
mod database;
mod error;
mod options;
mod server;
mod supervisor;
mod url;
mod user;

pub use backup::Backup;
pub use database::{Database, database};
pub use error::ServerError;
pub use options::ServerOptions;
pub use server::{Server, Shutdown};

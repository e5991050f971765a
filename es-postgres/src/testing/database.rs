//! A fresh, empty database for each test.

use std::env;
use std::fmt;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use es_core::id::Ids;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};

use super::{Server, ServerError, url};

/// How long the end of a [`Database`] waits for its removal.
const DROP_WITHIN: Duration = Duration::from_secs(5);

/// A database of its own for one test. It is removed when this is dropped, as far as that is possible.
pub struct Database {
    name: String,
    url: String,
    /// Another database of the server, to create and remove this one from.
    admin: String,
}

/// A new, empty database for a test.
///
/// It is made on the server of `DATABASE_URL`, if that is set: its user must be allowed to create databases.
/// Else it is made on a [`Server`] that all tests of the process share; the first call starts it.
///
/// # Panics
///
/// If there is no server; the text says what to do. [`Database::create`] returns it as an error.
pub async fn database() -> Database {
    match Database::create().await {
        Ok(database) => database,
        Err(error) => panic!("{}", es_core::chain(&error)),
    }
}

impl Database {
    /// As [`database`], with an error for a test that wants to go on.
    ///
    /// # Errors
    ///
    /// If there is no server, or it refuses.
    pub async fn create() -> Result<Self, ServerError> {
        if let Some(url) = env::var("DATABASE_URL").ok().filter(|url| !url.is_empty()) {
            return Self::create_on(url, false).await;
        }
        let started = tokio::task::spawn_blocking(shared).await;
        started.map_err(|error| ServerError::Shared(error.to_string()))??.database().await
    }

    /// `quick` is for a server that never waits for the disk: there, copying files beats writing a log of them.
    pub(super) async fn create_on(admin: String, quick: bool) -> Result<Self, ServerError> {
        let name = format!("es_test_{}", Ids::default().next().simple());
        let url = url::with_database(&admin, &name).ok_or(ServerError::Url)?;
        let strategy = if quick { " strategy file_copy" } else { "" };
        // Nobody can be connected to `template0`, so tests may copy it at the same time.
        let create = format!("create database {name} template template0{strategy}");
        // A name cannot be bound; this one has letters, digits and `_` only.
        execute(&admin, create).await.map_err(ServerError::Create)?;
        Ok(Self { name, url, admin })
    }

    /// Where to connect to.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name on the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Database").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Database {
    /// Removes the database, and ends the connections to it. It waits for some seconds at most.
    fn drop(&mut self) {
        let admin = std::mem::take(&mut self.admin);
        let remove = format!("drop database if exists {} with (force)", self.name);
        let (done, removed) = mpsc::channel::<()>();
        // A thread of its own: the runtime of the test may be ending, or be blocked by this very drop.
        let thread = thread::Builder::new().name("drop database".to_owned()).spawn(move || {
            if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
                let _best_effort = runtime
                    .block_on(async { tokio::time::timeout(DROP_WITHIN, execute(&admin, remove)).await });
            }
            drop(done);
        });
        if thread.is_ok() {
            let _best_effort = removed.recv_timeout(DROP_WITHIN);
        }
    }
}

/// The one server of this process. It stands in a static, and ends with the process.
fn shared() -> Result<&'static Server, ServerError> {
    static SHARED: OnceLock<Result<Server, String>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| Server::start().map_err(|error| es_core::chain(&error)));
    shared.as_ref().map_err(|error| ServerError::Shared(error.clone()))
}

async fn execute(admin: &str, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(admin).await?;
    connection.execute(AssertSqlSafe(statement)).await?;
    connection.close().await
}

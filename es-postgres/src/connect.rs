//! New connections. What fails says where: a program that has several databases shows which one.

use std::error::Error;
use std::fmt;
use std::io;

use es_core::store::StoreError;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use crate::address::Address;
use crate::error;

/// What a user has left on a connection goes: an open transaction, a role, settings, cursors, temporary tables, locks of the
/// session. Statements that were prepared stay: the driver counts on its own. What the search path begins with is kept, for
/// it is looked up in a table of all settings.
///
/// A ROLLBACK alone would put a warning into the server's log each time there is no transaction.
const CLEAN: &str = "begin; rollback; set session authorization default; reset role; close all; unlisten *; \
                     select pg_advisory_unlock_all(); discard temp; discard sequences; \
                     do $$ declare base text := coalesce(current_setting('es.base', true), ''); \
                     begin reset all; perform set_config('es.base', base, false); end $$";

/// Opens one at the start of something: whatever fails, the error says where.
pub(crate) async fn first(address: &Address) -> Result<PgConnection, StoreError> {
    const WHAT: &str = error::CONNECTING;
    let place = place(&address.driver());
    match address.connect().await {
        Ok(conn) => Ok(conn),
        Err(error) if is_refused_by_proxy(&error) => {
            let what = format!(
                "{WHAT} at {place}: a proxy stands before the server and does not let settings pass ({}); connect past it, \
                 or make it forward startup parameters and give each connection a session of its own",
                error::words(&error)
            );
            Err(StoreError::misuse(what))
        }
        Err(error) => Err(match error::store(WHAT, error) {
            StoreError::Misuse { what } => {
                let rest = what.strip_prefix(WHAT).unwrap_or(&what);
                StoreError::misuse(format!("{WHAT} at {place}{rest}"))
            }
            StoreError::Transient { what, source } => {
                StoreError::transient(what, Unreachable { place, source: Box::new(source) })
            }
            other => other,
        }),
    }
}

/// Makes a connection as it was when it was opened.
pub(crate) async fn clean(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(CLEAN).execute(conn).await.map(drop)
}

/// Where a connection leads to.
pub(crate) fn place(options: &PgConnectOptions) -> String {
    match options.get_socket() {
        Some(folder) => format!("{}/.s.PGSQL.{}", folder.display(), options.get_port()),
        // The driver takes it for a folder too.
        None if options.get_host().starts_with('/') => {
            format!("{}/.s.PGSQL.{}", options.get_host(), options.get_port())
        }
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

/// The same error, with the place where nobody answered.
pub(crate) fn at(options: &PgConnectOptions, error: sqlx::Error) -> sqlx::Error {
    match error {
        sqlx::Error::Io(source) => lost(&place(options), source),
        sqlx::Error::Tls(source) => sqlx::Error::Tls(Box::new(Unreachable { place: place(options), source })),
        other => other,
    }
}

/// A connection that cannot be had, or is gone, with the place that it leads to.
pub(crate) fn lost(place: &str, source: io::Error) -> sqlx::Error {
    let kind = source.kind();
    sqlx::Error::Io(io::Error::new(kind, Unreachable { place: place.to_owned(), source: source.into() }))
}

/// A server with no answer, or none that can be used.
#[derive(Debug)]
struct Unreachable {
    place: String,
    source: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the connection to {} failed", self.place)
    }
}

impl Error for Unreachable {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.source)
    }
}

/// Whether what a server takes, and a proxy that shares connections does not, was refused: `protocol_violation`.
fn is_refused_by_proxy(error: &sqlx::Error) -> bool {
    error::code(error) == Some("08P01") && error::words(error).contains("startup parameter")
}

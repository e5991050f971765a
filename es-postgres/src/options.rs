//! Which database, which schema, and how patient.

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use es_core::clock::Clock;
use es_core::store::StoreError;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use crate::schema::SchemaName;

/// What a connection URL may say. Others are refused: the driver would ignore them, and log their values.
const PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Where the database is, and how it is used.
#[derive(Clone)]
pub struct PgOptions {
    pub(crate) connect: PgConnectOptions,
    pub(crate) schema: SchemaName,
    pub(crate) readers: usize,
    pub(crate) connections: u32,
    pub(crate) statement_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) query_wait: Duration,
    /// Whether TLS was asked for by name, if the server has it.
    pub(crate) prefers_tls: bool,
    pub(crate) migrate: bool,
    pub(crate) notify: bool,
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

/// Without the password.
impl fmt::Debug for PgOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgOptions")
            .field("host", &self.connect.get_host())
            .field("database", &self.connect.get_database())
            .field("user", &self.connect.get_username())
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl PgOptions {
    /// A database by its URL: `postgres://user:password@host:port/database?sslmode=require`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it is no such URL, or has a parameter that nobody reads.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let parameters = url.split_once('?').map_or("", |(_, query)| query);
        for key in parameters.split('&').filter_map(|pair| pair.split('=').next()) {
            if !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                // Behind a password with a `?` in it, this is the rest of the password.
                return Err(malformed());
            }
            if !key.is_empty() && !PARAMETERS.contains(&key) {
                let what = format!("the database URL has a parameter {key:?}, which is not known: remove it");
                return Err(StoreError::misuse(what));
            }
        }
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(StoreError::misuse("a database URL begins with `postgres://`"));
        }
        if is_torn(url) {
            return Err(malformed());
        }
        // The driver's error may quote the URL, and with it the password.
        let connect = PgConnectOptions::from_str(url).map_err(|_| malformed())?;
        let prefers = |pair: &str| matches!(pair, "sslmode=prefer" | "ssl-mode=prefer");
        Ok(Self { prefers_tls: parameters.split('&').any(prefers), ..Self::from_driver(connect) })
    }

    /// A database by the driver's own options.
    #[must_use]
    pub fn from_driver(connect: PgConnectOptions) -> Self {
        Self {
            connect: connect.disable_statement_logging(),
            schema: SchemaName::default(),
            readers: 8,
            connections: 8,
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            query_wait: Duration::from_secs(5),
            prefers_tls: false,
            migrate: true,
            notify: true,
            clock: None,
        }
    }

    /// The schema that everything of the store lives in; `es` by default. Two stores in one database do not meet.
    ///
    /// # Errors
    ///
    /// [`StoreError::Misuse`] if it is not `[a-z_][a-z0-9_]*` of at most 40 bytes, or begins with `pg_`.
    pub fn with_schema(mut self, name: &str) -> Result<Self, StoreError> {
        self.schema = SchemaName::new(name)?;
        Ok(self)
    }

    /// How many connections the store reads with, opened when they are needed; 8 by default, at least 1.
    #[must_use]
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// How many connections there are for transactions, opened when they are needed; 8 by default, at least 1. Queries of the
    /// user's own take at most as many again; and those of an app that has SQL projections, for what they see depends on
    /// its versions.
    #[must_use]
    pub fn with_connections(mut self, connections: u32) -> Self {
        self.connections = connections.max(1);
        self
    }

    /// When the server gives up a statement; 30 seconds by default. A future that is dropped does not stop the
    /// server: this does.
    #[must_use]
    pub const fn with_statement_timeout(mut self, timeout: Duration) -> Self {
        self.statement_timeout = timeout;
        self
    }

    /// When the server gives up waiting for a lock; 10 seconds by default. A writer waits for the gate this long.
    #[must_use]
    pub const fn with_lock_timeout(mut self, timeout: Duration) -> Self {
        self.lock_timeout = timeout;
        self
    }

    /// How long a query through [`Db`](crate::Db) waits for a connection: until one is free, and until the server answers;
    /// 5 seconds by default. Then it fails, as a transient error. An answer that has begun is waited for as long as the
    /// [statement timeout](Self::with_statement_timeout) lets it.
    #[must_use]
    pub const fn with_query_wait(mut self, wait: Duration) -> Self {
        self.query_wait = wait;
        self
    }

    /// Whether connecting brings the schema up to date; yes by default. Without it, a schema that is not up to date
    /// is refused.
    #[must_use]
    pub const fn with_migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// Whether processes wake each other by `LISTEN` and `NOTIFY`, on a connection of their own; yes by default.
    /// Without it, or through a proxy that does not forward it, readers poll.
    #[must_use]
    pub const fn with_notify(mut self, notify: bool) -> Self {
        self.notify = notify;
        self
    }

    /// Another clock than the server's, for `recorded_at`: for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Some(Arc::new(clock));
        self
    }

    /// Connections of the user's own: the user's search path.
    pub(crate) fn for_users(&self) -> PgConnectOptions {
        let millis = |timeout: Duration| timeout.as_millis().to_string();
        self.connect.clone().options([
            ("statement_timeout", millis(self.statement_timeout)),
            ("lock_timeout", millis(self.lock_timeout)),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("standard_conforming_strings", "on".to_owned()),
        ])
    }

    /// Connections that append. Plans are made once, perhaps while a table is empty, and must do when it is large: every
    /// statement of `append` finds its rows by an index.
    pub(crate) fn for_lanes(&self) -> PgConnectOptions {
        self.for_store().options([
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ])
    }

    /// Connections of the store's own: its schema alone is in sight, and plans are made once. They go by indexes: one that is
    /// made while a table is counted as small would read all of it, until the server counts again a minute later.
    pub(crate) fn for_store(&self) -> PgConnectOptions {
        self.for_users().options([
            ("search_path", self.schema.as_str()),
            ("plan_cache_mode", "force_generic_plan"),
            ("enable_seqscan", "off"),
            ("jit", "off"),
        ])
    }

    /// Those for what reads whole tables, which goes best in the order of their pages.
    pub(crate) fn for_whole_tables(&self) -> PgConnectOptions {
        self.for_store().options([("enable_seqscan", "on")])
    }
}

/// Whether what may be a part of the password stands behind it: one with `/`, `?` or `#` in it ends there, and its rest would
/// be taken for the name of a database or a parameter, which errors show.
fn is_torn(url: &str) -> bool {
    let behind = url.split_once("://").map_or("", |(_, address)| address);
    behind.find(['/', '?', '#']).is_some_and(|end| behind[end..].contains(['@', '#']))
}

fn malformed() -> StoreError {
    StoreError::misuse(
        "the database URL is malformed: write postgres://user:password@host:port/database, \
         and what is neither a letter nor a digit in the password, and `@` and `#` anywhere else, as `%` and two digits (`?` \
         is `%3F`)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_not_shown() {
        let options = PgOptions::new("postgres://ada:s3cret@localhost/shop").unwrap();
        assert!(!format!("{options:?}").contains("s3cret"));
        for broken in
            ["postgres://ada:s3cret@localhost:port/shop", "postgres://ada:s3cret@[/x?sslmode=disable"]
        {
            let error = PgOptions::new(broken).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn no_part_of_a_password_is_taken_for_something_else() {
        for torn in ["1/s3cret@", "1?s3cret@", "1#s3cret@", "1?host=s3cret@", "1/s3?sslmode=cret@", "1#"] {
            let error = PgOptions::new(&format!("postgres://ada:{torn}localhost/shop")).unwrap_err();
            let text = format!("{error} {error:?}");
            assert!(text.contains("malformed") && !text.contains("s3") && !text.contains("cret"), "{text}");
        }
        for whole in ["s3cret", "s3@cret", "s3%23cret", "s3%zzcret", "s3:cret"] {
            let options = PgOptions::new(&format!("postgres://ada:{whole}@localhost/shop")).unwrap();
            let text = format!("{options:?} {}", crate::connect::place(&options.connect));
            assert!(text.contains("localhost") && !text.contains("s3") && !text.contains("cret"), "{text}");
        }
    }

    #[test]
    fn a_parameter_that_nobody_reads_is_refused_without_its_value() {
        let error = PgOptions::new("postgres://localhost/shop?pasword=s3cret").unwrap_err().to_string();
        assert!(error.contains("pasword") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn other_kinds_of_url_are_named() {
        assert!(PgOptions::new("mysql://localhost/shop").unwrap_err().to_string().contains("postgres://"));
    }
}

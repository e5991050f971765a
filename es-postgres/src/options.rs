//! Which database, which schema, and how patient.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use es_core::clock::Clock;
use es_core::store::StoreError;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;

use crate::address::Address;
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
    "target_session_attrs",
];

const TARGETS: [&str; 3] = ["primary", "read-write", "any"];

/// How a server finds out that the program at the other end has gone: while it works for it, and while it waits for it.
/// What has no network needs only the first, which not every system has.
const WATCHED: [(&str, &str); 1] = [("client_connection_check_interval", "500ms")];
const GONE: [(&str, &str); 4] = [
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "4"),
    ("tcp_user_timeout", "30s"),
];

/// Where the database is, and how it is used.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a choice of its own")]
pub struct PgOptions {
    pub(crate) connect: Address,
    pub(crate) schema: SchemaName,
    pub(crate) readers: usize,
    pub(crate) connections: u32,
    /// Requests and bytes.
    pub(crate) queue: (usize, usize),
    pub(crate) statement_timeout: Duration,
    pub(crate) lock_timeout: Duration,
    pub(crate) query_wait: Duration,
    /// Whether TLS was asked for by name, if the server has it.
    pub(crate) prefers_tls: bool,
    pub(crate) migrate: bool,
    /// Whether the server can look for the program that it works for.
    pub(crate) watched: bool,
    pub(crate) notify: bool,
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

/// Without the password.
impl fmt::Debug for PgOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.connect.driver();
        f.debug_struct("PgOptions")
            .field("host", &driver.get_host())
            .field("database", &driver.get_database())
            .field("user", &driver.get_username())
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl PgOptions {
    /// A database by its URL: `postgres://user:password@host:port/database?sslmode=require`.
    ///
    /// Several hosts are separated by commas: `postgres://user:password@db1,db2:5433/database`. Each connection goes to the
    /// one that was reached last, or else to the next one that is `target_session_attrs`: `primary`, which is the default
    /// where there are several, `read-write`, or `any`. So a program finds the standby that has taken over.
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
        let target = parameters.split('&').find_map(|pair| pair.strip_prefix("target_session_attrs="));
        if target.is_some_and(|target| !TARGETS.contains(&target)) {
            let what = "`target_session_attrs` is `primary`, `read-write` or `any`: a store is written";
            return Err(StoreError::misuse(what));
        }
        let prefers = |pair: &str| matches!(pair, "sslmode=prefer" | "ssl-mode=prefer");
        let connect = Address::parse(url).ok_or_else(malformed)?;
        Ok(Self { prefers_tls: parameters.split('&').any(prefers), ..Self::at(connect) })
    }

    /// A database by the driver's own options.
    #[must_use]
    pub fn from_driver(connect: PgConnectOptions) -> Self {
        Self::at(Address::one(connect.disable_statement_logging()))
    }

    fn at(connect: Address) -> Self {
        Self {
            connect,
            schema: SchemaName::default(),
            readers: 8,
            connections: 8,
            queue: (16_384, 256 << 20),
            statement_timeout: Duration::from_secs(30),
            lock_timeout: Duration::from_secs(10),
            query_wait: Duration::from_secs(5),
            prefers_tls: false,
            migrate: true,
            watched: false,
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

    /// How many commits, and about how many bytes of them, may wait at a time; 16,384 and 256 MiB by default. Those that find
    /// no room are refused at once, with [`Busy`](es_core::store::Busy). One that is larger has the room alone. What appends
    /// and what does not have as much room each; a [`Tx`](crate::Tx) waits for a connection instead.
    #[must_use]
    pub const fn with_queue(mut self, commits: usize, bytes: usize) -> Self {
        self.queue = (commits, bytes);
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
    pub(crate) fn for_users(&self) -> Address {
        let millis = |timeout: Duration| timeout.as_millis().to_string();
        let options = self.connect.with([
            ("statement_timeout", &millis(self.statement_timeout)),
            ("lock_timeout", &millis(self.lock_timeout)),
            ("default_transaction_isolation", "read committed"),
            ("standard_conforming_strings", "on"),
        ]);
        let options = options.with(GONE);
        if self.watched { options.with(WATCHED) } else { options }
    }

    /// Connections that append. Plans are made once, perhaps while a table is empty, and must do when it is large: every
    /// statement of `append` finds its rows by an index.
    pub(crate) fn for_lanes(&self) -> Address {
        self.for_store().with([
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ])
    }

    /// Connections of the store's own. Plans go by indexes: one that is made while a table is counted as small would read all
    /// of it, until the server counts again a minute later. And they start no workers: a page comes from many partitions with
    /// a few rows each, and a worker takes longer to start than all of them to be read.
    pub(crate) fn for_store(&self) -> Address {
        self.own().with([("enable_seqscan", "off"), ("max_parallel_workers_per_gather", "0")])
    }

    /// Those for what reads whole tables, which goes best in the order of their pages.
    pub(crate) fn for_whole_tables(&self) -> Address {
        self.own().with([("enable_seqscan", "on")])
    }

    /// The schema of the store alone is in sight, and plans are made once.
    fn own(&self) -> Address {
        self.for_users().with([
            ("search_path", self.schema.as_str()),
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
        ])
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
            let text = format!("{options:?} {}", crate::connect::place(&options.connect.driver()));
            assert!(text.contains("localhost") && !text.contains("s3") && !text.contains("cret"), "{text}");
        }
    }

    #[test]
    fn a_parameter_that_nobody_reads_is_refused_without_its_value() {
        let error = PgOptions::new("postgres://localhost/shop?pasword=s3cret").unwrap_err().to_string();
        assert!(error.contains("pasword") && !error.contains("s3cret"), "{error}");
    }

    #[test]
    fn a_host_that_does_not_write_is_no_target() {
        let error = PgOptions::new("postgres://db1,db2/shop?target_session_attrs=standby").unwrap_err();
        assert!(error.to_string().contains("`target_session_attrs` is `primary`"), "{error}");
        PgOptions::new("postgres://db1,db2/shop?target_session_attrs=read-write").unwrap();
    }

    #[test]
    fn only_what_reads_whole_tables_may_start_workers() {
        let options = PgOptions::new("postgres://localhost/shop").unwrap();
        let starts_none = |address: Address| {
            let settings = address.driver().get_options().unwrap_or_default().to_owned();
            settings.contains("max_parallel_workers_per_gather=0")
        };
        assert!(starts_none(options.for_store()) && starts_none(options.for_lanes()));
        assert!(!starts_none(options.for_whole_tables()) && !starts_none(options.for_users()));
    }

    #[test]
    fn other_kinds_of_url_are_named() {
        assert!(PgOptions::new("mysql://localhost/shop").unwrap_err().to_string().contains("postgres://"));
    }
}

//! What is looked at when a store is opened: what is missing is listed as a whole, in one error.

use es_core::store::StoreError;
use sqlx::postgres::PgSslMode;
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use crate::schema::SchemaName;
use crate::{PgOptions, connect, error};

/// The oldest PostgreSQL that the statements of this crate run on.
const OLDEST: i32 = 140_000;

const SETTINGS: &str = "select current_setting('server_version_num')::int, current_setting('server_version'),
    pg_encoding_to_char(d.encoding)::text, pg_is_in_recovery(), current_setting('fsync'),
    current_setting('synchronous_commit'), current_setting('full_page_writes'),
    clock_timestamp()::text, clock_timestamp() > '9999-12-30 22:00:00+00'
    from pg_database d where d.datname = current_database()";

/// Of a server that is not what it was, or not yet what it will be.
const STANDBY: &str = "the server is a standby, and no server that writes is reachable: connect to the primary, name all \
                       hosts in the address, or wait until this one is promoted";

/// What the account needs on each table.
const NEEDED: &[(&str, &[&str])] = &[
    ("store", &["select"]),
    ("history", &["select"]),
    ("streams", &["select", "insert"]),
    ("event_types", &["select", "insert"]),
    ("events", &["select", "insert"]),
    ("tags", &["select", "insert"]),
    ("outcomes", &["select", "insert"]),
    ("fenced", &["select", "insert"]),
    ("forgotten", &["select"]),
    ("witnesses", &["select", "insert", "update", "delete"]),
    ("checkpoints", &["select"]),
    ("rows", &["select", "insert", "update", "delete"]),
    ("hot_rows", &["select", "insert", "update", "delete"]),
    ("snapshots", &["select", "insert", "update", "delete"]),
    ("projections", &["select", "insert", "update", "delete"]),
    ("published", &["select", "insert", "update", "delete"]),
    ("partitions", &["select"]),
    ("archived_streams", &["select"]),
];

/// Functions that the account calls.
const CALLED: &[&str] = &[
    "type_ids",
    "is_fenced",
    "was_given_up",
    "made",
    "made_anywhere",
    "rarest",
    "rarer",
    "matches",
    "broken",
    "locate",
    "append",
    "stands",
    "put_snapshot",
    "same_history",
    "check_transaction",
    "must",
    "resolve",
    "version_before",
    "settle",
    "position_at",
    "add_partition",
    "put_rows",
    "follow",
    "path_at",
    "objects",
    "drop_objects",
    "delete_rows",
    "grants_on",
    "show",
    "move_objects",
    "is_hot",
    "write_rows",
    "write_staged",
    "scan_rows",
    "forget_witnesses",
];

/// Refuses a server that cannot hold a store, or only follows another one, and warns of one that may lose what it
/// acknowledged.
pub(crate) async fn server(conn: &mut PgConnection) -> Result<(), StoreError> {
    let server = Server::look(conn).await?;
    for setting in &server.off {
        tracing::warn!(setting, "is off on this server: a crash can take events that were acknowledged");
    }
    server.refuse()
}

/// Whether the server can look, while it works, for the program that it works for: not on every system.
pub(crate) async fn is_watched(conn: &mut PgConnection) -> Result<bool, StoreError> {
    match sqlx::query("set client_connection_check_interval = '500ms'").execute(conn).await {
        Ok(_) => Ok(true),
        Err(error) if error::breaks_connection(&error) => Err(error::store("looking at the server", error)),
        Err(_) => Ok(false),
    }
}

/// Warns where TLS was preferred, and the server has none.
pub(crate) async fn encryption(conn: &mut PgConnection, options: &PgOptions) -> Result<(), StoreError> {
    if !would_tell(options) {
        return Ok(());
    }
    let failed = |e| error::store("looking at the connection", e);
    let sql = "select coalesce((select ssl from pg_stat_ssl where pid = pg_backend_pid()), false)";
    let row = sqlx::query(sql).fetch_one(conn).await.map_err(failed)?;
    if !row.get_unchecked::<bool, _>(0) {
        let server = connect::place(&options.connect.driver());
        tracing::warn!(
            server,
            "the connection is not encrypted: the server has no TLS, or this program is built without; write \
             `sslmode=require` to refuse that, or `sslmode=disable` if it is meant"
        );
    }
    Ok(())
}

/// Whether it matters that a connection is not encrypted: it was asked for by name, or goes over a network.
fn would_tell(options: &PgOptions) -> bool {
    let connect = options.connect.driver();
    let is_here =
        || matches!(connect.get_host(), "localhost" | "::1") || connect.get_host().starts_with("127.");
    matches!(connect.get_ssl_mode(), PgSslMode::Prefer)
        && connect.get_socket().is_none()
        && (options.prefers_tls || !is_here())
}

/// Refuses a proxy that gives one connection the sessions of several: what is set, prepared or locked in one is another's.
/// Such a proxy has a session for each transaction, so a second connection that is in one gets that of the first, or the
/// first another one.
pub(crate) async fn session(conn: &mut PgConnection, options: &PgOptions) -> Result<(), StoreError> {
    let failed = |e| error::store("looking at the connection", e);
    let before = process(conn).await.map_err(failed)?;
    let mut second = connect::first(&options.for_store()).await?;
    sqlx::raw_sql("begin").execute(&mut second).await.map_err(failed)?;
    let other = process(&mut second).await.map_err(failed)?;
    let after = process(conn).await.map_err(failed)?;
    drop(second.close().await);
    if before == after && before != other {
        return Ok(());
    }
    let what = "a proxy between this program and the server pools transactions: what a session holds (settings, prepared \
                statements, locks) is lost between two of them; connect past it, or have it pool sessions";
    Err(StoreError::misuse(what))
}

/// Which process of the server serves a connection. Not prepared, for who is asked next may be another one.
async fn process(conn: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row = conn.fetch_one("select pg_backend_pid()").await?;
    row.try_get(0)
}

/// What is wrong with a server and its database.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) wrong: Vec<String>,
    /// Whether it only follows another one: it may be promoted.
    is_standby: bool,
    /// Settings without which a crash loses what was acknowledged.
    pub(crate) off: Vec<&'static str>,
}

impl Server {
    pub(crate) async fn look(conn: &mut PgConnection) -> Result<Self, StoreError> {
        let failed = |e| error::store("looking at the server", e);
        let row = sqlx::query(SETTINGS).fetch_one(conn).await.map_err(failed)?;
        let (number, version): (i32, String) = (row.get_unchecked(0), row.get_unchecked(1));
        let encoding: String = row.get_unchecked(2);
        let mut wrong = Vec::new();
        if number < OLDEST {
            wrong.push(format!("the server is PostgreSQL {version}: 14 or newer is needed"));
        }
        if encoding != "UTF8" {
            wrong.push(format!("the database is encoded in {encoding}: make one with `encoding 'UTF8'`"));
        }
        if row.get_unchecked(8) {
            let clock: &str = row.get_unchecked(7);
            wrong.push(format!(
                "the server's clock says {clock}: events of that time could not be read; set it"
            ));
        }
        let settings = [(4, "fsync"), (5, "synchronous_commit"), (6, "full_page_writes")];
        let off = settings.into_iter().filter(|(i, _)| row.get_unchecked::<&str, _>(*i) == "off");
        Ok(Self { wrong, is_standby: row.get_unchecked(3), off: off.map(|(_, setting)| setting).collect() })
    }

    pub(crate) fn refuse(&self) -> Result<(), StoreError> {
        if !self.wrong.is_empty() {
            return Err(StoreError::misuse(self.wrong.join("; ")));
        }
        match self.is_standby {
            true => Err(StoreError::transient(error::CONNECTING, std::io::Error::other(STANDBY))),
            false => Ok(()),
        }
    }

    /// All that keeps it from holding a store now.
    pub(crate) fn problems(self) -> Vec<String> {
        let standby = self.is_standby.then(|| STANDBY.to_owned());
        self.wrong.into_iter().chain(standby).collect()
    }
}

/// What is wrong where a statement has to lock more partitions than the server has room for, while a part of its sessions does
/// so at the same time: then reads fail, and appends.
///
/// # Errors
///
/// The database failed.
pub(crate) async fn locks(
    conn: &mut PgConnection,
    schema: &SchemaName,
) -> Result<Option<String>, StoreError> {
    let failed = |e| error::store("looking at the partitions", e);
    let sql = crate::schema::sql(schema.fill(LOCKS));
    let row = sqlx::query(sql).fetch_one(conn).await.map_err(failed)?;
    let [partitions, most, room, sessions] = [0, 1, 2, 3].map(|column| row.get_unchecked::<i64, _>(column));
    let needed = needed_locks(partitions, room, sessions);
    Ok((needed > most).then(|| {
        format!(
            "the log has {partitions} partitions, and a statement locks each with its indexes: set \
             `max_locks_per_transaction` of the server to {needed} at least (it is {most}), or make partitions larger"
        )
    }))
}

/// Partitions; the setting; for how many sessions it makes room; how many there may be.
const LOCKS: &str =
    "select (select count(*) from {es}.partitions), current_setting('max_locks_per_transaction')::bigint,
    current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint,
    current_setting('max_connections')::bigint";

/// So that a quarter of the sessions have room for what a statement locks: each partition with two indexes, and a few tables.
const fn needed_locks(partitions: i64, room: i64, sessions: i64) -> i64 {
    let at_once = if sessions < 4 { 1 } else { sessions / 4 };
    let locks = at_once * (3 * partitions + 10);
    (locks + room - 1) / room
}

/// Refuses an account that lacks privileges, and a proxy that swallows settings.
pub(crate) async fn account(conn: &mut PgConnection, schema: &SchemaName) -> Result<(), StoreError> {
    let missing = lacking(conn, schema).await?;
    if missing.is_empty() {
        return Ok(());
    }
    Err(StoreError::misuse(format!(
        "the account lacks: {}; grant it the role of a writer",
        missing.join(", ")
    )))
}

/// The privileges of an application that the account lacks.
pub(crate) async fn lacking(conn: &mut PgConnection, schema: &SchemaName) -> Result<Vec<String>, StoreError> {
    let failed = |e| error::store("looking at the account", e);
    let usage = "select has_schema_privilege($1, 'usage'), current_schema() is not distinct from $1::name";
    let row = sqlx::query(usage).bind(schema.as_str()).fetch_one(&mut *conn).await.map_err(failed)?;
    if !row.get_unchecked::<bool, _>(0) {
        return Ok(vec![format!("usage on schema {schema}")]);
    }
    if !row.get_unchecked::<bool, _>(1) {
        let what = "the connection does not keep its settings (`search_path`): a proxy between this program and the \
                    server drops them; connect past it, or make it forward startup parameters";
        return Err(StoreError::misuse(what));
    }
    let (tables, privileges): (Vec<String>, Vec<String>) = NEEDED
        .iter()
        .flat_map(|(table, all)| {
            all.iter().map(move |privilege| (schema.table(table), (*privilege).to_owned()))
        })
        .unzip();
    let lacking = "select a.privilege || ' on ' || a.name from unnest($1::text[], $2::text[]) with ordinality a (name, privilege, i)
                   where not has_table_privilege(a.name, a.privilege)
                   union all
                   select 'execute on ' || p.proname from pg_proc p
                   where p.pronamespace = current_schema()::regnamespace and p.proname = any ($3)
                   and not has_function_privilege(p.oid, 'execute')";
    let query = sqlx::query(lacking).bind(tables).bind(privileges).bind(CALLED);
    let rows = query.fetch_all(conn).await.map_err(failed)?;
    Ok(rows.iter().map(|row| row.get_unchecked(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_of_the_sessions_has_room_for_all_partitions() {
        // The default of a server is 64 for each of 100.
        assert!(needed_locks(80, 100, 100) <= 64);
        assert!(needed_locks(90, 100, 100) > 64);
        assert_eq!(needed_locks(299, 100, 100), 227);
        assert_eq!(needed_locks(0, 1, 1), 10);
    }
}

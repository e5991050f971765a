//! What is looked at when a store is opened: what is missing is listed as a whole, in one error.

use es_core::store::StoreError;
use sqlx::{PgConnection, Row as _};

use crate::error;
use crate::schema::SchemaName;

/// The oldest PostgreSQL that the statements of this crate run on.
const OLDEST: i32 = 140_000;

const SETTINGS: &str = "select current_setting('server_version_num')::int, current_setting('server_version'),
    pg_encoding_to_char(d.encoding)::text, pg_is_in_recovery(), current_setting('fsync'),
    current_setting('synchronous_commit'), current_setting('full_page_writes')
    from pg_database d where d.datname = current_database()";

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
    "made",
    "rarest",
    "matches",
    "broken",
    "locate",
    "append",
    "same_history",
    "check_transaction",
    "must",
    "resolve",
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

/// Refuses a server that cannot hold a store, and warns of one that may lose what it acknowledged.
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

/// What is wrong with a server and its database.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) wrong: Vec<String>,
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
        if row.get_unchecked(3) {
            wrong.push("the server is a replica: connect to the primary".to_owned());
        }
        let settings = [(4, "fsync"), (5, "synchronous_commit"), (6, "full_page_writes")];
        let off = settings.into_iter().filter(|(i, _)| row.get_unchecked::<&str, _>(*i) == "off");
        Ok(Self { wrong, off: off.map(|(_, setting)| setting).collect() })
    }

    pub(crate) fn refuse(&self) -> Result<(), StoreError> {
        if self.wrong.is_empty() { Ok(()) } else { Err(StoreError::misuse(self.wrong.join("; "))) }
    }
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

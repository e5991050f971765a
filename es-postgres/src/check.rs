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
    ("streams", &["select", "insert"]),
    ("event_types", &["select", "insert"]),
    ("events", &["select", "insert"]),
    ("tags", &["select", "insert"]),
    ("outcomes", &["select", "insert"]),
    ("fenced", &["select", "insert"]),
    ("checkpoints", &["select", "insert", "update", "delete"]),
    ("views", &["select", "insert", "update", "delete"]),
    ("snapshots", &["select", "insert", "update", "delete"]),
    ("projections", &["select", "insert", "update", "delete"]),
];

/// Refuses a server that cannot hold a store, and warns of one that may lose what it acknowledged.
pub(crate) async fn server(conn: &mut PgConnection) -> Result<(), StoreError> {
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
    if !wrong.is_empty() {
        return Err(StoreError::misuse(wrong.join("; ")));
    }
    for (i, setting) in [(4, "fsync"), (5, "synchronous_commit"), (6, "full_page_writes")] {
        if row.get_unchecked::<&str, _>(i) == "off" {
            tracing::warn!(setting, "is off on this server: a crash can take events that were acknowledged");
        }
    }
    Ok(())
}

/// Refuses an account that lacks privileges, and a proxy that swallows settings.
pub(crate) async fn account(conn: &mut PgConnection, schema: &SchemaName) -> Result<(), StoreError> {
    let failed = |e| error::store("looking at the account", e);
    let mut missing = Vec::new();
    let usage = "select has_schema_privilege($1, 'usage'), current_schema() is not distinct from $1::name";
    let row = sqlx::query(usage).bind(schema.as_str()).fetch_one(&mut *conn).await.map_err(failed)?;
    if !row.get_unchecked::<bool, _>(0) {
        missing.push(format!("usage on schema {schema}"));
    } else if !row.get_unchecked::<bool, _>(1) {
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
                   where not has_table_privilege(a.name, a.privilege) order by a.i";
    if missing.is_empty() {
        let rows =
            sqlx::query(lacking).bind(tables).bind(privileges).fetch_all(conn).await.map_err(failed)?;
        missing.extend(rows.iter().map(|row| row.get_unchecked::<String, _>(0)));
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(StoreError::misuse(format!(
        "the account lacks: {}; grant it the role of a writer",
        missing.join(", ")
    )))
}

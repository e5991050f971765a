//! The schema that a generation lives in.

use es_core::store::{Generation, StoreError};
use sqlx::{PgConnection, Row as _};
use xxhash_rust::xxh3::xxh3_64;

use crate::error;
use crate::schema::{SchemaName, quoted, sql};

/// Bytes of a name at most; the server cuts longer ones.
const LONGEST: usize = 63;

/// Whether the account may make schemas.
pub(super) async fn may_make(conn: &mut PgConnection) -> Result<bool, StoreError> {
    let may = "select has_database_privilege(current_database(), 'create')";
    sqlx::query_scalar(may).fetch_one(conn).await.map_err(|e| error::store("looking at the account", e))
}

/// Makes a schema for a generation of a version, and gives its name.
pub(super) async fn make(
    conn: &mut PgConnection,
    schema: &SchemaName,
    projection: &str,
    (version, generation): (u32, Generation),
) -> Result<String, StoreError> {
    let failed = |e| error::store("making a schema for a generation", e);
    if !may_make(conn).await? {
        let who = "select quote_ident(current_database()), quote_ident(current_user)";
        let row = sqlx::query(who).fetch_one(conn).await.map_err(failed)?;
        let (database, account): (String, String) = (row.get_unchecked(0), row.get_unchecked(1));
        return Err(StoreError::misuse(format!(
            "generation {generation} of {projection}/{version} needs a schema of its own, and the account may not make \
             one: run `grant create on database {database} to {account}`",
        )));
    }
    let names = names(schema, projection, version, generation);
    let free = "select a.name from unnest($1::text[]) with ordinality a (name, i)
                where not exists (select from pg_namespace n where n.nspname = a.name) order by a.i limit 1";
    let found: Option<String> =
        sqlx::query_scalar(free).bind(&names).fetch_optional(&mut *conn).await.map_err(failed)?;
    let name = found.ok_or_else(|| {
        StoreError::misuse(format!("the schemas {} are there already: drop one", names.join(", ")))
    })?;
    // Whoever may read a table by its plain name finds it here as well.
    let create = format!("create schema {0}; grant usage on schema {0} to public", quoted(&name));
    sqlx::raw_sql(sql(create)).execute(conn).await.map_err(failed)?;
    Ok(name)
}

/// What the schema may be called: what people read first, and then what nobody else takes.
fn names(schema: &SchemaName, name: &str, version: u32, generation: Generation) -> Vec<String> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let readable = Some(format!("{schema}_{name}_{version}_{generation}"));
    let readable = readable.filter(|readable| plain && readable.len() <= LONGEST);
    let hashed = (1..=3).map(|i| {
        let hash = xxh3_64(format!("{name}/{version}~{generation}/{i}").as_bytes());
        format!("{schema}_g{hash:016x}")
    });
    readable.into_iter().chain(hashed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        let schema = SchemaName::new(&"x".repeat(40)).unwrap();
        for name in ["balances", "Bälances \"of\" all", "a/b", "a_very_long_name_of_a_projection"] {
            let names = names(&schema, name, u32::MAX, u32::MAX);
            assert!(names.len() >= 3);
            for name in names {
                assert!(
                    name.len() <= LONGEST && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                    "{name}"
                );
            }
        }
        assert_eq!(names(&SchemaName::default(), "balances", 1, 2)[0], "es_balances_1_2");
    }
}

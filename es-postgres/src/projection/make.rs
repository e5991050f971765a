//! Running the DDL of a projection, and seeing what it made.

use es_core::store::{Generation, StoreError, Tables};
use sqlx::postgres::types::Oid;
use sqlx::{PgConnection, Row as _};

use crate::error;
use crate::schema::{SchemaName, quoted, sql};
use crate::transient::is_transient;

const INSTALLING: &str = "installing a projection";

/// Why a generation was not made.
#[derive(Debug)]
pub(crate) enum NotMade {
    /// Its DDL reaches beyond the schema that was made for it.
    Beyond(StoreError),
    Otherwise(StoreError),
}

impl From<StoreError> for NotMade {
    fn from(error: StoreError) -> Self {
        Self::Otherwise(error)
    }
}

impl From<NotMade> for StoreError {
    fn from((NotMade::Beyond(error) | NotMade::Otherwise(error)): NotMade) -> Self {
        error
    }
}

/// Makes the tables of one generation, in its own schema if it has one; gives what was made, as `projections` keeps it.
pub(super) async fn make(
    conn: &mut PgConnection,
    schema: &SchemaName,
    tables: &Tables,
    generation: Generation,
    place: Option<&str>,
) -> Result<String, NotMade> {
    // A view keeps rows and no tables of its own: then the catalogue is not read.
    if tables.schema.trim().is_empty() {
        return Ok("[]".to_owned());
    }
    let failed = |e| error::store(INSTALLING, e);
    let before: Vec<Oid> =
        sqlx::query_scalar(sql(schema.fill("select coalesce(array_agg(id), '{}') from {es}.objects()")))
            .fetch_one(&mut *conn)
            .await
            .map_err(failed)?;
    let beside = others(conn, schema, tables, generation).await.map_err(failed)?;
    // Not where the current generations of others are.
    let mut path = "set local search_path to default".to_owned();
    if let Some(place) = place {
        path += &format!(
            "; select set_config('search_path', concat_ws(', ', '{}', nullif(current_setting('search_path'), '')), true)",
            quoted(place)
        );
    }
    sqlx::raw_sql(sql(path)).execute(&mut *conn).await.map_err(failed)?;
    let made = sqlx::raw_sql(tables.schema).execute(&mut *conn).await;
    made.map_err(|e| does_not_run(tables, place, e))?;
    // What is new, and was made by this very transaction: another one may be making tables at the same time.
    let touched =
        "select kind, name, place::text, id = any ($1) from {es}.objects() where touched order by id desc";
    let query = sqlx::query(sql(schema.fill(touched))).bind(&before);
    let touched = query.fetch_all(&mut *conn).await.map_err(failed)?;
    let mut made: Vec<(String, String)> = Vec::new();
    for row in &touched {
        let (kind, name): (String, String) = (row.get_unchecked(0), row.get_unchecked(1));
        let old: bool = row.get_unchecked(3);
        let elsewhere = place.is_some_and(|place| place != row.get_unchecked::<&str, _>(2));
        // A table that others point to is touched; a function only if it is replaced.
        if elsewhere && (!old || kind == "routine") {
            return Err(qualified(tables, &format!("it makes {kind} {name}")));
        }
        if !old {
            made.push((kind, name));
        }
    }
    if others(conn, schema, tables, generation).await.map_err(failed)? < beside {
        return Err(qualified(tables, "it drops tables of another generation"));
    }
    if made.is_empty() {
        if place.is_some() {
            return Err(qualified(tables, "what it names is there already"));
        }
        let what = format!(
            "the schema of projection {} makes no table: what it names is there already, and belongs to \
             somebody else (was the projection renamed? then drop the old tables)",
            tables.name
        );
        return Err(StoreError::misuse(what).into());
    }
    Ok(serde_json::to_string(&made).expect("strings serialize"))
}

/// How many tables and views the other generations of a projection have by now, and plain names.
async fn others(
    conn: &mut PgConnection,
    schema: &SchemaName,
    tables: &Tables,
    generation: Generation,
) -> Result<i64, sqlx::Error> {
    let count = schema.fill(
        "select count(*) from (
             select o from {es}.projections p cross join jsonb_array_elements(p.objects) o
             where p.name = $1 and (p.version, p.generation) <> ($2, $3) and o ->> 0 not in ('routine', 'type')
             union all
             select v from {es}.published u cross join jsonb_array_elements(u.views) v where u.name = $1
         ) known (o) where to_regclass(o ->> 1) is not null",
    );
    let query = sqlx::query_scalar(sql(count)).bind(tables.name).bind(tables.version.cast_signed());
    query.bind(generation.cast_signed()).fetch_one(conn).await
}

fn does_not_run(tables: &Tables, place: Option<&str>, error: sqlx::Error) -> NotMade {
    /// Something of this name is there already: a schema, a function, a table, another object, or of another kind.
    const THERE: &[&str] = &["42P06", "42723", "42P07", "42710", "42809"];
    // The DDL has done nothing for which a server ends, or lets it wait.
    if is_transient(&error) {
        return error::store(INSTALLING, error).into();
    }
    if place.is_some() && error::code(&error).is_some_and(|code| THERE.contains(&code)) {
        return qualified(tables, &error.to_string());
    }
    StoreError::misuse(format!("the schema of projection {} does not run: {error}", tables.name)).into()
}

fn qualified(tables: &Tables, why: &str) -> NotMade {
    NotMade::Beyond(StoreError::misuse(format!(
        "projection {} cannot have generations next to each other, since its DDL names the schema of what it makes or \
         drops ({why}): write names without a schema, and raise `version`",
        tables.name
    )))
}

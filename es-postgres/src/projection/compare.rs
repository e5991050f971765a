//! How the tables of two generations differ.

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::store::{Difference, Generation, RowSnapshot, Sample, StoreError, StoredRow, Tables};
use sqlx::Row as _;
use sqlx::postgres::{PgConnection, PgRow};

use crate::error;
use crate::readers::bounded;
use crate::rows::row as stored;
use crate::schema::{SchemaName, sql};

/// How much of a row is read to be shown, in characters; a report cuts it.
const SHOWN: i32 = 4_000;

/// A table of both generations, as SQL names it.
#[derive(Debug)]
struct Pair {
    table: String,
    old: String,
    new: String,
    /// The columns of its primary key, and whether both have the same type there.
    keys: Vec<(String, bool)>,
}

/// `$1`: the projection, `$2`: its version, `$3` and `$4`: its generations.
const PAIRS: &str = "
    with made as (
        select p.generation, c.oid, c.relname, format('%I.%I', n.nspname, c.relname) as name
        from {es}.projections p cross join jsonb_array_elements(p.objects) o
        join pg_class c on c.oid = to_regclass(o ->> 1) join pg_namespace n on n.oid = c.relnamespace
        where p.name = $1 and p.version = $2 and o ->> 0 = 'table'
    )
    select new.relname::text, old.name, new.name, k.names, k.same
    from made old join made new on new.relname = old.relname
    cross join lateral (
        select coalesce(array_agg(quote_ident(a.attname) order by a.attnum), '{}') as names,
               coalesce(array_agg(a.atttypid = b.atttypid order by a.attnum), '{}') as same
        from pg_index i
        join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any (i.indkey[0 : i.indnkeyatts - 1])
        join pg_attribute b on b.attrelid = old.oid and b.attname = a.attname
        where i.indrelid = new.oid and i.indisprimary
    ) k
    where old.generation = $3 and new.generation = $4
    order by new.relname";

/// By the names of the tables, not by what these stand for; builds are in no hot table.
const SCAN: &str = "select key, rev, data from {es}.rows where tbl = $1 and key > $2 order by key limit $3";

/// A transaction that reads, on a connection of its own: it takes as long as it takes.
#[derive(Debug)]
pub(crate) struct Snapshot {
    conn: PgConnection,
    schema: SchemaName,
}

impl Snapshot {
    pub(crate) async fn take(mut conn: PgConnection, schema: SchemaName) -> Result<Self, sqlx::Error> {
        // It is taken by the first statement, not by BEGIN.
        let begin = "begin isolation level repeatable read read only; select pg_current_snapshot()";
        sqlx::raw_sql(begin).execute(&mut conn).await?;
        Ok(Self { conn, schema })
    }

    async fn is_installed(&mut self, tables: &Tables, generation: Generation) -> Result<bool, sqlx::Error> {
        let there =
            "select exists (select from {es}.projections where (name, version, generation) = ($1, $2, $3))";
        let query = sqlx::query_scalar(sql(self.schema.fill(there))).bind(tables.name);
        let query = query.bind(tables.version.cast_signed()).bind(generation.cast_signed());
        query.fetch_one(&mut self.conn).await
    }

    async fn differences(
        &mut self,
        tables: &Tables,
        (old, new): (Generation, Generation),
        samples: usize,
    ) -> Result<Vec<Difference>, sqlx::Error> {
        let query = sqlx::query(sql(self.schema.fill(PAIRS))).bind(tables.name);
        let query = query.bind(tables.version.cast_signed());
        let query = query.bind(old.cast_signed()).bind(new.cast_signed());
        let pairs = query.fetch_all(&mut self.conn).await?;
        let mut differences = Vec::with_capacity(pairs.len());
        for pair in pairs.iter().map(Pair::read) {
            differences.push(pair.compare(&mut self.conn, samples).await?);
        }
        Ok(differences)
    }
}

#[async_trait]
impl RowSnapshot for Snapshot {
    async fn scan(
        &mut self,
        table: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredRow>, StoreError> {
        let query = bounded(&self.schema.fill(SCAN), "key");
        let query = sqlx::query(query).bind(table).bind(after.unwrap_or_default());
        let query = query.bind(i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX));
        let found = query.fetch_all(&mut self.conn).await.map_err(|e| error::store("scanning rows", e))?;
        Ok(found.iter().map(stored).collect())
    }

    async fn compare(
        &mut self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError> {
        let failed = |e| error::store("comparing generations", e);
        for generation in [old, new] {
            if !self.is_installed(tables, generation).await.map_err(failed)? {
                let name = tables.stored_name();
                return Err(StoreError::misuse(format!(
                    "generation {generation} of {name} is not installed: there is nothing to compare"
                )));
            }
        }
        self.differences(tables, (old, new), samples).await.map_err(failed)
    }
}

impl Pair {
    fn read(row: &PgRow) -> Self {
        let keys = row.get_unchecked::<Vec<String>, _>(3);
        Self {
            table: row.get_unchecked(0),
            old: row.get_unchecked(1),
            new: row.get_unchecked(2),
            keys: keys.into_iter().zip(row.get_unchecked::<Vec<bool>, _>(4)).collect(),
        }
    }

    /// All rows that differ: `was` and `now`, null where there is none. As JSON, since columns of every type have that,
    /// also those that cannot be compared themselves.
    fn differing(&self) -> String {
        let Self { old, new, keys, .. } = self;
        let Some((first, _)) = keys.first() else {
            let (old, new) = (rows_of(old), rows_of(new));
            return format!(
                "select row as was, null::jsonb as now from ({old} except all {new}) gone
                 union all
                 select null::jsonb, row from ({new} except all {old}) came"
            );
        };
        // A type that the DDL makes is another one in each generation.
        let same = keys.iter().map(|(key, same)| {
            let cast = if *same { "" } else { "::text" };
            format!(r#""es old".{key}{cast} = "es new".{key}{cast}"#)
        });
        let same = same.collect::<Vec<_>>().join(" and ");
        let row = |side: &str| {
            format!(r#"case when "es {side}".{first} is not null then to_jsonb("es {side}") end"#)
        };
        format!(
            r#"select was, now from (
                   select {} as was, {} as now from {old} "es old" full join {new} "es new" on {same}
               ) sides where was is distinct from now"#,
            row("old"),
            row("new")
        )
    }

    async fn compare(self, conn: &mut PgConnection, samples: usize) -> Result<Difference, sqlx::Error> {
        let differing = self.differing();
        let count = format!(
            "select count(*) filter (where was is null), count(*) filter (where now is null),
                    count(*) filter (where was is not null and now is not null) from ({differing}) d"
        );
        let row = sqlx::query(sql(count)).fetch_one(&mut *conn).await?;
        let n = |column: usize| crate::row::number(row.get_unchecked(column));
        let mut difference =
            Difference { table: self.table, added: n(0), removed: n(1), changed: n(2), samples: Vec::new() };
        if samples > 0 && difference.added + difference.removed + difference.changed > 0 {
            let some =
                format!("select left(was::text, $2), left(now::text, $2) from ({differing}) d limit $1");
            let limit = i64::try_from(samples).unwrap_or(i64::MAX);
            let rows = sqlx::query(sql(some)).bind(limit).bind(SHOWN).fetch_all(conn).await?;
            let sample = |row: &PgRow| Sample { old: row.get_unchecked(0), new: row.get_unchecked(1) };
            difference.samples = rows.iter().map(sample).collect();
        }
        Ok(difference)
    }
}

fn rows_of(table: &str) -> String {
    format!(r#"select to_jsonb("es row") as row from {table} "es row""#)
}

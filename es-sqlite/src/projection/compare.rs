//! How two generations of a projection's tables differ, asked in SQL.

use async_trait::async_trait;
use es_core::limits::MAX_PAGE;
use es_core::store::{Difference, Filling, Generation, RowSnapshot, Sample, StoreError, StoredRow, Tables};
use futures::TryStreamExt as _;
use sqlx::{Row as _, Sqlite, SqliteConnection, SqlitePool, Transaction};

use super::builds::Builds;
use crate::error;
use crate::row::number;
use crate::rows::row as stored;
use crate::schema::{quoted, sql};

const SCAN: &str = "select key, rev, data from es_rows where tbl = ?1 and key > ?2 order by key limit ?3";

/// A transaction that reads: what is written after it began is not seen in it.
#[derive(Debug)]
pub(crate) struct Snapshot(Transaction<'static, Sqlite>);

impl Snapshot {
    pub(crate) async fn take(readers: &SqlitePool) -> Result<Self, StoreError> {
        let failed = |e| error::store("reading in a snapshot", e);
        let mut tx = readers.begin().await.map_err(failed)?;
        // It begins with the first statement that reads.
        sqlx::query("select 1 from es_rows limit 1").fetch_optional(&mut *tx).await.map_err(failed)?;
        Ok(Self(tx))
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
        let limit = i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX);
        let query = sqlx::query(SCAN).bind(table).bind(after.unwrap_or_default()).bind(limit);
        let (mut rows, mut filling) = (Vec::new(), Filling::default());
        let mut found = query.fetch(&mut *self.0);
        while !filling.is_full()
            && let Some(row) = found.try_next().await.map_err(|e| error::store("scanning rows", e))?
        {
            let row = stored(&row);
            filling.takes(&row);
            rows.push(row);
        }
        Ok(rows)
    }

    async fn compare(
        &mut self,
        tables: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Result<Vec<Difference>, StoreError> {
        if tables.schema.trim().is_empty() {
            return Ok(Vec::new());
        }
        let failed = |e| error::store("comparing two generations", e);
        let conn = &mut *self.0;
        let builds = Builds::read(conn, tables.name).await?;
        let (old, new) = (builds.find(tables, old)?, builds.find(tables, new)?);
        let mut differences = Vec::new();
        for table in new.tables() {
            let pair = Pair::read(conn, &old.stored(table), &new.stored(table)).await.map_err(failed)?;
            let mut difference = Difference { table: table.to_owned(), ..Difference::default() };
            pair.compare(conn, samples, &mut difference).await.map_err(failed)?;
            differences.push(difference);
        }
        Ok(differences)
    }
}

/// How much of a row is read to be shown, in characters; a report cuts it.
const SHOWN: i32 = 4_000;

/// A table twice. In SQL, `o` is a row of the old one and `n` a row of the new one.
struct Pair {
    old: String,
    new: String,
    columns: Vec<String>,
    key: Vec<String>,
}

/// Rows that differ in one way.
struct Part {
    count: &'static str,
    from: String,
    old: bool,
    new: bool,
}

impl Pair {
    async fn read(conn: &mut SqliteConnection, old: &str, new: &str) -> Result<Self, sqlx::Error> {
        let columns = sqlx::query("select name, pk > 0 from pragma_table_info(?)").bind(new);
        let columns = columns.fetch_all(conn).await?;
        let name = |row: &sqlx::sqlite::SqliteRow| row.get_unchecked::<String, _>(0);
        Ok(Self {
            old: quoted(old),
            new: quoted(new),
            columns: columns.iter().map(name).collect(),
            key: columns.iter().filter(|row| row.get_unchecked(1)).map(name).collect(),
        })
    }

    async fn compare(
        &self,
        conn: &mut SqliteConnection,
        samples: usize,
        difference: &mut Difference,
    ) -> Result<(), sqlx::Error> {
        for part in if self.key.is_empty() { self.by_row() } else { self.by_key() } {
            let Part { count, from, .. } = &part;
            let count = sql(format!("select coalesce({count}, 0) from {from}"));
            let count = number(sqlx::query_scalar(count).fetch_one(&mut *conn).await?);
            match (part.old, part.new) {
                (true, true) => difference.changed = count,
                (true, false) => difference.removed = count,
                (false, _) => difference.added = count,
            }
            let wanted = samples - difference.samples.len();
            if count == 0 || wanted == 0 {
                continue;
            }
            let json = |there, alias| match there {
                true => format!("substr({}, 1, {SHOWN})", self.json(alias)),
                false => "null".to_owned(),
            };
            let (old, new) = (json(part.old, "o"), json(part.new, "n"));
            let rows = sqlx::query(sql(format!("select {old}, {new} from {from} limit ?")));
            let rows = rows.bind(i64::try_from(wanted).unwrap_or(i64::MAX)).fetch_all(&mut *conn).await?;
            let sample = |row: &sqlx::sqlite::SqliteRow| Sample {
                old: row.get_unchecked(0),
                new: row.get_unchecked(1),
            };
            difference.samples.extend(rows.iter().map(sample));
        }
        Ok(())
    }

    /// Rows with the same key are the same row. Texts differ byte by byte, whatever the column's collation says.
    fn by_key(&self) -> Vec<Part> {
        let Self { old, new, .. } = self;
        let same = joined(&self.key, " and ", |column| format!("o.{column} is n.{column}"));
        let differs =
            joined(&self.columns, " or ", |column| format!("o.{column} is not n.{column} collate binary"));
        let part = |from, old, new| Part { count: "count(*)", from, old, new };
        vec![
            part(format!("{old} o join {new} n on {same} where {differs}"), true, true),
            part(format!("{old} o where not exists (select 1 from {new} n where {same})"), true, false),
            part(format!("{new} n where not exists (select 1 from {old} o where {same})"), false, true),
        ]
    }

    /// Without a key a row is its values, and a table has it so many times.
    fn by_row(&self) -> Vec<Part> {
        let Self { old, new, .. } = self;
        let columns = joined(&self.columns, ", ", str::to_owned);
        let values = joined(&self.columns, ", ", |column| format!("{column} collate binary"));
        let more = format!(
            "(select {columns}, sum(\"~more\") as \"~more\" from (
                 select {columns}, 1 as \"~more\" from {new} union all select {columns}, -1 from {old}
             ) group by {values})"
        );
        vec![
            Part {
                count: "-sum(o.\"~more\")",
                from: format!("{more} o where o.\"~more\" < 0"),
                old: true,
                new: false,
            },
            Part {
                count: "sum(n.\"~more\")",
                from: format!("{more} n where n.\"~more\" > 0"),
                old: false,
                new: true,
            },
        ]
    }

    /// A row as a JSON object. JSON has no bytes, so they stand there as hexadecimal digits.
    fn json(&self, alias: &str) -> String {
        let field = |column: &String| {
            let (name, column) = (column.replace('\'', "''"), quoted(column));
            let (value, kind) = (format!("{alias}.{column}"), format!("typeof({alias}.{column})"));
            format!("'{name}', case {kind} when 'blob' then hex({value}) else {value} end")
        };
        format!("json_object({})", self.columns.iter().map(field).collect::<Vec<_>>().join(", "))
    }
}

fn joined(columns: &[String], by: &str, each: impl Fn(&str) -> String) -> String {
    columns.iter().map(|column| each(&quoted(column))).collect::<Vec<_>>().join(by)
}

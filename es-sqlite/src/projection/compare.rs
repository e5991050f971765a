//! How two generations of a projection's tables differ, asked in SQL.

use es_core::store::{Difference, Generation, Sample, StoreError, Tables};
use sqlx::{Row as _, SqliteConnection, SqlitePool};

use super::builds;
use crate::error;
use crate::row::number;
use crate::schema::{quoted, sql};

/// All tables, in one snapshot.
pub(crate) async fn compare(
    readers: &SqlitePool,
    tables: &Tables,
    old: Generation,
    new: Generation,
    samples: usize,
) -> Result<Vec<Difference>, StoreError> {
    if tables.schema.trim().is_empty() {
        return Ok(Vec::new());
    }
    let failed = |e| error::store("comparing two generations", e);
    let mut tx = readers.begin().await.map_err(failed)?;
    let ours = builds::of_version(&mut tx, tables).await?;
    let (old, new) = (builds::find(&ours, tables, old)?, builds::find(&ours, tables, new)?);
    let mut differences = Vec::new();
    for table in new.tables() {
        let pair = Pair::read(&mut tx, &old.stored(table), &new.stored(table)).await.map_err(failed)?;
        let mut difference = Difference { table: table.to_owned(), ..Difference::default() };
        pair.compare(&mut tx, samples, &mut difference).await.map_err(failed)?;
        differences.push(difference);
    }
    Ok(differences)
}

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
            let json = |there, alias| if there { self.json(alias) } else { "null".to_owned() };
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

//! Filters as SQL: this crate's own words and placeholders; every value is bound.

use es_core::store::{EventFilter, FilterItem, Position};
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{SqlStr, Sqlite};

use crate::history::LOOK;
use crate::row::{COLUMNS, signed};
use crate::schema;

/// One read of the log: matching events with `after < position <= upto`.
#[derive(Debug)]
pub(crate) struct Select<'f> {
    filter: &'f EventFilter,
    condition: String,
}

impl<'f> Select<'f> {
    pub(crate) fn new(filter: &'f EventFilter) -> Self {
        let items: Vec<String> = filter.items().iter().map(item).collect();
        let condition = if items.is_empty() { "true".to_owned() } else { items.join(" or ") };
        Self { filter, condition }
    }

    /// Whether an index leads to the matching events, so that the log need not be read through.
    pub(crate) fn is_indexed(&self) -> bool {
        !self.filter.items().is_empty() && self.filter.items().iter().all(|i| !i.tags().is_empty())
    }

    /// Events in order, as [`COLUMNS`], the version and the stream's name.
    pub(crate) fn sql(&self) -> SqlStr {
        let condition = &self.condition;
        schema::sql(format!(
            "select {COLUMNS}, e.version, s.name from es_events e join es_streams s on s.id = e.stream
             where e.position > ? and e.position <= ? and ({condition})
             order by e.position limit ?"
        ))
    }

    /// The head of the log in a row of its own, then [`Self::sql`], then a look at which history it is: in one message.
    pub(crate) fn head_and_sql(&self) -> SqlStr {
        let events = self.sql();
        schema::sql(format!("select coalesce(max(position), 0) from es_events; {};\n{LOOK}", events.as_str()))
    }

    /// Binds what [`Self::sql`] asks for.
    pub(crate) fn bind<'q>(
        &self,
        query: Query<'q, Sqlite, SqliteArguments>,
        after: Position,
        upto: Position,
        limit: usize,
    ) -> Query<'q, Sqlite, SqliteArguments> {
        let (after, upto) = (signed(after.0), signed(upto.0));
        let mut query = query.bind(after).bind(upto);
        for item in self.filter.items() {
            for name in item.types() {
                query = query.bind(name.to_string());
            }
            for (n, tag) in item.tags().iter().enumerate() {
                query = query.bind(tag.as_str().to_owned());
                if n == 0 {
                    query = query.bind(after).bind(upto);
                }
            }
        }
        query.bind(i64::try_from(limit).unwrap_or(i64::MAX))
    }
}

/// The events at some positions, a JSON array of them, as [`Select::sql`] gives them, and a look at which history it is.
pub(crate) fn at() -> SqlStr {
    schema::sql(format!(
        "select {COLUMNS}, e.version, s.name from json_each(?) asked join es_events e on e.position = asked.value
         join es_streams s on s.id = e.stream order by e.position;\n{LOOK}"
    ))
}

/// The first tag leads through its index; the others, and the types, are looked up for what it finds.
fn item(item: &FilterItem) -> String {
    let mut all = Vec::new();
    if !item.types().is_empty() {
        let names = vec!["?"; item.types().len()].join(", ");
        // The plus keeps SQLite from leaving position order for the sake of a type.
        all.push(format!("+e.type in (select id from es_types where name in ({names}))"));
    }
    for n in 0..item.tags().len() {
        all.push(match n {
            0 => "e.position in (select position from es_tags where tag = ? and position > ? and position <= ?)",
            _ => "exists (select 1 from es_tags t where t.tag = ? and t.position = e.position)",
        }
        .to_owned());
    }
    if all.is_empty() { "true".to_owned() } else { format!("({})", all.join(" and ")) }
}

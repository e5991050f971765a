//! Filters as SQL: this crate's own words and placeholders; every value is bound.
//!
//! Each alternative is one ordered walk along one index, cut after as many events as are asked for: that stays quick
//! however far behind a reader is. One walk with `or` over all of them would sort what it finds.

use es_core::event::Tag;
use es_core::store::{EventFilter, FilterItem, Position};
use sqlx::SqlStr;

use crate::history::token;
use crate::readers::{PgQuery, bounded};
use crate::row::{COLUMNS, signed};
use crate::schema;

/// One read of the log: matching events with `after < position <= upto`, and the head in every row. They come in order,
/// as the inner select gives them; to say so again would sort all of them once more.
#[derive(Debug)]
pub(crate) struct Select<'f> {
    filter: &'f EventFilter,
    /// Of each alternative, the tags in the order in which they are bound: the walk goes along the first one.
    tags: Vec<Vec<&'f Tag>>,
    sql: SqlStr,
}

impl<'f> Select<'f> {
    /// `rarest` are the tags to walk along, of the alternatives that [have several](several).
    pub(crate) fn new(filter: &'f EventFilter, rarest: &[String]) -> Self {
        let mut rarest = rarest.iter();
        let tags: Vec<Vec<&Tag>> = filter.items().iter().map(|item| order(item, &mut rarest)).collect();
        let mut values = if filter.items().iter().any(is_cut) { 4 } else { 3 };
        let types_alone = types_alone(filter);
        // Of types that were never stored, nothing is looked for along the log.
        let of_stored = || {
            let types = of_types("e", "$4");
            format!("and {types} and exists (select from event_types k where k.name = any ($4))")
        };
        let (mut walks, mut ends) = (Vec::new(), String::new());
        if types_alone.is_none() {
            for item in filter.items() {
                let (walk, end) = walk(item, &mut values);
                walks.push(walk);
                ends.push_str(&end);
            }
        }
        // A join by position might be planned as a walk through the whole log, so each event is looked up by itself.
        let found = match &walks[..] {
            [] => format!(
                "select * from events e where e.position > $1 and e.position <= head.upto {}
                 order by e.position limit $3",
                if types_alone.is_some() { of_stored() } else { String::new() }
            ),
            walks => format!(
                "select e.* from (select position from ({}) walks order by position limit $3) found
                 cross join lateral (select * from events e where e.position = found.position offset 0) e",
                walks.join(" union ")
            ),
        };
        // One statement, so one snapshot: up to the head none is missing.
        let sql = format!(
            "select {COLUMNS}, e.version, e.stream_id, head.head, head.upto, {} as history
             from (select h.head, least($2, h.head{ends}) as upto
                   from (select coalesce(max(position), 0) as head from events) h offset 0) head
             left join lateral ({found}) e on true",
            token!()
        );
        Self { filter, tags, sql: schema::sql(sql) }
    }

    /// Whether a walk along a tag passes entries that do not match, and so ends after as many as are looked at.
    pub(crate) fn is_cut(&self) -> bool {
        self.filter.items().iter().any(is_cut)
    }

    /// Whether an index leads to the matching events, so that the log need not be read through.
    pub(crate) fn is_indexed(&self) -> bool {
        !self.filter.items().is_empty() && self.filter.items().iter().all(|i| !i.tags().is_empty())
    }

    /// With `large`, it is likely that fewer events fill a page. At most so many entries are looked at, of each tag that a walk
    /// goes along.
    pub(crate) fn query(
        &self,
        after: Position,
        upto: Position,
        (limit, entries): (usize, usize),
        large: bool,
    ) -> PgQuery {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = if large { bounded(self.sql.as_str(), "position") } else { self.sql.clone() };
        let mut query = sqlx::query(sql).bind(signed(after.0)).bind(signed(upto.0)).bind(limit);
        if let Some(types) = types_alone(self.filter) {
            return query.bind(types);
        }
        if self.is_cut() {
            query = query.bind(i64::try_from(entries).unwrap_or(i64::MAX).saturating_sub(1).max(0));
        }
        for (item, tags) in self.filter.items().iter().zip(&self.tags) {
            let others = tags.len().saturating_sub(1);
            let alone = if others > FEW { 1 } else { tags.len() };
            for tag in &tags[..alone.min(tags.len())] {
                query = query.bind(tag.as_str().to_owned());
            }
            if others > FEW {
                query = query.bind(tags[1..].iter().map(|tag| tag.as_str().to_owned()).collect::<Vec<_>>());
            }
            if !item.types().is_empty() {
                query = query.bind(item.types().iter().map(ToString::to_string).collect::<Vec<_>>());
            }
        }
        query
    }
}

/// The events at some positions, in order: as [`Select`] gives them, without the head.
pub(crate) fn at() -> SqlStr {
    // Each is looked up by itself, whatever is believed of how many there are.
    let sql = format!(
        "select {COLUMNS}, e.version, e.stream_id, {} as history from unnest($1::bigint[]) as p (position)
         cross join lateral (select * from events e where e.position = p.position offset 0) e",
        token!()
    );
    bounded(&sql, "position")
}

/// The tags of the alternatives of a filter that have several, each with the number of its alternative.
pub(crate) fn several(filter: &EventFilter) -> (Vec<String>, Vec<i32>) {
    let several = filter.items().iter().filter(|item| item.tags().len() > 1).zip(0..);
    several.flat_map(|(item, i)| item.tags().iter().map(move |tag| (tag.as_str().to_owned(), i))).unzip()
}

/// The tag that the fewest events have, of each of these alternatives. $1: behind this position, $2: of more than so many it
/// does not matter.
pub(crate) const RAREST: &str = "select rarer(array_agg(a.tag order by a.i), $1, $2)
    from unnest($3::text[], $4::integer[]) with ordinality a (tag, item, i) group by a.item order by a.item";

/// The tags of an alternative; if there are several, the next of the rarest ones comes first.
fn order<'f>(item: &'f FilterItem, rarest: &mut std::slice::Iter<'_, String>) -> Vec<&'f Tag> {
    let mut tags: Vec<&Tag> = item.tags().iter().collect();
    if tags.len() > 1
        && let Some(rare) = rarest.next()
        && let Some(at) = tags.iter().position(|tag| tag.as_str() == rare)
    {
        tags.swap(0, at);
    }
    tags
}

/// Whether a walk along its first tag passes entries that do not match.
fn is_cut(item: &FilterItem) -> bool {
    item.tags().len() > 1 || !item.tags().is_empty() && !item.types().is_empty()
}

/// The types of a filter that has nothing but types: then one walk along the log does for all alternatives.
fn types_alone(filter: &EventFilter) -> Option<Vec<String>> {
    let plain = |item: &FilterItem| item.tags().is_empty() && !item.types().is_empty();
    let items = filter.items();
    (!items.is_empty() && items.iter().all(plain))
        .then(|| items.iter().flat_map(FilterItem::types).map(ToString::to_string).collect())
}

/// So many more tags of an alternative are joined. More are looked up for each event: joining hundreds of tables is
/// planned longer than a timeout.
const FEW: usize = 2;

/// The first positions that an alternative matches: along its first tag, or along the log. And where it ends if many do not
/// match, as another value of `least`.
fn walk(item: &FilterItem, values: &mut usize) -> (String, String) {
    let mut next = || {
        *values += 1;
        format!("${values}")
    };
    let Some((_, others)) = item.tags().split_first() else {
        let types =
            if item.types().is_empty() { String::new() } else { format!("and {}", of_types("w", &next())) };
        let walk = format!(
            "(select w.position from events w where w.position > $1 and w.position <= head.upto {types} order by w.position limit $3)"
        );
        return (walk, String::new());
    };
    let first = next();
    let others: String = if others.len() > FEW {
        format!(
            "and not exists (select from unnest({}::text[]) a (tag) where not exists (\
             select from tags o where o.tag = a.tag and o.position = t.position offset 0)) ",
            next()
        )
    } else {
        let other = |_| {
            format!("and exists (select from tags o where o.tag = {} and o.position = t.position) ", next())
        };
        others.iter().map(other).collect()
    };
    let types = match item.types().is_empty() {
        true => String::new(),
        false => {
            let types = of_types("w", &next());
            format!("and exists (select from events w where w.position = t.position and {types})")
        }
    };
    let walk = format!(
        "(select t.position from tags t where t.tag = {first} and t.position > $1 and t.position <= head.upto {others}{types} \
         order by t.position limit $3)"
    );
    let end = format!(
        ", (select t.position from tags t where t.tag = {first} and t.position > $1 and t.position <= $2 \
         order by t.position offset $4 limit 1)"
    );
    (walk, if is_cut(item) { end } else { String::new() })
}

fn of_types(events: &str, names: &str) -> String {
    format!(
        "{events}.type_id = any (array(select k.type_id from event_types k where k.name = any ({names})))"
    )
}

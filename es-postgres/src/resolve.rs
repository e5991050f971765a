//! What became of an attempt: the question as a statement, and its answer.

use es_core::store::{Attempt, Committed, EventId, Position, Resolution, StoreError, Version};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use crate::readers::PgQuery;
use crate::row::number;

const RESOLVE: &str = "select fate, versions, last from resolve($1, $2, $3, $4, $5)";

/// Asks what became of an attempt, and makes sure that it stays so. It waits for the attempt if that is running.
pub(crate) fn query(attempt: &Attempt, micros: Option<i64>) -> PgQuery {
    let names: Vec<String> = attempt.appends.iter().map(|(stream, _)| stream.as_str().to_owned()).collect();
    // A commit is atomic: the last event of an append proves it as well as any other.
    let ids: Vec<Option<EventId>> = attempt.appends.iter().map(|(_, ids)| ids.last().copied()).collect();
    let name = (!attempt.id.is_nil()).then_some(attempt.id);
    sqlx::query(RESOLVE).bind(name).bind(names).bind(ids).bind(named_at(attempt.id)).bind(micros)
}

/// When an attempt was named, in microseconds since 1970: an id of version 7 begins with its milliseconds. `None` for any
/// other one.
pub(crate) fn named_at(attempt: Uuid) -> Option<i64> {
    let millis = i64::try_from(attempt.as_u128() >> 80).ok()?;
    (attempt.get_version_num() == 7).then(|| millis * 1_000)
}

/// What the answer says.
pub(crate) fn resolution(attempt: &Attempt, row: &PgRow) -> Result<Resolution, StoreError> {
    match row.get_unchecked::<&str, _>(0) {
        "never" => return Ok(Resolution::Never),
        "old" => {
            let what = format!(
                "attempt {} has no events and is too old to be known: read what it would have written",
                attempt.id
            );
            return Err(StoreError::misuse(what));
        }
        _ => {}
    }
    let versions = row.get_unchecked::<Option<Vec<i64>>, _>(1).unwrap_or_default();
    Ok(Resolution::Applied(Committed {
        position: Position(number(row.get_unchecked::<Option<i64>, _>(2).unwrap_or_default())),
        versions: versions.into_iter().map(|version| Version(number(version))).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_of_version_7_says_when_it_was_made() {
        let ids = es_core::id::Ids::default();
        let now = es_core::clock::Timestamp::from_millisecond(1_700_000_000_123).unwrap();
        assert_eq!(named_at(ids.at(now)), Some(1_700_000_000_123_000));
        for other in [Uuid::nil(), Uuid::from_u128(7), Uuid::max()] {
            assert_eq!(named_at(other), None);
        }
    }
}

//! Names of streams by their numbers, as reads have met them: a page then brings numbers, and names only of streams that
//! are new here.
//!
//! A stream keeps its number as long as the history lasts. In another one (a failover, a restored backup) nothing is known.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;

use es_core::store::{StoreError, StreamId};
use quick_cache::unsync::Cache;
use sqlx::Row as _;

use crate::error;
use crate::readers::Readers;

/// Streams that are remembered.
const CAPACITY: usize = 50_000;
const SELECT: &str = "select stream_id, name from streams where stream_id = any ($1)";

#[derive(Debug)]
pub(crate) struct Streams(Mutex<Known>);

#[derive(Debug)]
struct Known {
    names: Cache<i64, StreamId>,
    /// Of which history they are, as readers count them.
    history: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Self(Mutex::new(Known { names: Cache::new(CAPACITY), history: 0 }))
    }
}

impl Streams {
    /// The name of each of these streams, in order: of numbers that were read in this history. `None` if the store has got
    /// another one.
    pub(crate) async fn names(
        &self,
        readers: &Readers,
        history: u64,
        numbers: &[i64],
    ) -> Result<Option<Vec<StreamId>>, StoreError> {
        let Some(mut found) = self.known(history, numbers) else { return Ok(None) };
        let mut missing: Vec<i64> = numbers
            .iter()
            .zip(&found)
            .filter(|(_, name)| name.is_none())
            .map(|(number, _)| *number)
            .collect();
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            let new = read(readers, missing).await?;
            for (number, name) in numbers.iter().zip(&mut found).filter(|(_, name)| name.is_none()) {
                *name = new.get(number).cloned();
            }
            // They were read in the history that is known by now.
            if readers.histories().changes() != history {
                return Ok(None);
            }
            self.learn(history, new);
        }
        let missing =
            || StoreError::Corrupt { what: "an event has a stream that is not in streams".to_owned() };
        found.into_iter().collect::<Option<_>>().ok_or_else(missing).map(Some)
    }

    /// What is known of these numbers; `None` if it is of a later history.
    fn known(&self, history: u64, numbers: &[i64]) -> Option<Vec<Option<StreamId>>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.history < history {
            known.names.clear();
            known.history = history;
        }
        (known.history == history)
            .then(|| numbers.iter().map(|number| known.names.get(number).cloned()).collect())
    }

    /// Names that were read in this history, or later.
    fn learn(&self, history: u64, names: HashMap<i64, StreamId>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.history == history {
            names.into_iter().for_each(|(number, name)| known.names.insert(number, name));
        }
    }
}

async fn read(readers: &Readers, numbers: Vec<i64>) -> Result<HashMap<i64, StreamId>, StoreError> {
    let what = "reading the names of streams";
    let rows = readers.rows(what, || sqlx::query(SELECT).bind(numbers.clone())).await?;
    let name = |row: &sqlx::postgres::PgRow| {
        let name: String = row.try_get(1).map_err(|e| error::store(what, e))?;
        Ok((row.try_get(0).map_err(|e| error::store(what, e))?, StreamId::new(name)?))
    };
    rows.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_come_late_are_not_those_of_the_next_history() {
        let (streams, of) =
            (Streams::default(), |name: &str| HashMap::from([(1, StreamId::new(name).unwrap())]));
        assert_eq!(streams.known(0, &[1]), Some(vec![None]));
        // Meanwhile somebody reads in the next one.
        assert_eq!(streams.known(1, &[1]), Some(vec![None]));
        streams.learn(0, of("before"));
        assert_eq!((streams.known(1, &[1]), streams.known(0, &[1])), (Some(vec![None]), None));
        streams.learn(1, of("after"));
        assert_eq!(streams.known(1, &[1]), Some(vec![StreamId::new("after").ok()]));
    }
}

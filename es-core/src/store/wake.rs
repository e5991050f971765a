//! Wake-ups by rows: who waits for a change of which table and slices.
//!
//! Rows do not move the head of the log, so [`EventStore::watch`](crate::store::EventStore::watch) says nothing of them.
//! A backend calls [`RowWakes::touch`] after each commit with rows, and carries [`Touched`] to other processes as well
//! as it can. A wake-up may be late, lost or one too many: a reader also polls, and looks at the rows.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::slices::{SliceSet, Slices};
use crate::store::keys::slice_of_row;
use crate::store::{Commit, RowWrite};

/// Which rows were touched: tables, and the slices of their keys ([`slice_of_row`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    tables: BTreeMap<Arc<str>, SliceSet>,
    /// It is not known which: every table.
    all: bool,
}

impl Touched {
    /// Rows of every table, or it is not known which.
    #[must_use]
    pub const fn all() -> Self {
        Self { tables: BTreeMap::new(), all: true }
    }

    /// What these writes touch.
    #[must_use]
    pub fn by(rows: &[RowWrite]) -> Self {
        let mut touched = Self::default();
        // Writes of one table often follow each other: its name is looked up once.
        for rows in rows.chunk_by(|a, b| a.table == b.table) {
            let slices = touched.tables.entry(rows[0].table.clone()).or_default();
            rows.iter().for_each(|row| slices.insert(slice_of_row(&row.key)));
        }
        touched
    }

    /// Adds what others touched.
    pub fn extend(&mut self, other: Self) {
        self.all |= other.all;
        for (table, slices) in other.tables {
            self.tables.entry(table).or_default().extend(&slices);
        }
    }

    /// Whether no row was touched.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && !self.all
    }

    /// As a text of at most `limit` bytes, for a notification: says less exactly what would be longer.
    #[must_use]
    pub fn to_text(&self, limit: usize) -> String {
        let exact = self.text(|slices| *slices != SliceSet::ALL);
        [exact, self.text(|_| false), "*".to_owned()]
            .into_iter()
            .find(|text| text.len() <= limit)
            .unwrap_or_default()
    }

    fn text(&self, exact: impl Fn(&SliceSet) -> bool) -> String {
        if self.all {
            return "*".to_owned();
        }
        let mut text = String::new();
        for (table, slices) in &self.tables {
            write!(text, "{table}\t").expect("writing to a string");
            if exact(slices) {
                slices.ranges().for_each(|range| write!(text, "{range},").expect("writing to a string"));
            }
            text.push('\n');
        }
        text
    }

    /// What a text says. One that cannot be understood means every table: it may come from another version.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self::try_parse(text).unwrap_or_else(Self::all)
    }

    fn try_parse(text: &str) -> Option<Self> {
        let mut touched = Self::default();
        for line in text.lines() {
            let (table, ranges) = line.split_once('\t')?;
            let mut slices = if ranges.is_empty() { SliceSet::ALL } else { SliceSet::default() };
            for range in ranges.split_terminator(',') {
                let (first, last) = range.split_once('-')?;
                let range = Slices { first: first.parse().ok()?, last: last.parse().ok()? };
                slices.extend(&range.into());
            }
            touched.tables.insert(table.into(), slices);
        }
        Some(touched)
    }
}

impl From<&Commit> for Touched {
    fn from(commit: &Commit) -> Self {
        Self::by(&commit.rows)
    }
}

/// The readers that wait for rows, in one process. A backend has one, whatever number of handles it has.
#[derive(Debug, Default)]
pub struct RowWakes(Mutex<HashMap<Arc<str>, Vec<(Slices, watch::Sender<u64>)>>>);

impl RowWakes {
    /// Changes after each commit that touched these slices of a table.
    pub fn watch(&self, table: &str, slices: Slices) -> watch::Receiver<u64> {
        let (wake, receiver) = watch::channel(0);
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let watchers = watchers.entry(table.into()).or_default();
        watchers.retain(|(_, wake)| !wake.is_closed());
        watchers.push((slices, wake));
        receiver
    }

    /// Whether any reader waits for rows in this process.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Wakes the readers that wait for what was touched.
    pub fn touch(&self, touched: &Touched) {
        if touched.is_empty() {
            return;
        }
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wake = |watchers: &mut Vec<(Slices, watch::Sender<u64>)>, meets: &dyn Fn(Slices) -> bool| {
            for (_, wake) in watchers.iter().filter(|(slices, _)| meets(*slices)) {
                wake.send_modify(|n| *n += 1);
            }
        };
        if touched.all {
            watchers.values_mut().for_each(|watchers| wake(watchers, &|_| true));
        }
        for (table, set) in &touched.tables {
            if let Some(watchers) = watchers.get_mut(table) {
                wake(watchers, &|slices| set.meets(slices));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::slice_of;

    fn write(table: &str, key: &str) -> RowWrite {
        RowWrite { table: table.into(), key: key.to_owned(), rev: 0, row: None }
    }

    #[test]
    fn what_was_touched_survives_its_text() {
        let some =
            Touched::by(&[write("timers", "0007:x"), write("timers", "0008:x"), write("a b/1~1", "ada")]);
        let text = some.to_text(8_000);
        assert_eq!(text, format!("a b/1~1\t{0}-{0},\ntimers\t7-8,\n", slice_of("ada")));
        assert_eq!(Touched::parse(&text), some);
        assert_eq!(some.to_text(20), "a b/1~1\t\ntimers\t\n", "less exactly");
        assert_eq!(some.to_text(5), "*");
        for unclear in ["*", "timers", "timers\t7", "timers\tx-y,"] {
            assert_eq!(Touched::parse(unclear), Touched::all(), "{unclear}");
        }
        assert!(Touched::parse("").is_empty());
    }

    #[test]
    fn only_who_watches_the_table_and_the_slices_is_woken() {
        let wakes = RowWakes::default();
        let mut own = wakes.watch("timers", Slices { first: 5, last: 9 });
        let mut others =
            [wakes.watch("timers", Slices { first: 0, last: 6 }), wakes.watch("times", Slices::ALL)];
        wakes.touch(&Touched::by(&[write("timers", "0007:x")]));
        assert!(own.has_changed().unwrap());
        assert!(others.iter().all(|other| !other.has_changed().unwrap()));
        own.mark_unchanged();
        wakes.touch(&Touched::all());
        assert!(own.has_changed().unwrap() && others.iter_mut().all(|other| other.has_changed().unwrap()));
    }
}

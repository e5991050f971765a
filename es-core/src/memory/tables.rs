//! Rows of the user's own, and the generations of projections that keep such rows.

use std::collections::{BTreeMap, BTreeSet};

use super::Rows;
use super::tx::Change;
use crate::store::{Difference, Generation, Sample, Tables};

/// Tables by name. What a generation that is not the current one wrote, has names of its own.
#[derive(Debug, Default)]
pub(super) struct Generations {
    tables: BTreeMap<String, Rows>,
    /// By stored name, so that each version of a projection has its own.
    projections: BTreeMap<String, Installed>,
}

/// What is known of a projection.
#[derive(Debug)]
struct Installed {
    /// The generation whose tables have their plain names.
    current: Generation,
    generations: BTreeSet<Generation>,
    /// The tables that a transaction of a generation wrote.
    written: BTreeSet<String>,
}

impl Default for Installed {
    fn default() -> Self {
        Self { current: 1, generations: BTreeSet::new(), written: BTreeSet::new() }
    }
}

impl Generations {
    pub(super) fn table(&self, name: &str) -> Option<&Rows> {
        self.tables.get(name)
    }

    pub(super) fn write(&mut self, of: Option<&(Tables, Generation)>, Change { table, key, row }: Change) {
        let mut name = table;
        if let Some((projection, generation)) = of {
            let suffix = self.suffix(projection, *generation);
            self.projections.entry(projection.stored_name()).or_default().written.insert(name.clone());
            name.push_str(&suffix);
        }
        let table = self.tables.entry(name).or_default();
        match row {
            Some(row) => table.insert(key, row),
            None => table.remove(&key),
        };
    }

    /// With the first generation, what is known of other versions goes, with their tables.
    pub(super) fn install(&mut self, projection: &Tables, generation: Generation) {
        if generation == 1 {
            let others: Vec<_> =
                self.projections.extract_if(.., |stored_name, _| is_other(projection, stored_name)).collect();
            for (stored_name, Installed { current, generations, written }) in others {
                for table in written.iter().map(String::as_str).chain([projection.name]) {
                    for generation in generations.iter().filter(|generation| **generation != current) {
                        self.tables.remove(&format!("{table}@{stored_name}~{generation}"));
                    }
                    self.tables.remove(table);
                }
            }
        }
        self.projections.entry(projection.stored_name()).or_default().generations.insert(generation);
    }

    pub(super) fn uninstall(&mut self, projection: &Tables, generation: Generation) {
        self.clear(projection, generation);
        self.projections.entry(projection.stored_name()).or_default().generations.remove(&generation);
    }

    pub(super) fn is_installed(&self, projection: &Tables, generation: Generation) -> bool {
        let known = self.projections.get(&projection.stored_name());
        known.is_some_and(|known| known.generations.contains(&generation))
    }

    pub(super) fn current(&self, projection: &Tables) -> Generation {
        self.projections.get(&projection.stored_name()).map_or(1, |known| known.current)
    }

    /// What stands behind the names of a generation's tables; nothing for the current one.
    pub(super) fn suffix(&self, projection: &Tables, generation: Generation) -> String {
        if generation == self.current(projection) {
            return String::new();
        }
        beside(projection, generation)
    }

    pub(super) fn clear(&mut self, projection: &Tables, generation: Generation) {
        let suffix = self.suffix(projection, generation);
        for name in self.names(projection) {
            self.tables.remove(&format!("{name}{suffix}"));
        }
    }

    pub(super) fn switch(&mut self, projection: &Tables, to: Generation) {
        let from = self.current(projection);
        if from == to {
            return;
        }
        let (old, new) = (beside(projection, from), beside(projection, to));
        for name in self.names(projection) {
            let (was, is) = (self.tables.remove(&name), self.tables.remove(&format!("{name}{new}")));
            self.tables.extend(was.map(|rows| (format!("{name}{old}"), rows)));
            self.tables.extend(is.map(|rows| (name, rows)));
        }
        self.projections.entry(projection.stored_name()).or_default().current = to;
    }

    /// The tables of a projection: the one with its name, and what a generation of it wrote.
    fn names(&self, projection: &Tables) -> BTreeSet<String> {
        let known = self.projections.get(&projection.stored_name());
        let written = known.into_iter().flat_map(|known| known.written.iter().cloned());
        written.chain([projection.name.to_owned()]).collect()
    }

    pub(super) fn compare(
        &self,
        projection: &Tables,
        old: Generation,
        new: Generation,
        samples: usize,
    ) -> Vec<Difference> {
        let empty = Rows::new();
        let (old, new) = (self.suffix(projection, old), self.suffix(projection, new));
        let rows = |name: &str, suffix: &str| self.tables.get(&format!("{name}{suffix}"));
        let text = |row: &Vec<u8>| String::from_utf8_lossy(row).into_owned();
        let mut differences = Vec::new();
        for table in self.names(projection) {
            let (old, new) = match (rows(&table, &old), rows(&table, &new)) {
                (None, None) => continue,
                (old, new) => (old.unwrap_or(&empty), new.unwrap_or(&empty)),
            };
            let mut difference = Difference { table, ..Difference::default() };
            for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
                let (was, is) = (old.get(key), new.get(key));
                match (was, is) {
                    _ if was == is => continue,
                    (None, _) => difference.added += 1,
                    (_, None) => difference.removed += 1,
                    (Some(_), Some(_)) => difference.changed += 1,
                }
                if difference.samples.len() < samples {
                    difference.samples.push(Sample { old: was.map(text), new: is.map(text) });
                }
            }
            differences.push(difference);
        }
        differences
    }
}

/// What stands behind the names of the tables of a generation that is not the current one.
fn beside(projection: &Tables, generation: Generation) -> String {
    format!("@{}", projection.rows(generation))
}

/// Whether this is the stored name of another version of the projection.
pub(super) fn is_other(projection: &Tables, stored_name: &str) -> bool {
    let version = stored_name.strip_prefix(projection.name).and_then(|rest| rest.strip_prefix('/'));
    version.and_then(|version| version.parse().ok()).is_some_and(|version: u32| version != projection.version)
}

//! Rows of the user's own, and the generations of projections that keep such rows.

use std::collections::{BTreeMap, BTreeSet};

use super::Rows;
use super::tx::Change;
use crate::store::{Difference, Generation, Sample, Tables};

/// Tables by name. What a generation wrote that does not have the plain names, has names of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Generations {
    tables: BTreeMap<String, Rows>,
    /// By stored name, so that each version of a projection has its own.
    projections: BTreeMap<String, Installed>,
    /// The stored name of the version that has the plain names, by the projection's name.
    published: BTreeMap<String, String>,
}

/// What is known of a version of a projection.
#[derive(Clone, Debug)]
struct Installed {
    version: u32,
    /// The generation that its queries read.
    current: Generation,
    generations: BTreeSet<Generation>,
    /// The tables that a transaction of a generation wrote, and the one with the projection's name.
    written: BTreeSet<String>,
}

impl Installed {
    fn new(projection: &Tables) -> Self {
        let written = BTreeSet::from([projection.name.to_owned()]);
        Self { version: projection.version, current: 1, generations: BTreeSet::new(), written }
    }
}

impl Generations {
    pub(super) fn table(&self, name: &str) -> Option<&Rows> {
        self.tables.get(name)
    }

    /// A table as an app with these versions of projections sees it.
    pub(super) fn seen_by(&self, own: &[Tables], name: &str) -> Option<&Rows> {
        let of = |known: &&Tables| self.names(known.name).contains(name);
        let suffix = own.iter().find(of).map(|known| self.suffix(known, self.current(known)));
        self.table(&format!("{name}{}", suffix.unwrap_or_default()))
    }

    pub(super) fn write(&mut self, of: Option<&(Tables, Generation)>, Change { table, key, row }: Change) {
        let mut name = table;
        if let Some((projection, generation)) = of {
            let suffix = self.suffix(projection, *generation);
            self.known(projection).written.insert(name.clone());
            name.push_str(&suffix);
        }
        let table = self.tables.entry(name).or_default();
        match row {
            Some(row) => table.insert(key, row),
            None => table.remove(&key),
        };
    }

    /// The tables of a projection, whichever version wrote them.
    fn names(&self, projection: &str) -> BTreeSet<String> {
        let of =
            |(other, _): &(&String, _)| other.rsplit_once('/').is_some_and(|(name, _)| name == projection);
        self.projections.iter().filter(of).flat_map(|(_, known)| known.written.iter().cloned()).collect()
    }

    fn known(&mut self, projection: &Tables) -> &mut Installed {
        self.projections.entry(projection.stored_name()).or_insert_with(|| Installed::new(projection))
    }

    pub(super) fn install(&mut self, projection: &Tables, generation: Generation) {
        self.published.entry(projection.name.to_owned()).or_insert_with(|| projection.stored_name());
        self.known(projection).generations.insert(generation);
    }

    pub(super) fn uninstall(&mut self, projection: &Tables, generation: Generation) {
        self.clear(projection, generation);
        self.known(projection).generations.remove(&generation);
    }

    pub(super) fn is_installed(&self, projection: &Tables, generation: Generation) -> bool {
        let known = self.projections.get(&projection.stored_name());
        known.is_some_and(|known| known.generations.contains(&generation))
    }

    pub(super) fn current(&self, projection: &Tables) -> Generation {
        self.projections.get(&projection.stored_name()).map_or(1, |known| known.current)
    }

    /// What comes after the names of a generation's tables; nothing for the one that has the plain names.
    pub(super) fn suffix(&self, projection: &Tables, generation: Generation) -> String {
        let stored_name = projection.stored_name();
        let is_published = self.published.get(projection.name).is_none_or(|known| *known == stored_name);
        if is_published && generation == self.current(projection) {
            return String::new();
        }
        own_names(&stored_name, generation)
    }

    pub(super) fn clear(&mut self, projection: &Tables, generation: Generation) {
        let suffix = self.suffix(projection, generation);
        for name in self.known(projection).written.clone() {
            self.tables.remove(&format!("{name}{suffix}"));
        }
    }

    pub(super) fn switch(&mut self, projection: &Tables, to: Generation) {
        self.change_names(projection.name, |all| all.known(projection).current = to);
    }

    pub(super) fn publish(&mut self, projection: &Tables) {
        self.change_names(projection.name, |all| {
            all.published.insert(projection.name.to_owned(), projection.stored_name());
        });
    }

    pub(super) fn remove_version(&mut self, name: &str, version: u32) {
        let stored_name = format!("{name}/{version}");
        self.change_names(name, |all| {
            if all.published.get(name) != Some(&stored_name) {
                return;
            }
            let of_name = |other: &&String| other.rsplit_once('/').is_some_and(|(base, _)| base == name);
            let others = all.projections.keys().filter(of_name).filter(|other| **other != stored_name);
            match others.max_by_key(|other| all.projections[*other].version).cloned() {
                Some(left) => drop(all.published.insert(name.to_owned(), left)),
                None => drop(all.published.remove(name)),
            }
        });
        let tables = self.names(name);
        let Some(Installed { generations, .. }) = self.projections.remove(&stored_name) else { return };
        for generation in generations {
            let suffix = own_names(&stored_name, generation);
            tables.iter().for_each(|table| drop(self.tables.remove(&format!("{table}{suffix}"))));
        }
    }

    /// After a change, the plain names of a projection's tables may be those of another generation.
    fn change_names(&mut self, name: &str, change: impl FnOnce(&mut Self)) {
        let holder = |all: &Self| {
            let stored_name = all.published.get(name)?.clone();
            let current = all.projections.get(&stored_name)?.current;
            Some((stored_name, current))
        };
        let (before, tables) = (holder(self), self.names(name));
        change(self);
        let after = holder(self);
        if before == after {
            return;
        }
        if let Some((stored_name, generation)) = before {
            let suffix = own_names(&stored_name, generation);
            for table in tables.clone() {
                let rows = self.tables.remove(&table);
                self.tables.extend(rows.map(|rows| (format!("{table}{suffix}"), rows)));
            }
        }
        if let Some((stored_name, generation)) = after {
            let suffix = own_names(&stored_name, generation);
            for table in tables {
                let rows = self.tables.remove(&format!("{table}{suffix}"));
                self.tables.extend(rows.map(|rows| (table, rows)));
            }
        }
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
        let known = self.projections.get(&projection.stored_name());
        for table in known.into_iter().flat_map(|known| &known.written) {
            let (old, new) = match (rows(table, &old), rows(table, &new)) {
                (None, None) => continue,
                (old, new) => (old.unwrap_or(&empty), new.unwrap_or(&empty)),
            };
            let mut difference = Difference { table: table.clone(), ..Difference::default() };
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

/// What comes after the names of a generation's tables while others have the plain names.
fn own_names(stored_name: &str, generation: Generation) -> String {
    format!("@{stored_name}~{generation}")
}

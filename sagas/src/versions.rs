//! Which versions of a process there are instances of. A program without code for one of them does not start.

use std::collections::BTreeMap;

use es_core::store::keys::Key;
use es_core::store::{Backend, Row, RowWrite, is_full, write_rows};
use es_core::{BoxError, Timestamp};
use jiff::SignedDuration;

use crate::definition::Definition;
use crate::rows::{Begun, Tables};

/// Instances that are read together, and those of a version that are named.
const PAGE: usize = 1_000;
const NAMED: usize = 5;

/// For how long a program that has begun such instances may still do so, beside one that has no code for them. After that
/// they are gone for good, if there are none.
const OVERLAP: SignedDuration = SignedDuration::from_hours(1);

/// Says which instances this program has no code for, and notes which version it begins instances of. All instances are
/// read only if there have been programs with a version that this one does not have, and not for ever: once there is no
/// instance of it, that is forgotten.
pub(crate) async fn check(
    store: &impl Backend,
    tables: &Tables,
    definitions: &[Definition],
) -> Result<Vec<String>, BoxError> {
    let known: Vec<u32> = definitions.iter().map(Definition::version).collect();
    let begun = tables.versions.all(store).await?;
    let (own, lacks): (Vec<_>, Vec<_>) =
        begun.into_iter().partition(|row| known.contains(&row.value.version));
    let without =
        if lacks.is_empty() { Without::default() } else { without_code(store, tables, &known).await? };
    let wrong = without.lines();
    if wrong.is_empty() {
        let (now, mut rows) = (store.now().await?, Vec::new());
        rows.extend(begins(tables, own.into_iter().find(|row| row.value.version == known[0]), known[0])?);
        for row in lacks.into_iter().filter(|_| !without.unreadable) {
            rows.extend(unused(tables, row, now)?);
        }
        // Another node may be first, with one of them: the next start does the others.
        for row in rows {
            drop(write_rows(store, vec![row]).await?);
        }
    }
    Ok(wrong)
}

/// From now on there are instances of this version.
fn begins(tables: &Tables, row: Option<Row<Begun>>, version: u32) -> Result<Option<RowWrite>, BoxError> {
    let begun = Begun { version, unused: None };
    Ok(match row {
        None => {
            let key = Key::default().number(version.into()).build()?;
            Some(tables.versions.insert(key, begun)?)
        }
        Some(row) if row.value.unused.is_some() => Some(tables.versions.put(&Row { value: begun, ..row })?),
        Some(_) => None,
    })
}

/// There is no instance of a version. It is not forgotten immediately: another program may be about to begin one.
fn unused(tables: &Tables, row: Row<Begun>, now: Timestamp) -> Result<Option<RowWrite>, BoxError> {
    Ok(match row.value.unused {
        None => {
            let value = Begun { unused: Some(now), ..row.value };
            Some(tables.versions.put(&Row { value, ..row })?)
        }
        Some(since) if now.duration_since(since) >= OVERLAP => Some(tables.versions.delete(&row)),
        Some(_) => None,
    })
}

/// Instances that a program has no code for.
#[derive(Debug, Default)]
struct Without {
    /// How many of each version, and the keys of some.
    versions: BTreeMap<u32, (usize, Vec<String>)>,
    /// Of some instances it cannot be said.
    unreadable: bool,
}

/// Those that have not ended.
async fn without_code(store: &impl Backend, tables: &Tables, known: &[u32]) -> Result<Without, BoxError> {
    let (mut found, mut after) = (Without::default(), None::<String>);
    loop {
        let page = store.scan(tables.instances.name(), after.as_deref(), PAGE).await?;
        let full = is_full(&page, PAGE);
        after = page.last().map(|row| row.key.clone());
        for row in page {
            // It is shown where it is worked on, and keeps no other from that.
            let Ok(Row { value: instance, .. }) = tables.instances.decode(row) else {
                found.unreadable = true;
                continue;
            };
            if !instance.ended && !known.contains(&instance.version) {
                let (count, named) = found.versions.entry(instance.version).or_default();
                *count += 1;
                named.extend((*count <= NAMED).then_some(instance.key));
            }
        }
        if !full {
            return Ok(found);
        }
    }
}

impl Without {
    /// A line for each version.
    fn lines(&self) -> Vec<String> {
        let line = |(version, (count, named)): (&u32, &(usize, Vec<String>))| {
            let more = if *count > named.len() { " and others" } else { "" };
            format!(
                "{count} instances of version {version} have not ended, and this program has no code for it: \
                 {named:?}{more}; name its definition in `earlier`, or let a program that has it end them"
            )
        };
        self.versions.iter().map(line).collect()
    }
}

//! Which versions of a process there are instances of. A program without code for one of them does not start.

use std::collections::BTreeMap;

use es_core::BoxError;
use es_core::store::keys::Key;
use es_core::store::{Backend, is_full, write_rows};

use crate::definition::Definition;
use crate::rows::{Begun, Tables};

/// Instances that are read together, and those of a version that are named.
const PAGE: usize = 1_000;
const NAMED: usize = 5;

/// Says which instances this program has no code for, and notes which version it begins instances of. All instances are
/// read only if there have been programs with a version that this one does not have.
pub(crate) async fn check(
    store: &impl Backend,
    tables: &Tables,
    definitions: &[Definition],
) -> Result<Vec<String>, BoxError> {
    let known: Vec<u32> = definitions.iter().map(Definition::version).collect();
    let begun = tables.versions.all(store).await?;
    let lacks = begun.iter().any(|row| !known.contains(&row.value.version));
    let wrong = if lacks { without_code(store, tables, &known).await? } else { Vec::new() };
    let newest = Begun { version: known[0] };
    if wrong.is_empty() && !begun.iter().any(|row| row.value == newest) {
        let key = Key::default().number(newest.version.into()).build()?;
        // Another node may be first: it writes the same.
        drop(write_rows(store, vec![tables.versions.insert(key, newest)?]).await?);
    }
    Ok(wrong)
}

/// A line for each version that has instances which have not ended, and is not known.
async fn without_code(store: &impl Backend, tables: &Tables, known: &[u32]) -> Result<Vec<String>, BoxError> {
    let (mut found, mut after) = (BTreeMap::<u32, (usize, Vec<String>)>::new(), None::<String>);
    loop {
        let page = store.scan(tables.instances.name(), after.as_deref(), PAGE).await?;
        let full = is_full(&page, PAGE);
        after = page.last().map(|row| row.key.clone());
        for row in page {
            let instance = tables.instances.decode(row)?.value;
            if !instance.ended && !known.contains(&instance.version) {
                let (count, named) = found.entry(instance.version).or_default();
                *count += 1;
                named.extend((*count <= NAMED).then_some(instance.key));
            }
        }
        if !full {
            break;
        }
    }
    let line = |(version, (count, named)): (u32, (usize, Vec<String>))| {
        let more = if count > named.len() { " and others" } else { "" };
        format!(
            "{count} instances of version {version} have not ended, and this program has no code for it: \
             {named:?}{more}; name its definition in `earlier`, or let a program that has it end them"
        )
    };
    Ok(found.into_iter().map(line).collect())
}

//! Which builds of a projection there are, and which one queries read.

use serde::{Deserialize, Serialize};

use super::backend::AnyBackend;
use super::build::Build;
use super::engine::Role;
use super::range::{self, CHECKPOINTS, Range};
use super::rows;
use super::runner::Runner;
use crate::clock::Timestamp;
use crate::limits::MAX_PAGE;
use crate::store::{
    CURRENT, Commit, CommitError, Generation, Position, RowStore, RowWrite, StoreError, Tables,
};

/// The table of one row for each projection.
pub(crate) const GENERATIONS: &str = "generations";

/// The builds of one projection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Generations {
    /// What queries read.
    pub(crate) current: Generation,
    /// What is being built to take its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) building: Option<Building>,
    /// What queries read before; kept up to date, so that one can go back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Generation>,
    /// What is on its way out: nobody works on it, and its tables may be gone or not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) leaving: Vec<Generation>,
    /// The highest number that was given out.
    pub(crate) last: Generation,
    /// Set while queries are led to another build: until this time of the store's clock, in microseconds, nobody works on
    /// the build that they read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frozen: Option<i64>,
    #[serde(skip)]
    pub(crate) rev: u64,
}

/// A build that is not read yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Building {
    pub(crate) generation: Generation,
    /// The head of the log when it began.
    pub(crate) head: Position,
    pub(crate) since: Timestamp,
    /// Whether an event that fails is treated as the projection says, not as a reason to stop.
    #[serde(default)]
    pub(crate) lenient: bool,
    /// Whether events that were skipped before are skipped again.
    #[serde(default)]
    pub(crate) honours_skips: bool,
}

impl Default for Generations {
    /// What a projection begins with.
    fn default() -> Self {
        Self {
            current: 1,
            building: None,
            previous: None,
            leaving: Vec::new(),
            last: 1,
            frozen: None,
            rev: 0,
        }
    }
}

impl Generations {
    pub(crate) async fn read(store: &dyn RowStore, processor: &str) -> Result<Option<Self>, StoreError> {
        let row = rows::one(store, GENERATIONS, processor).await?;
        row.map(|row| Ok(Self { rev: row.rev, ..rows::decode(GENERATIONS, &row)? })).transpose()
    }

    /// All that are worked on.
    pub(crate) fn all(&self) -> Vec<Generation> {
        let building = self.building.as_ref().map(|building| building.generation);
        [Some(self.current), building, self.previous].into_iter().flatten().collect()
    }

    /// What a build is to those who read; `None` for one that nobody is to work on.
    pub(crate) fn role(&self, processor: &str, generation: Generation) -> Option<Role> {
        let current = self.build(processor, self.current);
        match &self.building {
            _ if generation == self.current => self.frozen.is_none().then_some(Role::Current),
            _ if Some(generation) == self.previous => Some(Role::Previous { current }),
            Some(building) if building.generation == generation => {
                let (lenient, honours_skips) = (building.lenient, building.honours_skips);
                Some(Role::Building { current, lenient, honours_skips })
            }
            _ => None,
        }
    }

    pub(crate) fn write(&self, processor: &str) -> RowWrite {
        let row = serde_json::to_vec(self).expect("numbers serialize");
        RowWrite {
            table: GENERATIONS.into(),
            key: processor.to_owned(),
            rev: self.rev,
            row: Some(row.into()),
        }
    }

    pub(crate) fn build(&self, processor: &str, generation: Generation) -> Build {
        Build { processor: processor.into(), generation }
    }
}

/// Makes the name of a projection stand for the rows of one generation.
pub(crate) async fn point(
    store: &dyn RowStore,
    tables: &Tables,
    generation: Generation,
) -> Result<RowWrite, StoreError> {
    let name = tables.stored_name();
    let rev = rows::one(store, CURRENT, &name).await?.map_or(0, |row| row.rev);
    Ok(RowWrite { table: CURRENT.into(), key: name, rev, row: Some(tables.rows(generation).into()) })
}

/// Makes the tables and rows of a processor that is run for the first time; those of other versions go. One that acts
/// outside begins at the head: what happened before is none of its business.
pub(crate) async fn prepare(backend: &dyn AnyBackend, runner: &dyn Runner) -> Result<(), StoreError> {
    let (name, tables) = (runner.name(), runner.tables());
    loop {
        let mut rows = Vec::new();
        let known = Generations::read(backend, &name).await?;
        if let Some(tables) = &tables {
            for generation in known.clone().unwrap_or_default().all() {
                backend.install(tables, generation).await?;
            }
            if known.is_none() {
                rows.extend([Generations::default().write(&name), point(backend, tables, 1).await?]);
                rows.extend(leftovers(backend, tables).await?);
            }
        }
        let build = known.clone().unwrap_or_default().build(&name, 1);
        if known.is_none() && range::of(backend, &build).await?.is_empty() {
            let head = backend.head().await?;
            let begin = if tables.is_some() { Position(0) } else { head };
            rows.push(Range::new(build, begin, head).write());
        }
        if rows.is_empty() {
            return Ok(());
        }
        match backend.commit(Commit { rows, ..Commit::default() }).await {
            // Or another node was as fast: what it wrote is looked at.
            Ok(_) | Err(CommitError::Fenced { .. } | CommitError::Unknown(_)) => {}
            Err(CommitError::Store(error)) => return Err(error),
            Err(other) => return Err(StoreError::transient("preparing a processor", other)),
        }
    }
}

/// The rows of other versions of a projection.
async fn leftovers(backend: &dyn AnyBackend, tables: &Tables) -> Result<Vec<RowWrite>, StoreError> {
    let (name, any) = (tables.stored_name(), format!("{}/", tables.name));
    let mut gone = Vec::new();
    for table in [CHECKPOINTS, GENERATIONS] {
        for row in rows::below(backend, table, &any, None, MAX_PAGE).await? {
            if row.key.split('~').next() != Some(&*name) {
                gone.push(RowWrite { table: table.into(), key: row.key, rev: row.rev, row: None });
            }
        }
    }
    Ok(gone)
}

//! What would come of a run: if it failed now, or if something were asked of it. Nothing is written.

use es_core::Backend;
use uuid::Uuid;

use super::instance::{Instance, Loaded};
use super::kind::Kind;
use super::outcome::RunError;
use super::protocol::{Acts, Next};
use super::rows::{Asked, Tables};
use super::told::told;

/// What would become of a run if it failed now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IfItFailed {
    /// This would be undone: one entry after the other, what stands in one at the same time.
    Undone(Vec<Vec<WouldUndo>>),
    /// Nothing: it goes forward, or waits for a person. Why.
    Forward(String),
}

/// What would be done about a step.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WouldUndo {
    /// Its name.
    pub step: String,
    /// How.
    pub how: HowUndone,
}

impl WouldUndo {
    pub(crate) fn new(step: &str, how: HowUndone) -> Self {
        Self { step: step.to_owned(), how }
    }
}

/// What is done about a step that has run, or may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HowUndone {
    /// It has run: its undo is called.
    Undone,
    /// It may have run: its undo is called with [`Ran::Maybe`](crate::saga::Ran::Maybe).
    Voided,
    /// It may have run: it is called again until that is certain. If it has, it is undone after that.
    Settled,
    /// It is a saga of its own, which is undone as its own steps say.
    Child,
    /// A person is asked. It is taken here that they skip it.
    Asked,
}

/// What would come of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DryRun {
    /// What would be written, in words and in order.
    pub records: Vec<String>,
    /// What it would wait for then.
    pub waits_for: String,
}

/// A run as it is now, or why that cannot be said.
type Found<P> = Result<Box<Instance<P>>, String>;

impl<B: Backend, P: Acts<B>> Kind<B, P> {
    /// What would be undone if a run failed now.
    pub(super) async fn foresee(&self, key: &str) -> Result<Result<IfItFailed, String>, RunError> {
        let now = self.clock.now(&*self.backend).await?;
        let found = self.load(key, None).await?;
        Ok(found.and_then(|run| self.protocol.if_it_failed(run.run, &run.state, now)))
    }

    /// What would come of something that is asked of a run. `expected`: which one.
    pub(super) async fn try_out(
        &self,
        key: &str,
        expected: Option<Uuid>,
        asked: Asked,
    ) -> Result<Result<DryRun, String>, RunError> {
        let now = self.clock.now(&*self.backend).await?;
        let found = self.load(key, expected).await?;
        Ok(found.and_then(|run| {
            // Whoever has it makes these calls now.
            let busy = self.protocol.under_way(run.run, &run.state, now);
            let records = self.protocol.asked(&run.state, &busy, &asked).map_err(|no| no.why)?;
            let change = run.with(&*self.protocol, records, &busy, now)?;
            let records = change.written.iter().map(|written| told(&written.record)).collect();
            let waits_for = match change.then {
                Next::Ended => "nothing: it has ended".to_owned(),
                _ => self.protocol.waits_for(run.run, &change.next.state, now),
            };
            Ok(DryRun { records, waits_for })
        }))
    }

    async fn load(&self, key: &str, expected: Option<Uuid>) -> Result<Found<P>, RunError> {
        let run = self.run_of(key, expected).await?;
        let tables: &Tables = &self.tables;
        Ok(match Instance::load(&*self.protocol, tables, &*self.backend, run).await? {
            Loaded::Live(instance) => Ok(instance),
            Loaded::Over => Err("it has ended".to_owned()),
            Loaded::Newer(format) => {
                Err(format!("a newer program wrote it, in format {format}: ask that one"))
            }
            Loaded::Other(version) => Err(format!("ask a node that has version {version} of its definition")),
            Loaded::Damaged(why) => Err(format!("it cannot be read: {why}")),
        })
    }
}

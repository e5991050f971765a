//! Runs of a saga or a TCC, and of whatever else is on the engine of transactions.

use std::time::Duration;

use async_trait::async_trait;
use es_core::store::StoreError;

use super::act::{Act, ActError, ActName};
use super::filter::Filter;
use super::listed::{Listed, Pattern, Status, Which};
use super::source::{Part, Source};
use crate::transaction::{Outcome, RunCursor, RunError, RunFilter, RunListed, RunStatus, Runs, Verb};

const OF_SAGA: &[ActName] =
    &[ActName::Retry, ActName::Skip, ActName::Resolve, ActName::Cancel, ActName::GoForward, ActName::Abandon];
const OF_TCC: &[ActName] =
    &[ActName::Retry, ActName::Skip, ActName::Resolve, ActName::Cancel, ActName::Abandon];
/// Its local transaction says what becomes of it.
const OF_HALF: &[ActName] = &[ActName::Retry, ActName::Skip, ActName::Resolve, ActName::Abandon];

#[async_trait]
impl Source for Runs {
    fn pattern(&self) -> Pattern {
        Pattern::of(self.pattern())
    }

    fn kind(&self) -> &str {
        self.name()
    }

    fn knows(&self) -> &'static [ActName] {
        match Source::pattern(self) {
            Pattern::TCC | Pattern::THREE_PHASE => OF_TCC,
            Pattern::HALF => OF_HALF,
            _ => OF_SAGA,
        }
    }

    async fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Result<Part, StoreError> {
        let Some(of_runs) = of_runs(filter) else { return Ok(Part::default()) };
        let after = after.map(|after| RunCursor::from(after.to_owned()));
        let page = self.list(&of_runs, after.as_ref(), limit).await.map_err(of_store)?;
        let pattern = Source::pattern(self);
        let listed = page.runs.into_iter().map(|run| listed(pattern, self.name(), run));
        let listed = listed.filter(|listed| filter.wants(listed)).collect();
        Ok(Part { listed, unasked: Vec::new(), next: page.next.map(|next| next.to_string()) })
    }

    async fn waits_for(&self, which: &Which) -> Result<Vec<String>, ActError> {
        let shown = self.show(&which.key).await.map_err(|error| ActError::of_run(which, error))?;
        match which.is(shown.run) {
            true => Ok(vec![shown.waits_for]),
            false => Err(ActError::Missing(which.clone())),
        }
    }

    async fn ask(
        &self,
        which: &Which,
        act: Act,
        by: (String, String),
        limit: Duration,
    ) -> Result<(), ActError> {
        let asked = self.0.ask(&which.key, which.id, verb(act)?, by, limit).await;
        asked.map_err(|error| ActError::of_run(which, error))?.map_err(ActError::declined)
    }

    async fn dry_run(&self, which: &Which, act: Act, by: (String, String)) -> Result<String, ActError> {
        let verb = verb(act)?;
        let foreseen =
            async { self.kind_of(&which.key).await?.dry_run(&which.key, which.id, verb, by).await };
        let foreseen = foreseen.await.map_err(|error| ActError::of_run(which, error))?;
        let foreseen = foreseen.map_err(ActError::declined)?;
        Ok(format!("{}; then it waits for {}", foreseen.records.join("; "), foreseen.waits_for))
    }
}

/// What is asked of the list of runs; `None`: none can be wanted.
fn of_runs(filter: &Filter) -> Option<RunFilter> {
    let ended = [Status::Done, Status::Undone, Status::Abandoned];
    let all = [
        (RunStatus::Running, filter.wants_status(Status::Running)),
        (RunStatus::Undoing, filter.wants_status(Status::Undoing)),
        (RunStatus::Parked, filter.wants_status(Status::Parked)),
        (RunStatus::Damaged, filter.wants_status(Status::Damaged)),
        (RunStatus::Ended, filter.wants_any(&ended)),
    ];
    let mut wanted = all.into_iter().filter(|(_, wants)| *wants).map(|(status, _)| status).peekable();
    wanted.peek()?;
    let mut of_runs = wanted.fold(RunFilter::all(), RunFilter::with_status);
    if let Some(error) = filter.error() {
        of_runs = of_runs.failing_with(error);
    }
    Some(filter.before().into_iter().fold(of_runs, RunFilter::begun_before))
}

fn listed(pattern: Pattern, kind: &str, run: RunListed) -> Listed {
    let RunListed { run, key, version, status, begun, ended, outcome, error, holder, wake, since, why } = run;
    let status = match (status, &outcome) {
        (RunStatus::Undoing, _) => Status::Undoing,
        (RunStatus::Parked, _) => Status::Parked,
        (RunStatus::Damaged, _) => Status::Damaged,
        (RunStatus::Running, _) | (RunStatus::Ended, None) => Status::Running,
        (RunStatus::Ended, Some(Outcome::Completed)) => Status::Done,
        (RunStatus::Ended, Some(Outcome::Undone(_))) => Status::Undone,
        (RunStatus::Ended, Some(Outcome::Abandoned { .. })) => Status::Abandoned,
    };
    let reason = why.or_else(|| outcome.filter(|of| *of != Outcome::Completed).map(|of| of.to_string()));
    let which = Which::new(pattern, kind, key).with_id(run);
    let since = ended.or(since);
    Listed { reason, begun, since, owner: holder, wakes: wake, error, ..Listed::new(which, version, status) }
}

fn verb(act: Act) -> Result<Verb, ActError> {
    Ok(match act {
        Act::Retry { part } => Verb::Retry { step: part },
        Act::Skip { part } => Verb::Skip { step: part },
        Act::Resolve { part, output } => Verb::Resolve { step: part, output },
        Act::Cancel => Verb::Cancel,
        Act::GoForward => Verb::GoForward,
        Act::Abandon => Verb::Abandon,
        Act::Decide(_) => return Err(ActError::declined("a run decides by itself")),
    })
}

fn of_store(error: RunError) -> StoreError {
    match error {
        RunError::Store(error) => error,
        other => StoreError::misuse(other.to_string()),
    }
}

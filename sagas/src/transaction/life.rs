//! What happens to a run, as events of the log: for views, and for processes that follow a saga.

use std::fmt;
use std::str::FromStr;

use es_core::command::Sender;
use es_core::store::{Row, Transaction};
use es_core::{Aggregate, Apply, BoxError, CommandError, Context, Event, commands};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::outcome::{Outcome, Why};
use super::rows::{Head, Record, Status, Written};
use crate::message::Never;

/// A run, as the id of its stream: stored as `saga-KIND/RUN`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct RunId {
    /// Which saga.
    pub saga: String,
    /// The run.
    pub run: Uuid,
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.saga, self.run.simple())
    }
}

impl FromStr for RunId {
    type Err = BoxError;

    fn from_str(text: &str) -> Result<Self, BoxError> {
        let (saga, run) = text.rsplit_once('/').ok_or("a run has a `/` between the saga and the id")?;
        Ok(Self { saga: saga.to_owned(), run: run.parse()? })
    }
}

macro_rules! facts { ($($(#[$doc:meta])* $name:ident { $($(#[$of:meta])* $field:ident: $type:ty),* })+) => { $(
    $(#[$doc])*
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[non_exhaustive]
    pub struct $name {
        /// Which saga.
        pub saga: String,
        /// The key that the run was started under.
        pub key: String,
        /// The run.
        pub run: Uuid,
        $($(#[$of])* pub $field: $type,)*
    }
)+ } }
facts! {
    /// A run was taken up for the first time.
    SagaStarted {}
    /// It was decided that what a run did is undone.
    SagaUndoing {
        /// Why.
        why: Why
    }
    /// A run waits for a person.
    SagaParked {
        /// Why.
        why: String
    }
    /// A run goes on that waited for a person.
    SagaWentOn {}
    /// A run has ended.
    SagaEnded {
        /// How.
        outcome: Outcome
    }
}

/// What happens to runs of a saga that [announces](crate::saga::SagaBuilder::announced) it. Each is in the commit of what it
/// tells of.
#[derive(Event, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[event(prefix = "saga")]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is described by its type")]
pub enum SagaEvent {
    Started(SagaStarted),
    Undoing(SagaUndoing),
    Parked(SagaParked),
    WentOn(SagaWentOn),
    Ended(SagaEnded),
}

/// The stream of a run: what was told of it. The run itself is in rows.
#[derive(Aggregate, Clone, Copy, Debug, Default)]
#[aggregate(name = "saga", id = RunId, event = SagaEvent, error = Never)]
#[non_exhaustive]
pub struct SagaLife {}

impl Apply for SagaLife {
    fn apply(&mut self, _: &SagaEvent) {}
}

/// Tells what happened to a run: sent by the engine, within its commits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Announce(Vec<SagaEvent>);

#[commands]
impl SagaLife {
    #[create_if_missing]
    fn announce(&self, cmd: Announce, ctx: &Context) -> Result<Vec<SagaEvent>, Never> {
        let is_told_before = ctx.version().0 > 0;
        Ok(cmd
            .0
            .into_iter()
            .filter(|event| !is_told_before || !matches!(event, SagaEvent::Started(_)))
            .collect())
    }
}

/// What happened to a run between two heads. `why`: why it waits for a person, if it does.
pub(crate) fn between(
    saga: &str,
    run: Uuid,
    before: &Row<Head>,
    after: &Head,
    written: &[Written],
    why: Option<String>,
) -> Vec<SagaEvent> {
    let (is_first, before) = (before.rev == 1, &before.value);
    let (saga, key) = (|| saga.to_owned(), || after.key.clone());
    let mut events = Vec::new();
    let is_parked = |head: &Head| head.status == Status::Parked;
    if is_parked(before) && !is_parked(after) {
        events.push(SagaEvent::WentOn(SagaWentOn { saga: saga(), key: key(), run }));
    }
    for Written { record, .. } in written {
        if let Record::Decided { why, .. } = record {
            let why = why.clone();
            events.push(SagaEvent::Undoing(SagaUndoing { saga: saga(), key: key(), run, why }));
        }
    }
    if is_parked(after) && !is_parked(before) {
        let why = why.unwrap_or_default();
        events.push(SagaEvent::Parked(SagaParked { saga: saga(), key: key(), run, why }));
    }
    if let Some(outcome) = after.outcome.clone() {
        events.push(SagaEvent::Ended(SagaEnded { saga: saga(), key: key(), run, outcome }));
    }
    // It goes with the first that is told, whichever that is.
    if is_first || !events.is_empty() {
        events.insert(0, SagaEvent::Started(SagaStarted { saga: saga(), key: key(), run }));
    }
    events
}

/// Puts events of a run into a transaction.
pub(crate) async fn announce<T: Transaction>(
    sender: &Sender,
    saga: &str,
    run: Uuid,
    events: Vec<SagaEvent>,
    tx: &mut T,
) -> Result<(), CommandError<Never>> {
    let id = RunId { saga: saga.to_owned(), run };
    let actor = format!("saga {saga}");
    sender.send(&id, Announce(events)).actor(actor).even_closing().within(tx).await.map(drop)
}

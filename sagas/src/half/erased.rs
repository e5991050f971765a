//! Local transactions without their types: whoever runs them, and however they are checked.

use std::any::TypeId;
use std::marker::PhantomData;
use std::time::Duration;

use async_trait::async_trait;
use es_core::guard::Outcome;
use es_core::services::Services;
use es_core::{BoxError, chain};
use xxhash_rust::xxh3::xxh3_128;

use super::local::{ByCaller, LocalState, LocalTransaction, TransactionListener};
use super::machine::{RunBy, Told};
use crate::data::Data;
use crate::saga::{
    Cx, Does, GuardedVisit, Outside, Retry, SagaInput, StepError, Visit as _, enter, is_there, outcome,
};
use crate::transaction::{Answer, Heard, Site, cut};

/// What a call is made with.
pub(super) struct With<'a, In> {
    pub(super) kind: &'a str,
    /// What the run began with, as it is stored.
    pub(super) data: &'a Data,
    pub(super) input: &'a In,
    pub(super) site: &'a Site,
}

impl<'a, In: SagaInput> With<'a, In> {
    fn cx(&self) -> Cx<'a, In> {
        Cx::new(self.input, (), &self.site.key, self.site.run, &self.site.sender)
    }

    fn outside(&self) -> Outside<'a> {
        let (name, fingerprint) = named(self.kind, self.data);
        Outside { run: self.site.run, name, fingerprint, does: Does::Run, services: &self.site.services }
    }
}

/// The name of the guarded call, and the fingerprint of what it is made with.
pub(super) fn named(kind: &str, data: &Data) -> (String, u128) {
    (format!("{kind}/{}", super::machine::LOCAL), xxh3_128(data.text().as_bytes()))
}

/// A local transaction whose types are known to itself only.
#[async_trait]
pub(super) trait DynLocal<In>: Send + Sync {
    fn run_by(&self) -> RunBy;

    fn retry(&self) -> Retry {
        Retry::default()
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// The database that it runs in, if that has its guard row.
    fn guards(&self) -> Option<TypeId> {
        None
    }

    /// Whether its database is there.
    async fn is_there(&self, services: &Services) -> Result<(), BoxError>;

    /// Runs it.
    async fn execute(&self, with: With<'_, In>) -> Answer;

    /// Asks what became of it.
    async fn check(&self, with: With<'_, In>) -> Told;
}

/// One that the engine runs.
pub(super) struct OfEngine<L>(pub(super) L);

#[async_trait]
impl<In: SagaInput, L: LocalTransaction<In>> DynLocal<In> for OfEngine<L> {
    fn run_by(&self) -> RunBy {
        RunBy::Engine
    }

    fn guards(&self) -> Option<TypeId> {
        Some(TypeId::of::<L::Database>())
    }

    fn retry(&self) -> Retry {
        self.0.retry()
    }

    fn limit(&self) -> Duration {
        self.0.limit()
    }

    async fn is_there(&self, services: &Services) -> Result<(), BoxError> {
        is_there::<L::Database>(services).await
    }

    async fn execute(&self, with: With<'_, In>) -> Answer {
        let mut visit: GuardedVisit<'_, L::Database> = match enter(with.outside(), false).await {
            Ok(visit) => visit,
            Err(told) => return told.into(),
        };
        let told = match self.0.execute(with.cx(), visit.at()).await {
            Ok(()) => Ok(Data::null()),
            Err(StepError::Refused(why)) => Err(StepError::Refused(why.to_string())),
            Err(StepError::Retry(error)) => Err(StepError::Retry(error)),
        };
        visit.leave(told).await.into()
    }

    async fn check(&self, with: With<'_, In>) -> Told {
        ask::<L::Database>(with.outside()).await
    }
}

/// One that the caller runs.
pub(super) struct OfCaller<In>(pub(super) PhantomData<fn() -> In>);

#[async_trait]
impl<In: ByCaller> DynLocal<In> for OfCaller<In> {
    fn run_by(&self) -> RunBy {
        RunBy::Caller
    }

    fn guards(&self) -> Option<TypeId> {
        Some(TypeId::of::<In::Database>())
    }

    async fn is_there(&self, services: &Services) -> Result<(), BoxError> {
        is_there::<In::Database>(services).await
    }

    async fn execute(&self, _: With<'_, In>) -> Answer {
        Answer::Failed("its caller runs it: a mistake of the engine".into())
    }

    async fn check(&self, with: With<'_, In>) -> Told {
        ask::<In::Database>(with.outside()).await
    }
}

/// One whose check its author has written.
pub(super) struct Listened<L>(pub(super) L);

#[async_trait]
impl<In: SagaInput, L: TransactionListener<In>> DynLocal<In> for Listened<L> {
    fn run_by(&self) -> RunBy {
        RunBy::Listener
    }

    fn retry(&self) -> Retry {
        self.0.retry()
    }

    fn limit(&self) -> Duration {
        self.0.limit()
    }

    async fn is_there(&self, _: &Services) -> Result<(), BoxError> {
        Ok(())
    }

    async fn execute(&self, with: With<'_, In>) -> Answer {
        // It has returned, whatever it says.
        let told = heard(self.0.execute_local(with.cx()).await, "the call that ran it");
        Data::of(&told).map_or_else(Answer::Failed, Answer::Done)
    }

    async fn check(&self, with: With<'_, In>) -> Told {
        heard(self.0.check_local(with.cx()).await, "the listener")
    }
}

/// What a listener has said.
fn heard(said: Result<LocalState, BoxError>, who: &str) -> Told {
    let why = |what: &str| format!("{who} {what}");
    match said {
        Ok(LocalState::Commit) => Told { says: Heard::Commit, why: String::new() },
        Ok(LocalState::Rollback) => Told { says: Heard::Rollback, why: why("says so") },
        Ok(LocalState::Unknown) => Told { says: Heard::Unknown, why: why("does not know") },
        Ok(LocalState::NotMine) => Told { says: Heard::NotMine, why: why("does not know its id") },
        Err(error) => Told { says: Heard::Unknown, why: cut(&chain(&*error)) },
    }
}

/// Why nothing is sent, with what it has refused with.
fn never(why: Option<String>) -> String {
    let never = "it has not committed, and never will";
    why.map_or_else(|| never.to_owned(), |why| format!("{never}: {why}"))
}

/// Asks by the guard row, which is left there if there is none: so the answer is final.
async fn ask<D: es_core::guard::GuardedDatabase>(outside: Outside<'_>) -> Told {
    let (says, why) = match outcome::<D>(outside).await {
        Ok(Ok(Outcome::Ran)) => (Heard::Commit, String::new()),
        Ok(Ok(Outcome::Never(why))) => (Heard::Rollback, never(why)),
        Ok(Err(error)) if error.is_in_progress() => (Heard::InProgress, cut(&chain(&error))),
        Ok(Err(error)) => (Heard::Unknown, cut(&chain(&error))),
        Err(missing) => (Heard::Unknown, missing.to_string()),
    };
    Told { says, why }
}

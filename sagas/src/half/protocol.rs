//! Half messages as a protocol of the engine: what follows is [`Shape`]'s, what calls do is the local transaction's.

use std::any::TypeId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use es_core::services::Services;
use es_core::{Backend, BoxError, Timestamp, chain};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use uuid::Uuid;

use super::PATTERN;
use super::definition::HalfMessages;
use super::erased::{DynLocal, With};
use super::machine::{EXECUTE, LOCAL, RunBy, SEND, Shape, State};
use super::message::Prepared;
use crate::data::Data;
use crate::keeping::brief;
use crate::saga::SagaInput;
use crate::transaction::{
    Acts, Answer, Asked, Call, IfItFailed, Next, No, OF_HALF, OwnFault, Protocol, Record, RunStatus, Site,
    Staging, StepShown, Written,
};

/// A definition, ready to be driven.
pub(super) struct HalfProtocol<In> {
    kind: String,
    remember: Duration,
    shape: Shape,
    local: Arc<dyn DynLocal<In>>,
}

impl<In> std::fmt::Debug for HalfProtocol<In> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HalfProtocol").field(&self.kind).finish()
    }
}

impl<In: SagaInput> HalfProtocol<In> {
    pub(super) fn new(of: &HalfMessages<In>) -> Self {
        Self { kind: of.kind.clone(), remember: of.remember, shape: of.shape(), local: of.local.clone() }
    }

    /// What is wrong with the definition, a line each.
    pub(super) fn wrong(&self) -> Vec<String> {
        let (kind, name) = (&self.kind, self.kind.strip_prefix(OF_HALF).unwrap_or(&self.kind));
        let named = es_core::limits::stored_name("name of half messages", name);
        let mut wrong: Vec<String> = named.err().map(|error| error.to_string()).into_iter().collect();
        wrong.extend(brief(&format!("{kind} remembers runs"), self.remember));
        wrong
    }

    /// What a run began with.
    fn prepared(state: &State) -> Result<(&Data, Prepared<In>), BoxError> {
        let data = state.input.as_ref().ok_or("it has no input")?;
        let read =
            data.read().map_err(|error| format!("the input of the half message cannot be read: {error}"));
        Ok((data, read?))
    }

    async fn called(&self, state: &State, call: Call, site: &Site) -> Answer {
        let (data, prepared) = match Self::prepared(state) {
            Ok(prepared) => prepared,
            Err(error) => return Answer::Failed(OwnFault::boxed(error)),
        };
        let with = With { kind: &self.kind, data, input: &prepared.input, site };
        if call == EXECUTE {
            return self.local.execute(with).await;
        }
        let told = self.local.check(with).await;
        Data::of(&told).map_or_else(Answer::Failed, Answer::Done)
    }
}

impl<In: SagaInput> Protocol for HalfProtocol<In> {
    const PATTERN: &'static str = PATTERN;
    const STAGES: &'static [&'static str] = &["prepared", "unknown", "checking", "commit", "rollback"];

    type State = State;

    fn begin(&self) -> State {
        State::default()
    }

    /// What this program cannot read is no failure of a local transaction: the run waits for one that can.
    fn fold(&self, state: &mut State, written: &Written) -> Result<(), String> {
        if let Record::Begun { input, .. } = &written.record {
            drop(self.normal(input)?);
        }
        self.shape.fold(state, written)
    }

    fn next(&self, run: Uuid, state: &State, busy: &BTreeSet<Call>, now: Timestamp) -> Next {
        self.shape.next(run, state, busy, now)
    }

    fn calls_once(&self) -> bool {
        self.shape.run_by == RunBy::Listener
    }

    fn asked(&self, state: &State, busy: &BTreeSet<Call>, asked: &Asked) -> Result<Vec<Record>, No> {
        Ok(self.shape.asked(state, busy, asked)?)
    }

    fn answered(&self, state: &State, call: Call, answer: Answer) -> Record {
        self.shape.answered(state, call, answer)
    }

    fn status(&self, run: Uuid, state: &State, now: Timestamp) -> (RunStatus, Option<String>) {
        self.shape.status(run, state, now)
    }

    fn deadline(&self) -> Option<Duration> {
        None
    }

    fn remember(&self) -> Duration {
        self.remember
    }

    fn calls_outside(&self, state: &State) -> bool {
        self.shape.calls_outside(state)
    }

    fn normal(&self, input: &Data) -> Result<Data, String> {
        let normal = input.read::<Prepared<In>>().and_then(|prepared| Data::of(&prepared));
        normal.map_err(|error| error.to_string())
    }

    fn show(&self, state: &State) -> Vec<StepShown> {
        self.shape.show(state)
    }

    fn steps(&self) -> usize {
        2
    }

    fn stage(&self, state: &State) -> Option<&'static str> {
        Some(state.stage())
    }

    fn rests_at_first(&self) -> Duration {
        match self.shape.run_by {
            RunBy::Caller => self.shape.immunity,
            RunBy::Engine | RunBy::Listener => Duration::ZERO,
        }
    }

    fn under_way(&self, run: Uuid, state: &State, now: Timestamp) -> BTreeSet<Call> {
        self.shape.under_way(run, state, now)
    }

    fn if_it_failed(&self, run: Uuid, state: &State, now: Timestamp) -> Result<IfItFailed, String> {
        self.shape.if_it_failed(run, state, now)
    }

    fn waits_for(&self, run: Uuid, state: &State, now: Timestamp) -> String {
        self.shape.waits_for(run, state, now)
    }
}

#[async_trait]
impl<In: SagaInput, B: Backend> Acts<B> for HalfProtocol<In> {
    fn guarded(&self, database: TypeId) -> Vec<String> {
        let is_there = self.local.guards() == Some(database);
        is_there.then(|| LOCAL.to_owned()).into_iter().collect()
    }

    fn is_local(&self, call: Call) -> bool {
        call == SEND
    }

    fn is_staged(&self, call: Call) -> bool {
        call == SEND
    }

    fn joins_answers(&self, call: Call) -> bool {
        call == SEND
    }

    fn limit(&self, _: Call) -> Duration {
        self.shape.limit
    }

    async fn check(&self, services: &Services) -> Vec<String> {
        let is_there = self.local.is_there(services).await;
        let wrong =
            is_there.map_err(|error| format!("the local transaction of {}: {}", self.kind, chain(&*error)));
        wrong.err().into_iter().collect()
    }

    async fn local(&self, _: &State, _: Call, _: &Site, _: &mut B::Tx) -> Answer {
        Answer::Failed("a message is only staged: a mistake of the engine".into())
    }

    /// The message is appended as one that is published by itself.
    async fn staged(&self, state: &State, _: Call, site: &Site, staging: &mut Staging) -> Answer {
        let published = Self::prepared(state).and_then(|(_, prepared)| prepared.message.published());
        let (topic, publish) = match published {
            Ok(published) => published,
            Err(error) => return Answer::Failed(OwnFault::boxed(error)),
        };
        match site.sender.send(&topic, publish).even_closing().within(staging).await {
            Ok(_) => Answer::Done(Data::null()),
            Err(error) => Answer::Failed(error.into()),
        }
    }

    fn remote(&self, state: State, call: Call, site: Site) -> BoxFuture<'static, Answer> {
        let (kind, remember, shape) = (self.kind.clone(), self.remember, self.shape.clone());
        let own = Self { kind, remember, shape, local: self.local.clone() };
        async move { own.called(&state, call, &site).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::half::{LocalState, TransactionListener};
    use crate::saga::Cx;

    #[derive(Serialize, Deserialize)]
    struct Pay {}
    impl SagaInput for Pay {}

    struct Knows;
    impl TransactionListener<Pay> for Knows {
        async fn execute_local(&self, _: Cx<'_, Pay>) -> Result<LocalState, BoxError> {
            Ok(LocalState::Commit)
        }
        async fn check_local(&self, _: Cx<'_, Pay>) -> Result<LocalState, BoxError> {
            Ok(LocalState::Commit)
        }
    }

    #[test]
    fn what_is_wrong_with_a_definition_is_said() {
        let wrong = |of: HalfMessages<Pay>| HalfProtocol::new(&of).wrong();
        assert_eq!(wrong(HalfMessages::listened("pay", 1, Knows)), [""; 0]);
        assert_eq!(wrong(HalfMessages::listened("", 1, Knows)), ["name of half messages is empty"]);
        let brief = HalfMessages::listened("pay", 1, Knows).remember(Duration::from_secs(1));
        assert_eq!(wrong(brief), ["half.pay remembers runs for 1s: it has to be an hour at least"]);
    }
}

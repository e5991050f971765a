//! Decisions that span streams: the boundary is a query, not a stream (dynamic consistency boundaries).

use std::sync::Arc;

use crate::codec::EncodeError;
use crate::command::NoAnswer;
use crate::event::{EventData, Metadata};
use crate::guarded::handle_now;
use crate::limits::{LimitError, MAX_PAGE};
use crate::repository::stream_of;
use crate::retry::RetryPolicy;
use crate::store::{
    Append, AppendCondition, Commit, CommitError, Committed, EventFilter, ExpectedVersion, NewEvent,
    Position, RecordedEvent, StoreError, StreamId,
};
use crate::{Aggregate, App, BoxError, ErrorKind, Event, IntoEvents, Refusal};

/// A command whose consistency boundary is what it reads.
///
/// It loads every event that [`scope`](Self::scope) matches, folds them, decides, and appends under the
/// condition that nothing matching came in between; on a conflict it does all of that again.
///
/// From Sara Pellegrini's "Killing the aggregate" and <https://dcb.events>.
pub trait Decision: Clone + Send + Sync + 'static {
    /// What the matching events fold to.
    type State: Default + Send;
    /// Why it says no.
    type Error: Refusal;
    /// The events it depends on: as narrow as it can be, since each of them is read.
    fn scope(&self) -> EventFilter;
    /// Takes in one matching event; [`RecordedEvent::payload`] gives it typed.
    ///
    /// # Errors
    ///
    /// The event cannot be decoded.
    fn apply(&self, state: &mut Self::State, event: &RecordedEvent) -> Result<(), BoxError>;
    /// Decides.
    ///
    /// # Errors
    ///
    /// The refusal.
    fn decide(self, state: &Self::State) -> Result<Vec<Decided>, Self::Error>;
}

/// Events for one stream, decided across streams.
#[derive(Debug)]
pub struct Decided {
    stream: Result<StreamId, LimitError>,
    expected: ExpectedVersion,
    events: Vec<Result<EventData, EncodeError>>,
}

impl Decided {
    /// Events of an aggregate, wherever its stream is: the condition already guards the decision.
    #[must_use]
    pub fn on<A: Aggregate>(id: &A::Id, events: impl IntoEvents<A::Event>) -> Self {
        let events = events.into_events().iter().map(Event::encode).collect();
        Self { stream: stream_of::<A>(id), expected: ExpectedVersion::Any, events }
    }

    /// And only if the stream is where it is expected.
    #[must_use]
    pub const fn expecting(mut self, expected: ExpectedVersion) -> Self {
        self.expected = expected;
        self
    }
}

/// Why a decision was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecideError<E> {
    /// The domain said no.
    #[error("refused")]
    Refused(#[source] E),
    /// An event of the scope could not be read, or [`Decision::apply`] panicked at it.
    #[error("an event of the scope cannot be read")]
    Decode(#[source] BoxError),
    /// A decided event could not be written.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The app is shutting down.
    #[error("the app is shutting down")]
    ShuttingDown,
    /// It may have happened: look before you decide again.
    #[error("the outcome is unknown")]
    Unknown {
        /// What happened instead of an answer.
        #[source]
        why: NoAnswer,
    },
    /// The store could not be read.
    // Not transparent: who looks for the store's error among the sources finds it.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The commit was refused; a conflict only after every try.
    #[error("the decision was not stored")]
    Commit(#[from] CommitError),
}

impl<E> DecideError<E> {
    /// What the caller can do.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(_) => ErrorKind::Refused,
            Self::Decode(_) => ErrorKind::Corrupt,
            Self::Encode(_) => ErrorKind::Misuse,
            Self::ShuttingDown => ErrorKind::Transient,
            Self::Unknown { .. } => ErrorKind::Unknown,
            Self::Store(e) => e.kind(),
            Self::Commit(e) => e.kind(),
        }
    }
}

impl App {
    /// Decides over what the decision's scope matches. Interceptors see commands, not decisions.
    ///
    /// # Errors
    ///
    /// [`DecideError`].
    pub async fn decide<D: Decision>(&self, decision: D) -> Result<Committed, DecideError<D::Error>> {
        self.decide_as(decision, Metadata::default()).await
    }

    /// The same, with metadata for the decided events.
    ///
    /// # Errors
    ///
    /// [`DecideError`].
    pub async fn decide_as<D: Decision>(
        &self,
        decision: D,
        mut metadata: Metadata,
    ) -> Result<Committed, DecideError<D::Error>> {
        let bus = &self.inner().bus;
        let _running = bus.lifecycle.enter().ok_or(DecideError::ShuttingDown)?;
        let id = bus.ids.next();
        metadata.correlation.get_or_insert(id);
        metadata.causation.get_or_insert(id);
        let metadata = Arc::new(metadata);
        let limited = tokio::time::timeout(bus.timeout, self.decide_until(&decision, &metadata));
        let unknown = |why| Err(DecideError::Unknown { why: NoAnswer(why) });
        tokio::select! {
            biased;
            outcome = limited => outcome.unwrap_or_else(|_| unknown("it took longer than its time limit")),
            () = bus.lifecycle.killed() => unknown("the app was shut down meanwhile"),
        }
    }

    /// Tries until it is decided for good.
    async fn decide_until<D: Decision>(
        &self,
        decision: &D,
        metadata: &Arc<Metadata>,
    ) -> Result<Committed, DecideError<D::Error>> {
        let bus = &self.inner().bus;
        let policy: RetryPolicy = bus.retry;
        let mut attempt = 1;
        loop {
            let outcome = self.decide_once(decision, metadata).await;
            let again = match &outcome {
                Err(DecideError::Commit(e)) => matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Transient),
                Err(DecideError::Store(e)) => e.kind() == ErrorKind::Transient,
                _ => false,
            };
            match policy.wait_after(attempt, &bus.ids).filter(|_| again) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return outcome,
            }
            attempt += 1;
        }
    }

    async fn decide_once<D: Decision>(
        &self,
        decision: &D,
        metadata: &Arc<Metadata>,
    ) -> Result<Committed, DecideError<D::Error>> {
        let bus = &self.inner().bus;
        let scope = decision.scope();
        let (mut state, mut seen, history) = (D::State::default(), Position(0), self.store().history());
        loop {
            let page = self.store().read(&scope, seen, MAX_PAGE).await?;
            for event in &page.events {
                // Whoever handles an event with this decision is told if only a newer program knows this one.
                handle_now(event, || decision.apply(&mut state, event)).map_err(DecideError::Decode)?;
            }
            seen = page.through;
            if !page.more {
                break;
            }
        }
        let decided = decision.clone().decide(&state);
        if self.store().history() != history {
            // Neither a yes nor a no counts.
            return Err(DecideError::Commit(CommitError::OtherHistory));
        }
        let decided = decided.map_err(DecideError::Refused)?;
        let mut commit = Commit {
            condition: Some(AppendCondition { fail_if_events_match: scope, after: seen }),
            ..Commit::default()
        };
        for Decided { stream, expected, events } in decided {
            let stream = stream.map_err(EncodeError::Limit)?;
            let new = |data| NewEvent::new(bus.ids.next(), data, metadata.clone());
            let events = events.into_iter().map(|data| data.map(new)).collect::<Result<_, _>>()?;
            commit.appends.push(Append { stream, expected, events });
        }
        match crate::command::commit(self.store(), commit).await {
            Err(CommitError::Unknown(attempt)) => Ok(crate::command::resolve(bus, &attempt).await?),
            outcome => Ok(outcome?),
        }
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::event::{is_of_a_newer_program, noting_unknown_in};
    use crate::memory::MemoryBackend;
    use crate::store::EventStore as _;
    use crate::testing::conformance::domain::AccountEvent;

    /// A decision over events that only a newer program knows, which says so in words of its own.
    #[derive(Clone)]
    struct Thaw;

    impl Decision for Thaw {
        type State = ();
        type Error = crate::testing::conformance::domain::HasAccount;
        fn scope(&self) -> EventFilter {
            EventFilter::all()
        }
        fn apply(&self, (): &mut (), event: &RecordedEvent) -> Result<(), BoxError> {
            AccountEvent::decode(event).map(drop).map_err(|_| "in words of its own".into())
        }
        fn decide(self, (): &()) -> Result<Vec<Decided>, Self::Error> {
            Ok(Vec::new())
        }
    }

    #[tokio::test]
    async fn a_handler_that_cannot_decide_is_left_to_a_newer_program_whatever_it_says() {
        let backend = MemoryBackend::new();
        let (name, codec) = ("account.frozen".into(), "json".into());
        let data = EventData { name, schema: 1, codec, data: "{}".into(), tags: Vec::new() };
        let event = |n| NewEvent::new(uuid::Uuid::from_u128(n), data.clone(), Arc::default());
        let stream = StreamId::new("account-a").unwrap();
        let append = Append { stream, expected: ExpectedVersion::Any, events: vec![event(1)] };
        backend.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
        let app = App::on(backend).start().await.unwrap();
        let handled = noting_unknown_in(Some(uuid::Uuid::from_u128(2)), async {
            app.decide(Thaw).await.map(drop).map_err(|error| error.to_string().into())
        });
        assert!(is_of_a_newer_program(&*handled.await.unwrap_err()));
    }
}

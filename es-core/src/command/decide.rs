//! One decision: is the aggregate where the command needs it, and what does its handler say.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::command::call::{Call, Fallible, Sent};
use crate::command::interceptor::{End, Stage};
use crate::command::{CommandError, Context, Dispatch, ErrorOf, EventsOf, Halted, Next};
use crate::event::Metadata;
use crate::guarded::caught;
use crate::repository::Loaded;
use crate::services::{FromServices, Scope};
use crate::store::{CommitError, ExpectedVersion, RowWrite};
use crate::{Apply, Command, Event, Failure, Handle, Target, chain};

/// What a handler decided, and what its events will carry.
pub(super) struct Decision<C: Command> {
    pub(super) metadata: Arc<Metadata>,
    pub(super) verdict: Result<Vec<EventsOf<C>>, ErrorOf<C>>,
    /// Rows of extension crates, which go with it.
    pub(super) also: Vec<RowWrite>,
}

impl Call<'_> {
    /// Asks the handler, through the interceptors of this stage. `beside`: rows that go into the same commit.
    pub(super) async fn decide<C: Command>(
        &self,
        sent: &mut Sent<'_, C>,
        loaded: &Loaded<C::Aggregate>,
        beside: &[RowWrite],
    ) -> Fallible<Decision<C>, C> {
        match sent {
            Sent::Plain { cmd } => self.ask(C::clone(cmd), loaded, self.metadata.clone(), beside).await,
            Sent::Intercepted(sent) => {
                let dispatch = sent.begin_decision(loaded.version);
                let mut end = Asks { call: self, loaded, beside, outcome: None };
                let chain = &self.bus.interceptors[..];
                let next = Next { chain, stage: Stage::Handle, end: &mut end };
                let halted = Box::pin(next.run(dispatch)).await;
                match (halted, end.outcome) {
                    (Err(Halted::Interceptor(error)), _) => Err(CommandError::Intercepted(error).into_box()),
                    (_, Some(outcome)) => outcome.map(|decision: Decision<C>| Decision {
                        metadata: Arc::new(dispatch.metadata.clone()),
                        ..decision
                    }),
                    (_, None) => {
                        Err(CommandError::Intercepted("an interceptor neither went on nor refused".into())
                            .into_box())
                    }
                }
            }
        }
    }

    /// Asks the handler.
    async fn ask<C: Command>(
        &self,
        cmd: C,
        loaded: &Loaded<C::Aggregate>,
        metadata: Arc<Metadata>,
        beside: &[RowWrite],
    ) -> Fallible<Decision<C>, C> {
        self.admit::<C>(loaded)?;
        let context = Context {
            command_id: self.id,
            now: self.now,
            stream: self.stream.clone(),
            version: loaded.version,
            metadata,
            ids: self.bus.ids.clone(),
            also: Arc::default(),
            beside: beside.to_vec(),
        };
        let env = FromServices::from_services(Scope::with(&self.bus.services, &context))?;
        let handled = caught(Handle::<C>::handle(&loaded.state, cmd, env)).await;
        let verdict = match handled {
            Ok(Ok(events)) => Ok(events),
            Ok(Err(Failure::Refused(refusal))) => Err(refusal),
            Ok(Err(Failure::Service(error))) => return Err(CommandError::Service(error).into_box()),
            Err(panic) => {
                return Err(CommandError::Panicked { command: C::NAME, panic: panic.0 }.into_box());
            }
        };
        let also = if verdict.is_ok() { context.added() } else { Vec::new() };
        Ok(Decision { metadata: context.metadata, verdict, also })
    }

    /// Whether the aggregate is where the command needs it.
    fn admit<C: Command>(&self, loaded: &Loaded<C::Aggregate>) -> Fallible<(), C> {
        let stream = || self.stream.clone();
        let exists = loaded.version.0 > 0;
        match <C::Aggregate as Handle<C>>::TARGET {
            Target::Existing if !exists => return Err(CommandError::NotFound { stream: stream() }.into_box()),
            Target::New if exists => return Err(CommandError::AlreadyExists { stream: stream() }.into_box()),
            Target::Existing | Target::New | Target::Either => {}
        }
        if exists && loaded.state.ended() {
            return Err(CommandError::Ended { stream: stream() }.into_box());
        }
        match self.expect {
            Some(expected) if expected != loaded.version => {
                let expected = ExpectedVersion::Exact(expected);
                let source = CommitError::Conflict {
                    stream: stream(),
                    expected,
                    actual: loaded.version,
                    since: Vec::new(),
                };
                Err(CommandError::Conflict { attempts: 1, source }.into_box())
            }
            _ => Ok(()),
        }
    }
}

/// The end of the chain around a decision.
struct Asks<'x, C: Command> {
    call: &'x Call<'x>,
    loaded: &'x Loaded<C::Aggregate>,
    beside: &'x [RowWrite],
    outcome: Option<Fallible<Decision<C>, C>>,
}

impl<C: Command> End for Asks<'_, C> {
    fn run<'a>(&'a mut self, dispatch: &'a mut Dispatch) -> BoxFuture<'a, Result<(), Halted>> {
        Box::pin(async move {
            let cmd: C = dispatch.payload::<C>().expect("`Call` put a `C` in").clone();
            let metadata = Arc::new(dispatch.metadata.clone());
            let outcome = self.call.ask(cmd, self.loaded, metadata, self.beside).await;
            let halted = match &outcome {
                Ok(Decision { verdict: Err(refusal), .. }) => {
                    Err(Halted::Command { kind: crate::ErrorKind::Refused, text: chain(refusal) })
                }
                Ok(Decision { verdict: Ok(events), .. }) => {
                    dispatch.events = events.iter().filter_map(name_of).collect();
                    Ok(())
                }
                Err(error) => Err(Halted::Command { kind: error.kind(), text: chain(error) }),
            };
            self.outcome = Some(outcome);
            halted
        })
    }
}

/// The stored name of an event, as its type lists it.
fn name_of<E: Event>(event: &E) -> Option<&'static str> {
    let name = event.encode().ok()?.name;
    E::TYPES.iter().map(|t| t.name).find(|known| name == *known)
}

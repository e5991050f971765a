//! A command on its way: options, then `.await`.

use std::future::IntoFuture;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::BoxFuture;

use crate::Command;
use crate::command::attempt::Commits;
use crate::command::call::Call;
use crate::command::stage::Stages;
use crate::command::{Bus, CommandError, ErrorOf, EventsOf, IdOf, RetryPolicy};
use crate::event::Metadata;
use crate::limits::LimitError;
use crate::repository::stream_of;
use crate::store::{Position, StreamId, Transaction, Version};

/// What a command led to.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Done<E> {
    /// The position of its last event; of the aggregate's last event if it decided none. Give it to
    /// [`App::wait_for`](crate::App::wait_for) to read your own write.
    pub position: Position,
    /// The aggregate's version after it.
    pub version: Version,
    /// The decided events.
    pub events: Vec<E>,
    /// Whether this is the first outcome of a request that was repeated.
    pub repeated: bool,
}

/// The options of a command, whether it is sent by type or by name.
macro_rules! options {
    () => {
        fn options(&mut self) -> &mut $crate::command::sending::Options {
            self.options.get_or_insert_default()
        }

        /// Names the request: sent again under the same key, it gives the first outcome back, refusals
        /// included, and changes nothing. The key is unique in the whole store; with another command it
        /// is refused.
        pub fn idempotency_key(mut self, key: impl std::fmt::Display) -> Self {
            self.options().key = Some(key.to_string().into());
            self
        }

        /// Decide only if the aggregate is still at the version that the caller saw; else it is a
        /// conflict, which is then not retried.
        pub fn expect_version(mut self, version: $crate::store::Version) -> Self {
            self.options().expect = Some(version);
            self
        }

        /// What the events carry beside their payload; replaces what was set before.
        pub fn metadata(mut self, metadata: $crate::event::Metadata) -> Self {
            self.options().metadata = metadata;
            self
        }

        /// Who asks.
        pub fn actor(mut self, actor: impl Into<String>) -> Self {
            self.options().metadata.actor = Some(actor.into());
            self
        }

        /// For whom.
        pub fn tenant(mut self, tenant: impl Into<String>) -> Self {
            self.options().metadata.tenant = Some(tenant.into());
            self
        }

        /// Takes over the flow, the actor and the tenant of the event that caused this command.
        pub fn caused_by(mut self, event: &$crate::store::RecordedEvent) -> Self {
            self.options().metadata = $crate::event::Metadata::caused_by(event);
            self
        }

        /// How long to wait for the outcome, instead of the app's own limit.
        pub fn timeout(mut self, limit: ::std::time::Duration) -> Self {
            self.options().timeout = Some(limit);
            self
        }

        /// When to try again, instead of the app's own policy.
        pub fn retry(mut self, policy: $crate::command::RetryPolicy) -> Self {
            self.options().retry = Some(policy);
            self
        }

        /// Sends it also while the app is being shut down, for as long as that waits for what runs: for a part of the app that
        /// writes down what it has done.
        pub fn even_closing(mut self) -> Self {
            self.options().late = true;
            self
        }
    };
}
pub(super) use options;

/// A command with its options; sent by `.await`.
///
/// Dropping the future leaves the outcome unknown: the command may still be stored. Send it with an
/// idempotency key to be able to send it again.
#[must_use = "a command is sent by `.await`"]
#[derive(Debug)]
pub struct Sending<'a, C: Command> {
    via: Via<'a>,
    stream: Result<StreamId, Box<LimitError>>,
    cmd: C,
    /// Boxed, and only if there are any: the future of a plain command stays small.
    pub(super) options: Option<Box<Options>>,
}

/// How the bus is reached.
#[derive(Debug)]
pub(crate) enum Via<'a> {
    /// From the app, which is there.
    App(&'a Bus),
    /// From a sender, which does not keep the app alive.
    Weak(Weak<Bus>),
}

impl Via<'_> {
    /// The bus, held for as long as the command runs; `None` if the app is gone.
    pub(super) fn bus<'h>(&'h self, held: &'h mut Option<Arc<Bus>>) -> Option<&'h Bus> {
        match self {
            Self::App(bus) => Some(bus),
            Self::Weak(bus) => {
                *held = bus.upgrade();
                held.as_deref()
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) key: Option<Arc<str>>,
    pub(crate) expect: Option<Version>,
    pub(crate) metadata: Metadata,
    pub(crate) timeout: Option<Duration>,
    pub(crate) retry: Option<RetryPolicy>,
    /// Whether it is sent although the app is closing.
    pub(crate) late: bool,
}

impl<'a, C: Command> Sending<'a, C> {
    pub(crate) fn new(via: Via<'a>, id: &IdOf<C>, cmd: C) -> Self {
        Self { via, stream: stream_of::<C::Aggregate>(id).map_err(Box::new), cmd, options: None }
    }

    options!();

    /// Decides now, and writes with the caller's own transaction: the events become visible when it
    /// commits, and vanish when it rolls back.
    ///
    /// A second command to the same aggregate in the same transaction sees the events of the first.
    ///
    /// # Errors
    ///
    /// [`CommandError`], as for a command that is sent. A conflict with another process shows only when
    /// the transaction commits.
    pub async fn within<T: Transaction>(
        self,
        tx: &mut T,
    ) -> Result<Vec<EventsOf<C>>, CommandError<ErrorOf<C>>> {
        let mut held = None;
        let bus = self.via.bus(&mut held).ok_or(CommandError::ShuttingDown)?;
        let call = Call::new(bus, self.stream, self.options)?;
        let done = call.dispatch(&self.cmd, &mut Stages(tx)).await.map_err(|error| *error)?;
        Ok(done.events)
    }
}

impl<'a, C: Command> IntoFuture for Sending<'a, C> {
    type Output = Result<Done<EventsOf<C>>, CommandError<ErrorOf<C>>>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let Self { via, stream, ref cmd, options } = self;
            let mut held = None;
            let bus = via.bus(&mut held).ok_or(CommandError::ShuttingDown)?;
            let call = Call::new(bus, stream, options)?;
            call.dispatch(cmd, &mut Commits).await.map_err(|error| *error)
        })
    }
}

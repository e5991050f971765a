//! The way of a command: admitted, through the interceptors, to its door, within its time limit.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::task::Poll;
use std::time::Duration;

use futures::future::{BoxFuture, Either};
use tracing::Instrument;
use uuid::Uuid;

use crate::clock::Timestamp;
use crate::command::interceptor::{End, Stage};
use crate::command::sending::Options;
use crate::command::shown::Shown;
use crate::command::{
    Bus, CommandError, Dispatch, Done, ErrorOf, EventsOf, Halted, Interceptor, Next, NoAnswer, RetryPolicy,
};
use crate::event::Metadata;
use crate::limits::LimitError;
use crate::store::{IdempotencyKey, StoreError, StreamId, Version};
use crate::{Command, ErrorKind, chain};

/// Errors are boxed on the way: a future holds its callees' results, and most of them are no errors.
pub(super) type Fallible<T, C> = Result<T, Box<CommandError<ErrorOf<C>>>>;
pub(super) type Outcomes<C> = Fallible<Done<EventsOf<C>>, C>;

/// One command's way, whatever its type.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(super) bus: &'a Bus,
    pub(super) id: Uuid,
    /// When it was sent: the same for every attempt.
    pub(super) now: Timestamp,
    pub(super) stream: StreamId,
    pub(super) metadata: Arc<Metadata>,
    pub(super) key: Option<IdempotencyKey>,
    pub(super) expect: Option<Version>,
    /// How often it was tried.
    pub(super) attempts: AtomicU32,
    timeout: Duration,
    retry: RetryPolicy,
    late: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        bus: &'a Bus,
        stream: Result<StreamId, Box<LimitError>>,
        options: Option<Box<Options>>,
    ) -> Result<Self, LimitError> {
        let stream = stream.map_err(|error| *error)?;
        let Options { key, expect, mut metadata, timeout, retry, late } =
            options.map_or_else(Options::default, |o| *o);
        let key = key.map(IdempotencyKey::new).transpose()?;
        let now = bus.ids.clock().now();
        let id = bus.ids.at(now);
        // The first command of a flow gives the flow its name.
        metadata.correlation.get_or_insert(id);
        metadata.causation.get_or_insert(id);
        Ok(Self {
            bus,
            id,
            now,
            stream,
            metadata: Arc::new(metadata),
            key,
            expect,
            attempts: AtomicU32::new(0),
            timeout: timeout.unwrap_or(bus.timeout),
            retry: retry.unwrap_or(bus.retry),
            late,
        })
    }

    /// Runs the command to its end: within the time limit, and as long as the app runs.
    pub(crate) async fn dispatch<C: Command>(&self, cmd: &C, door: &mut impl Door<C>) -> Outcomes<C> {
        let lifecycle = &self.bus.lifecycle;
        let entered = if self.late { lifecycle.enter_late() } else { lifecycle.enter() };
        let _running = entered.ok_or_else(|| CommandError::ShuttingDown.into_box())?;
        let shown = Shown::begin::<C>(self);
        let mut running = pin!(match &shown.span {
            Some(span) => Either::Right(Box::pin(self.intercepted(cmd, door).instrument(span.clone()))),
            None => Either::Left(self.intercepted(cmd, door)),
        });
        // Many commands never wait: they need no timer and no signal.
        let outcome = match futures::poll!(running.as_mut()) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => Box::pin(self.limited::<C>(running)).await,
        };
        shown.end::<C>(self, &outcome);
        outcome
    }

    /// Within the time limit, and as long as the app runs.
    async fn limited<C: Command>(&self, running: impl Future<Output = Outcomes<C>>) -> Outcomes<C> {
        let unknown = |why| Err(CommandError::Unknown { why: NoAnswer(why) }.into_box());
        let late = |_| unknown("it took longer than its time limit");
        tokio::select! {
            biased;
            outcome = tokio::time::timeout(self.timeout, running) => outcome.unwrap_or_else(late),
            () = self.bus.lifecycle.killed() => {
                unknown("the app was shut down meanwhile")
            }
        }
    }

    async fn intercepted<C: Command>(&self, cmd: &C, door: &mut impl Door<C>) -> Outcomes<C> {
        match &self.bus.interceptors[..] {
            [] => door.run(self, Sent::Plain { cmd }).await,
            chain => Box::pin(self.through_interceptors(chain, cmd.clone(), door)).await,
        }
    }

    async fn through_interceptors<C: Command>(
        &self,
        chain: &[Arc<dyn Interceptor>],
        cmd: C,
        door: &mut impl Door<C>,
    ) -> Outcomes<C> {
        let mut dispatch = Dispatch {
            command: C::NAME,
            stream: self.stream.clone(),
            attempt: 0,
            version: None,
            events: Vec::new(),
            payload: Box::new(cmd),
            metadata: Metadata::clone(&self.metadata),
        };
        let mut end = Through { call: self, door, outcome: None };
        let halted = Next { chain, stage: Stage::Dispatch, end: &mut end }.run(&mut dispatch).await;
        let may_stand = |outcome: &Outcomes<C>| match outcome {
            Ok(_) => true,
            Err(error) => error.kind() == ErrorKind::Unknown,
        };
        match (halted, end.outcome) {
            (Err(Halted::Interceptor(error)), Some(outcome)) if may_stand(&outcome) => {
                Err(CommandError::InterceptedAfter(error).into_box())
            }
            (Err(Halted::Interceptor(error)), _) => Err(CommandError::Intercepted(error).into_box()),
            (_, Some(outcome)) => outcome,
            (_, None) => {
                Err(CommandError::Intercepted("an interceptor neither went on nor refused".into()).into_box())
            }
        }
    }

    /// How long to wait before the next attempt, if the error is one that another attempt can mend.
    pub(super) fn wait_after<E>(&self, error: &CommandError<E>, attempt: u32) -> Option<Duration> {
        let again = match error {
            CommandError::Conflict { .. } => self.expect.is_none(),
            CommandError::Store(error) => matches!(error, StoreError::Transient { .. }),
            _ => false,
        };
        self.retry.wait_after(attempt, &self.bus.ids).filter(|_| again)
    }
}

/// Where a decision goes. Door one commits it, door two stages it.
pub(crate) trait Door<C: Command>: Send {
    fn run(&mut self, call: &Call<'_>, sent: Sent<'_, C>) -> impl Future<Output = Outcomes<C>> + Send;
}

/// The command, bare or as the interceptors have it.
pub(crate) enum Sent<'s, C> {
    Plain { cmd: &'s C },
    Intercepted(Box<Intercepted<'s, C>>),
}

/// The command within interceptors: each decision begins with what they have dispatched.
pub(crate) struct Intercepted<'s, C> {
    dispatch: &'s mut Dispatch,
    cmd: C,
    metadata: Metadata,
    decides_again: bool,
}

impl<'s, C: Command> Intercepted<'s, C> {
    fn new(dispatch: &'s mut Dispatch) -> Self {
        let cmd = dispatch.payload::<C>().expect("`Call` put a `C` in").clone();
        let metadata = dispatch.metadata.clone();
        Self { dispatch, cmd, metadata, decides_again: false }
    }

    pub(super) fn begin_decision(&mut self, version: Version) -> &mut Dispatch {
        if std::mem::replace(&mut self.decides_again, true) {
            self.dispatch.payload = Box::new(self.cmd.clone());
            self.dispatch.metadata.clone_from(&self.metadata);
            self.dispatch.events.clear();
        }
        self.dispatch.version = Some(version);
        self.dispatch
    }
}

impl<C: Command> Sent<'_, C> {
    pub(super) fn cmd(&self) -> &C {
        match self {
            Self::Plain { cmd } => cmd,
            Self::Intercepted(sent) => sent.dispatch.payload().expect("`Call` put a `C` in"),
        }
    }

    pub(super) fn begin_attempt(&mut self, attempt: u32) {
        if let Self::Intercepted(sent) = self {
            sent.dispatch.attempt = attempt;
            sent.dispatch.version = None;
            sent.dispatch.events.clear();
        }
    }
}

/// The end of the chain around a dispatch.
struct Through<'x, C: Command, D> {
    call: &'x Call<'x>,
    door: &'x mut D,
    outcome: Option<Outcomes<C>>,
}

impl<C: Command, D: Door<C>> End for Through<'_, C, D> {
    fn run<'a>(&'a mut self, dispatch: &'a mut Dispatch) -> BoxFuture<'a, Result<(), Halted>> {
        Box::pin(async move {
            let outcome =
                self.door.run(self.call, Sent::Intercepted(Box::new(Intercepted::new(dispatch)))).await;
            let halted = halted(&outcome);
            self.outcome = Some(outcome);
            halted
        })
    }
}

fn halted<T, E: std::error::Error + 'static>(
    outcome: &Result<T, Box<CommandError<E>>>,
) -> Result<(), Halted> {
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => Err(Halted::Command { kind: error.kind(), text: chain(error) }),
    }
}

//! Door one: attempts, each of them load, decide, commit.

use std::sync::Arc;

use futures::future::BoxFuture;
use uuid::Uuid;

use crate::command::call::{Call, Door, Fallible, Outcomes, Sent};
use crate::command::decide::Decision;
use crate::command::{Bus, CommandError, Done, ErrorOf, EventsOf, RetryPolicy, shown};
use crate::guarded::caught_now;
use crate::repository::{Cost, Held, Loaded, Repository, Slot};
use crate::store::{Attempt, CommitError, Committed, Position, Resolution, StoreError, StreamId, Version};
use crate::{Apply, Command};

/// Door one: attempts, until one is decided for good.
pub(crate) struct Commits;

impl<C: Command> Door<C> for Commits {
    async fn run(&mut self, call: &Call<'_>, mut sent: Sent<'_, C>) -> Outcomes<C> {
        let mut attempt = 1;
        loop {
            sent.begin_attempt(attempt);
            shown::attempt(&call.attempts);
            let wait = match attempt_once(call, &mut sent).await {
                Ok(done) => return Ok(done),
                Err(error) if matches!(*error, CommandError::Refused(_)) => return Err(error),
                Err(error) => match call.wait_after(&error, attempt) {
                    Some(wait) => {
                        shown::again::<C, _>(&error);
                        wait
                    }
                    None => return Box::pin(settle(call, sent.cmd(), error, attempt)).await,
                },
            };
            Box::pin(tokio::time::sleep(wait)).await;
            attempt += 1;
        }
    }
}

/// The end of the last attempt: a request that was decided before has its first outcome even so.
async fn settle<C: Command>(
    call: &Call<'_>,
    cmd: &C,
    mut error: Box<CommandError<ErrorOf<C>>>,
    attempt: u32,
) -> Outcomes<C> {
    if let CommandError::Conflict { attempts, .. } = &mut *error {
        *attempts = attempt;
    }
    if matches!(*error, CommandError::Unknown { .. } | CommandError::KeyReused { .. }) {
        return Err(error);
    }
    // It must be known: told `AlreadyExists`, the sender of a repeated request would believe it for good.
    for tried in 1.. {
        let settled = match call.first_outcome(cmd).await {
            Ok(Some(outcome)) => call.replay::<C>(outcome).await,
            Ok(None) => return Err(error),
            Err(unread) => Err(unread),
        };
        match settled.as_ref().err().and_then(|error| call.wait_after(error, tried)) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return settled,
        }
    }
    unreachable!("the policy ends the tries")
}

/// Load, decide, commit; the state goes back into the cache only if the store proved it.
///
/// Split into what waits and what does not: a future holds every local of the function that waits, is
/// moved before it runs, and is as large as its largest branch. So the rare ways are boxed too.
async fn attempt_once<C: Command>(call: &Call<'_>, sent: &mut Sent<'_, C>) -> Outcomes<C> {
    let slot = call.bus.cache.slot(&call.stream);
    let mut held = match slot.try_hold() {
        Some(held) => held,
        None => Box::pin(slot.hold()).await,
    };
    let history = call.bus.store().history();
    let (mut loaded, mut basis) = match held.take::<C::Aggregate>(history) {
        Some(loaded) => (loaded, Basis::Kept),
        None if call.bus.newness.supposes::<C>() => {
            (Box::new(Loaded { history, ..Loaded::default() }), Basis::Supposed)
        }
        None => (load::<C>(call).await?, Basis::Loaded),
    };
    basis.show();
    loop {
        let decided = decide_on_truth(call, sent, &mut loaded, &mut basis).await;
        let decides = decided.is_ok();
        let (mut decided, writing) = match prepare(call, sent.cmd(), &loaded, decided) {
            Ok(prepared) => prepared,
            // What does not fit may be a decision on what is not so.
            Err(_) if basis == Basis::Supposed && decides => {
                (loaded, basis) = (load::<C>(call).await?, Basis::Loaded);
                continue;
            }
            Err(error) => {
                // What refused is the truth about a state that stands; a panic may have left it half changed.
                if !matches!(*error, CommandError::Panicked { .. }) {
                    basis.keep(&mut held, loaded);
                }
                return Err(error);
            }
        };
        let Some(writing) = writing else { return conclude(call, &slot, held, loaded, decided) };
        match writing.await {
            Ok(committed) => decided.committed(&committed),
            // An unknown outcome is resolved before anything is said about it.
            Err(CommitError::Unknown(attempt)) => {
                decided.committed(&Box::pin(resolve(call.bus, &attempt)).await?);
            }
            Err(CommitError::Repeated { outcome, .. }) => {
                basis.keep(&mut held, loaded);
                return Box::pin(call.replay::<C>(*outcome)).await;
            }
            // The first that is not new: that is nobody's conflict.
            Err(error) if basis == Basis::Supposed && !is_known(&error) => {
                (loaded, basis) = (load::<C>(call).await?, Basis::Loaded);
                continue;
            }
            Err(error) => {
                // A prefix of the stream stays one. It is read on at once: kept as it is, the next attempt
                // would believe it and be refused again.
                if matches!(&error, CommitError::Conflict { .. })
                    && Box::pin(call.bus.repository.refresh(&call.stream, &mut *loaded)).await.is_ok()
                {
                    held.put(loaded);
                }
                return Err(error.into());
            }
        }
        return conclude(call, &slot, held, loaded, decided);
    }
}

/// Whether the store would say the same, whatever the decision was based on.
fn is_known(error: &CommitError) -> bool {
    matches!(error, CommitError::Store(StoreError::Transient { .. }) | CommitError::KeyReused { .. })
}

/// Where a state comes from. Only a load says that there is nothing else.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Basis {
    Loaded,
    Kept,
    /// It is that of a new aggregate: nobody has looked.
    Supposed,
}

impl Basis {
    fn show(self) {
        match self {
            Self::Loaded => metrics::counter!("es_states_total", "found" => "read").increment(1),
            Self::Kept => metrics::counter!("es_states_total", "found" => "kept").increment(1),
            Self::Supposed => metrics::counter!("es_states_total", "found" => "supposed").increment(1),
        }
    }

    /// A state that nothing has proven is kept for the next command, if it was read at some time.
    fn keep<A: Apply>(self, held: &mut Held, loaded: Box<Loaded<A>>) {
        if self != Self::Supposed {
            held.put(loaded);
        }
    }
}

async fn load<C: Command>(call: &Call<'_>) -> Fallible<Box<Loaded<C::Aggregate>>, C> {
    let loaded = Box::new(Box::pin(call.bus.repository.load(&call.stream)).await?);
    call.bus.newness.learn::<C>(loaded.version == Version(0));
    Ok(loaded)
}

/// Decides; where nothing is written that would prove the state, what is stored is read first.
async fn decide_on_truth<C: Command>(
    call: &Call<'_>,
    sent: &mut Sent<'_, C>,
    loaded: &mut Box<Loaded<C::Aggregate>>,
    basis: &mut Basis,
) -> Fallible<Decision<C>, C> {
    loop {
        let decided = call.decide(sent, loaded, &[]).await;
        let proven = match &decided {
            Ok(Decision { verdict: Ok(events), .. }) => !events.is_empty(),
            Err(error) => matches!(**error, CommandError::Panicked { .. }) && *basis != Basis::Supposed,
            Ok(Decision { verdict: Err(_), .. }) => false,
        };
        if proven || *basis == Basis::Loaded {
            return decided;
        }
        let decided = Box::new(decided);
        let stands = if *basis == Basis::Supposed {
            *loaded = load::<C>(call).await?;
            loaded.version == Version(0)
        } else {
            Box::pin(call.bus.repository.refresh(&call.stream, loaded)).await?
        };
        *basis = Basis::Loaded;
        if stands {
            return *decided;
        }
    }
}

/// A decision on its way into the store.
struct Prepared<C: Command> {
    verdict: Result<Vec<EventsOf<C>>, ErrorOf<C>>,
    position: Position,
    version: Version,
    /// The id of its last event; nil if it has none.
    last: Uuid,
}

impl<C: Command> Prepared<C> {
    fn committed(&mut self, committed: &Committed) {
        if let Some(version) = committed.versions.first() {
            self.version = *version;
            self.position = committed.position;
        }
    }
}

type Writing<'a> = Option<BoxFuture<'a, Result<Committed, CommitError>>>;

/// The decision as a commit that has begun, if there is anything to write.
fn prepare<'a, C: Command>(
    call: &'a Call<'_>,
    cmd: &C,
    loaded: &Loaded<C::Aggregate>,
    decided: Fallible<Decision<C>, C>,
) -> Fallible<(Prepared<C>, Writing<'a>), C> {
    let decision = decided?;
    let commit = call.commit_of(cmd, loaded, &decision)?;
    let last = commit.appends.first().and_then(|append| append.events.last());
    let (version, position) = (loaded.version, loaded.position);
    let last = last.map(|event| event.id).unwrap_or_default();
    let writing = (!commit.is_empty()).then(|| shown::commit(call.bus.store(), commit));
    Ok((Prepared { verdict: decision.verdict, position, version, last }, writing))
}

/// Takes the events into the kept state, and answers.
fn conclude<C: Command>(
    call: &Call<'_>,
    slot: &Arc<Slot>,
    mut held: Held,
    mut loaded: Box<Loaded<C::Aggregate>>,
    prepared: Prepared<C>,
) -> Outcomes<C> {
    let Prepared { verdict, position, version, last } = prepared;
    let events = match verdict {
        Ok(events) => events,
        Err(refusal) => {
            held.put(loaded);
            return Err(CommandError::Refused(refusal).into_box());
        }
    };
    if !events.is_empty() {
        let applied = caught_now(|| events.iter().for_each(|event| loaded.state.apply(event)));
        if let Err(panic) = applied {
            // It is stored. The next command loads, meets the same panic, and says so.
            tracing::error!(stream = %call.stream, panic = panic.0, "`apply` panicked");
            return Ok(Done { position, version, events, repeated: false });
        }
        (loaded.version, loaded.position, loaded.last) = (version, position, last);
        // The commit has told whether the store has another history than the state was read in.
        let is_of_now = loaded.history == call.bus.store().history();
        if is_of_now && Repository::wants_snapshot(&loaded, events.len() as u64) {
            take_snapshot(call.bus, slot, &call.stream, &loaded);
        }
        loaded.cost = Cost::default();
    }
    held.put(loaded);
    Ok(Done { position, version, events, repeated: false })
}

/// Asks until the store answers; the command's time limit ends it.
pub(crate) async fn resolve(bus: &Bus, attempt: &Attempt) -> Result<Committed, CommitError> {
    let policy = RetryPolicy::default().with_attempts(u32::MAX);
    for tried in 1.. {
        match bus.store().resolve(attempt).await {
            Ok(Resolution::Applied(committed)) => return Ok(committed),
            Ok(Resolution::Never) => {
                let never = std::io::Error::other("the attempt was found not to be applied, and is fenced");
                return Err(StoreError::transient("the commit", never).into());
            }
            Err(error) if error.kind() == crate::ErrorKind::Transient => {
                tokio::time::sleep(policy.wait_after(tried, &bus.ids).unwrap_or_default()).await;
            }
            Err(error) => {
                tracing::warn!(attempt = %attempt.id, error = crate::chain(&error), "the store does not say what became of a commit");
                return Err(CommitError::Unknown(Box::new(attempt.clone())));
            }
        }
    }
    unreachable!("the loop has no end of its own")
}

/// In the background: a snapshot that fails costs a longer load, not the command.
fn take_snapshot<A: Apply>(bus: &Bus, slot: &Arc<Slot>, stream: &StreamId, loaded: &Loaded<A>) {
    if !slot.begin_snapshot() {
        return;
    }
    let snapshot = caught_now(|| Repository::snapshot_of(stream, loaded));
    let snapshot = match snapshot {
        Ok(Ok(snapshot)) => snapshot,
        Ok(Err(error)) => {
            tracing::warn!(%stream, error = &*error as &dyn std::error::Error, "snapshot not encoded");
            return slot.end_snapshot();
        }
        Err(panic) => {
            tracing::warn!(%stream, panic = panic.0, "snapshot not encoded");
            return slot.end_snapshot();
        }
    };
    let (repository, slot, history) = (bus.repository.clone(), slot.clone(), loaded.history);
    bus.lifecycle.spawn(async move {
        let stream = snapshot.stream.clone();
        if let Err(error) = repository.put_snapshot(snapshot, history).await {
            tracing::warn!(%stream, error = &error as &dyn std::error::Error, "snapshot not stored");
        }
        slot.end_snapshot();
    });
}

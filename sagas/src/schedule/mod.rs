//! Commands that are sent at a time: timers and deadlines without a process of one's own.
//!
//! ```
//! use std::time::Duration;
//!
//! use es_core::{App, Timestamp, memory::MemoryBackend};
//! use sagas::{Processes as _, Schedule, Schedules as _};
//! # use es_core::testing::conformance::domain::{Close, Open};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let app = App::on(MemoryBackend::new()).command::<Close>().process::<Schedule>().start().await?;
//! let ada = "ada".to_owned();
//! app.send(&ada, Open { owner: "Ada".to_owned() }).await?;
//!
//! let in_a_month = Timestamp::now() + Duration::from_secs(30 * 24 * 3_600);
//! let planned = app.schedule(in_a_month, &ada, Close {}).named("close").owned_by("ada").await?;
//!
//! // She has paid: it is not to be closed. Or she has left, and nothing is to happen any more.
//! app.call_off(&planned).await?;
//! app.call_off_all("ada").await?;
//! # Ok(())
//! # }
//! ```
//!
//! What is planned is an event of its owner, so it is as durable as any, and may be planned [within](Scheduling::within) a
//! transaction. [`Schedule`] is a process with an instance for each plan: a command is sent once its time has come, at
//! once if that is over, at least once, and acts once. What is called off before its time is not sent, however late the
//! schedule is. A command that is refused has had its answer, and that is logged; one that an interceptor says no to each
//! time, or that fails for a reason that time does not mend, is held and parks its instance: [`Instances`](crate::Instances)
//! shows it, and has it sent again or given up.
//!
//! What is planned: the instances of [`Schedule`], by the key `name/owner`. What was planned stays after it was sent, as an
//! instance that has ended. Nothing repeats by itself: for that write a process whose timer sets itself again.
//!
//! A deadline with a name and an owner is the idea of Axon Framework's deadline manager.

mod plan;

use std::collections::BTreeSet;
use std::fmt;
use std::future::IntoFuture;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use es_core::command::{CommandError, IdOf, NamedCommand, SendError};
use es_core::projection::{Code, nth};
use es_core::store::{EventFilter, Transaction};
use es_core::{App, AppBuilder, Backend, BoxError, Command, Payload as _, RecordedEvent, Sending, Timestamp};
use serde::{Deserialize, Serialize};

pub use self::plan::{CallOff, CallOffAll, CalledOff, Plan, PlanError, PlanEvent, Planned, Plans};
use crate::Timer;
use crate::next::Next;
use crate::process::{AfterEnd, Elapsed, OnTimer, Process, RefusedCommand, Rejected};
use crate::step::{Step, To};

/// What is planned: a name, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Scheduled {
    /// Its name, without `/`.
    pub name: String,
    /// Its owner; its name, if none was said.
    pub owner: String,
}

impl Scheduled {
    /// Planned under this name, without an owner.
    pub fn named(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { owner: name.clone(), name }
    }

    /// Whose it is.
    #[must_use]
    pub fn owned_by(self, owner: impl Into<String>) -> Self {
        Self { owner: owner.into(), ..self }
    }
}

/// Stored: `name/owner`.
impl fmt::Display for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.owner)
    }
}

impl FromStr for Scheduled {
    type Err = BoxError;
    fn from_str(text: &str) -> Result<Self, BoxError> {
        let (name, owner) = text.split_once('/').ok_or("a plan has a `/` between name and owner")?;
        Ok(Self { name: name.to_owned(), owner: owner.to_owned() })
    }
}

/// Plans commands, and calls them off. Every app that plans has to run [`Schedule`].
pub trait Schedules {
    /// Sends a command to an aggregate at a time, by the store's clock; at once, if that is over. Give it a name or an
    /// owner, then `.await`.
    fn schedule<C: Command>(&self, at: Timestamp, id: &IdOf<C>, command: C) -> Scheduling<'_>;
    /// Calls off what was planned, if it was not sent yet: it is not sent, if this is acknowledged before its time.
    fn call_off(&self, planned: &Scheduled) -> Sending<'_, CallOff>;
    /// Calls off everything that an owner has planned.
    fn call_off_all(&self, owner: &str) -> Sending<'_, CallOffAll>;
}

impl Schedules for App {
    fn schedule<C: Command>(&self, at: Timestamp, id: &IdOf<C>, command: C) -> Scheduling<'_> {
        let command = NamedCommand::of(id, &command).and_then(|named| {
            self.sender().knows(&named)?;
            Ok(named)
        });
        Scheduling { app: self, at, command, name: None, owner: None }
    }

    fn call_off(&self, planned: &Scheduled) -> Sending<'_, CallOff> {
        self.send(&planned.owner, CallOff { name: planned.name.clone() })
    }

    fn call_off_all(&self, owner: &str) -> Sending<'_, CallOffAll> {
        self.send(&owner.to_owned(), CallOffAll {})
    }
}

/// A command that is about to be planned: `.await` it, or plan it [within](Self::within) a transaction.
#[must_use = "a command is planned by `.await`"]
#[derive(Debug)]
pub struct Scheduling<'a> {
    app: &'a App,
    at: Timestamp,
    command: Result<NamedCommand, SendError>,
    name: Option<String>,
    owner: Option<String>,
}

/// Why a command was not planned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// This app runs no schedule.
    #[error("this app runs no schedule: add `.process::<sagas::Schedule>()` where it is built")]
    NotRun,
    /// The command could not be sent later.
    #[error(transparent)]
    Command(#[from] SendError),
    /// It could not be noted.
    #[error(transparent)]
    Plan(#[from] CommandError<PlanError>),
}

impl<'a> Scheduling<'a> {
    /// Names it among those of its owner: what was planned under this name, and not sent yet, is called off. Without `/`.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whose it is: with [`Schedules::call_off_all`] all of an owner is called off together. Up to 1,000 can wait.
    pub fn owned_by(mut self, owner: impl Into<String>) -> Self {
        self.owner = Some(owner.into());
        self
    }

    /// The command that notes it: with an idempotency key of your own, say. With one, name what you plan.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`]: there is no schedule, or no such command.
    pub fn sending(self) -> Result<(Scheduled, Sending<'a, Plan>), ScheduleError> {
        let Self { app, at, command, name, owner } = self;
        if !app.processors().iter().any(|processor| processor.name() == Schedule::NAME) {
            return Err(ScheduleError::NotRun);
        }
        let name = name.unwrap_or_else(|| app.new_id().to_string());
        let owner = owner.unwrap_or_else(|| name.clone());
        let sending = app.send(&owner, Plan { name: name.clone(), at, command: command? });
        Ok((Scheduled { name, owner }, sending))
    }

    /// Plans it in a transaction: if that is not committed, nothing was planned.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`].
    pub async fn within<T: Transaction>(self, tx: &mut T) -> Result<Scheduled, ScheduleError> {
        let (scheduled, sending) = self.sending()?;
        sending.within(tx).await?;
        Ok(scheduled)
    }
}

impl<'a> IntoFuture for Scheduling<'a> {
    type Output = Result<Scheduled, ScheduleError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let (scheduled, sending) = self.sending()?;
            sending.await?;
            Ok(scheduled)
        })
    }
}

/// Sends what is planned. Add it with `.process::<Schedule>()`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Schedule {}

/// The time of a plan.
#[derive(Serialize, Deserialize)]
struct Due {
    command: NamedCommand,
}

impl Timer for Due {
    const NAME: &'static str = "due";
}

impl OnTimer<Due> for Schedule {
    fn on(&mut self, Due { command }: Due) -> Result<Next<Self>, BoxError> {
        Ok(Next::wait().and_send_named(command).and_end())
    }
}

impl Process for Schedule {
    const NAME: &'static str = "schedule";
    /// A name may be planned again.
    const AFTER_END: AfterEnd = AfterEnd::Again;
    const STASHES: bool = false;
    type Key = Scheduled;

    fn filter() -> EventFilter {
        EventFilter::types([Planned::SOURCES, CalledOff::SOURCES].concat())
    }

    fn code() -> Code {
        Code::handling::<CalledOff>(Code::handling::<Planned>(Code::new(2)))
    }

    fn wire<B: Backend>(app: AppBuilder<B>) -> AppBuilder<B> {
        app.aggregate::<Plans>()
    }

    fn steps(event: &RecordedEvent) -> Result<Vec<Step<'_, Self>>, BoxError> {
        let owner = plan::owner(&event.stream);
        let to = |name: &str| To::Key(Scheduled { name: name.to_owned(), owner: owner.to_owned() });
        let mut more = false;
        if let Some(planned) = nth::<Planned>(event, 0, &mut more)? {
            let (to, after) = (to(&planned.name), after(event.recorded_at, planned.at));
            // One that waits already has its time and command replaced.
            return Ok(vec![
                Step::new(to.clone(), true, |_| Ok(Next::wait())),
                Step::new(to, false, move |_| {
                    Ok(Next::wait().timer(after, Due { command: planned.command.clone() }))
                }),
            ]);
        }
        let Some(off) = nth::<CalledOff>(event, 0, &mut more)? else { return Ok(Vec::new()) };
        let names: BTreeSet<&String> = off.names.iter().collect();
        Ok(names.into_iter().map(|name| Step::new(to(name), false, |_| Ok(Next::end()))).collect())
    }

    fn refused(&mut self, refused: &RefusedCommand) -> Result<Option<Next<Self>>, BoxError> {
        // No decision of its aggregate: it is held, and an operator has it sent again.
        if matches!(refused.why, Rejected::Intercepted(_)) {
            return Ok(None);
        }
        let NamedCommand { aggregate, id, name, .. } = &refused.command;
        tracing::info!(aggregate, id, command = name, why = ?refused.why, "a scheduled command was refused");
        Ok(Some(Next::wait()))
    }

    fn elapsed(&mut self, timer: &Elapsed) -> Result<Option<Next<Self>>, BoxError> {
        timer.hand_to::<Self, Due>(self)
    }
}

/// How long after `now`; nothing, if it is over.
fn after(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

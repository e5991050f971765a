//! A process without its type: states are JSON text. So definitions of several versions are next to each other.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use es_core::guarded::{call_now, handle_now};
use es_core::projection::Code;
use es_core::store::EventFilter;
use es_core::{BoxError, RecordedEvent};

use crate::data::Data;
use crate::keeping::brief;
use crate::next::{Association, Effect};
use crate::process::{AfterEnd, Early, Elapsed, Process, RefusedCommand};
use crate::step::{Step, To};

/// A version of a process, by its type: what [`Process::earlier`] lists.
#[derive(Clone)]
pub struct Definition(Arc<dyn Erased>);

impl fmt::Debug for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Definition").field(&self.0.name()).field(&self.0.version()).finish()
    }
}

/// What a call of a handler comes to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) state: Data,
    pub(crate) effects: Vec<Effect>,
    pub(crate) ends: bool,
}

/// Which instances a step is for: a key as text, or an association.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Whom {
    Key(String),
    Found(Association),
}

/// A handler of an event, called with the state of an instance; with none for a new one.
type Call<'e> = Box<dyn Fn(Option<&Data>) -> Result<Reply, BoxError> + Send + Sync + 'e>;

/// A [`Step`] without its type.
pub(crate) struct RawStep<'e> {
    /// An instance that several of them mean takes it in once.
    pub(crate) whom: Vec<Whom>,
    pub(crate) starts: bool,
    pub(crate) early: Early,
    pub(crate) call: Call<'e>,
}

trait Erased: Send + Sync {
    fn name(&self) -> &'static str;
    fn version(&self) -> u32;
    fn after_end(&self) -> AfterEnd;
    fn keep_ended(&self) -> Option<Duration>;
    fn stashes(&self) -> bool;
    fn filter(&self) -> EventFilter;
    fn code(&self) -> Code;
    fn steps<'e>(&self, event: &'e RecordedEvent) -> Result<Vec<RawStep<'e>>, BoxError>;
    fn refused(&self, state: &Data, refused: &RefusedCommand) -> Result<Option<Reply>, BoxError>;
    fn elapsed(&self, state: &Data, timer: &Elapsed) -> Result<Reply, BoxError>;
}

impl Definition {
    /// Of a type.
    #[must_use]
    pub fn of<P: Process>() -> Self {
        Self(Arc::new(Of::<P>(PhantomData)))
    }

    pub(crate) fn name(&self) -> &'static str {
        self.0.name()
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.0.version()
    }

    pub(crate) fn after_end(&self) -> AfterEnd {
        self.0.after_end()
    }

    /// How long instances are kept once they have ended, if not for ever.
    pub(crate) fn keep_ended(&self) -> Option<Duration> {
        self.0.keep_ended()
    }

    /// Whether events wait for an instance that is not there, or has not ended yet.
    pub(crate) fn stashes(&self) -> bool {
        self.0.stashes() || self.after_end() == AfterEnd::Again
    }

    pub(crate) fn steps<'e>(&self, event: &'e RecordedEvent) -> Result<Vec<RawStep<'e>>, BoxError> {
        handle_now(event, || self.0.steps(event))
    }

    /// Calls the handler of a refusal; `None` if no handler takes it.
    pub(crate) fn refused(&self, state: &Data, refused: &RefusedCommand) -> Result<Option<Reply>, BoxError> {
        call_now(|| self.0.refused(state, refused))
    }

    /// Calls the handler of a timer.
    pub(crate) fn elapsed(&self, state: &Data, timer: &Elapsed) -> Result<Reply, BoxError> {
        call_now(|| self.0.elapsed(state, timer))
    }
}

impl RawStep<'_> {
    /// The keys that it names.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.whom.iter().filter_map(|whom| match whom {
            Whom::Key(key) => Some(&**key),
            Whom::Found(_) => None,
        })
    }

    /// The associations by which it finds instances.
    pub(crate) fn associations(&self) -> impl Iterator<Item = &Association> {
        self.whom.iter().filter_map(|whom| match whom {
            Whom::Key(_) => None,
            Whom::Found(association) => Some(association),
        })
    }

    /// Calls the handler.
    pub(crate) fn call(&self, state: Option<&Data>) -> Result<Reply, BoxError> {
        (self.call)(state)
    }
}

/// What is wrong with the definitions of a process, the newest first: a line each.
pub(crate) fn wrong(definitions: &[Definition]) -> Vec<String> {
    let Some((newest, earlier)) = definitions.split_first() else { return Vec::new() };
    let (name, mut wrong, mut versions) = (newest.0.name(), Vec::new(), vec![newest.version()]);
    wrong.extend(newest.keep_ended().and_then(|keep| {
        let keeps = format!("process {name}: `KEEP_ENDED` keeps instances that have ended");
        Some(brief(&keeps, keep)? + ", or `None` for ever")
    }));
    for definition in earlier {
        let (other, version) = (definition.0.name(), definition.version());
        if other != name {
            wrong.push(format!(
                "process {name}: `earlier` lists a definition named {other:?}: all versions of a process have the \
                 same name"
            ));
        }
        if versions.contains(&version) {
            wrong.push(format!(
                "process {name}: two of its definitions have version {version}: give each its own"
            ));
        }
        versions.push(version);
    }
    wrong
}

/// What a process wants to see, with what its definitions of before want to see.
pub(crate) fn filter(definitions: &[Definition]) -> EventFilter {
    let filters = definitions.iter().map(|definition| definition.0.filter());
    filters.reduce(EventFilter::or).unwrap_or_default()
}

/// Which code it is, and what all of its definitions handle: one that leaves a definition out handles less.
pub(crate) fn code(definitions: &[Definition]) -> Code {
    let mut codes = definitions.iter().map(|definition| definition.0.code());
    let newest = codes.next().unwrap_or_default();
    codes.fold(newest, |code, earlier| {
        earlier.handles().iter().fold(code, |code, (name, schema)| {
            let known = code.handles().get(name).copied().unwrap_or_default();
            code.with(name, known.max(*schema))
        })
    })
}

struct Of<P>(PhantomData<fn() -> P>);

impl<P: Process> Erased for Of<P> {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn version(&self) -> u32 {
        P::VERSION
    }

    fn after_end(&self) -> AfterEnd {
        P::AFTER_END
    }

    fn keep_ended(&self) -> Option<Duration> {
        P::KEEP_ENDED
    }

    fn stashes(&self) -> bool {
        P::STASHES
    }

    fn filter(&self) -> EventFilter {
        P::filter()
    }

    fn code(&self) -> Code {
        P::code()
    }

    fn steps<'e>(&self, event: &'e RecordedEvent) -> Result<Vec<RawStep<'e>>, BoxError> {
        let raw = |Step::<'e, P> { to, starts, early, call }| {
            let whom = |to| match to {
                To::Key(key) => Whom::Key(P::Key::to_string(&key)),
                To::Found(association) => Whom::Found(association),
            };
            let whom = to.into_iter().map(whom).collect();
            let call = move |state: Option<&Data>| {
                handle_now(event, || {
                    let mut process: P = state.map_or_else(|| Ok(P::default()), Data::read)?;
                    let (effects, ends) = call(&mut process)?.into_effects()?;
                    Ok(Reply { state: Data::of(&process)?, effects, ends })
                })
            };
            RawStep { whom, starts, early, call: Box::new(call) }
        };
        Ok(P::steps(event)?.into_iter().map(raw).collect())
    }

    fn refused(&self, state: &Data, refused: &RefusedCommand) -> Result<Option<Reply>, BoxError> {
        let mut process: P = state.read()?;
        let Some(next) = process.refused(refused)? else { return Ok(None) };
        let (effects, ends) = next.into_effects()?;
        Ok(Some(Reply { state: Data::of(&process)?, effects, ends }))
    }

    fn elapsed(&self, state: &Data, timer: &Elapsed) -> Result<Reply, BoxError> {
        let mut process: P = state.read()?;
        let Some(next) = process.elapsed(timer)? else {
            let name = &timer.name;
            return Err(format!(
                "no `#[timer]` handler takes {name:?}: if the timer was renamed, keep its name with `#[timer(name = \
                 {name:?})]`; then retry"
            )
            .into());
        };
        let (effects, ends) = next.into_effects()?;
        Ok(Reply { state: Data::of(&process)?, effects, ends })
    }
}

#[cfg(test)]
mod tests {
    use es_core::{AppBuilder, Backend};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Default, Serialize, Deserialize)]
    struct Kept<const SECONDS: u64>;

    impl<const SECONDS: u64> Process for Kept<SECONDS> {
        const NAME: &'static str = "kept";
        const KEEP_ENDED: Option<Duration> = Some(Duration::from_secs(SECONDS));
        type Key = String;
        fn filter() -> EventFilter {
            EventFilter::default()
        }
        fn wire<B: Backend>(app: AppBuilder<B>) -> AppBuilder<B> {
            app
        }
        fn steps(_: &RecordedEvent) -> Result<Vec<Step<'_, Self>>, BoxError> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_process_that_keeps_what_has_ended_for_less_than_an_hour_is_wrong() {
        let said = "process kept: `KEEP_ENDED` keeps instances that have ended for 0ns: it has to be an hour at least, or \
                    `None` for ever";
        assert_eq!(wrong(&[Definition::of::<Kept<0>>()]), [said]);
        assert_eq!(wrong(&[Definition::of::<Kept<3_600>>()]), [""; 0]);
        assert_eq!(wrong(&[Definition::of::<Kept<3_599>>()]).len(), 1);
    }
}

//! Instances, for operators: which there are, what they wait for, what came to them, and whether that explains them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use es_core::cluster::StateStore;
use es_core::limits::LimitError;
use es_core::store::{Position, StoreError};
use es_core::{BoxError, RecordedEvent, Timestamp};
use uuid::Uuid;

use crate::book::{apply, definition_of};
use crate::damaged::{Damaged, read};
use crate::data::Data;
use crate::definition::{Definition, RawStep};
use crate::instance::{Instance, Moment, ToSend};
use crate::journal;
use crate::next::Association;
use crate::process::Process;
use crate::rows::{Input, Noted, Tables, instance_key, key_of_instance};

/// Inputs that are read together.
const PAGE: usize = 500;

/// An input by its number, if it can be read.
type Journaled = (u64, Result<Noted, Damaged>);

/// The instances of a process, as they are stored. Reading them changes nothing.
#[derive(Clone)]
pub struct Instances {
    pub(crate) store: Arc<dyn StateStore>,
    pub(crate) tables: Tables,
    pub(crate) definitions: Vec<Definition>,
}

impl fmt::Debug for Instances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Instances").field(&self.tables.instances).finish()
    }
}

/// An instance.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// Its key.
    pub key: String,
    /// Of this incarnation.
    pub id: Uuid,
    /// Of its definition.
    pub version: u32,
    /// What it does.
    pub life: Life,
    /// How many inputs came to it.
    pub inputs: u64,
    /// How many of them wait, because it is parked.
    pub waiting: u64,
    /// How many of its commands were not answered yet.
    pub open_commands: u64,
    /// Its timers, and when each is due.
    pub timers: BTreeMap<String, Timestamp>,
    /// What finds it, besides its key.
    pub associations: Vec<Association>,
    /// Its state.
    pub state: Option<Data>,
}

/// What an instance does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Life {
    /// It takes inputs.
    Running,
    /// It takes no more events and timers, and waits for the answers to its commands.
    Ending,
    /// It takes nothing more.
    Ended,
    /// The handler of an input failed, or a command is held; what comes after it waits.
    Parked {
        /// Since when.
        since: Timestamp,
        /// Why.
        error: String,
        /// How often the input was tried, or the command.
        attempts: u32,
    },
    /// Its row cannot be read: nothing but its key is known of it, and what comes to it waits.
    Unreadable {
        /// Why.
        error: String,
    },
}

impl InstanceStatus {
    /// One whose row cannot be read, but for its key.
    fn of_damaged(Damaged { row, of, why }: Damaged) -> Option<Self> {
        let key = of.filter(|key| instance_key(key).is_ok_and(|key| key == row));
        let key = key.or_else(|| key_of_instance(&row))?;
        Some(Self::unreadable(key, why))
    }

    pub(crate) const fn unreadable(key: String, error: String) -> Self {
        Self {
            key,
            id: Uuid::nil(),
            version: 0,
            life: Life::Unreadable { error },
            inputs: 0,
            waiting: 0,
            open_commands: 0,
            timers: BTreeMap::new(),
            associations: Vec::new(),
            state: None,
        }
    }
}

impl From<Instance> for InstanceStatus {
    fn from(instance: Instance) -> Self {
        let life = match (&instance.parked, instance.ends) {
            (Some(parked), _) => {
                let (since, error, attempts) = (parked.since, parked.error.clone(), parked.attempts);
                Life::Parked { since, error, attempts }
            }
            (None, Some(_)) if instance.ended => Life::Ended,
            (None, Some(_)) => Life::Ending,
            (None, None) => Life::Running,
        };
        let timers = instance.timers.into_iter().filter(|(_, timer)| !timer.fired);
        Self {
            key: instance.key,
            id: instance.id,
            version: instance.version,
            life,
            inputs: instance.noted,
            waiting: instance.noted - instance.taken,
            open_commands: instance.open,
            timers: timers.map(|(name, timer)| (name, timer.due)).collect(),
            associations: instance.associations.into_iter().collect(),
            state: instance.state,
        }
    }
}

/// An instance as it is stored, and as its inputs make it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rebuilt {
    /// The stored row, as JSON.
    pub stored: String,
    /// What a fold of its inputs comes to, as JSON: the same text, unless its handlers do something
    /// else by now, or its state has another shape: a new field is a difference, too.
    pub folded: String,
}

impl Instances {
    /// Of a process, on a store.
    ///
    /// # Errors
    ///
    /// The process's name is none.
    pub fn of<P: Process>(store: impl StateStore) -> Result<Self, LimitError> {
        let (tables, definitions) = (Tables::of(P::NAME)?, crate::runner::definitions::<P>());
        Ok(Self { store: Arc::new(store), tables, definitions })
    }

    pub(crate) async fn stored(&self, key: &str) -> Result<Option<Instance>, StoreError> {
        let row = self.tables.instances.get(&*self.store, &instance_key(key)?).await?;
        Ok(row.map(|row| row.value))
    }

    /// One of them as it is stored, if it can be read.
    pub(crate) async fn found(&self, key: &str) -> Result<Option<Result<Instance, Damaged>>, StoreError> {
        let table = &self.tables.instances;
        let row = self.store.rows(table.name(), &[instance_key(key)?]).await?.pop().flatten();
        Ok(row.map(|row| Ok(read(table, row)?.value)))
    }

    /// One of them, by the text of its key. One whose row cannot be read is [shown as that](Life::Unreadable).
    ///
    /// # Errors
    ///
    /// [`StoreError`] if it cannot be read.
    pub async fn get(&self, key: &str) -> Result<Option<InstanceStatus>, StoreError> {
        Ok(self.found(key).await?.map(|found| match found {
            Ok(instance) => instance.into(),
            Err(Damaged { why, .. }) => InstanceStatus::unreadable(key.to_owned(), why),
        }))
    }

    /// All of them, those that have ended too, page by page: behind the one with this key. One whose row cannot be read is
    /// [shown as that](Life::Unreadable), or left out and logged if nobody can tell which it is.
    ///
    /// # Errors
    ///
    /// [`StoreError`] if they cannot be read.
    pub async fn page(&self, after: Option<&str>, limit: usize) -> Result<Vec<InstanceStatus>, StoreError> {
        let (table, mut all) = (&self.tables.instances, Vec::new());
        let mut after = after.map(instance_key).transpose()?;
        while all.len() < limit {
            let left = limit - all.len();
            let page = table.stored_page(&*self.store, after.as_deref(), left).await?;
            let is_last = page.len() < left;
            after = page.last().map(|row| row.key.clone());
            all.extend(page.into_iter().filter_map(|row| match read(table, row) {
                Ok(row) => Some(row.value.into()),
                Err(damaged) => InstanceStatus::of_damaged(damaged),
            }));
            if is_last {
                break;
            }
        }
        Ok(all)
    }

    /// Folds what came to an instance, in memory: nothing is written, and nothing is sent.
    ///
    /// # Errors
    ///
    /// It cannot be read, or a handler fails on an input that it has taken in before.
    pub async fn rebuild(&self, key: &str) -> Result<Option<Rebuilt>, BoxError> {
        let Some(stored) = self.stored(key).await? else { return Ok(None) };
        let mut folded = self.folded(&stored, |_, _, _, _| ()).await?;
        (folded.open, folded.tried) = (stored.open, stored.tried);
        folded.parked.clone_from(&stored.parked);
        folded.settle();
        let text = |instance: &Instance| serde_json::to_string(instance);
        Ok(Some(Rebuilt { stored: text(&stored)?, folded: text(&folded)? }))
    }

    /// What its inputs make of an instance; `each` is told of every one, by its number, with what it sends. One that waits
    /// sends nothing, and may be one that cannot be read.
    pub(crate) async fn folded(
        &self,
        stored: &Instance,
        mut each: impl FnMut(u64, Result<Noted, Damaged>, &Instance, Vec<ToSend>) + Send,
    ) -> Result<Instance, BoxError> {
        let Instance { key, id, version, origin, .. } = stored.clone();
        let mut folded = Instance { noted: stored.noted, ..Instance::begin(&key, id, version, origin) };
        let mut number = 0;
        loop {
            let (mut inputs, more) = self.journal(stored, number, PAGE).await?;
            if inputs.is_empty() && number == 0 {
                inputs.extend(self.only_input(stored).await?.map(|(number, noted)| (number, Ok(noted))));
            }
            let readable = inputs.iter().filter_map(|(_, noted)| noted.as_ref().ok());
            let events = journal::events(&*self.store, readable).await?;
            let last = inputs.last().map(|(last, _)| *last);
            for (number, noted) in inputs {
                let sends = match &noted {
                    Ok(noted) => self.fold(&mut folded, stored, noted, &events)?,
                    Err(damaged) if number <= stored.taken => return Err(damaged.why.clone().into()),
                    Err(_) => Vec::new(),
                };
                each(number, noted, &folded, sends);
            }
            match last {
                Some(last) if more => number = last,
                _ => return Ok(folded),
            }
        }
    }

    /// Some inputs behind a number, each with its own, and whether there may be more.
    pub(crate) async fn journal(
        &self,
        of: &Instance,
        number: u64,
        limit: usize,
    ) -> Result<(Vec<Journaled>, bool), StoreError> {
        let (rows, more) = journal::behind(&*self.store, of, &self.tables, number, limit).await?;
        let decode = |(number, row)| (number, read(&self.tables.inputs, row).map(|row| row.value));
        Ok((rows.into_iter().map(decode).collect(), more))
    }

    /// The input of an instance that ended as it began: it has left nothing but its tombstone, which has the position.
    async fn only_input(&self, of: &Instance) -> Result<Option<(u64, Noted)>, BoxError> {
        let (true, 1, Some(position)) = (of.ended, of.noted, of.ends) else { return Ok(None) };
        let event = self.store.at(&[position]).await?.pop();
        let event = event.ok_or_else(|| format!("there is no event at {position} any more"))?;
        let steps = definition(&self.definitions, of)?.steps(&event)?;
        let began = |(_, step): &(u32, &RawStep<'_>)| step.starts && step.keys().any(|key| key == of.key);
        let Some((step, _)) = (0_u32..).zip(&steps).find(began) else { return Ok(None) };
        let moment = Moment { at: event.recorded_at, head: position };
        Ok(Some((1, Noted::new(moment, Input::Event { position, step: Some(step) }))))
    }

    /// One input: taken in, or only noted.
    fn fold(
        &self,
        folded: &mut Instance,
        stored: &Instance,
        noted: &Noted,
        events: &BTreeMap<Position, RecordedEvent>,
    ) -> Result<Vec<ToSend>, BoxError> {
        if folded.taken >= stored.taken {
            if let Input::Timer { name, input, ordinal } = &noted.input
                && let Some(timer) = folded.timer(name, *input, *ordinal)
            {
                timer.fired = true;
            }
            return Ok(Vec::new());
        }
        let mut steps: Vec<RawStep<'_>> = Vec::new();
        if let Input::Event { position, .. } = &noted.input
            && journal::asks(folded, noted)
        {
            let event =
                events.get(position).ok_or_else(|| format!("there is no event at {position} any more"))?;
            steps = definition(&self.definitions, folded)?.steps(event)?;
        }
        let step = journal::step_of(folded, noted, &steps);
        apply(&self.definitions, folded, noted, step)
    }
}

fn definition<'d>(definitions: &'d [Definition], of: &Instance) -> Result<&'d Definition, BoxError> {
    let found = definition_of(definitions, of);
    Ok(found.ok_or_else(|| format!("this program has no version {} of the process", of.version))?)
}
